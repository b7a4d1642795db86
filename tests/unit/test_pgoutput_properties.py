"""Every message that can be encoded comes back; every other sequence of bytes is a violation, and nothing else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pgoutput_bytes import EPOCH_US, encode

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

# What there is to encode.

uint32 = st.integers(0, 2**32 - 1)
lsns = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1).map(lambda since_2000: since_2000 + EPOCH_US)
texts = st.text(st.characters(exclude_characters="\x00", codec="utf-8"), max_size=12)
names = texts.filter(bool)
old_values = st.lists(st.none() | st.binary(max_size=20), max_size=8).map(tuple)
new_values = st.lists(st.none() | st.just(UNCHANGED) | st.binary(max_size=20), max_size=8).map(tuple)
old_tuples = st.builds(KeyTuple, old_values) | st.builds(FullTuple, old_values)
columns = st.builds(RelationColumn, names, uint32, st.integers(-(2**31), 2**31 - 1), st.booleans())

messages: st.SearchStrategy[Message] = st.one_of(
    st.builds(Begin, lsns, times, uint32),
    st.builds(Commit, st.just(0), lsns, lsns, times),
    st.builds(Origin, lsns, texts),
    st.builds(
        Relation, uint32, names, names, st.sampled_from(ReplicaIdentity), st.lists(columns, max_size=4).map(tuple)
    ),
    st.builds(Type, uint32, names, names),
    st.builds(lambda oid, new: Insert(oid, new, partial=UNCHANGED in new), uint32, new_values),
    st.builds(Update, uint32, st.none() | old_tuples, new_values),
    st.builds(Delete, uint32, old_tuples),
    st.builds(Truncate, st.lists(uint32, max_size=4).map(tuple), st.booleans(), st.booleans()),
    st.builds(LogicalMessage, st.booleans(), lsns, texts, st.binary(max_size=20)),
)
payloads = messages.map(encode)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A valid message in which some bytes were replaced, inserted or removed."""
    payload = draw(payloads)
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(payload)))
        end = draw(st.integers(start, min(start + 4, len(payload))))
        payload = payload[:start] + draw(st.binary(max_size=4)) + payload[end:]
    return payload


def assert_message_or_violation(payload: bytes) -> None:
    try:
        message = decode(payload)
    except ProtocolViolationError:
        return
    # Whatever it took, it took all of it: the same bytes come out again. A spelled-out pg_catalog is the one alias.
    aliased = payload.replace(b"pg_catalog\x00", b"\x00", 1)
    assert encode(message) in (payload, aliased)


@settings(max_examples=500, deadline=None)
@given(messages)
def test_what_is_encoded_comes_back(message: Message) -> None:
    decoded = decode(encode(message))

    assert (type(decoded), decoded) == (type(message), message)
    if isinstance(decoded, Update | Delete) and isinstance(message, Update | Delete):
        assert type(decoded.old) is type(message.old)


@settings(max_examples=300, deadline=None)
@given(payloads, st.data())
def test_what_is_cut_off_is_a_violation(payload: bytes, data: st.DataObject) -> None:
    size = data.draw(st.integers(0, len(payload) - 1))
    with pytest.raises(ProtocolViolationError):
        decode(payload[:size])


@settings(max_examples=1000, deadline=None)
@given(mutated())
def test_mutated_messages_are_a_message_or_a_violation(payload: bytes) -> None:
    assert_message_or_violation(payload)


@settings(max_examples=500, deadline=None)
@given(st.builds(bytes.__add__, st.sampled_from([bytes([kind]) for kind in b"BCORYIUDTMSX"] + [b""]), st.binary()))
def test_arbitrary_bytes_are_a_message_or_a_violation(payload: bytes) -> None:
    assert_message_or_violation(payload)
