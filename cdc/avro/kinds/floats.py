"""real, double precision, and pgvector's vectors of them.

PostgreSQL writes the shortest digits that read back the same, with an exponent where the decimal exponent is below -4
or from 6 (real) or 15 (double precision) on: `src/common/f2s.c`, `src/common/d2s.c`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Final

from cdc.avro import binary
from cdc.avro.kinds.codec import ValueCodec, compared

_FLOAT: Final = struct.Struct("<f")
_BITS: Final = struct.Struct("<I")
_NOT_FINITE: Final = {b"NaN": math.nan, b"Infinity": math.inf, b"-Infinity": -math.inf}
_LETTERS_OF_NUMBERS: Final = b"0123456789+-.e"
_SMALLEST_NORMAL: Final = 2.0**-126  # below it a float32 has fewer digits
_EXACT_INTEGERS: Final = 2.0**53
_NO_MORE_TIES: Final = 1e25  # the points between doubles have more than 17 digits


def _encode(text: bytes) -> float:
    if text in _NOT_FINITE:
        return _NOT_FINITE[text]
    if text.strip(_LETTERS_OF_NUMBERS):
        raise ValueError("not a number")
    return float(text)


def _encode_float32(text: bytes) -> float:
    return _rounded(_encode(text))


def _rounded(value: float) -> float:
    """The nearest float32. ValueError if the value is beyond its range."""
    try:
        rounded: float = _FLOAT.unpack(_FLOAT.pack(value))[0]
    except OverflowError as error:
        raise ValueError("out of range") from error
    return rounded


def float64_text(value: float) -> bytes:
    text = repr(value)
    # From 2^53 on, Python may take digits that lie just between two doubles, and PostgreSQL does not.
    if _EXACT_INTEGERS < abs(value) < _NO_MORE_TIES and 2 * abs(int(Decimal(text)) - int(value)) == int(
        math.ulp(value)
    ):
        text = f"{value:.16e}"
    text = text.removesuffix(".0")
    # Python changes to an exponent one digit later than PostgreSQL.
    if 1e15 <= abs(value) < 1e16 and "e" not in text:
        text = _with_exponent(text)
    return _named(text)


def float32_text(value: float) -> bytes:
    return _named(_shortest_float32(value))


def _shortest_float32(value: float) -> str:
    # A float32 is told apart by 6 to 9 digits; %.6g also writes fewer, and changes form where PostgreSQL does.
    text = f"{value:.6g}"
    if float(text) == value or not math.isfinite(value):
        return text
    for digits in range(1 if abs(value) < _SMALLEST_NORMAL else 6, 10):
        text = f"{value:.{digits}g}"
        if _reads_back(text, value):
            break
    return _with_exponent(text) if abs(value) >= 1e6 and "e" not in text else text


def _reads_back(text: str, value: float) -> bool:
    """Whether the digits lie nearer to `value` than to any other float32: PostgreSQL takes none just between two."""
    written = float(text)
    try:
        if _rounded(written) != value:
            return False
    except ValueError:  # rounded up beyond the largest
        return False
    return written == value or written != (value + _neighbour(value, away=abs(written) > abs(value))) / 2


def _neighbour(value: float, *, away: bool) -> float:
    """The next float32 away from zero, or towards it."""
    bits = _BITS.unpack(_FLOAT.pack(value))[0] + (1 if away else -1)
    neighbour: float = _FLOAT.unpack(_BITS.pack(bits))[0]
    return neighbour


def _with_exponent(text: str) -> str:
    """Of a whole or fractional number without exponent, at least 1."""
    sign, number = ("-", text[1:]) if text[0] == "-" else ("", text)
    whole, _, fraction = number.partition(".")
    digits = (whole + fraction).rstrip("0")
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e+{len(whole) - 1:02d}"


def _named(text: str) -> bytes:
    match text:
        case "nan":
            return b"NaN"
        case "inf":
            return b"Infinity"
        case "-inf":
            return b"-Infinity"
        case _:
            return text.encode()


FLOAT64: Final = ValueCodec(
    encode=compared(_encode, float64_text), decode=float64_text, write=binary.float64, stand_in=0.0
)

FLOAT32: Final = ValueCodec(
    encode=compared(_encode_float32, float32_text), decode=float32_text, write=binary.float32, stand_in=0.0
)


def _vector(write_item: Callable[[float], bytes], read_item: Callable[[bytes], float]) -> ValueCodec:
    """As pgvector writes them: each item as PostgreSQL writes a real."""

    def encode(text: bytes) -> list[float]:
        if not (text.startswith(b"[") and text.endswith(b"]")):
            raise ValueError("not a vector")
        return [read_item(item) for item in text[1:-1].split(b",")]

    def decode(datum: Sequence[float]) -> bytes:
        return b"[" + b",".join(float32_text(_rounded(item)) for item in datum) + b"]"

    def write(datum: Sequence[float]) -> bytes:
        return binary.array([write_item(item) for item in datum])

    return ValueCodec(encode=compared(encode, decode), decode=decode, write=write, stand_in=[])


VECTOR: Final = _vector(binary.float64, _encode)
HALFVEC: Final = _vector(binary.float32, _encode_float32)
