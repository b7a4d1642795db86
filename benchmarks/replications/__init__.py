"""Whatever brings changes from the source to the target: ours, PostgreSQL's own, and others'."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from benchmarks.replications.debezium import DEFAULTS, TUNED, Debezium
from benchmarks.replications.native import Native
from benchmarks.replications.ours import KAFKA_1, KAFKA_4, LOCAL, Ours
from benchmarks.replications.pgcopydb import PgCopyDb
from benchmarks.replications.replication import Loader, Replication
from benchmarks.stage import Stage
from cdc.core.errors import CdcError

_Opened = TypeVar("_Opened")


def replications(stage: Stage, names: Iterable[str]) -> dict[str, Replication]:
    """By name, without those whose programs can't be had; of these the reason is reported."""
    return _available(stage, names, lambda name: _replication(stage, name))


def loaders(stage: Stage, names: Iterable[str]) -> dict[str, Loader]:
    """The same of whatever can fill an empty target."""
    return _available(
        stage, names, lambda name: PgCopyDb(stage) if name == PgCopyDb.name else _replication(stage, name)
    )


def _available(stage: Stage, names: Iterable[str], opened: Callable[[str], _Opened]) -> dict[str, _Opened]:
    found: dict[str, _Opened] = {}
    for name in names:
        try:
            found[name] = opened(name)
        except CdcError as error:
            stage.report(f"{name} is left out: {error}")
    return found


def _replication(stage: Stage, name: str) -> Replication:
    if name in (LOCAL, KAFKA_1, KAFKA_4):
        return Ours(stage, name)
    if name in (DEFAULTS, TUNED):
        return Debezium(stage, name)
    assert name == Native.name, name
    return Native()
