"""The one place of the apply side where ports meet adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager

from cdc.core.errors import ConfigError
from cdc.core.settings import Settings, TargetSettings
from cdc.log.open import open_log
from cdc.wiring import open_registry
from consumers.apply.applier import Applier
from consumers.targets.open import open_target


def target_settings(settings: Settings, name: str) -> TargetSettings:
    """ConfigError with the names that there are, if `name` is none of them."""
    try:
        return settings.targets[name]
    except KeyError:
        known = ", ".join(sorted(settings.targets)) or "none"
        raise ConfigError(f"no target {name!r} in the configuration", mend=f"configured targets: {known}") from None


@contextmanager
def apply_session(settings: Settings, name: str, report: Callable[[str], None]) -> Iterator[Applier]:
    """An applier with everything it needs open: log, registry, target."""
    target_of = target_settings(settings, name)
    with ExitStack() as resources:
        log = resources.enter_context(open_log(settings.log))
        reader = resources.enter_context(closing(log.reader(f"{settings.log.prefix}-{name}")))
        registry = resources.enter_context(closing(open_registry(settings, log)))
        target = resources.enter_context(closing(open_target(target_of)))
        yield Applier(
            reader=reader,
            registry=registry,
            target=target,
            settings=target_of,
            prefix=settings.log.prefix,
            written_by=settings.log.written_by,
            report=report,
        )
