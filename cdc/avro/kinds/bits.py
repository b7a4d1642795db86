"""Booleans, bit strings and byte strings."""

from __future__ import annotations

import binascii
from typing import Final

from cdc.avro import binary
from cdc.avro.kinds.codec import PLACEHOLDER, InexactError, ValueCodec


def _switch(on: bytes, off: bytes) -> ValueCodec:
    def encode(text: bytes) -> bool:
        if text == on:
            return True
        if text == off:
            return False
        raise ValueError("neither true nor false")

    def decode(datum: bool) -> bytes:
        return on if datum else off

    return ValueCodec(encode=encode, decode=decode, write=binary.boolean, stand_in=False)


BOOLEAN: Final = _switch(b"t", b"f")
BIT: Final = _switch(b"1", b"0")


def bits(length: int | None) -> ValueCodec:
    """bit(n) and varbit: as Debezium's Bits, the last bit lowest in the first byte, padded to the declared length.

    How many bits there were is not in the bytes: a varbit that is shorter than its type (or, without a declared
    length, no multiple of 8) is not exact.
    """

    def encode(text: bytes) -> bytes:
        if text.strip(b"01"):
            raise ValueError("not a bit string")
        if length is not None and len(text) > length:
            raise ValueError("longer than its type")
        wanted = length if length is not None else len(text)
        datum = int(text or b"0", 2).to_bytes((wanted + 7) // 8, "little")
        if len(text) != (length if length is not None else len(datum) * 8):
            raise InexactError(datum)
        return datum

    def decode(datum: bytes) -> bytes:
        count = length if length is not None else len(datum) * 8
        if not count:
            return b""
        value = int.from_bytes(datum, "little")
        if value.bit_length() > count:
            raise ValueError("more bits than its type has")
        return f"{value:0{count}b}".encode()

    return ValueCodec(encode=encode, decode=decode, write=binary.data, stand_in=b"")


def _encode_bytea(text: bytes) -> bytes:
    if text[:2] != rb"\x":
        raise ValueError("not bytea_output = hex")
    datum = binascii.unhexlify(text[2:])
    if not text.islower() and text != _decode_bytea(datum):
        raise ValueError("not in canonical form")
    return datum


def _decode_bytea(datum: bytes) -> bytes:
    return rb"\x" + binascii.hexlify(datum)


BYTES: Final = ValueCodec(
    encode=_encode_bytea, decode=_decode_bytea, write=binary.data, stand_in=b"", unavailable=PLACEHOLDER
)
