"""The one place of the apply side where ports meet adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace

from cdc.core.errors import ConfigError
from cdc.core.settings import Settings, TargetSettings
from cdc.log.open import open_log
from cdc.wiring import open_registry
from consumers.apply.applier import Applier
from consumers.apply.letters import EXTRA_BYTES, DeadLetters
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
