"""What each kind of value must be able to do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

PLACEHOLDER: Final = b"__debezium_unavailable_value"
"""What Debezium writes for an UNCHANGED value."""

Datum = Any
"""A value as fastavro has it, except that `string` is bytes (UTF-8) and a logical type is its primitive."""


class InexactError(Exception):
    """The canonical text can't be restored from its Avro form, so it must travel beside it.

    `datum` is the nearest that Debezium's form can say, or None if it can say nothing.
    """

    def __init__(self, datum: Datum) -> None:
        super().__init__("the Avro form is not exact")
        self.datum = datum


@dataclass(frozen=True, slots=True, kw_only=True)
class ValueCodec:
    """Canonical text <-> Avro datum, of one column type.

    `encode` returns a datum from which `decode` gives the same text again, or raises InexactError; ValueError if the
    text is none of this kind. `decode` raises ValueError for a datum that is none. `write` gives the datum's bytes.
    `stand_in` fills a field that must not be null when there is no datum: no value of the type looks like it, where
    the Avro type has room for such a thing. `unavailable` stands for UNCHANGED (None: no datum can).
    """

    encode: Callable[[bytes], Datum]
    decode: Callable[[Datum], bytes]
    write: Callable[[Datum], bytes]
    stand_in: Datum
    unavailable: Datum = None


def compared(encode: Callable[[bytes], Datum], decode: Callable[[Datum], bytes]) -> Callable[[bytes], Datum]:
    """`encode` for a form that loses something in ways that are best found by looking."""

    def encode_exactly(text: bytes) -> Datum:
        datum = encode(text)
        if decode(datum) != text:
            raise InexactError(datum)
        return datum

    return encode_exactly
