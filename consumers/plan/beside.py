"""Names of tables beside the live ones: for a rebuild's fresh tables, and for those that it replaced.

An area is a name such as `warehouse~new`, which no user's schema has. The table `public.orders` is
`"warehouse~new".orders` there, and `shop.orders` is `"warehouse~new~shop".orders`.
"""

from __future__ import annotations

from typing import Final, Literal

from cdc.core.errors import ConfigError
from cdc.core.tables import TableId

Area = Literal["new", "old", "until"]

_LONGEST: Final = 63  # bytes of a name in PostgreSQL, which cuts longer ones without an error


def area(target: str, kind: Area) -> str:
    return f"{target}~{kind}"


def anew(applier: str) -> str:
    """The commands that make all of an applier's tables anew from the log."""
    target, _, kind = applier.partition("~")
    return f"cdc rebuild {target}{f' --drop-{kind}, then begin it again' if kind else ''}"


def beside(area: str, table: TableId) -> TableId:
    """The table's name in the area. ConfigError if that is too long."""
    schema = area if table.schema == "public" else f"{area}~{table.schema}"
    if len(schema.encode()) > _LONGEST:
        raise ConfigError(
            f"table {table}: {schema!r}, where its copy would be, is longer than {_LONGEST} bytes",
            mend="give the target a shorter name, or its schema with the target's rename",
        )
    return TableId(schema, table.name)


def live_name(area: str, table: TableId) -> TableId:
    """What `beside` was given for this one."""
    return TableId("public" if table.schema == area else table.schema.removeprefix(f"{area}~"), table.name)
