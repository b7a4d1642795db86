"""What the Avro form of an event, or of a transaction's END, can't say, in the record's headers.

| header | value |
|---|---|
| `cdc.exact` | JSON `{"after": {"<column>": "<canonical text>"}, "before": {…}, "moved": {…}}`: use these texts |
| `cdc.unchanged` | JSON `["<column>"]`: UNCHANGED in `after`, whatever the field holds |
| `cdc.before` | `key` or `full`, where the replica identity would make one expect the other |
| `cdc.awaits-create` | on the delete of a changed key: its create holds UNCHANGED values |
| `cdc.truncated` | position of the latest truncate of the table, on events that come after it |
| `cdc.altered` | position of the table's latest change of shape (in the tables topic), on events that come after it |
| `cdc.alterations` | on an END: how many changes of shape its transaction has in the tables topic |
| `cdc.resent` | on an END: an earlier session of capture may have written events of the transaction too |
| `__debezium.newkey`, `__debezium.oldkey` | of a changed key, on its delete and its create: the other key, framed |
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from cdc.core.errors import ProtocolViolationError

EXACT: Final = "cdc.exact"
UNCHANGED: Final = "cdc.unchanged"
BEFORE: Final = "cdc.before"
AWAITS_CREATE: Final = "cdc.awaits-create"
TRUNCATED: Final = "cdc.truncated"
ALTERED: Final = "cdc.altered"
ALTERATIONS: Final = "cdc.alterations"
RESENT: Final = "cdc.resent"
NEW_KEY: Final = "__debezium.newkey"
OLD_KEY: Final = "__debezium.oldkey"

USUAL: Final = frozenset({UNCHANGED, TRUNCATED, ALTERED})
"""Those of events that are read without building what nobody asks for."""

Texts = Mapping[str, bytes]
"""Canonical texts by column."""


def write_exact(parts: Mapping[str, Texts]) -> bytes:
    return _json({part: {column: text.decode() for column, text in texts.items()} for part, texts in parts.items()})


def read_exact(value: bytes) -> dict[str, dict[str, bytes]]:
    parts = _parse(EXACT, value)
    if not isinstance(parts, dict):
        raise _malformed(EXACT)
    return {part: _texts(texts) for part, texts in parts.items()}


def _texts(texts: object) -> dict[str, bytes]:
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _malformed(EXACT)
    try:
        return {column: text.encode() for column, text in texts.items()}
    except UnicodeEncodeError as error:  # JSON can say half a surrogate pair
        raise _malformed(EXACT) from error


def write_unchanged(columns: Sequence[str]) -> bytes:
    return _json(columns)


def read_unchanged(value: bytes) -> list[str]:
    columns = _parse(UNCHANGED, value)
    if not isinstance(columns, list) or not all(isinstance(column, str) for column in columns):
        raise _malformed(UNCHANGED)
    return columns


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _parse(header: str, value: bytes) -> object:
    try:
        parsed: object = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise _malformed(header) from error
    return parsed


def _malformed(header: str) -> ProtocolViolationError:
    return ProtocolViolationError(f"the header {header} is not what cdc writes")
