"""From `[log]` to a log: the URL's scheme names an entry point of the group `cdc.logs`."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Final, cast

from cdc.core.errors import ConfigError
from cdc.core.log import Log
from cdc.core.settings import LogSettings

_GROUP: Final = "cdc.logs"


def open_log(settings: LogSettings) -> Log:
    """The log at `settings.url`, not connected yet. ConfigError if no log is known by that scheme."""
    scheme, separator, _ = settings.url.partition("://")
    known = entry_points(group=_GROUP)
    if not separator or scheme not in known.names:
        said = f"has the scheme {scheme!r}, which" if separator else "has no scheme (scheme://…), so"
        raise ConfigError(f"[log] url {said} no log is known by", mend=f"use one of: {_examples(known.names)}")
    make = cast("Callable[[LogSettings], Log]", known[scheme].load())
    return make(settings)


def _examples(schemes: set[str]) -> str:
    return ", ".join(f"{scheme}://" for scheme in sorted(schemes))
