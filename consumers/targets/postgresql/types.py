"""The neutral vocabulary in PostgreSQL's types: what to declare, and what a column keeps exactly."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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
_MODIFIERS: Final = re.compile(r"\(([^)]*)\)")


def names_of(source: ColumnType) -> tuple[str, ...]:
    """What a target may know the source's type by, best first: its own name; a domain's base too."""
    if source.base is not None:
        return (source.name, source.base)
    element = source.element
    if element is not None and element.kind is not Kind.ARRAY:  # an array of arrays is one only as a domain's
        return (source.name, *(f"{name}[]" for name in names_of(element)[1:]))
    return (source.name,)


def fallback(source: ColumnType) -> str:
    """The type for a target that does not know the source's own: one that keeps every value; text for enums, and for
    types of extensions and users.
    """
    if source.element is not None:
        return "text[]" if source.element.kind is Kind.ARRAY else f"{fallback(source.element)}[]"
    return _FALLBACKS.get(source.kind, "text")


def all_names(source: ColumnType) -> Iterator[str]:
    yield from names_of(source)
    if source.element is not None:
        yield from all_names(source.element)


def declaration(source: ColumnType, resolved: Mapping[str, str]) -> str:
    """The type for a column that we make ourselves."""
    return next((name for name in names_of(source) if name in resolved), fallback(source))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredType:
    """A column's type as PostgreSQL has it: `base` without its modifiers (`numeric`), which are the `10,2` of
    `numeric(10,2)`, or `element` of an array. Domains are given as what they are over. `built_in` is whether it is one
    of PostgreSQL's own, `composite` whether it has fields.
    """

    base: str
    modifiers: str = ""
    built_in: bool = True
    composite: bool = False
    element: DeclaredType | None = None

    @property
    def may_change(self) -> bool:
        """Whether it may change a value without a word, although called as at the source: a composite's fields are
        not known here, and may be narrower.
        """
        return self.composite if self.element is None else self.element.may_change

    @property
    def ignores_case(self) -> bool:
        """Whether it calls texts equal that are not. Of all types that take any text, citext is the one known to."""
        if self.element is not None:
            return self.element.ignores_case
        return not self.built_in and _is_citext(self.base)


def modifiers_in(name: str) -> str:
    """What narrows the type that is called so: `10,2` of `numeric(10,2)`, `year to month` of that interval."""
    if name.startswith("interval"):
        return name.removeprefix("interval").strip()  # `interval year to month` drops days
    found = _MODIFIERS.search(name)
    return found[1].replace(" ", "") if found else ""


def ignores_case(source: ColumnType) -> bool:
    """As `DeclaredType.ignores_case`, of the source's type."""
    if source.element is not None:
        return ignores_case(source.element)
    return _is_citext(source.base or source.name)


def _is_citext(name: str) -> bool:
    return name.rpartition(".")[2] == "citext"  # in whatever schema it is


def may_change(source: ColumnType, resolved: Mapping[str, str], declared: DeclaredType) -> bool:
    """As `DeclaredType.may_change`; and a type of users or extensions that is not called as the source's own may have
    its own way to write what it takes: hstore orders keys, halfvec rounds.
    """
    same = declared.base in {resolved.get(name) for name in names_of(source)}
    return declared.may_change or not (declared.built_in or same)


def keeps_exactly(source: ColumnType, resolved: Mapping[str, str], declared: DeclaredType) -> bool:
    """Whether a column declared so keeps every value of the source's type, or refuses it aloud: PostgreSQL rounds into
    a smaller scale or precision, cuts blanks off at varchar(n), and rewrites jsonb, without a word.

    `resolved` is what this server calls those of the source's types that it knows, without modifiers. Types of users
    and extensions are taken at their word: they refuse what they don't understand. For those of which the function
    `may_change` is true, whoever writes them must look.
    """
    if declared.element is not None:
        return source.element is not None and keeps_exactly(source.element, resolved, declared.element)
    if not declared.built_in:
        return True
    name = source.base or source.name
    if resolved.get(name) == declared.base and declared.modifiers in {"", modifiers_in(name)}:
        return True
    return _widens(source, declared) or (declared.base == fallback(source) and not declared.modifiers)


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
            kept = kind in _INTEGERS | {Kind.DECIMAL, Kind.VARIABLE_DECIMAL}  # no floats: it has no -0
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
