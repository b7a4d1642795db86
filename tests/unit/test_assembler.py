"""pgoutput's messages become transactions of change events."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from described_tables import described, text_column

from cdc.core.errors import FidelityError, ProtocolViolationError
from cdc.core.events import (
    UNCHANGED,
    Alter,
    Begin,
    ChangeEvent,
    Commit,
    Create,
    Delete,
    Drop,
    FullImage,
    KeyImage,
    LogicalMessage,
    Read,
    Rereading,
    StreamItem,
    Truncate,
    Update,
)
from cdc.core.position import Position
from cdc.core.tables import Column, ReplicaIdentity, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.pgoutput import messages as wire
from cdc.sources.postgres.assembler import Assembler, Reading
from cdc.sources.postgres.descriptions import TableDescription
from cdc.sources.postgres.row_changes import row_key
from cdc.sources.postgres.snapshots import Snapshot
from cdc.sources.postgres.versions import Versions

BEGIN = wire.Begin(final_lsn=900, commit_time_us=77, xid=42)
COMMIT = wire.Commit(flags=0, commit_lsn=900, end_lsn=950, commit_time_us=77)
TEXT = ColumnType(kind=Kind.STRING, name="text")
ITEMS, HIDDEN, PLAIN, NAMED = 1, 2, 3, 4


def relation(oid: int, name: str, identity: ReplicaIdentity = ReplicaIdentity.DEFAULT) -> wire.Relation:
    """A table (id, body, more)."""
    columns = tuple(text_column(name, in_identity=name == "id") for name in ("id", "body", "more"))
    return wire.Relation(oid, "public", name, identity, columns)


def description(announced: wire.Relation) -> TableDescription:
    return described(announced, key=[c.name for c in announced.columns if c.is_identity and announced.oid != PLAIN])


def schema(announced: wire.Relation) -> TableSchema:
    return description(announced).schema()


class NothingReread:
    """Tables that have to be read again are noted."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.readings: dict[str, Reading] = {}

    def begin(self, oid: int) -> None:
        self.begun.append(oid)

    def finished(self, attempt: str) -> Reading | None:
        return self.readings.pop(attempt, None)


class Stream:
    """An assembler and all that it said."""

    def __init__(self, captured: Callable[[TableId], bool] = lambda table: table.name != "hidden") -> None:
        self.items: list[StreamItem] = []
        self.rereads = NothingReread()
        self.versions = Versions(publication="cdc", generated=False, captured=captured)
        self.told: set[int] = set()
        self.assembler = Assembler(
            epoch=3,
            database="shop",
            versions=self.versions,
            rereads=self.rereads,
            captured=captured,
            now_us=iter(range(1000, 9000)).__next__,
        )

    def feed(self, *messages: wire.Message) -> list[StreamItem]:
        """Each table was published before as its first Relation says; feed that after a Begin."""
        for message in messages:
            if isinstance(message, wire.Relation) and message.oid not in self.told:
                self.told.add(message.oid)
                self.versions.remember(Position(3, 1, 0), json.dumps(description(message).to_json()))
        for place, message in enumerate(messages):
            self.assembler.take_time()
            self.items.extend(self.assembler.feed(message, 500 + place))
        return self.items

    @property
    def events(self) -> list[ChangeEvent]:
        """Of rows: that a table is new is said once for each."""
        return [
            item for item in self.items if isinstance(item, ChangeEvent) and not isinstance(item.change, Alter | Drop)
        ]

    @property
    def commit(self) -> Commit:
        assert isinstance(self.items[-1], Commit)
        return self.items[-1]


def row(*values: bytes) -> tuple[bytes, ...]:
    return values


A, B, C = row(b"1", b"a", b"x"), row(b"2", b"b", b"y"), row(b"3", b"c", b"z")


def test_a_transaction_is_begin_events_commit_under_one_transaction() -> None:
    stream = Stream()

    begin, created, deleted, commit = stream.feed(
        BEGIN,
        relation(ITEMS, "items"),
        wire.Insert(ITEMS, A),
        wire.Delete(ITEMS, wire.KeyTuple((b"2", None, None))),
        COMMIT,
    )

    assert isinstance(begin, Begin)
    assert (begin.transaction.epoch, begin.transaction.commit_lsn, begin.transaction.xid) == (3, 900, 42)
    assert (begin.transaction.commit_time_us, begin.transaction.database) == (77, "shop")
    assert isinstance(created, ChangeEvent)
    assert isinstance(deleted, ChangeEvent)
    assert (created.change, deleted.change) == (Create(A), Delete(KeyImage((b"2",))))
    assert (created.lsn, deleted.lsn) == (502, 503)
    assert created.captured_us < deleted.captured_us
    assert created.transaction is deleted.transaction is begin.transaction
    assert commit == Commit(begin.transaction, 950, 2, {TableId("public", "items"): 2})
    assert not stream.assembler.in_transaction


def test_positions_are_counted_before_the_filter_that_resends_may_change() -> None:
    messages = (
        BEGIN,
        relation(ITEMS, "items"),
        relation(HIDDEN, "hidden"),
        wire.Insert(HIDDEN, A),
        wire.Insert(ITEMS, A),
        wire.Truncate((HIDDEN, ITEMS), cascade=False, restart_identity=False),
        wire.Update(HIDDEN, wire.KeyTuple((b"1", None, None)), B),  # a changed key takes two
        wire.LogicalMessage(transactional=True, lsn=1, prefix="p", content=b""),
        wire.Insert(ITEMS, B),
        wire.Insert(HIDDEN, C),
        COMMIT,
    )
    some, every = Stream(), Stream(captured=lambda _: True)
    some.feed(*messages)
    every.feed(*messages)

    assert [event.ordinal for event in some.events] == [2, 4, 8]
    assert [event.ordinal for event in every.events] == [1, 2, 3, 4, 5, 6, 8, 9]
    assert [event.position for event in some.events] == [
        event.position for event in every.events if event.table.id.name == "items"
    ]
    assert [event.table_ordinal for event in some.events] == [1, 2, 3]
    assert some.commit.last_ordinal == every.commit.last_ordinal == 9
    assert some.commit.event_counts == {TableId("public", "items"): 3}
    assert every.commit.event_counts == {TableId("public", "items"): 3, TableId("public", "hidden"): 5}


def test_ordinals_and_counts_begin_anew_in_each_transaction() -> None:
    stream = Stream()
    stream.feed(BEGIN, relation(ITEMS, "items"), wire.Insert(ITEMS, A), wire.Insert(ITEMS, B), COMMIT)
    second = wire.Begin(final_lsn=950, commit_time_us=78, xid=43)

    stream.feed(second, wire.Insert(ITEMS, C), wire.Commit(0, 950, 990, 78))

    assert [(event.transaction.xid, event.ordinal, event.table_ordinal) for event in stream.events] == [
        (42, 1, 1),
        (42, 2, 2),
        (43, 1, 1),
    ]
    assert (stream.commit.last_ordinal, stream.commit.event_counts) == (1, {TableId("public", "items"): 1})


def test_a_transaction_of_which_nothing_is_captured_still_says_where_it_ends() -> None:
    stream = Stream()
    stream.feed(BEGIN, relation(HIDDEN, "hidden"), wire.Insert(HIDDEN, A), COMMIT)
    assert stream.commit.end_lsn == 950
    assert stream.commit.event_counts == {}

    empty = Stream()
    assert [type(item) for item in empty.feed(BEGIN, COMMIT)] == [Begin, Commit]


def test_a_changed_key_is_a_delete_and_a_create_that_know_each_other() -> None:
    stream = Stream()
    stream.feed(
        BEGIN, relation(ITEMS, "items"), wire.Update(ITEMS, wire.KeyTuple((b"1", None, None)), B), wire.Insert(ITEMS, C)
    )

    gone, came, after = stream.events
    assert gone.change == Delete(KeyImage((b"1",)), moved_to=(b"2",), awaits_create=False)
    assert came.change == Create(B, moved_from=(b"1",))
    assert (gone.ordinal, came.ordinal, after.ordinal) == (1, 2, 3)


def test_a_changed_key_with_values_not_sent_again_waits_for_its_other_half() -> None:
    stream = Stream()
    new = (b"2", UNCHANGED, b"y")
    stream.feed(BEGIN, relation(ITEMS, "items"), wire.Update(ITEMS, wire.KeyTuple((b"1", None, None)), new))

    gone, came = stream.events
    assert gone.change == Delete(KeyImage((b"1",)), moved_to=(b"2",), awaits_create=True)
    assert came.change == Create(new, moved_from=(b"1",))


def test_a_changed_key_under_full_identity_needs_not_wait() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(ITEMS, "items", ReplicaIdentity.FULL),
        wire.Update(ITEMS, wire.FullTuple(A), (b"2", UNCHANGED, b"y")),
    )

    gone, came = stream.events
    assert gone.change == Delete(FullImage(A), moved_to=(b"2",), awaits_create=False)
    assert came.change == Create((b"2", b"a", b"y"), moved_from=(b"1",))


@pytest.mark.parametrize(
    ("identity", "old", "change"),
    [
        pytest.param(ReplicaIdentity.DEFAULT, None, Update(None, (b"1", UNCHANGED, b"n")), id="default"),
        pytest.param(ReplicaIdentity.INDEX, None, Update(None, (b"1", UNCHANGED, b"n")), id="index"),
        pytest.param(
            # The same key, sent because another column of the identity's index changed.
            ReplicaIdentity.INDEX,
            wire.KeyTuple((b"1", None, None)),
            Update(None, (b"1", UNCHANGED, b"n")),
            id="index, old key sent",
        ),
        pytest.param(
            ReplicaIdentity.FULL, wire.FullTuple(A), Update(FullImage(A), (b"1", b"a", b"n")), id="full: filled"
        ),
        pytest.param(
            ReplicaIdentity.FULL,
            wire.FullTuple((b"1", b"", b"x")),
            Update(FullImage((b"1", b"", b"x")), (b"1", b"", b"n")),
            id="full: an empty text is a value",
        ),
    ],
)
def test_values_not_sent_again_come_from_the_old_image_or_stay_unchanged(
    identity: ReplicaIdentity, old: wire.OldTuple | None, change: Update
) -> None:
    stream = Stream()
    stream.feed(BEGIN, relation(ITEMS, "items", identity), wire.Update(ITEMS, old, (b"1", UNCHANGED, b"n")))

    (event,) = stream.events
    assert event.change == change


def test_an_unchanged_key_column_comes_from_the_old_key() -> None:
    """A large key value may be stored out of line, and then not be sent again."""
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(ITEMS, "items"),
        wire.Update(ITEMS, wire.KeyTuple((b"large", None, None)), (UNCHANGED, b"n", b"m")),
    )

    (event,) = stream.events
    assert event.change == Update(None, (b"large", b"n", b"m"))


def test_a_table_without_key_is_told_by_whole_rows() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(PLAIN, "plain", ReplicaIdentity.FULL),
        wire.Update(PLAIN, wire.FullTuple(A), B),
        wire.Delete(PLAIN, wire.FullTuple(B)),
    )

    assert [event.change for event in stream.events] == [Update(FullImage(A), B), Delete(FullImage(B))]


def test_null_stays_null() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(ITEMS, "items", ReplicaIdentity.FULL),
        wire.Update(ITEMS, wire.FullTuple((b"1", None, b"x")), (b"1", UNCHANGED, None)),
    )

    (event,) = stream.events
    assert isinstance(event.change, Update)
    assert event.change.after == (b"1", None, None)


def test_a_truncate_of_several_tables_is_one_event_for_each_that_is_captured() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(ITEMS, "items"),
        relation(HIDDEN, "hidden"),
        relation(PLAIN, "plain"),
        wire.Truncate((PLAIN, HIDDEN, ITEMS), cascade=True, restart_identity=True),
        COMMIT,
    )

    assert [(event.table.id.name, event.ordinal, event.change) for event in stream.events] == [
        ("plain", 1, Truncate()),
        ("items", 3, Truncate()),
    ]
    assert stream.commit.event_counts == {TableId("public", "plain"): 1, TableId("public", "items"): 1}


def test_the_origin_comes_after_begin_and_ends_with_the_transaction() -> None:
    stream = Stream()
    stream.feed(BEGIN, wire.Origin(4711, "elsewhere"), relation(ITEMS, "items"), wire.Insert(ITEMS, A), COMMIT)
    stream.feed(wire.Begin(960, 78, 43), wire.Insert(ITEMS, B), wire.Commit(0, 960, 990, 78))

    first, second = stream.events
    assert (first.transaction.origin, first.transaction.origin_lsn) == ("elsewhere", 4711)
    assert (second.transaction.origin, second.transaction.origin_lsn) == (None, None)


def test_a_transactional_message_has_its_place_in_the_transaction() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(ITEMS, "items"),
        wire.Insert(ITEMS, A),
        wire.LogicalMessage(transactional=True, lsn=870, prefix="audit", content=b"\x00who"),
        wire.Insert(ITEMS, B),
        COMMIT,
    )

    message = next(item for item in stream.items if isinstance(item, LogicalMessage))
    assert (message.prefix, message.content, message.ordinal, message.lsn) == ("audit", b"\x00who", 2, 870)
    assert message.transaction is stream.commit.transaction
    assert [event.ordinal for event in stream.events] == [1, 3]
    assert stream.commit.last_ordinal == 3


def test_a_message_outside_of_transactions_is_one_of_its_own_below_the_commit_at_its_lsn() -> None:
    stream = Stream()
    stream.feed(
        wire.LogicalMessage(transactional=False, lsn=900, prefix="ping", content=b"now"),
        BEGIN,
        relation(ITEMS, "items"),
        wire.Insert(ITEMS, A),
        COMMIT,
    )

    begin, message, commit, *rest = stream.items
    assert isinstance(begin, Begin)
    assert isinstance(message, LogicalMessage)
    assert begin.transaction == message.transaction
    assert (begin.transaction.xid, message.position.commit_lsn, message.ordinal) == (None, 900, 0)
    assert commit == Commit(begin.transaction, 900, 0, messages=1)
    assert [type(item) for item in rest] == [Begin, ChangeEvent, Commit]
    assert message.position < stream.events[0].position
    assert begin.transaction.id != stream.commit.transaction.id


def test_messages_are_counted_and_numbered_without_our_own() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        *(wire.LogicalMessage(transactional=True, lsn=1, prefix=prefix, content=b"") for prefix in ("a", "cdc.x", "b")),
        COMMIT,
    )

    messages = [item for item in stream.items if isinstance(item, LogicalMessage)]
    assert [(m.prefix, m.ours, m.ordinal) for m in messages] == [("a", False, 1), ("cdc.x", True, 2), ("b", False, 3)]
    assert [m.message_ordinal for m in messages if not m.ours] == [1, 2]
    assert (stream.commit.messages, stream.commit.last_ordinal, stream.commit.event_counts) == (2, 3, {})

    stream.feed(wire.LogicalMessage(transactional=False, lsn=960, prefix="cdc.y", content=b""))
    assert (stream.commit.messages, stream.commit.end_lsn) == (0, 960)


def test_a_message_outside_of_transactions_does_not_disturb_the_one_around_it() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        relation(ITEMS, "items"),
        wire.Insert(ITEMS, A),
        wire.LogicalMessage(transactional=False, lsn=880, prefix="ping", content=b""),
        wire.Insert(ITEMS, B),
    )

    assert [(event.transaction.commit_lsn, event.ordinal) for event in stream.events] == [(900, 1), (900, 2)]
    assert stream.assembler.in_transaction


NARROW = wire.Relation(
    ITEMS, "public", "items", ReplicaIdentity.DEFAULT, (wire.RelationColumn("id", 25, -1, is_identity=True),)
)


def test_a_relation_with_fewer_columns_is_a_new_version() -> None:
    stream = Stream()
    stream.feed(BEGIN, relation(ITEMS, "items"), wire.Insert(ITEMS, A), NARROW, wire.Insert(ITEMS, (b"2",)))

    old, new = stream.events
    assert [len(old.table.columns), len(new.table.columns)] == [3, 1]
    (altered,) = [
        e for e in stream.items if isinstance(e, ChangeEvent) and isinstance(e.change, Alter) and e.change.before
    ]
    assert altered.table == new.table
    assert altered.position == new.position


def test_a_table_that_changed_undescribed_is_held_back_and_read_again() -> None:
    stream = Stream()
    stream.feed(
        BEGIN,
        *(NARROW, wire.Insert(ITEMS, (b"1",)), relation(ITEMS, "items"), wire.Insert(ITEMS, B)),
        *(relation(PLAIN, "plain"), wire.Insert(PLAIN, A)),
    )

    assert [(event.table.id.name, event.ordinal) for event in stream.events] == [("items", 1), ("plain", 3)]
    assert [item for item in stream.items if isinstance(item, Rereading)] == [Rereading(str(ITEMS), active=True)]
    assert stream.rereads.begun == [ITEMS]


def test_a_table_that_nobody_described_is_read() -> None:
    """It may have had rows before it was published."""
    stream = Stream()
    stream.told.add(ITEMS)
    stream.feed(BEGIN, relation(ITEMS, "items"), wire.Insert(ITEMS, A), COMMIT)

    assert stream.events == []
    assert stream.rereads.begun == [ITEMS]


def marker() -> wire.LogicalMessage:
    return wire.LogicalMessage(transactional=True, lsn=1, prefix="cdc.reread", content=b"attempt")


@pytest.mark.parametrize("identity", [ReplicaIdentity.DEFAULT, ReplicaIdentity.FULL])
def test_what_was_read_takes_its_place_with_what_the_reading_did_not_see(identity: ReplicaIdentity) -> None:
    wide = relation(ITEMS, "items", identity)
    seen, unseen = 40, 42
    stream = Stream()
    stream.feed(wire.Begin(final_lsn=800, commit_time_us=1, xid=seen), NARROW, wire.Insert(ITEMS, (b"1",)))
    stream.feed(wide, wire.Insert(ITEMS, A), wire.Commit(0, 800, 850, 1))
    stream.feed(BEGIN, wire.Update(ITEMS, None, (b"1", b"changed", UNCHANGED)), wire.Insert(ITEMS, B), COMMIT)
    before = len(stream.events)
    stream.rereads.readings["attempt"] = Reading(
        ITEMS, description(wide), Snapshot(unseen, unseen + 1, frozenset({unseen})), [A, C]
    )

    stream.feed(wire.Begin(final_lsn=1000, commit_time_us=1, xid=50), marker(), wire.Commit(0, 1000, 1050, 1))

    truncated, *read = stream.events[before:]
    assert isinstance(truncated.change, Truncate)
    assert [len(event.table.columns) for event in (truncated, read[0])] == [1, 3]
    assert [event.change for event in read] == [Read(C), Read((b"1", b"changed", b"x")), Read(B)]
    assert {event.transaction.commit_lsn for event in read} == {1000}
    assert stream.commit.event_counts == {TableId("public", "items"): 4}
    done = Rereading(str(ITEMS), active=False, versions=(truncated.table, read[0].table))
    assert done in stream.items
    stream.feed(
        wire.Begin(final_lsn=1100, commit_time_us=1, xid=51), wire.Delete(ITEMS, wire.KeyTuple((b"1", None, None)))
    )
    assert isinstance(stream.events[-1].change, Delete)


def test_the_marker_of_another_attempt_means_nothing() -> None:
    stream = Stream()
    stream.feed(BEGIN, marker(), COMMIT)
    assert [type(item) for item in stream.items] == [Begin, Commit]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ((BEGIN, BEGIN), "Begin inside a transaction"),
        ((relation(ITEMS, "items"), wire.Insert(ITEMS, A)), "outside of any transaction"),
        ((COMMIT,), "outside of any transaction"),
        ((BEGIN, wire.Commit(0, 901, 950, 77)), "Commit does not belong to the Begin before it"),
        ((BEGIN, wire.Insert(9, A)), "relation 9 before its Relation message"),
        ((BEGIN, relation(ITEMS, "items"), wire.Insert(ITEMS, A[:2])), "public.items: a row of 2 values for 3 columns"),
        (
            (BEGIN, relation(ITEMS, "items"), wire.Delete(ITEMS, wire.KeyTuple((None, None, None)))),
            "public.items: a key column came without a value",
        ),
        (
            (wire.LogicalMessage(transactional=True, lsn=1, prefix="", content=b""),),
            "outside of any transaction",
        ),
    ],
)
def test_what_the_protocol_forbids_is_refused(messages: tuple[wire.Message, ...], error: str) -> None:
    with pytest.raises(ProtocolViolationError, match=error):
        Stream().feed(*messages)


def test_an_insert_without_its_large_values_names_the_table_and_what_mends_it() -> None:
    """An update that moved a row into the publication's row filter is sent as an insert."""
    with pytest.raises(FidelityError, match=r"public\.items.*row filter") as raised:
        Stream().feed(BEGIN, relation(ITEMS, "items"), wire.Insert(ITEMS, (b"1", UNCHANGED, b"x"), partial=True))

    assert raised.value.mend is not None
    assert "REPLICA IDENTITY FULL" in raised.value.mend


def test_the_key_keeps_the_order_that_the_schema_gives_it() -> None:
    table = TableSchema(id=TableId("s", "t"), columns=tuple(Column(name=name, type=TEXT) for name in "abc"), key=(2, 0))
    assert row_key(table, (b"1", None, b"3")) == (b"3", b"1")
