"""Integers, decimals and money."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final, TypedDict

from cdc.avro import binary
from cdc.avro.kinds.codec import InexactError, ValueCodec

_CANONICAL: Final = re.compile(rb"(-?)(0|[1-9]\d*)(?:\.(\d+))?")
_MONEY: Final = re.compile(rb"(-?)\$?(\d{1,3}(?:,\d{3})+|\d+)\.(\d\d)")
_LONGEST_FOR_INT: Final = 4000  # CPython refuses int <-> str above 4300 digits; Decimal does not
_FEW_DIGITS: Final = 1 << 128
_MONEY_SCALE: Final = 2
_WIDEST_PRECISION: Final = 1000  # that can be declared
# PostgreSQL's numeric has 131,072 digits before the point and 16,383 after it; anything beyond is no value of ours.
_WIDEST_SCALE: Final = 200_000


def integer(bits: int) -> ValueCodec:
    """Signed, of that many bits."""
    limit = 1 << (bits - 1)

    def encode(text: bytes) -> int:
        n = int(text)
        if not -limit <= n < limit:
            raise ValueError("out of range")
        if b"%d" % n != text:
            raise ValueError("not in canonical form")  # int() takes spaces, signs and underscores
        return n

    return ValueCodec(encode=encode, decode=int_text, write=binary.long, stand_in=0)


def int_text(n: int) -> bytes:
    return b"%d" % n


def decimal(precision: int | None, scale: int) -> ValueCodec:
    """numeric(p,s): the unscaled number. The scale may be negative, or above the precision."""

    def encode(text: bytes) -> bytes:
        unscaled, found = _unscaled(text)
        if found == max(scale, 0):
            if scale >= 0:
                return _twos_complement(unscaled)
            quotient, rest = divmod(unscaled, 10**-scale)
            if not rest:
                return _twos_complement(quotient)
        raise InexactError(None)

    least = 10**scale if 0 < scale <= _WIDEST_PRECISION else None  # from here on there is a digit before the point

    def decode(datum: bytes) -> bytes:
        unscaled = int.from_bytes(datum, "big", signed=True)
        if least is not None and least <= unscaled < _FEW_DIGITS:
            digits = b"%d" % unscaled
            return digits[:-scale] + b"." + digits[-scale:]
        return plain(from_twos_complement(datum), scale)

    # One digit more than the type allows: NaN is not any number.
    stand_in = _twos_complement(10 ** (precision or _WIDEST_PRECISION))
    return ValueCodec(encode=encode, decode=decode, write=binary.data, stand_in=stand_in)


class Scaled(TypedDict):
    """Debezium's VariableScaleDecimal."""

    scale: int
    value: bytes


def _encode_variable(text: bytes) -> Scaled:
    unscaled, scale = _unscaled(text)
    return {"scale": scale, "value": _twos_complement(unscaled)}


def _decode_variable(datum: Scaled) -> bytes:
    return plain(from_twos_complement(datum["value"]), datum["scale"])


def _write_variable(datum: Scaled) -> bytes:
    return binary.long(datum["scale"]) + binary.data(datum["value"])


VARIABLE_DECIMAL: Final = ValueCodec(
    encode=_encode_variable,
    decode=_decode_variable,
    write=_write_variable,
    stand_in={"scale": -131_073, "value": b"\x01"},  # 1E+131073: above numeric's range
)


def _encode_money(text: bytes) -> bytes:
    match = _MONEY.fullmatch(text)
    if match is None:
        raise ValueError("not an amount under lc_monetary = C")
    return _twos_complement(_int(match[1] + match[2].replace(b",", b"") + match[3]))


def _decode_money(datum: bytes) -> bytes:
    return plain(from_twos_complement(datum), _MONEY_SCALE)


MONEY: Final = ValueCodec(encode=_encode_money, decode=_decode_money, write=binary.data, stand_in=b"\x00")


def _unscaled(text: bytes) -> tuple[int, int]:
    """The number without its point, and the digits after it. InexactError for what is no number or not canonical."""
    match = _CANONICAL.fullmatch(text)
    if match is None:
        if text in {b"NaN", b"Infinity", b"-Infinity"}:
            raise InexactError(None)
        raise ValueError("not in canonical form")
    sign, whole, fraction = match.groups(b"")
    unscaled = _int(sign + whole + fraction)
    if sign and not unscaled:
        raise ValueError("not in canonical form")
    return unscaled, len(fraction)


def _int(digits: bytes) -> int:
    return int(digits) if len(digits) < _LONGEST_FOR_INT else int(Decimal(digits.decode("ascii")))


def _twos_complement(n: int) -> bytes:
    """As Java's `BigInteger.toByteArray`: big-endian, no byte more than the sign needs."""
    return n.to_bytes((n + (n < 0)).bit_length() // 8 + 1, "big", signed=True)


def from_twos_complement(datum: bytes) -> int:
    if not datum:
        raise ValueError("a number without bytes")
    return int.from_bytes(datum, "big", signed=True)


def plain(unscaled: int, scale: int) -> bytes:
    """The number with `scale` digits after its point, never with an exponent."""
    if abs(scale) > _WIDEST_SCALE:
        raise ValueError("a scale that no numeric has")
    sign = b"-" if unscaled < 0 else b""
    digits = _digits(abs(unscaled))
    if scale <= 0:
        return sign + digits + (b"0" * -scale if unscaled else b"")
    digits = digits.zfill(scale + 1)
    return b"%b%b.%b" % (sign, digits[:-scale], digits[-scale:])


def _digits(n: int) -> bytes:
    return b"%d" % n if n.bit_length() < 3 * _LONGEST_FOR_INT else str(Decimal(n)).encode()
