"""Literal messages, written by hand from the documentation of the formats."""

from __future__ import annotations

import pytest

from cdc.core.errors import ProtocolViolationError
from cdc.core.events import UNCHANGED
from cdc.core.tables import ReplicaIdentity
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.messages import (
    Begin,
    Commit,
    Delete,
    FullTuple,
    Insert,
    KeyTuple,
    LogicalMessage,
    Message,
    Origin,
    Relation,
    RelationColumn,
    Truncate,
    Type,
    Update,
)

NEW_YEAR_2024_US = 1_704_067_200_000_000  # 2024-01-01 00:00:00 UTC, since 1970
NEW_YEAR_2024 = b"\x00\x02\xb0\xd5\xd4\xe9\x40\x00"  # the same since 2000-01-01: 8766 days of 86 400 000 000 µs

LITERALS: dict[str, tuple[bytes, Message]] = {
    "begin": (
        b"B\x00\x00\x00\x16\xb3\x74\xd8\x48" + NEW_YEAR_2024 + b"\x00\x00\x02\xdb",  # final LSN 16/B374D848  # xid 731
        Begin(final_lsn=0x16_B374D848, commit_time_us=NEW_YEAR_2024_US, xid=731),
    ),
    "begin: all unsigned, and a time before 2000": (
        (
            b"B"
            b"\xff\xff\xff\xff\xff\xff\xff\xff"  # the highest LSN
            b"\xff\xff\xff\xff\xff\xff\xff\xff"  # -1 µs
            b"\xff\xff\xff\xff"
        ),  # the highest xid
        Begin(final_lsn=2**64 - 1, commit_time_us=946_684_799_999_999, xid=2**32 - 1),
    ),
    "commit": (
        b"C"
        b"\x00"  # flags
        b"\x00\x00\x00\x16\xb3\x74\xd8\x48"  # commit LSN
        b"\x00\x00\x00\x16\xb3\x74\xd8\x78" + NEW_YEAR_2024,  # end LSN
        Commit(flags=0, commit_lsn=0x16_B374D848, end_lsn=0x16_B374D878, commit_time_us=NEW_YEAR_2024_US),
    ),
    "origin": (
        (
            b"O"
            b"\x00\x00\x00\x01\x00\x00\x00\x02"  # LSN 1/2 on the origin
            b"pg_16397\x00"
        ),
        Origin(origin_lsn=0x1_00000002, name="pg_16397"),
    ),
    "relation": (
        (
            b"R"
            b"\x00\x00\x40\x01"  # oid 16385
            b"public\x00"
            b"gr\xc3\xb6\xc3\x9fe\x00"
            b"d"  # default identity
            b"\x00\x02"  # 2 columns
            b"\x01"  # part of the identity
            b"id\x00"
            b"\x00\x00\x00\x14"  # int8
            b"\xff\xff\xff\xff"  # no modifier
            b"\x00"
            b"name\x00"
            b"\x00\x00\x04\x13"  # varchar, 1043
            b"\x00\x00\x00\x0e"
        ),  # (10): 14
        Relation(
            oid=16385,
            schema="public",
            name="größe",
            identity=ReplicaIdentity.DEFAULT,
            columns=(
                RelationColumn("id", type_oid=20, type_modifier=-1, is_identity=True),
                RelationColumn("name", type_oid=1043, type_modifier=14, is_identity=False),
            ),
        ),
    ),
    "relation: identity nothing, no columns": (
        b"R\x00\x00\x40\x01public\x00t\x00n\x00\x00",
        Relation(16385, "public", "t", ReplicaIdentity.NOTHING, ()),
    ),
    "relation: identity full, in pg_catalog": (
        b"R\x00\x00\x40\x01\x00t\x00f\x00\x00",
        Relation(16385, "pg_catalog", "t", ReplicaIdentity.FULL, ()),
    ),
    "relation: identity index, the highest oid": (
        b"R\xff\xff\xff\xffpublic\x00t\x00i\x00\x00",
        Relation(4294967295, "public", "t", ReplicaIdentity.INDEX, ()),
    ),
    "type": (
        (
            b"Y"
            b"\x00\x00\x40\x0a"  # oid 16394
            b"public\x00"
            b"mood\x00"
        ),
        Type(oid=16394, schema="public", name="mood"),
    ),
    "type: in pg_catalog": (
        b"Y\x00\x00\x00\x17\x00int4\x00",
        Type(oid=23, schema="pg_catalog", name="int4"),
    ),
    "insert": (
        (
            b"I"
            b"\x00\x00\x40\x01"
            b"N"
            b"\x00\x04"  # 4 values
            b"t\x00\x00\x00\x02"
            b"42"
            b"n"
            b"t\x00\x00\x00\x00"  # an empty text, which is not NULL
            b"u"
        ),
        Insert(16385, (b"42", None, b"", UNCHANGED), partial=True),
    ),
    "insert: no columns": (b"I\x00\x00\x40\x01N\x00\x00", Insert(16385, ())),
    "update: no old row": (
        b"U\x00\x00\x40\x01N\x00\x02t\x00\x00\x00\x0242u",
        Update(16385, None, (b"42", UNCHANGED)),
    ),
    "update: old key": (
        (b"U\x00\x00\x40\x01K\x00\x02t\x00\x00\x00\x0241nN\x00\x02t\x00\x00\x00\x0242u"),
        Update(16385, KeyTuple((b"41", None)), (b"42", UNCHANGED)),
    ),
    "update: whole old row": (
        (
            b"U\x00\x00\x40\x01"
            b"O\x00\x02t\x00\x00\x00\x0242t\x00\x00\x00\x03old"
            b"N\x00\x02t\x00\x00\x00\x0242t\x00\x00\x00\x03new"
        ),
        Update(16385, FullTuple((b"42", b"old")), (b"42", b"new")),
    ),
    "delete: key": (
        b"D\x00\x00\x40\x01K\x00\x02t\x00\x00\x00\x0242n",
        Delete(16385, KeyTuple((b"42", None))),
    ),
    "delete: whole row": (
        b"D\x00\x00\x40\x01O\x00\x02t\x00\x00\x00\x0242n",
        Delete(16385, FullTuple((b"42", None))),
    ),
    "truncate": (
        (
            b"T"
            b"\x00\x00\x00\x02"  # 2 relations
            b"\x00"
            b"\x00\x00\x40\x01"
            b"\x00\x00\x40\x0a"
        ),
        Truncate((16385, 16394), cascade=False, restart_identity=False),
    ),
    "truncate: cascade": (
        b"T\x00\x00\x00\x01\x01\x00\x00\x40\x01",
        Truncate((16385,), cascade=True, restart_identity=False),
    ),
    "truncate: restart identity": (
        b"T\x00\x00\x00\x01\x02\x00\x00\x40\x01",
        Truncate((16385,), cascade=False, restart_identity=True),
    ),
    "message: transactional": (
        b"M\x01\x00\x00\x00\x16\xb3\x74\xd8\x48cdc.chunk\x00\x00\x00\x00\x03a\x00\xff",
        LogicalMessage(transactional=True, lsn=0x16_B374D848, prefix="cdc.chunk", content=b"a\x00\xff"),
    ),
    "message: not transactional, empty": (
        b"M\x00\x00\x00\x00\x16\xb3\x74\xd8\x48\x00\x00\x00\x00\x00",
        LogicalMessage(transactional=False, lsn=0x16_B374D848, prefix="", content=b""),
    ),
}

VIOLATIONS: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "pgoutput: byte 0: an empty message"),
    "unknown kind": (b"X123", "pgoutput: byte 0: an unknown kind of message, 0x58"),
    "streaming": (b"S\x00\x00\x02\xdb\x01", "pgoutput Stream Start: byte 0: .* not asked for"),
    "begin too short": (b"B\x00", "pgoutput Begin: byte 2: the message has 2 bytes, not 21"),
    "begin too long": (LITERALS["begin"][0] + b"\x00", "pgoutput Begin: byte 21: the message has 22 bytes, not 21"),
    "commit flags": (b"C\x80" + LITERALS["commit"][0][2:], "pgoutput Commit: byte 1: undefined flags 0x80"),
    "insert of an old row": (b"I\x00\x00\x40\x01K\x00\x00", "pgoutput Insert: byte 5: .* 0x4b"),
    "update with an unknown tuple": (b"U\x00\x00\x40\x01X\x00\x00", "pgoutput Update: byte 5: .* 0x58"),
    "update with two old rows": (b"U\x00\x00\x40\x01K\x00\x00K\x00\x00", "pgoutput Update: byte 8: .* 0x4b"),
    "update without its new row": (b"U\x00\x00\x40\x01K\x00\x00", "pgoutput Update: byte 8: the message ends"),
    "delete of a new row": (b"D\x00\x00\x40\x01N\x00\x00", "pgoutput Delete: byte 5: .* 0x4e"),
    "delete of a value that was not sent": (b"D\x00\x00\x40\x01O\x00\x01u", "pgoutput Delete: byte 6: .* not sent"),
    "negative number of values": (b"I\x00\x00\x40\x01N\xff\xff", "pgoutput Insert: byte 6: a negative count, -1"),
    "more values than there are": (b"I\x00\x00\x40\x01N\x00\x02n", "pgoutput Insert: byte 9: the message ends"),
    "negative length of a value": (
        b"I\x00\x00\x40\x01N\x00\x01t\xff\xff\xff\xff" + b"x" * 20,
        "pgoutput Insert: byte 33: the message ends",
    ),
    "value longer than the message": (
        b"I\x00\x00\x40\x01N\x00\x02t\x00\x00\x00\x09xn",
        "pgoutput Insert: byte 15: the message ends",
    ),
    "last value longer than the message": (
        b"I\x00\x00\x40\x01N\x00\x01t\x00\x00\x00\x02x",
        "pgoutput Insert: byte 14: the message ends",
    ),
    "binary value": (b"I\x00\x00\x40\x01N\x00\x01b\x00\x00\x00\x01x", "pgoutput Insert: byte 8: .* binary"),
    "unknown kind of value": (b"I\x00\x00\x40\x01N\x00\x01x", "pgoutput Insert: byte 8: .* 0x78"),
    "name not in UTF-8": (b"Y\x00\x00\x40\x0apub\xfflic\x00t\x00", "pgoutput Type: byte 8: a name that is not UTF-8"),
    "name without an end": (b"Y\x00\x00\x40\x0apublic\x00mood", "pgoutput Type: byte 12: the message ends"),
    "unknown replica identity": (b"R\x00\x00\x40\x01\x00t\x00x\x00\x00", "pgoutput Relation: byte 8: .* 0x78"),
    "negative number of columns": (b"R\x00\x00\x40\x01\x00t\x00d\xff\xfe", "pgoutput Relation: byte 9: .* -2"),
    "column flags": (b"R\x00\x00\x40\x01\x00t\x00d\x00\x01\x03", "pgoutput Relation: byte 11: undefined flags 0x02"),
    "negative number of relations": (b"T\xff\xff\xff\xff\x00", "pgoutput Truncate: byte 1: a negative count, -1"),
    "more relations than there are": (b"T\x7f\xff\xff\xff\x00", "pgoutput Truncate: byte 6: the message ends"),
    "truncate options": (b"T\x00\x00\x00\x00\x04", "pgoutput Truncate: byte 5: undefined flags 0x04"),
    "message flags": (b"M\x02", "pgoutput Message: byte 1: undefined flags 0x02"),
    "content longer than the message": (
        b"M\x00" + bytes(8) + b"\x00\x00\x00\x00\x02x",
        "pgoutput Message: byte 15: the message ends",
    ),
    "negative length of a content": (
        b"M\x00" + bytes(8) + b"\x00\xff\xff\xff\xff",
        "pgoutput Message: byte 11: a negative count, -1",
    ),
}


def in_each(cases: dict[str, tuple[bytes, Message]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("payload", "message"), cases.values(), ids=cases.keys())


@in_each(LITERALS)
def test_literal_message(payload: bytes, message: Message) -> None:
    decoded = decode(payload)

    assert (type(decoded), decoded) == (type(message), message)
    if isinstance(decoded, Update | Delete) and isinstance(message, Update | Delete):
        assert type(decoded.old) is type(message.old)  # as tuples, a key and a whole row compare equal


@in_each(LITERALS)
def test_memoryview_reads_the_same_and_is_not_kept(payload: bytes, message: Message) -> None:
    buffer = bytearray(payload)

    decoded = decode(memoryview(buffer))
    buffer[:] = bytes(len(buffer))  # as a driver's buffer that it uses again

    assert decoded == message


@in_each(LITERALS)
def test_truncated_anywhere_is_a_violation(payload: bytes, message: Message) -> None:
    for size in range(len(payload)):
        with pytest.raises(ProtocolViolationError):
            decode(payload[:size])


@in_each(LITERALS)
def test_bytes_after_the_end_are_a_violation(payload: bytes, message: Message) -> None:
    for more in (b"\x00", b"n", b"N\x00\x00", payload):
        with pytest.raises(ProtocolViolationError, match=rf"byte {len(payload)}: "):
            decode(payload + more)


@pytest.mark.parametrize(("payload", "error"), VIOLATIONS.values(), ids=VIOLATIONS.keys())
def test_violation_says_kind_and_offset(payload: bytes, error: str) -> None:
    with pytest.raises(ProtocolViolationError, match="^" + error):
        decode(payload)


@pytest.mark.parametrize("kind", [*"SEcAbPKrp"])
def test_kinds_that_were_not_asked_for_tell_what_mends_them(kind: str) -> None:
    with pytest.raises(ProtocolViolationError, match="not asked for") as caught:
        decode(kind.encode() + bytes(40))

    assert caught.value.mend is not None
    assert "proto_version" in caught.value.mend


def test_every_documented_kind_has_a_literal() -> None:
    assert {payload[:1] for payload, _ in LITERALS.values()} == {bytes([kind]) for kind in b"BCORYIUDTM"}


def test_row_values_stay_out_of_errors() -> None:
    secret = b"t\x00\x00\x00\x06secret"
    for payload in (
        b"I\x00\x00\x40\x01N\x00\x02" + secret,
        b"I\x00\x00\x40\x01N\x00\x01" + secret + b"more",
        b"D\x00\x00\x40\x01O\x00\x02" + secret + b"u",
    ):
        with pytest.raises(ProtocolViolationError) as caught:
            decode(payload)
        assert "secret" not in f"{caught.value!r} {caught.value.mend} {caught.value.__cause__!r}"
