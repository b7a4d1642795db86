"""The neutral vocabulary in the types of a database that nothing is known of.

| kind | type | sent as |
|---|---|---|
| boolean | BOOLEAN | bool |
| integers | SMALLINT, INTEGER, BIGINT | int |
| floats | DOUBLE | float |
| decimals of up to 38 digits, money | NUMERIC | text, cast there |
| date; timestamp, and timestamptz in UTC | DATE; TIMESTAMP | text, cast there |
| bytes | the dialect's for bytes | bytes |
| all others | TEXT | text |

Each is tried: values at its edges go to the database and back. If one comes back as another, or is refused, the type is
not used, and the columns are text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import sqlalchemy as sa

from cdc.core.errors import FidelityError, TargetError
from cdc.core.events import UNCHANGED, Value
from cdc.core.patterns import column_pattern
from cdc.core.tables import TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.targets.generic.session import GenericSession

MADE_ANEW: Final = (
    "have the target's tables made anew from the log: stop its applier, drop all of them, cdc_applier and"
    " cdc_checkpoint too, and start it again"
)
_MOST_DIGITS: Final = 38
_NUMBER: Final = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How values of a type are stored. `name` is the same for the same type; `sent` is the type of the parameter, which
    is cast to `type` if that is another; `edges` are values that must come back as they are, in canonical text.
    """

    name: str
    type: sa.types.TypeEngine[Any]
    sent: sa.types.TypeEngine[Any]
    convert: Callable[[bytes], Any]
    edges: tuple[bytes, ...]

    def expression(self, parameter: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
        return parameter if self.sent is self.type else sa.cast(parameter, self.type)

    def constant(self, value: Any) -> sa.ColumnElement[Any]:
        return self.expression(sa.literal(value, self.sent))


class Forms:
    """What this database has. Asks it, once for each type."""

    def __init__(self, session: GenericSession) -> None:
        self._session = session
        self._held: dict[str, bool] = {}
        self._odd: dict[str, bool] = {}

    def form(self, source: ColumnType) -> Form:
        wanted = wanted_form(source)
        if wanted.name not in self._held:
            self._held[wanted.name] = all(self._comes_back(wanted, edge) for edge in wanted.edges)
        return wanted if self._held[wanted.name] else _text()

    def holds_float(self, text: bytes) -> bool:
        """Whether NaN, an infinity or -0 has a place."""
        name = text.decode()
        if name not in self._odd:
            self._odd[name] = self._comes_back(_double(), text)
        return self._odd[name]

    def compares_exactly(self) -> bool:
        """Whether texts that differ are different keys."""
        return not any(
            self._session.answer(sa.case((_text().constant(one) == _text().constant(other), 1), else_=0)) != 0
            for one, other in (("a", "A"), ("a", "a "), ("e", "é"))
        )

    def require_texts(self) -> None:
        """TargetError for a database that makes another text of one: `''` NULL, for example."""
        changed = [edge for edge in _text().edges if not self._comes_back(_text(), edge)]
        if changed:
            raise TargetError(
                f"{self._session.dialect} does not keep the text {changed[0].decode()!r} as it is",
                mend="choose another target: this one would change values",
            )

    def _comes_back(self, form: Form, edge: bytes) -> bool:
        stored = sa.cast(form.constant(form.convert(edge)), form.type)
        if form.sent is form.type:
            came = self._session.answer(stored)
            return repr(came) == repr(form.convert(edge))
        return bool(self._session.answer(sa.cast(stored, sa.Text())) == form.convert(edge))


def wanted_form(source: ColumnType) -> Form:  # noqa: PLR0911  # a table
    """The form for a database that holds its edges."""
    match source.kind:
        case Kind.BOOLEAN:
            return _boolean()
        case Kind.INT16 | Kind.INT32 | Kind.INT64:
            return _integer(source.kind)
        case Kind.FLOAT32 | Kind.FLOAT64:
            return _double()
        case Kind.DECIMAL:
            return _decimal(source.precision or 0, source.scale or 0)
        case Kind.MONEY:
            return _decimal(19, 2)
        case Kind.DATE:
            return _date()
        case Kind.TIMESTAMP | Kind.TIMESTAMPTZ:
            return _moment()
        case Kind.BYTES:
            return _bytes()
        case _:
            return _text()


@cache
def _text() -> Form:
    type_ = sa.Text()
    return Form(name="text", type=type_, sent=type_, convert=bytes.decode, edges=(b"", b" a ", "é\U0001f600".encode()))


@cache
def _boolean() -> Form:
    type_ = sa.Boolean()
    return Form(name="boolean", type=type_, sent=type_, convert=_to_bool, edges=(b"t", b"f"))


@cache
def _integer(kind: Kind) -> Form:
    types: dict[Kind, tuple[sa.types.TypeEngine[Any], int]] = {
        Kind.INT16: (sa.SmallInteger(), 15),
        Kind.INT32: (sa.Integer(), 31),
        Kind.INT64: (sa.BigInteger(), 63),
    }
    type_, bits = types[kind]
    edges = (b"%d" % -(2**bits), b"%d" % (2**bits - 1))
    return Form(name=kind.value, type=type_, sent=type_, convert=int, edges=edges)


@cache
def _double() -> Form:
    type_: sa.Double[float] = sa.Double()
    edges = (b"0.1", b"0.30000000000000004", b"5e-324", b"-1.7976931348623157e+308")
    return Form(name="double", type=type_, sent=type_, convert=float, edges=edges)


@cache
def _decimal(precision: int, scale: int) -> Form:
    """Also for a negative scale, or one above the precision."""
    behind = max(scale, 0)
    digits = max(precision - scale, 0) + behind
    if not 0 < digits <= _MOST_DIGITS:
        return _text()
    most = "9" * (digits - behind) + ("." + "9" * behind if behind else "")
    most = most if most[0] != "." else f"0{most}"
    return Form(
        name=f"decimal({digits},{behind})",
        type=sa.Numeric(digits, behind),
        sent=sa.Text(),
        convert=_to_number,
        edges=(most.encode(), f"-{most}".encode(), f"0.{'0' * behind}".rstrip(".").encode()),
    )


@cache
def _date() -> Form:
    return Form(name="date", type=sa.Date(), sent=sa.Text(), convert=_to_date, edges=(b"0001-01-01", b"9999-12-31"))


@cache
def _moment() -> Form:
    edges = (b"0001-01-01 00:00:00", b"9999-12-31 23:59:59.999999", b"2026-03-29 02:30:00.000001")
    return Form(name="timestamp", type=sa.DateTime(), sent=sa.Text(), convert=_to_moment, edges=edges)


@cache
def _bytes() -> Form:
    type_ = sa.LargeBinary()
    return Form(name="bytes", type=type_, sent=type_, convert=_to_bytes, edges=(rb"\x", rb"\x00ff5c27"))


def type_named(name: str) -> sa.types.TypeEngine[Any]:
    """The type of the form of that name."""
    numbers = re.fullmatch(r"decimal\((\d+),(\d+)\)", name)
    if numbers is not None:
        return sa.Numeric(int(numbers[1]), int(numbers[2]))
    forms: list[Form] = [_text(), _boolean(), _double(), _date(), _moment(), _bytes()]
    forms += [_integer(kind) for kind in (Kind.INT16, Kind.INT32, Kind.INT64)]
    return next(form.type for form in forms if form.name == name)


class _InexactError(ValueError):
    """The database has no such value."""


def _to_bool(text: bytes) -> bool:
    if text not in {b"t", b"f"}:
        raise ValueError
    return text == b"t"


def _to_number(text: bytes) -> str:
    """Money of a PostgreSQL source may be `$1,234.50`."""
    number = text.decode().replace("$", "").replace(",", "")
    if _NUMBER.fullmatch(number) is None:
        raise _InexactError("it is no number")
    return number


def _to_date(text: bytes) -> str:
    if _DATE.fullmatch(date := text.decode()) is None:
        raise _InexactError("it is outside of the years 1 to 9999")
    return date


def _to_moment(text: bytes) -> str:
    if _MOMENT.fullmatch(moment := text.decode().removesuffix("+00")) is None:
        raise _InexactError("it is outside of the years 1 to 9999")
    return moment


def _to_bytes(text: bytes) -> bytes:
    if not text.startswith(rb"\x"):
        raise ValueError
    return bytes.fromhex(text[2:].decode("ascii"))


class RowCodec:
    """The values of one table version as parameters."""

    def __init__(self, version: TableSchema, forms: Forms) -> None:
        self._version = version
        self._holds_float = forms.holds_float
        self.forms = tuple(forms.form(column.type) for column in version.columns)

    def value(self, index: int, value: Value) -> Any:
        """One column's value. FidelityError if the database can't hold it."""
        if value is None or value is UNCHANGED:
            return None
        try:
            return self._converted(self.forms[index], value)
        except ValueError as error:
            table, column = self._version.id, self._version.columns[index]
            reason = error.args[0] if isinstance(error, _InexactError) else "it is not a value of its type"
            raise FidelityError(
                f"table {table}, column {column.name}: the target can't store a value of type {column.type.name}:"
                f" {reason}",
                mend=f"add {column_pattern(table, column.name)!r} to the target's as_text, and {MADE_ANEW}",
            ) from None

    def _converted(self, form: Form, value: bytes) -> Any:
        converted = form.convert(value)
        odd = isinstance(converted, float) and (
            not math.isfinite(converted) or (converted == 0 and value.startswith(b"-"))
        )
        if odd and not self._holds_float(repr(converted).encode()):
            raise _InexactError("NaN, Infinity and -0 have no place there")
        return converted
