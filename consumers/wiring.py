"""The one place of the apply side where ports meet adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from cdc.core.errors import ConfigError
from cdc.core.log import LogReader, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import Settings, TargetSettings
from cdc.core.state import LogState
from cdc.core.tables import TableId, TableSchema
from cdc.log.contents import log_state, table_versions
from cdc.log.open import open_log
from cdc.wiring import open_registry
from consumers.apply.applier import Applier
from consumers.apply.letters import EXTRA_BYTES, DeadLetters
from consumers.apply.saving import Progress
from consumers.apply.sharing import Sharing
from consumers.plan.as_text import AsText
from consumers.plan.beside import Area, area
from consumers.plan.mapping import EventMapping
from consumers.rebuild.copy import Copy, require_same_moment
from consumers.rebuild.moment import Moment, Past
from consumers.rebuild.replay import require_replayable
from consumers.rebuild.swap import Swap
from consumers.targets.open import open_target
from consumers.targets.replaceable import ReplaceableTarget
from consumers.targets.target import Target


def target_settings(settings: Settings, name: str) -> TargetSettings:
    """ConfigError with the names that there are, if `name` is none of them."""
    try:
        return settings.targets[name]
    except KeyError:
        known = ", ".join(sorted(settings.targets)) or "none"
        raise ConfigError(f"no target {name!r} in the configuration", mend=f"configured targets: {known}") from None


@contextmanager
def apply_session(
    settings: Settings, name: str, report: Callable[[str], None], *, standby: bool = False
) -> Iterator[Applier]:
    """An applier with everything it needs open: log, registry, target. A `standby` waits for another to go."""
    target_of = target_settings(settings, name)
    with ExitStack() as resources:
        log = resources.enter_context(open_log(settings.log))
        reader = resources.enter_context(closing(log.reader(f"{settings.log.prefix}-{name}")))
        registry = resources.enter_context(closing(open_registry(settings, log)))
        target = resources.enter_context(closing(open_target(target_of)))
        letters = resources.enter_context(dead_letters(settings, name, target, report))
        yield Applier(
            reader=reader,
            registry=registry,
            target=target,
            settings=target_of,
            prefix=settings.log.prefix,
            written_by=settings.log.written_by,
            letters=letters,
            standby=standby,
            report=report,
        )


@contextmanager
def shared_session(settings: Settings, name: str, report: Callable[[str], None]) -> Iterator[Sharing]:
    """One of several appliers that share the target's partitions. ConfigError if it can't be shared."""
    target_of = target_settings(settings, name)
    _require_shareable(settings, target_of)
    group = f"{settings.log.prefix}-{name}"
    with ExitStack() as resources:
        log = resources.enter_context(open_log(settings.log))
        target = resources.enter_context(closing(open_target(target_of).shared()))
        membership = resources.enter_context(closing(log.membership(f"{group}-members", target_of.session_timeout)))
        reader = resources.enter_context(closing(log.reader(group)))
        registry = resources.enter_context(closing(open_registry(settings, log)))

        def applier(held: Collection[TopicPartition] | None, progress: Progress) -> Applier:
            return Applier(
                reader=reader,
                registry=registry,
                target=target,
                settings=target_of,
                prefix=settings.log.prefix,
                held=held,
                progress=progress,
                report=report,
            )

        yield Sharing(
            membership=membership,
            target=target,
            make=applier,
            end=lambda partition: reader.offsets(partition).next,
            name=name,
            report=report,
        )


def _require_shareable(settings: Settings, target: TargetSettings) -> None:
    """ConfigError for what only one applier of a target can do."""
    refused = {
        'consistency = "transaction"': target.consistency == "transaction",
        'on_error = "dead-letter"': target.on_error == "dead-letter",
        '[log] written_by = "debezium"': settings.log.written_by == "debezium",
    }
    for what, is_set in refused.items():
        if is_set:
            raise ConfigError(
                f"appliers can't share target {target.name!r} with {what}",
                mend='write consistency = "key" and on_error = "stop"; or leave out --shared: a second applier then'
                " stands by",
            )


@contextmanager
def dead_letters(
    settings: Settings, name: str, target: Target, report: Callable[[str], None] = lambda _: None
) -> Iterator[DeadLetters]:
    """The target's dead letters, in a log that takes them although they are larger than their events."""
    larger = replace(settings.log, max_record_bytes=settings.log.max_record_bytes + EXTRA_BYTES)
    with (
        open_log(larger) as log,
        closing(
            DeadLetters(
                log=log,
                prefix=settings.log.prefix,
                name=name,
                target=target,
                taking=settings.targets[name].on_error == "dead-letter",
                report=report,
            )
        ) as letters,
    ):
        yield letters


@contextmanager
def swap_session(
    settings: Settings, name: str, report: Callable[[str], None], *, leave_behind: bool = False
) -> Iterator[Swap]:
    """A rebuild that replaces the target's tables, with all that it needs open. What says that it can't be done comes
    before anything is made.
    """
    of, prefix = target_settings(settings, name), settings.log.prefix
    kind = area(name, "new")
    with ExitStack() as resources:
        reader, registry = _log_session(resources, settings, kind)
        live = resources.enter_context(closing(_replaceable(of)))
        if live.read_checkpoint().log_id is None:
            raise ConfigError(f"target {name!r} has nothing that could be rebuilt", mend=f"`cdc apply {name}` fills it")
        replayed = replace(
            of,
            name=kind,
            start="earliest" if of.start == "latest" else of.start,
            schema_changes="follow" if of.schema_changes == "stop" else of.schema_changes,
            on_error="stop",
        )
        target = resources.enter_context(closing(_replaceable(replayed)))
        state = log_state(reader, settings.log)
        require_replayable(reader, state, of, settings.log, target.read_checkpoint())
        swap = Swap(
            applier=Applier(
                reader=reader,
                registry=registry,
                target=target,
                settings=replayed,
                prefix=prefix,
                written_by=settings.log.written_by,
                area=kind,
                report=report,
            ),
            replay=target,
            live=live,
            reader=reader,
            settings=of,
            prefix=prefix,
            log_id=state.log_id,
            known=_known(state, table_versions(reader, prefix), of, kind),
            leave_behind=leave_behind,
            report=report,
        )
        swap.require_possible()
        yield swap


@contextmanager
def copy_session(settings: Settings, name: str, moment: Moment, report: Callable[[str], None]) -> Iterator[Copy]:
    """A copy of the target as of a moment, with all that it needs open; as `swap_session`."""
    of, prefix = target_settings(settings, name), settings.log.prefix
    kind = area(name, "until")
    if settings.log.written_by != "cdc":
        raise ConfigError("a Debezium connector's log does not tell what was committed when", mend="leave --until out")
    with ExitStack() as resources:
        reader, registry = _log_session(resources, settings, kind)
        copied = replace(of, name=kind, start="earliest", consistency="key", schema_changes="follow", on_error="stop")
        target = resources.enter_context(closing(_replaceable(copied)))
        state = log_state(reader, settings.log)
        checkpoint = target.read_checkpoint()
        by_key = replace(of, consistency="key")
        require_replayable(reader, state, by_key, settings.log, checkpoint)
        until = Past(reader, registry, by_key, settings.log, state).position_at(moment)
        require_same_moment(checkpoint, until, name)
        applier = Applier(
            reader=reader,
            registry=registry,
            target=target,
            settings=copied,
            prefix=prefix,
            area=kind,
            until=until,
            report=report,
        )
        yield Copy(applier=applier, target=target, reader=reader, prefix=prefix, until=until)


def discard(settings: Settings, name: str, kind: Area) -> int:
    """Drop the tables of one of a target's areas, and what is known of them. How many tables.

    AlreadyRunningError while a rebuild is at work in it.
    """
    where = area(name, kind)
    with closing(_replaceable(replace(target_settings(settings, name), name=where))) as target:
        target.open()
        return target.discard(where)


def _replaceable(settings: TargetSettings) -> ReplaceableTarget:
    """ConfigError if its tables can't be replaced."""
    target = open_target(settings)
    if not isinstance(target, ReplaceableTarget):
        raise ConfigError(
            f"target {settings.name!r} can't be rebuilt: only tables of PostgreSQL, MySQL and SQLite can be replaced",
            mend="stop its applier, drop its tables and its rows in cdc_applier, cdc_checkpoint and cdc_letter, and"
            " start it again",
        )
    return target


def _log_session(resources: ExitStack, settings: Settings, group: str) -> tuple[LogReader, SchemaRegistry]:
    log = resources.enter_context(open_log(settings.log))
    reader = resources.enter_context(closing(log.reader(f"{settings.log.prefix}-{group}")))
    return reader, resources.enter_context(closing(open_registry(settings, log)))


def _known(
    state: LogState, versions: list[TableSchema], settings: TargetSettings, kind: str
) -> dict[TableId, TableSchema | None]:
    """The live names of the tables in the log, and what those that are still at the source would be in the area."""
    patterns, as_text = TablePatterns(settings.tables), AsText(settings.as_text)
    live, beside = EventMapping(settings), EventMapping(settings, area=kind)
    now = {version.id: version for version in versions}
    return {
        live.name(table.table): None if table.table not in now else beside.version(as_text.seen(now[table.table]))
        for table in state.tables.values()
        if patterns.matches(table.table)
    }
