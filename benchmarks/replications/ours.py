"""`cdc capture` and `cdc apply` as a user starts them, with a log between them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Final, Protocol

from typing_extensions import override

from benchmarks.backlog import PUBLICATION, Backlog
from benchmarks.processes import usage
from benchmarks.replications.replication import Replication, Running
from benchmarks.stage import Broker, Stage
from cdc.demo.processes import Processes

_SLOT: Final = "cdc"
_CONFIG: Final = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{slot}"
publication = "{publication}"

[log]
url = "{log}"
prefix = "bench"
partitions = {partitions}

[targets.copy]
url = "{target}"
"""
LOCAL: Final = "cdc, local log"
KAFKA_1: Final = "cdc, Kafka, 1 partition"
KAFKA_4: Final = "cdc, Kafka, 4 partitions"
_KINDS: Final = {LOCAL: ("cdc_local", 1), KAFKA_1: ("cdc_kafka_1", 1), KAFKA_4: ("cdc_kafka_4", 4)}
"""What each is called in names of databases, slots and files; and the partitions of each topic."""
CAPTURE: Final = "capture"
APPLY: Final = "apply"


class Log(Protocol):
    """What it holds can be put away, and brought back as often as wanted."""

    @property
    def url(self) -> str: ...

    def empty(self) -> None: ...

    def keep(self) -> None: ...

    def restore(self) -> None: ...

    def forget(self) -> None: ...

    def bytes(self) -> int: ...


class Ours(Replication):
    """One of LOCAL, KAFKA_1 and KAFKA_4."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        self._kept, self._partitions = _KINDS[name]
        self._folder = stage.folder / self._kept
        self._folder.mkdir(exist_ok=True)
        self._log: Log = _LocalLog(self._folder) if name == LOCAL else _Kafka(stage.broker, self._kept)
        self._template = ""

    @override
    def prepare(self, backlog: Backlog) -> None:
        self._template = backlog.keep_database(self._kept)
        target = backlog.stage.target.url(self._template)
        with ExitStack() as processes:
            self._log.empty()
            running = self._start(backlog, target, processes)
            backlog.await_all(target, running.began, running.alive)
        self._log.keep()
        backlog.keep_slot(self._kept, _SLOT)

    @override
    @contextmanager
    def resumed(self, backlog: Backlog) -> Iterator[Running]:
        with backlog.database_like(self._template) as target, self.before(backlog, target), ExitStack() as processes:
            yield self._start(backlog, target, processes)

    @contextmanager
    def before(self, backlog: Backlog, target: str = "sqlite:///none.db") -> Iterator[Path]:
        """A configuration whose slot and log are as they were before the backlog."""
        with backlog.slot(self._kept, _SLOT):
            self._log.restore()
            yield self._write_config(backlog, target)

    @override
    @contextmanager
    def loading(self, backlog: Backlog) -> Iterator[Running]:
        with backlog.database_like() as target:
            with ExitStack() as processes:
                self._log.empty()
                yield self._start(backlog, target, processes)
            backlog.drop_slot(_SLOT)

    @override
    def forget(self) -> None:
        self._log.forget()

    def _start(self, backlog: Backlog, target: str, stack: ExitStack) -> Running:
        before = self._log.bytes()
        processes = stack.enter_context(Processes(self._write_config(backlog, target)))
        running = Running(
            target=target,
            alive=processes.require_running,
            usages=lambda: {name: usage(processes.pid(name)) for name in (CAPTURE, APPLY)},
            log_bytes=lambda: self._log.bytes() - before,
        )
        processes.start(CAPTURE, "capture")
        processes.start(APPLY, "apply", "copy")
        return running

    def _write_config(self, backlog: Backlog, target: str) -> Path:
        config = self._folder / "cdc.toml"
        config.write_text(
            _CONFIG.format(
                source=backlog.source_url,
                slot=_SLOT,
                publication=PUBLICATION,
                log=self._log.url,
                partitions=self._partitions,
                target=target,
            )
        )
        return config


class _LocalLog:
    def __init__(self, folder: Path) -> None:
        self._now = folder / "now"
        self._kept = folder / "kept"
        self._file = self._now / "log.db"
        self.url = f"sqlite:///{self._file}"

    def empty(self) -> None:
        shutil.rmtree(self._now, ignore_errors=True)
        self._now.mkdir()

    def keep(self) -> None:
        self.forget()
        self._now.rename(self._kept)

    def restore(self) -> None:
        shutil.rmtree(self._now, ignore_errors=True)
        shutil.copytree(self._kept, self._now)

    def forget(self) -> None:
        shutil.rmtree(self._kept, ignore_errors=True)

    def bytes(self) -> int:
        """As its readers see it, wherever the pages are."""
        if not self._file.exists():
            return 0
        with closing(sqlite3.connect(self._file)) as connection:
            return sum(
                connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()
            )


class _Kafka:
    def __init__(self, broker: Broker, kept: str) -> None:
        self._broker = broker
        self._kept = kept

    @property
    def url(self) -> str:
        return f"kafka://{self._broker.bootstrap_servers}"

    def empty(self) -> None:
        self._broker.empty()

    def keep(self) -> None:
        self._broker.keep(self._kept)

    def restore(self) -> None:
        self._broker.restore(self._kept)

    def forget(self) -> None:
        self._broker.forget(self._kept)

    def bytes(self) -> int:
        return self._broker.bytes()
