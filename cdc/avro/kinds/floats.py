"""real, double precision, and pgvector's vectors of them.

PostgreSQL writes the shortest digits that read back the same, with an exponent where the decimal exponent is below -4
or from 6 (real) or 15 (double precision) on: `src/common/f2s.c`, `src/common/d2s.c`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Sequence
from typing import Final

from cdc.avro import binary
from cdc.avro.kinds.codec import ValueCodec, compared

_FLOAT: Final = struct.Struct("<f")
_NOT_FINITE: Final = {b"NaN": math.nan, b"Infinity": math.inf, b"-Infinity": -math.inf}
_LETTERS_OF_NUMBERS: Final = b"0123456789+-.e"


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
    if text.endswith(".0"):
        text = text[:-2]
    # Python changes to an exponent one digit later than PostgreSQL.
    if 1e15 <= abs(value) < 1e16:
        text = _with_exponent(text)
    return _named(text)


def float32_text(value: float) -> bytes:
    return _named(_shortest_float32(value))


def _shortest_float32(value: float) -> str:
    # A float32 is told apart by 6 to 9 digits; %.6g also writes fewer, and changes form where PostgreSQL does.
    text = f"{value:.6g}"
    if float(text) == value or not math.isfinite(value):
        return text
    for digits in (6, 7, 8, 9):
        text = f"{value:.{digits}g}"
        if _reads_back(text, value):
            break
    return _with_exponent(text) if abs(value) >= 1e6 and "e" not in text else text


def _reads_back(text: str, value: float) -> bool:
    try:
        return _rounded(float(text)) == value
    except ValueError:  # rounded up beyond the largest
        return False


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
    """pgvector writes each item as PostgreSQL writes a real."""

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
