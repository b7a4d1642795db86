"""Kinds whose Avro form is their text."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cdc.avro import binary
from cdc.avro.kinds.codec import PLACEHOLDER, ValueCodec

_UUID: Final = re.compile(rb"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
is_uuid: Final = _UUID.fullmatch
# iso_8601 with signs inside, and what PostgreSQL 17 added.
_INTERVAL: Final = re.compile(
    rb"P(?=[-\d T])(?:-?\d+Y)?(?:-?\d+M)?(?:-?\d+D)?"
    rb"(?:T(?:-?\d+H)?(?:-?\d+M)?(?:-?\d+(?:\.\d+)?S)?)?|-?infinity"
)


def utf8(text: bytes) -> bytes:
    """The text itself, once it is sure to be UTF-8 (a SQL_ASCII database may send anything)."""
    if not text.isascii():
        text.decode()
    return text


def _matching(pattern: re.Pattern[bytes]) -> Callable[[bytes], bytes]:
    def check(text: bytes) -> bytes:
        if pattern.fullmatch(text) is None:
            raise ValueError("not in canonical form")
        return text

    return check


# A text may hold the placeholder itself; the header `cdc.unchanged` tells the two apart.
TEXT: Final = ValueCodec(encode=utf8, decode=utf8, write=binary.data, stand_in=b"", unavailable=PLACEHOLDER)

UUID: Final = ValueCodec(
    encode=_matching(_UUID), decode=utf8, write=binary.data, stand_in=b"00000000-0000-0000-0000-000000000000"
)

INTERVAL: Final = ValueCodec(encode=_matching(_INTERVAL), decode=utf8, write=binary.data, stand_in=b"PT0S")
