"""The way from the bytes of an Insert, Update or Delete to the texts of its row, as source for compiled functions.

`decoder` has the say: what is written here is right about rows whose values are texts or NULL, and refuses others.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

_FRAME_AND_CHANGE: Final = struct.Struct(">BQ16xBIBh")
FIRST_VALUE: Final = _FRAME_AND_CHANGE.size
_LONG = struct.Struct(">I").unpack_from
_TEXT, _NULL = b"tn"


class Head(NamedTuple):
    """What `head_of` gives: the kind of frame, the change's place in the WAL, kind of message, relation, the mark of
    its first tuple, and how many values that has. Anything at all, if the frame is no XLogData with such a message.
    """

    frame: int
    lsn: int
    kind: int
    relation_oid: int
    mark: int
    width: int


head_of: Final = _FRAME_AND_CHANGE.unpack_from
"""Head's fields, as a plain tuple. struct.error if the frame is too short to be such a change."""


def reading(columns: int) -> Sequence[str]:
    """For RowFormat: `data` is an XLogData frame. Slices never fail; the last line finds those that were too short."""
    lines = [f"at = {FIRST_VALUE}"]
    for i in range(columns):
        lines += [
            r'if data[at:at + 4] == b"t\0\0\0":',  # a text of less than 256 bytes, as nearly all are
            "    start = at + 5",
            "    at = start + data[at + 4]",
            f"    v{i} = data[start:at]",
            f"elif data[at] == {_NULL}:",
            f"    v{i} = None",
            "    at += 1",
            "else:",
            f"    v{i}, at = value_at(data, at)",
        ]
    return [*lines, "if at != len(data):", "    raise ValueError"]


def value_at(data: bytes, at: int) -> tuple[bytes | None, int]:
    """A longer text or NULL, and the offset after it. ValueError for what is neither."""
    kind = data[at]
    if kind == _NULL:
        return None, at + 1
    if kind != _TEXT or len(data) < at + 5:
        raise ValueError(kind)
    end = at + 5 + _LONG(data, at + 1)[0]
    return data[at + 5 : end], end
