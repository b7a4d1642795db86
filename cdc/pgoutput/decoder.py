"""One pgoutput message in bytes becomes one value. Pure: it knows neither the messages before nor the tables.

Bytes that the documentation does not define (unknown kinds and flags, bytes after the end) are violations, never
skipped: what we don't understand may be what changes the meaning of the rest.

Insert, Update and Delete cross this for each changed row, and Begin and Commit for each transaction, so they are read
with one `struct` call per run of fields; the others go through `MessageReader`.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from cdc.core.errors import ProtocolViolationError
from cdc.core.events import UNCHANGED, Row, Value
from cdc.core.tables import ReplicaIdentity
from cdc.pgoutput.messages import (
    Begin,
    Commit,
    Delete,
    FullTuple,
    Insert,
    KeyTuple,
    LogicalMessage,
    Message,
    OldTuple,
    Origin,
    Relation,
    RelationColumn,
    Truncate,
    Type,
    Update,
)
from cdc.pgoutput.reader import POSTGRES_EPOCH_US, MessageReader, truncated, violation

_BEGIN = struct.Struct(">xQqI")
_COMMIT = struct.Struct(">xBQQq")
_CHANGE = struct.Struct(">xIBh")  # relation, the mark of the first tuple, and how many values it has
_TUPLE = struct.Struct(">Bh")  # the mark of the second one, and how many values it has
_FIRST_MARK: Final = 5
_LENGTH = struct.Struct(">I")
_read_length = _LENGTH.unpack_from

_NEW, _KEY, _OLD = b"NKO"
_TEXT, _NULL, _UNCHANGED, _BINARY = b"tnub"

_IDENTITIES: Final = {ord(identity.value): identity for identity in ReplicaIdentity}
_IS_IDENTITY: Final = 1
_CASCADE: Final = 1
_RESTART_IDENTITY: Final = 2
_TRANSACTIONAL: Final = 1

_REFUSED: Final = {
    b"S": "Stream Start",
    b"E": "Stream Stop",
    b"c": "Stream Commit",
    b"A": "Stream Abort",
    b"b": "Begin Prepare",
    b"P": "Prepare",
    b"K": "Commit Prepared",
    b"r": "Rollback Prepared",
    b"p": "Stream Prepare",
}
"""Kinds that are only sent to those who ask for streaming of transactions in progress, or for two-phase commit."""


def decode(payload: bytes | memoryview) -> Message:
    """Read one whole message. ProtocolViolationError, with its kind and the byte offset, for anything else."""
    data = payload if isinstance(payload, bytes) else bytes(payload)
    decoder = _DECODERS.get(data[:1])
    if decoder is None:
        raise _unexpected_kind(data[:1])
    return decoder(data)


def _unexpected_kind(kind: bytes) -> ProtocolViolationError:
    if not kind:
        return violation("pgoutput", 0, "an empty message")
    if kind in _REFUSED:
        return violation(
            f"pgoutput {_REFUSED[kind]}",
            0,
            "a kind of message that was not asked for",
            mend="start replication with proto_version 1 or 2, without streaming, from a slot without two_phase",
        )
    return violation("pgoutput", 0, f"an unknown kind of message, 0x{kind.hex()}")


def _begin(data: bytes) -> Begin:
    _check_size(data, _BEGIN.size, "Begin")
    final_lsn, commit_time, xid = _BEGIN.unpack(data)
    return Begin(final_lsn, commit_time + POSTGRES_EPOCH_US, xid)


def _commit(data: bytes) -> Commit:
    _check_size(data, _COMMIT.size, "Commit")
    flags, commit_lsn, end_lsn, commit_time = _COMMIT.unpack(data)
    if flags:
        raise violation("pgoutput Commit", 1, f"undefined flags 0x{flags:02x}")
    return Commit(flags, commit_lsn, end_lsn, commit_time + POSTGRES_EPOCH_US)


def _check_size(data: bytes, size: int, kind: str) -> None:
    if len(data) != size:
        raise violation(f"pgoutput {kind}", min(len(data), size), f"the message has {len(data)} bytes, not {size}")


def _insert(data: bytes) -> Insert:
    relation_oid, mark, count = _read_change(data, "Insert")
    if mark != _NEW:
        raise _unexpected_mark("Insert", _FIRST_MARK, mark)
    new, end, partial = _read_values(data, _CHANGE.size, count, "Insert")
    if end != len(data):
        raise _overlong("Insert", end, data)
    return Insert(relation_oid, new, partial)


def _update(data: bytes) -> Update:
    relation_oid, mark, count = _read_change(data, "Update")
    old: OldTuple | None = None
    start = _CHANGE.size
    if mark != _NEW:
        old, end = _read_old(data, mark, count, "Update")
        try:
            mark, count = _TUPLE.unpack_from(data, end)
        except struct.error:
            raise truncated("pgoutput Update", end, len(data)) from None
        if mark != _NEW:
            raise _unexpected_mark("Update", end, mark)
        start = end + _TUPLE.size
    new, end, _ = _read_values(data, start, count, "Update")
    if end != len(data):
        raise _overlong("Update", end, data)
    return Update(relation_oid, old, new)


def _delete(data: bytes) -> Delete:
    relation_oid, mark, count = _read_change(data, "Delete")
    old, end = _read_old(data, mark, count, "Delete")
    if end != len(data):
        raise _overlong("Delete", end, data)
    return Delete(relation_oid, old)


def _read_change(data: bytes, kind: str) -> tuple[int, int, int]:
    """The relation's oid, the mark of the tuple that follows, and how many values it says it has."""
    try:
        return _CHANGE.unpack_from(data)
    except struct.error:
        raise truncated(f"pgoutput {kind}", 1, len(data)) from None


def _read_old(data: bytes, mark: int, count: int, kind: str) -> tuple[OldTuple, int]:
    """The first tuple of the message, which is an old row, and the offset after it."""
    if mark not in (_KEY, _OLD):
        raise _unexpected_mark(kind, _FIRST_MARK, mark)
    values, end, partial = _read_values(data, _CHANGE.size, count, kind)
    if partial:
        raise violation(f"pgoutput {kind}", _FIRST_MARK + 1, "an old row with a value that was not sent")
    return (KeyTuple(values) if mark == _KEY else FullTuple(values)), end


def _read_values(data: bytes, start: int, count: int, kind: str) -> tuple[Row, int, bool]:
    """The values at `start`, the offset after them, and whether some are UNCHANGED.

    Slices never fail, so a value's length is not checked by itself: one that runs past the end makes the next read
    fail, or the check at the end. Lengths are read unsigned: a negative one runs past the end of any message.
    """
    values: list[Value] = []
    add = values.append
    offset = start
    partial = False
    if count < 0:
        raise violation(f"pgoutput {kind}", start - 2, f"a negative count, {count}")
    try:
        for _ in range(count):
            value_kind = data[offset]
            if value_kind == _TEXT:
                begin = offset + 5
                offset = begin + _read_length(data, offset + 1)[0]
                add(data[begin:offset])
            elif value_kind == _NULL:
                add(None)
                offset += 1
            elif value_kind == _UNCHANGED:
                add(UNCHANGED)
                partial = True
                offset += 1
            else:
                raise _unexpected_value(kind, offset, value_kind)
    except (IndexError, struct.error):
        raise truncated(f"pgoutput {kind}", min(offset, len(data)), len(data)) from None
    if offset > len(data):
        raise truncated(f"pgoutput {kind}", len(data), len(data))
    return tuple(values), offset, partial


def _unexpected_mark(kind: str, offset: int, mark: int) -> ProtocolViolationError:
    return violation(f"pgoutput {kind}", offset, f"no tuple of a kind that may stand here, but 0x{mark:02x}")


def _unexpected_value(kind: str, offset: int, value_kind: int) -> ProtocolViolationError:
    if value_kind == _BINARY:
        mend = "start replication without the option `binary`"
        return violation(f"pgoutput {kind}", offset, "a value in binary form, which was not asked for", mend=mend)
    return violation(f"pgoutput {kind}", offset, f"an unknown kind of value, 0x{value_kind:02x}")


def _overlong(kind: str, end: int, data: bytes) -> ProtocolViolationError:
    return violation(f"pgoutput {kind}", end, f"{len(data) - end} bytes after the message's end")


def _origin(data: bytes) -> Origin:
    reader = MessageReader("pgoutput Origin", data)
    origin = Origin(origin_lsn=reader.uint64(), name=reader.string())
    reader.finish()
    return origin


def _relation(data: bytes) -> Relation:
    reader = MessageReader("pgoutput Relation", data)
    relation = Relation(
        oid=reader.uint32(),
        schema=reader.string() or "pg_catalog",
        name=reader.string(),
        identity=_identity(reader),
        columns=tuple([_column(reader) for _ in range(reader.count16())]),
    )
    reader.finish()
    return relation


def _identity(reader: MessageReader) -> ReplicaIdentity:
    code = reader.uint8()
    try:
        return _IDENTITIES[code]
    except KeyError:
        raise reader.violation(1, f"an unknown replica identity, 0x{code:02x}") from None


def _column(reader: MessageReader) -> RelationColumn:
    flags = reader.flags(defined=_IS_IDENTITY)
    return RelationColumn(
        name=reader.string(),
        type_oid=reader.uint32(),
        type_modifier=reader.int32(),
        is_identity=bool(flags & _IS_IDENTITY),
    )


def _type(data: bytes) -> Type:
    reader = MessageReader("pgoutput Type", data)
    named = Type(oid=reader.uint32(), schema=reader.string() or "pg_catalog", name=reader.string())
    reader.finish()
    return named


def _truncate(data: bytes) -> Truncate:
    reader = MessageReader("pgoutput Truncate", data)
    count = reader.count32()
    flags = reader.flags(defined=_CASCADE | _RESTART_IDENTITY)
    # A count that lies ends at the first oid that is not there: nothing is allocated by it.
    relation_oids = tuple([reader.uint32() for _ in range(count)])
    reader.finish()
    return Truncate(relation_oids, bool(flags & _CASCADE), bool(flags & _RESTART_IDENTITY))


def _logical_message(data: bytes) -> LogicalMessage:
    reader = MessageReader("pgoutput Message", data)
    message = LogicalMessage(
        transactional=bool(reader.flags(defined=_TRANSACTIONAL)),
        lsn=reader.uint64(),
        prefix=reader.string(),
        content=reader.content(reader.count32()),
    )
    reader.finish()
    return message


_DECODERS: Final[dict[bytes, Callable[[bytes], Message]]] = {
    b"I": _insert,
    b"U": _update,
    b"D": _delete,
    b"B": _begin,
    b"C": _commit,
    b"R": _relation,
    b"T": _truncate,
    b"M": _logical_message,
    b"O": _origin,
    b"Y": _type,
}
