"""The bytes of pgoutput's messages: the formats of the documentation, written instead of read."""

from __future__ import annotations

import struct
from typing import assert_never

from cdc.core.events import UNCHANGED, Row, Value
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
    Truncate,
    Type,
    Update,
)

EPOCH_US = 946_684_800_000_000


def encode(message: Message) -> bytes:  # noqa: PLR0911 - one return for each kind
    match message:
        case Begin(final_lsn, commit_time_us, xid):
            return struct.pack(">cQqI", b"B", final_lsn, commit_time_us - EPOCH_US, xid)
        case Commit(flags, commit_lsn, end_lsn, commit_time_us):
            return struct.pack(">cBQQq", b"C", flags, commit_lsn, end_lsn, commit_time_us - EPOCH_US)
        case Origin(origin_lsn, name):
            return struct.pack(">cQ", b"O", origin_lsn) + string(name)
        case Relation():
            return relation(message)
        case Type(oid, schema, name):
            return struct.pack(">cI", b"Y", oid) + namespace(schema) + string(name)
        case Insert(relation_oid, new):
            return struct.pack(">cI", b"I", relation_oid) + row(b"N", new)
        case Update(relation_oid, old, new):
            return struct.pack(">cI", b"U", relation_oid) + old_row(old) + row(b"N", new)
        case Delete(relation_oid, old):
            return struct.pack(">cI", b"D", relation_oid) + old_row(old)
        case Truncate(oids, cascade, restart_identity):
            head = struct.pack(">ciB", b"T", len(oids), cascade | restart_identity << 1)
            return head + b"".join(struct.pack(">I", oid) for oid in oids)
        case LogicalMessage(transactional, lsn, prefix, content):
            head = struct.pack(">cBQ", b"M", transactional, lsn)
            return head + string(prefix) + struct.pack(">i", len(content)) + content
        case _:
            assert_never(message)


def string(text: str) -> bytes:
    return text.encode() + b"\x00"


def namespace(schema: str) -> bytes:
    return string("" if schema == "pg_catalog" else schema)


def relation(message: Relation) -> bytes:
    head = struct.pack(">cI", b"R", message.oid) + namespace(message.schema) + string(message.name)
    columns = (
        struct.pack(">B", column.is_identity)
        + string(column.name)
        + struct.pack(">Ii", column.type_oid, column.type_modifier)
        for column in message.columns
    )
    return head + message.identity.value.encode() + struct.pack(">h", len(message.columns)) + b"".join(columns)


def old_row(old: OldTuple | None) -> bytes:
    match old:
        case None:
            return b""
        case KeyTuple(values):
            return row(b"K", values)
        case FullTuple(values):
            return row(b"O", values)
        case _:
            assert_never(old)


def row(mark: bytes, values: Row) -> bytes:
    return mark + struct.pack(">h", len(values)) + b"".join(map(cell, values))


def cell(value: Value) -> bytes:
    if value is None:
        return b"n"
    if value is UNCHANGED:
        return b"u"
    return b"t" + struct.pack(">i", len(value)) + value


def frame(message: Message, lsn: int) -> bytes:
    """The message as XLogData."""
    return struct.pack(">cQQq", b"w", lsn, lsn, 0) + encode(message)
