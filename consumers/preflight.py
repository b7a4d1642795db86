"""`cdc check`: everything that capture and apply need, looked at in one go, and nothing made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing

from cdc.core.checks import Check
from cdc.core.errors import CdcError
from cdc.core.patterns import TablePatterns
from cdc.core.settings import Settings, TargetSettings
from cdc.core.urls import redact
from cdc.log.contents import log_state, table_versions
from cdc.log.open import open_log
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.preflight import checks as source_checks
from consumers.apply.kept import require_readable
from consumers.plan.checkpoint import require_sound
from consumers.plan.mapping import EventMapping
from consumers.targets.open import open_target


def all_checks(settings: Settings) -> Iterator[Check]:
    """Source, log, registry, each target. What can't be reached is a check that is not ok, never an exception."""
    yield from _checked("source", lambda: _source(settings))
    yield from _checked("log", lambda: _log(settings))
    yield from _checked("registry", lambda: _registry(settings))
    if not settings.targets:
        yield Check(
            name="targets", ok=True, found="none are configured", mend="add [targets.NAME] with a url to apply to it"
        )
    for target in settings.targets.values():
        yield from _checked(f"target {target.name}", lambda target=target: _target(target))  # type: ignore[misc]
        yield from _checked(f"target {target.name}", lambda target=target: _mapping(settings, target))  # type: ignore[misc]
        yield from _checked(f"target {target.name}", lambda target=target: _checkpoint(settings, target))  # type: ignore[misc]


def _checked(name: str, look: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    try:
        yield from look()
    except CdcError as error:
        yield Check(name=name, ok=False, found=str(error), mend=error.mend)


def _source(settings: Settings) -> Iterator[Check]:
    if settings.source is None:
        yield Check(name="source", ok=True, found="captured by a Debezium connector")
        return
    with SourceDatabase(settings.source.url, application_name="cdc check") as database:
        yield from source_checks(database.query, settings.source)


def _log(settings: Settings) -> Iterator[Check]:
    with open_log(settings.log) as log, closing(log.reader(f"{settings.log.prefix}-check")) as reader:
        ours = [name for name in reader.topics() if name.startswith((f"{settings.log.prefix}.", settings.log.prefix))]
        yield Check(name="log", ok=True, found=f"{redact(settings.log.url)}: {len(ours)} topics of this prefix")


def _registry(settings: Settings) -> Iterator[Check]:
    if settings.registry.url is None:
        yield Check(name="registry", ok=True, found="embedded in the log")
        return
    from cdc.registry.confluent import ConfluentRegistry  # noqa: PLC0415  # slow to import: see cdc.wiring

    with closing(ConfluentRegistry(settings.registry)) as registry:
        registry.check()
    yield Check(name="registry", ok=True, found=f"{redact(settings.registry.url)} answers")


def _target(settings: TargetSettings) -> Iterator[Check]:
    with closing(open_target(settings)) as target:
        yield from target.checks()


def _checkpoint(settings: Settings, target: TargetSettings) -> Iterator[Check]:
    """Whether the log holds what the target goes on from."""
    try:
        with closing(open_target(target)) as opened:
            checkpoint = opened.read_checkpoint()
    except CdcError:
        return  # `_target` tells of it
    require_sound(checkpoint, target.name, may_be_empty=True)
    with open_log(settings.log) as log, closing(log.reader(f"{settings.log.prefix}-check")) as reader:
        require_readable(reader, log_state(reader, settings.log), target, settings.log, checkpoint)
    yield from ()


def _mapping(settings: Settings, target: TargetSettings) -> Iterator[Check]:
    """What its names and masks make of the tables that the log has."""
    mapping, patterns, name = EventMapping(target), TablePatterns(target.tables), f"target {target.name}"
    with open_log(settings.log) as log, closing(log.reader(f"{settings.log.prefix}-check")) as reader:
        tables = [table for table in table_versions(reader, settings.log.prefix) if patterns.matches(table.id)]
    mapping.require_sense(tables)
    for pattern in mapping.unmatched(tables) if tables else ():
        found = f"exclude_columns or mask: {pattern!r} matches no column of the tables as they are now"
        yield Check(name=name, ok=True, found=found, mend="correct the pattern, unless it is for names of another time")
