"""pgcopydb: copies a database with pg_dump and COPY. To follow changes it needs plugins that we have not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from typing_extensions import override

from benchmarks.backlog import Backlog
from benchmarks.plan import PeerFailedError
from benchmarks.replications.replication import Loader, Running
from benchmarks.stage import Stage
from cdc.core.errors import CdcError


class PgCopyDb(Loader):
    name = "pgcopydb clone"

    def __init__(self, stage: Stage) -> None:
        program = shutil.which("pgcopydb")
        if program is None:
            raise CdcError("pgcopydb is not installed", mend="install the package pgcopydb")
        self._program = program
        self._folder = stage.folder / "pgcopydb"

    @override
    @contextmanager
    def loading(self, backlog: Backlog) -> Iterator[Running]:
        """With the tables made as `pg_dump` makes them: keys after the rows."""
        programs = backlog.stage.source.bin("pg_dump").parent
        environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
        command = [self._program, "clone", "--source", backlog.source_url, "--dir", str(self._folder), "--restart"]
        with backlog.database_like() as target:
            running = Running(target=target)
            done = subprocess.run(
                [*command, "--target", target, "--no-owner", "--table-jobs", "2", "--index-jobs", "2"],
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise PeerFailedError(done.stderr[-3000:])
            yield running
