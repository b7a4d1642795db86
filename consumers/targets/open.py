"""The target at a URL, found by its scheme among the entry points of group `cdc.targets`."""

from __future__ import annotations

from importlib.metadata import EntryPoint, entry_points
from typing import Final, cast

from cdc.core.errors import ConfigError
from cdc.core.settings import TargetSettings
from cdc.core.urls import scheme
from consumers.targets.target import Target

_SYNONYMS: Final = {"postgres": "postgresql"}
_GENERIC: Final = "sqlalchemy"


def open_target(settings: TargetSettings) -> Target:
    """The adapter for `settings.url`; `Target.open` is what connects. ConfigError for an unknown one."""
    dialect = scheme(settings.url).partition("+")[0]
    wanted = _SYNONYMS.get(dialect, dialect)
    known = entry_points(group="cdc.targets")
    for entry in known:
        if entry.name == wanted:
            return _made(entry, settings)
    if _is_dialect(wanted):
        return _made(next(entry for entry in known if entry.name == _GENERIC), settings)
    schemes = ", ".join(sorted(f"{entry.name}://" for entry in known))
    raise ConfigError(
        f"[targets.{settings.name}] url: no target is called {wanted}://",
        mend=f"known are {schemes}, and what SQLAlchemy has a dialect for",
    )


def _is_dialect(name: str) -> bool:
    # Here: it takes longer to import than all else that an applier of PostgreSQL needs.
    import sqlalchemy.dialects  # noqa: PLC0415
    from sqlalchemy.exc import NoSuchModuleError  # noqa: PLC0415

    try:
        sqlalchemy.dialects.registry.load(name)
    except NoSuchModuleError:
        return False
    return True


def _made(entry: EntryPoint, settings: TargetSettings) -> Target:
    try:
        adapter = entry.load()
    except ModuleNotFoundError as error:
        mend = f"pip install 'cdc[{'mysql' if entry.name == 'mariadb' else entry.name}]'"
        raise ConfigError(f"[targets.{settings.name}] url: {error.name} is not installed", mend=mend) from None
    return cast("Target", adapter(settings))
