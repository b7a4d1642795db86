"""The servers of a run, on this machine: two of PostgreSQL; a broker and a registry, if somebody needs them."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Final, Self

from rich.console import Console

from cdc.embedded import EmbeddedKafka, EmbeddedPostgres, EmbeddedRegistry

_POSTGRES: Final = {
    "wal_level": "logical",
    "max_wal_size": "8GB",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "track_commit_timestamp": "on",  # latency is counted from it
}
# What Kafka's own start scripts give the broker and Kafka Connect.
SERVER_JVM: Final = ("-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20", "-XX:+ExplicitGCInvokesConcurrent")
_PROGRESS: Final = Console(stderr=True, highlight=False, soft_wrap=True)


class Broker:
    """One broker whose topics can be put away and brought back, so that every run starts from the same."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kafka = EmbeddedKafka(folder / "run", jvm_options=("-Xms1g", "-Xmx1g", *SERVER_JVM))

    @property
    def bootstrap_servers(self) -> str:
        return self._kafka.bootstrap_servers

    def empty(self) -> None:
        """Run, without topics."""
        self._swap(None)

    def keep(self, name: str) -> None:
        """Put its topics away under this name; it does not run then."""
        self._kafka.stop()
        self.forget(name)
        shutil.copytree(self._data, self._folder / name)

    def restore(self, name: str) -> None:
        """Run, with the topics of that name."""
        self._swap(self._folder / name)

    def forget(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)

    def stop(self) -> None:
        self._kafka.stop()

    def bytes(self) -> int:
        """Of all records in topics but Kafka's own."""
        segments = (path for path in self._data.glob("*/*.log") if not path.parent.name.startswith("__"))
        return sum(path.stat().st_size for path in segments)

    @property
    def _data(self) -> Path:
        return self._folder / "run" / "data"

    def _swap(self, data: Path | None) -> None:
        self._kafka.stop()
        shutil.rmtree(self._data, ignore_errors=True)
        if data is not None:
            shutil.copytree(data, self._data)
        self._kafka.start()


class Stage:
    """A context manager: the servers run within it."""

    def __init__(self) -> None:
        self._servers = ExitStack()

    def __enter__(self) -> Self:
        self.folder = Path(self._servers.enter_context(TemporaryDirectory(prefix="cdc-bench-")))
        self.source = self._postgres("source")
        self.target = self._postgres("target")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._servers.__exit__(kind, error, trace)

    @cached_property
    def broker(self) -> Broker:
        broker = Broker(self.folder / "kafka")
        self._servers.callback(broker.stop)
        return broker

    @cached_property
    def registry(self) -> EmbeddedRegistry:
        return self._servers.enter_context(EmbeddedRegistry(self.folder / "registry"))

    def report(self, line: str) -> None:
        _PROGRESS.print(line)

    def _postgres(self, name: str) -> EmbeddedPostgres:
        return self._servers.enter_context(EmbeddedPostgres(self.folder / name, version=18, settings=_POSTGRES))
