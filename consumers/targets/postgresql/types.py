"""The neutral vocabulary in PostgreSQL's types: what to declare, and what a column keeps exactly."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from cdc.core.types import ColumnType, Kind

_FALLBACKS: Final = {
    Kind.BOOLEAN: "boolean",
    Kind.INT16: "smallint",
    Kind.INT32: "integer",
    Kind.INT64: "bigint",
    Kind.FLOAT32: "real",
    Kind.FLOAT64: "double precision",
    Kind.DECIMAL: "numeric",
    Kind.VARIABLE_DECIMAL: "numeric",
    Kind.MONEY: "money",
    Kind.BYTES: "bytea",
    Kind.DATE: "date",
    Kind.TIME: "time without time zone",
    Kind.TIMETZ: "time with time zone",
    Kind.TIMESTAMP: "timestamp without time zone",
    Kind.TIMESTAMPTZ: "timestamp with time zone",
    Kind.INTERVAL: "interval",
    Kind.UUID: "uuid",
    Kind.JSON: "json",  # not jsonb, which drops duplicate keys and the order of keys
    Kind.BIT: "bit(1)",
    Kind.BITS: "bit varying",
}
_INTEGERS: Final = {Kind.INT16, Kind.INT32, Kind.INT64}
_FLOATS: Final = {Kind.FLOAT32, Kind.FLOAT64}
_MODIFIERS: Final = re.compile(r"\(([^)]*)\)")


def fallback(source: ColumnType) -> str:
    """The type for a target that does not know the source's own: one that keeps every value; text for enums, and for
    types of extensions and users.
    """
    if source.kind is Kind.ARRAY and source.element is not None:
        return f"{fallback(source.element).removesuffix('[]')}[]"
    return _FALLBACKS.get(source.kind, "text")


@dataclass(frozen=True, slots=True)
class DeclaredType:
    """A type as PostgreSQL calls it: `base` without its modifiers (`numeric`), which are the `10,2` of `numeric(10,2)`.
    Domains are given as what they are over. `built_in` is whether it is one of PostgreSQL's own.
    """

    base: str
    modifiers: str
    built_in: bool = True


def modifiers_in(name: str) -> str:
    """What narrows the type that is called so: `10,2` of `numeric(10,2)`, `year to month` of that interval."""
    if name.startswith("interval"):
        return name.removeprefix("interval").removesuffix("[]").strip()  # `interval year to month` drops days
    found = _MODIFIERS.search(name)
    return found[1].replace(" ", "") if found else ""


def keeps_exactly(source: ColumnType, resolved: str | None, declared: DeclaredType) -> bool:
    """Whether a column declared so keeps every value of the source's type, or refuses it aloud: PostgreSQL rounds into
    a smaller scale or precision, cuts blanks off at varchar(n), and rewrites jsonb, without a word.

    `resolved` is what this server calls the source's type, without modifiers; None if it does not know it. Types of
    users and extensions are taken at their word: they refuse what they don't understand.
    """
    if not declared.built_in:
        return True
    if resolved == declared.base and _as_wide(source, declared):
        return True
    if declared.base.endswith("[]"):
        element = DeclaredType(declared.base.removesuffix("[]"), declared.modifiers)
        inner = None if resolved is None else resolved.removesuffix("[]")
        return source.element is not None and keeps_exactly(source.element, inner, element)
    return _widens(source, declared) or (declared.base == fallback(source) and not declared.modifiers)


def _as_wide(source: ColumnType, declared: DeclaredType) -> bool:
    return not declared.modifiers or declared.modifiers == modifiers_in(source.name)


def _widens(source: ColumnType, declared: DeclaredType) -> bool:
    kind, limit = source.kind, declared.modifiers
    kept = False
    match declared.base:
        case "text":
            kept = True
        case "character varying":
            fits = kind is Kind.STRING and source.length is not None and source.length <= int(limit or 0)
            kept = not limit or fits
        case "smallint" | "integer" | "bigint":
            kept = kind in _INTEGERS
        case "numeric" if not limit:
            kept = kind in _INTEGERS | _FLOATS | {Kind.DECIMAL, Kind.VARIABLE_DECIMAL}
        case "numeric":
            source_scale = 0 if kind in _INTEGERS else source.scale
            scale = int(limit.partition(",")[2] or 0)
            kept = kind in _INTEGERS | {Kind.DECIMAL} and source_scale is not None and source_scale <= scale
        case "double precision":
            kept = kind in {Kind.FLOAT32, Kind.FLOAT64, Kind.INT16, Kind.INT32}
        case "bit":
            kept = kind is Kind.BIT and limit in {"", "1"}
        case "timestamp without time zone" | "timestamp with time zone" | "time without time zone" | "interval":
            kept = declared.base == _FALLBACKS.get(kind) and limit in {"6", "(6)"}
        case _:
            pass
    return kept
