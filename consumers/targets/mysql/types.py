"""The neutral vocabulary in MySQL's and MariaDB's types: what to declare, what a column keeps, how a value is written.

| form | kinds | declared | written |
|---|---|---|---|
| boolean | boolean | TINYINT(1) | 1 |
| integer | integers | SMALLINT, INT, BIGINT | 12 |
| double | floats; FLOAT would show 16777216 as 16777200 | DOUBLE | 0.1e0 |
| decimal | decimals of up to 65 digits, 30 of them behind the point; money | DECIMAL | 12.50 |
| date, time, datetime | date, time, timestamp, and timestamptz in UTC | DATE, TIME(6), DATETIME(6) | DATE'2026-01-31' |
| bytes | bytes | LONGBLOB | x'0aff' |
| text | all others, json too: the servers' own would rewrite it | LONGTEXT | 'text' |

Numbers are written without quotes: `bigint IN ('…')` may compare as floats.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Final

from cdc.core.errors import FidelityError
from cdc.core.events import UNCHANGED, Value
from cdc.core.patterns import column_pattern
from cdc.core.tables import TableSchema
from cdc.core.types import ColumnType, Kind
from consumers.targets.mysql.quoting import text_literal
from consumers.targets.schema_check import MADE_ANEW_AS_TEXT

KEY_BYTES: Final = 3072  # https://dev.mysql.com/doc/refman/8.4/en/innodb-limits.html
_BYTES_PER_CHARACTER: Final = 4
_MOST_DIGITS: Final = 65
_MOST_SCALE: Final = 30


class Form(Enum):
    """How values are written."""

    BOOLEAN = "boolean"
    INTEGER = "integer"
    DOUBLE = "double"
    DECIMAL = "decimal"
    DATE = "date"
    TIME = "time"
    DATETIME = "datetime"
    BYTES = "bytes"
    TEXT = "text"


_INTEGERS: Final = {Kind.INT16: "SMALLINT", Kind.INT32: "INT", Kind.INT64: "BIGINT"}
_FORMS: Final = {
    Kind.BOOLEAN: Form.BOOLEAN,
    **dict.fromkeys(_INTEGERS, Form.INTEGER),
    Kind.FLOAT32: Form.DOUBLE,
    Kind.FLOAT64: Form.DOUBLE,
    Kind.MONEY: Form.DECIMAL,
    Kind.DATE: Form.DATE,
    Kind.TIME: Form.TIME,
    Kind.TIMESTAMP: Form.DATETIME,
    Kind.TIMESTAMPTZ: Form.DATETIME,
    Kind.BYTES: Form.BYTES,
}
_DECLARED: Final = {
    Form.BOOLEAN: "TINYINT(1)",
    Form.DOUBLE: "DOUBLE",
    Form.DATE: "DATE",
    Form.TIME: "TIME(6)",
    Form.DATETIME: "DATETIME(6)",
    Form.BYTES: "LONGBLOB",
    Form.TEXT: "LONGTEXT",
}
_WHOLE_NUMBERS: Final = {"tinyint", "smallint", "mediumint", "int", "bigint"}
_BINARIES: Final = {"varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_TEXTS: Final = {"varchar", "tinytext", "text", "mediumtext", "longtext"}
# They cut blanks off the end of a text that is too long, and say nothing.
_CUTTING: Final = _TEXTS - {"longtext"}
# Which data types keep a form's values, or refuse them aloud. CHAR and BINARY don't: they drop or add at the end.
_KEEPING: Final = {
    Form.BOOLEAN: _WHOLE_NUMBERS,
    Form.INTEGER: _WHOLE_NUMBERS,
    Form.DOUBLE: {"double"},
    Form.DECIMAL: {"decimal"},
    Form.DATE: {"date"},
    Form.TIME: {"time"},
    Form.DATETIME: {"datetime"},
    Form.BYTES: _BINARIES,
    Form.TEXT: _TEXTS | _BINARIES,
}
_FIXED_KEY_BYTES: Final = {Form.DECIMAL: 32}
_OF_ANY_LENGTH: Final = {Form.TEXT, Form.BYTES}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeclaredType:
    """A column's type as information_schema tells it, in lower case. `fraction` is how many digits a time's seconds
    have behind the point; `characters` and `octets` are the most that a text may have.
    """

    data_type: str
    collation: str | None = None
    scale: int | None = None
    fraction: int | None = None
    characters: int | None = None
    octets: int | None = None

    def has_room(self, text: bytes) -> bool:
        """Whether a text is no longer than the column; no, where that is in doubt."""
        if self.characters is None or self.octets is None:
            return True
        characters = len(text.decode())
        if self.data_type == "varchar":
            return characters <= self.characters
        collation = self.collation or ""
        if collation.startswith("utf8"):
            return len(text) <= self.octets
        width = 1 if collation.startswith(("latin", "ascii")) else _BYTES_PER_CHARACTER
        return characters * width <= self.octets


def form_of(source: ColumnType) -> Form:
    if source.kind is Kind.DECIMAL and _decimal(source) is not None:
        return Form.DECIMAL
    return _FORMS.get(source.kind, Form.TEXT)


def declared_type(source: ColumnType, key_bytes: int | None = None) -> str:
    """Without the collation of texts. `key_bytes` is what a column of a key may take in it."""
    form = form_of(source)
    if form is Form.INTEGER:
        return _INTEGERS[source.kind]
    if form is Form.DECIMAL:
        digits, scale = _decimal(source) or (19, 2)  # money has 64 bits
        return f"DECIMAL({digits},{scale})"
    if key_bytes is not None and form is Form.BYTES:
        return f"VARBINARY({key_bytes})"
    if key_bytes is not None and form is Form.TEXT:
        characters = key_bytes // _BYTES_PER_CHARACTER
        return f"VARCHAR({min(characters, source.length or characters)})"
    return _DECLARED[form]


def key_bytes(columns: Sequence[ColumnType]) -> int:
    """The most that a text or bytes may take in a key of these: short ones leave their room to the others."""
    fixed = [_FIXED_KEY_BYTES.get(form, 8) for column in columns if (form := form_of(column)) not in _OF_ANY_LENGTH]
    room = KEY_BYTES - sum(fixed)
    wanted = sorted(_wanted_bytes(column) for column in columns if form_of(column) in _OF_ANY_LENGTH)
    for index, each in enumerate(wanted):
        share = room // (len(wanted) - index)
        if each > share:
            return share
        room -= each
    return KEY_BYTES


def _wanted_bytes(source: ColumnType) -> int:
    return KEY_BYTES if source.length is None else source.length * _BYTES_PER_CHARACTER


def is_text(declared: str) -> bool:
    """Whether a column declared so has a collation."""
    return declared.startswith(("VARCHAR", "LONGTEXT"))


def keeps_exactly(source: ColumnType, declared: DeclaredType) -> bool:  # noqa: PLR0911  # a table
    """Whether a column declared so keeps every value of the source's type as it is, or refuses it aloud. The server
    rounds into a smaller scale, and cuts microseconds off, without a word.
    """
    form = form_of(source)
    if form is Form.DATETIME and declared.data_type == "timestamp":
        return source.kind is Kind.TIMESTAMPTZ and declared.fraction == 6
    if form is Form.TEXT and declared.data_type == "uuid":
        return source.kind is Kind.UUID
    if declared.data_type not in _KEEPING[form]:
        return False
    match form:
        case Form.DECIMAL:
            return (declared.scale or 0) >= (_decimal(source) or (19, 2))[1]
        case Form.DOUBLE:
            return declared.scale is None  # DOUBLE(10,2) rounds
        case Form.TIME | Form.DATETIME:
            return declared.fraction == 6
        case _:
            return True


def _decimal(source: ColumnType) -> tuple[int, int] | None:
    """Digits and scale of a DECIMAL that holds all of a numeric(p,s)'s numbers; None if there is none."""
    if source.precision is None or source.scale is None:
        return None
    scale = max(source.scale, 0)
    digits = max(source.precision - source.scale, 0) + scale
    return (max(digits, 1), scale) if digits <= _MOST_DIGITS and scale <= _MOST_SCALE else None


class RowCodec:
    """The values of one table version, as they stand in a statement. `there` are the target's columns, by index, as far
    as they are there.
    """

    def __init__(self, version: TableSchema, there: Mapping[int, DeclaredType] = MappingProxyType({})) -> None:
        self._version = version
        self._writers = [_writer(column.type, there.get(index)) for index, column in enumerate(version.columns)]

    def value(self, index: int, value: Value) -> bytes:
        """One column's value. FidelityError if MySQL can't hold it."""
        if value is None or value is UNCHANGED:
            return b"NULL"
        try:
            return self._writers[index](value)
        except ValueError as error:
            raise self._refused(index, error) from None

    def row(self, values: Sequence[Value], columns: Sequence[int]) -> bytes:
        """`(…)` of these columns."""
        writers = self._writers
        try:
            written = [
                b"NULL" if (value := values[index]) is None else writers[index](value)  # type: ignore[arg-type]
                for index in columns
            ]
        except ValueError:
            written = [self.value(index, values[index]) for index in columns]  # which says where
        return b"(" + b",".join(written) + b")"

    def _refused(self, index: int, error: ValueError) -> FidelityError:
        table, column = self._version.id, self._version.columns[index]
        if isinstance(error, _CutError):
            return FidelityError(
                f"table {table}, column {column.name}: a value with blanks at its end is longer than the column (a text"
                " that is of a key: 768 characters in all), and MySQL would cut them off without an error",
                mend="change the target column's type to one that holds the source's values",
            )
        reason = error.args[0] if isinstance(error, _InexactError) else "it is not a value of its type"
        return FidelityError(
            f"table {table}, column {column.name}: MySQL can't store a value of type {column.type.name}: {reason}",
            mend=f"add {column_pattern(table, column.name)!r} to the target's as_text, and {MADE_ANEW_AS_TEXT}",
        )


class _InexactError(ValueError):
    """MySQL has no such value."""


class _CutError(ValueError):
    """The column would get less than the value."""


_NUMBER: Final = re.compile(rb"-?[0-9]+(\.[0-9]+)?")
_FLOAT: Final = re.compile(rb"-?[0-9]+(\.[0-9]+)?(e[-+]?[0-9]+)?")
_DATE: Final = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME: Final = re.compile(rb"[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?")
_DATETIME: Final = re.compile(rb"([0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,6})?)(?:\+00)?")
_ODD_DATE: Final = re.compile(rb"-?infinity|[0-9]{4,}-[0-9]{2}-[0-9]{2}( [0-9:.+]+)?( BC)?")
_HEX: Final = re.compile(rb"\\x((?:[0-9A-Fa-f]{2})*)")


def _writer(  # noqa: PLR0911  # a table
    source: ColumnType, there: DeclaredType | None
) -> Callable[[bytes], bytes]:
    match form_of(source):
        case Form.BOOLEAN:
            return _boolean
        case Form.INTEGER:
            return _integer
        case Form.DOUBLE:
            return _double
        case Form.DECIMAL:
            return _money if source.kind is Kind.MONEY else _decimal_writer(source)
        case Form.DATE:
            return _date
        case Form.TIME:
            return _time
        case Form.DATETIME:
            return _datetime
        case Form.BYTES:
            return _bytes
        case Form.TEXT:
            return text_literal if there is None else _text_writer(source, there)


def _boolean(text: bytes) -> bytes:
    return {b"t": b"1", b"f": b"0"}.get(text) or _no_value()


def _integer(text: bytes) -> bytes:
    return b"%d" % int(text)


def _double(text: bytes) -> bytes:
    if _FLOAT.fullmatch(text) is None:
        number = float(text)
        raise _InexactError("there is no NaN" if math.isnan(number) else "there is no infinity")
    if text.startswith(b"-") and float(text) == 0:
        raise _InexactError("the sign of -0 would be lost")
    return text if b"e" in text else text + b"e0"


def _decimal_writer(source: ColumnType) -> Callable[[bytes], bytes]:
    _, scale = _decimal(source) or (0, 0)

    def written(text: bytes) -> bytes:
        if _NUMBER.fullmatch(text) is None:
            raise _InexactError("there is no NaN") if text == b"NaN" else ValueError
        if len(text.partition(b".")[2]) > scale:
            raise _InexactError("it would be rounded")
        return text

    return written


def _text_writer(source: ColumnType, there: DeclaredType) -> Callable[[bytes], bytes]:
    is_short = source.length is not None and source.length <= (there.characters or 0) and there.data_type == "varchar"
    if is_short or there.data_type not in _CUTTING:
        return text_literal

    def written(text: bytes) -> bytes:
        if text.endswith(b" ") and not there.has_room(text):
            raise _CutError
        return text_literal(text)

    return written


def _money(text: bytes) -> bytes:
    """A PostgreSQL source may say `$1,234.50` for 1234.50."""
    number = text.replace(b"$", b"").replace(b",", b"")
    return number if _NUMBER.fullmatch(number) else _no_value()


def _date(text: bytes) -> bytes:
    if _DATE.fullmatch(text) is None:
        raise _no_such_date(text)
    return b"DATE'" + text + b"'"


def _time(text: bytes) -> bytes:
    return b"TIME'" + text + b"'" if _TIME.fullmatch(text) else _no_value()


def _datetime(text: bytes) -> bytes:
    found = _DATETIME.fullmatch(text)
    if found is None:
        raise _no_such_date(text)
    return b"TIMESTAMP'" + found[1] + b"'"


def _no_such_date(text: bytes) -> ValueError:
    return _InexactError("it is outside of the years 1 to 9999") if _ODD_DATE.fullmatch(text) else ValueError()


def _bytes(text: bytes) -> bytes:
    found = _HEX.fullmatch(text)
    return b"x'" + found[1] + b"'" if found else _no_value()


def _no_value() -> bytes:
    raise ValueError
