"""hstore: a JSON object of texts, as Debezium has it with `hstore.handling.mode = json`."""

from __future__ import annotations

import json
import re
from typing import Final

from cdc.avro import binary
from cdc.avro.kinds.codec import PLACEHOLDER, ValueCodec, compared

_QUOTED: Final = rb'"((?:[^"\\]|\\.)*)"'
_PAIR: Final = re.compile(_QUOTED + rb"=>(?:" + _QUOTED + rb"|NULL)(, |\Z)", re.DOTALL)
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_TO_ESCAPE: Final = re.compile(rb'(["\\])')


def _encode(text: bytes) -> bytes:
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        match = _PAIR.match(text, at)
        if match is None:
            raise ValueError("not hstore's text form")
        pairs[_unescape(match[1])] = None if match[2] is None else _unescape(match[2])
        at = match.end()
    return json.dumps(pairs, ensure_ascii=False, separators=(",", ":")).encode()


def _decode(datum: bytes) -> bytes:
    pairs = json.loads(datum)
    if not isinstance(pairs, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - bad data, not a wrong call
    return b", ".join(
        _quote(key) + b"=>" + (b"NULL" if value is None else _quote(value)) for key, value in pairs.items()
    )


def _unescape(quoted: bytes) -> str:
    return _ESCAPED.sub(rb"\1", quoted).decode()


def _quote(text: object) -> bytes:
    if not isinstance(text, str):
        raise ValueError("not a JSON object of texts")  # noqa: TRY004 - bad data, not a wrong call
    return b'"' + _TO_ESCAPE.sub(rb"\\\1", text.encode()) + b'"'


HSTORE: Final = ValueCodec(
    encode=compared(_encode, _decode), decode=_decode, write=binary.data, stand_in=b"{}", unavailable=PLACEHOLDER
)
