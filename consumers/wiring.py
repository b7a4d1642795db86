"""The one place of the apply side where ports meet adapters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from cdc.core.errors import ConfigError
from cdc.core.log import TopicPartition
from cdc.core.settings import Settings, TargetSettings
from cdc.log.open import open_log
from cdc.wiring import open_registry
from consumers.apply.applier import Applier
from consumers.apply.letters import EXTRA_BYTES, DeadLetters
from consumers.apply.sharing import Sharing
from consumers.targets.open import open_target
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

        def applier(held: Collection[TopicPartition] | None) -> Applier:
            return Applier(
                reader=reader,
                registry=registry,
                target=target,
                settings=target_of,
                prefix=settings.log.prefix,
                held=held,
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
