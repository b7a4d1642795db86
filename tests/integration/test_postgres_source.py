"""PostgresSource on real servers: loads, streams, and what it confirms."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import psycopg
import pytest

from cdc.core.errors import PassingError, SlotInUseError
from cdc.core.events import (
    UNCHANGED,
    Alter,
    Begin,
    ChangeEvent,
    Changes,
    Commit,
    Create,
    Delete,
    Drop,
    FullImage,
    Heartbeat,
    KeyImage,
    LoadedRows,
    LogicalMessage,
    Read,
    Row,
    StreamItem,
    Truncate,
    Update,
)
from cdc.core.position import Position, parse_lsn
from cdc.core.settings import SourceSettings
from cdc.core.source import LoadPoint
from cdc.core.tables import ReplicaIdentity
from cdc.sources.postgres.source import PostgresSource

Databases = Callable[..., str]
VERSIONS = pytest.mark.parametrize("version", [15, 16, 18])
PATIENCE_SECONDS = 180.0
LARGE = "(SELECT string_agg(md5(g::text), '') FROM generate_series(1, 500) g)"  # stored out of line


class Site:
    """A database with a source on it, and a connection to write with."""

    def __init__(self, url: str, name: str, *, tables: Sequence[str] = ("public.*",)) -> None:
        self.url = url
        self.settings = SourceSettings(url=url, tables=tuple(tables), slot=name, publication=name)
        self.writer = psycopg.connect(url, autocommit=True)
        self.notes: list[tuple[Position, str]] = []

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.writer.execute(statement)

    def transaction(self, *statements: str) -> None:
        with self.writer.transaction():
            self.execute(*statements)

    def lsn(self, expression: str) -> int:
        row = self.writer.execute(f"SELECT ({expression})::text").fetchone()
        assert row is not None
        return parse_lsn(row[0])

    def confirmed(self) -> int:
        slot = self.settings.slot
        return self.lsn(f"SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = '{slot}'")

    @contextmanager
    def streaming(self, *, after: int = 0) -> Iterator[PostgresSource]:
        """A source that streams from the slot, and knows the tables as they were loaded."""
        with PostgresSource(self.settings) as source:
            source.remember(self.notes, [])
            _start(source, after=after)
            yield source

    def load(self) -> tuple[LoadPoint, list[StreamItem]]:
        """Make the slot and load all tables, in a session of its own."""
        with PostgresSource(self.settings) as source, source.create() as at:
            items = read(source.load(at, epoch=1, again=False))
        altered = [item for item in items if isinstance(item, ChangeEvent) and isinstance(item.change, Alter)]
        self.notes = [(item.position, item.change.note) for item in altered]
        return at, items


@pytest.fixture
def new_site(new_database: Databases, unique_name: str) -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def site(*, version: int = 18, tables: Sequence[str] = ("public.*",)) -> Site:
        made.append(Site(new_database(version=version), unique_name, tables=tables))
        return made[-1]

    yield site
    for each in made:
        each.writer.close()


def _start(source: PostgresSource, *, after: int = 0) -> None:
    """Start the stream, when the walsender of the session before has noticed its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return source.start(epoch=1, after=after)
        except SlotInUseError:
            assert time.monotonic() < deadline
            time.sleep(0.02)


def receive(
    source: PostgresSource, enough: Callable[[list[StreamItem]], bool], *, confirm: int = 0
) -> list[StreamItem]:
    """Items until there are enough of them; nothing above `confirm` is confirmed."""
    items: list[StreamItem] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not enough(items):
        assert time.monotonic() < deadline, items
        items += read(source.receive(1000, 0.1))
        source.confirm(confirm)
    return items


def read(items: Iterable[StreamItem]) -> list[StreamItem]:
    """The items, with an event for each change."""
    found: list[StreamItem] = []
    for item in items:
        match item:
            case LoadedRows():
                found += item.changes().events()
            case Changes():
                found += item.events()
            case _:
                found.append(item)
    return found


def commits(count: int) -> Callable[[list[StreamItem]], bool]:
    return lambda items: sum(isinstance(item, Commit) and bool(item.event_counts) for item in items) >= count


def events(items: Sequence[StreamItem]) -> list[ChangeEvent]:
    """Of rows: what becomes of tables is in tests/e2e/test_schema_changes.py."""
    return [item for item in items if isinstance(item, ChangeEvent) and not isinstance(item.change, Alter | Drop)]


def changes(items: Sequence[StreamItem]) -> list[object]:
    return [event.change for event in events(items)]


def replay(items: Sequence[StreamItem]) -> dict[bytes, Row]:
    """The rows of a table (id, …) after these events. A create of a key that is there, or an update of one that is
    not, is a double or a gap.
    """
    rows: dict[bytes, Row] = {}
    for change in changes(items):
        match change:
            case Read(after) | Create(after):
                key = after[0]
                assert isinstance(key, bytes)
                assert key not in rows, f"{key!r} is doubled"
                rows[key] = after
            case Update(_, after):
                key = after[0]
                assert isinstance(key, bytes)
                assert key in rows, f"{key!r} was never there"
                rows[key] = after
            case Delete(KeyImage((key,))):
                assert key in rows, f"{key!r} was never there"
                del rows[key]
            case _:
                pytest.fail(f"unexpected {change}")
    return rows


@VERSIONS
def test_load_and_stream_meet_without_gap_or_double_while_writers_go_on(
    version: int, new_site: Callable[..., Site]
) -> None:
    site = new_site(version=version)
    site.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int)", "INSERT INTO items SELECT g, 0 FROM generate_series(1, 500) g"
    )
    stop = threading.Event()

    def write(first: int) -> None:
        with psycopg.connect(site.url, autocommit=True) as connection:
            new = first
            while not stop.is_set():
                new += 2
                connection.execute("INSERT INTO items VALUES (%s, 0)", [new])
                connection.execute("UPDATE items SET n = n + 1 WHERE id = %s", [new - 1000])
                connection.execute("DELETE FROM items WHERE id = %s", [new - 1200])

    writers = [threading.Thread(target=write, args=(first,)) for first in (1000, 1001)]
    for writer in writers:
        writer.start()
    try:
        at, loaded = site.load()
        stop.wait(0.3)  # changes for the stream, too
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    site.execute("INSERT INTO items VALUES (0, 0)")
    with site.streaming() as source:
        streamed = receive(source, lambda items: any(c == Create((b"0", b"0")) for c in changes(items)))

    begin, *_, commit = loaded
    assert isinstance(begin, Begin)
    assert isinstance(commit, Commit)
    assert (begin.transaction.commit_lsn, commit.end_lsn) == (at.lsn - 1, at.lsn)
    assert len(events(streamed)) > 10
    found = {tuple(row) for row in replay([*loaded, *streamed]).values()}
    expected = {(str(a).encode(), str(b).encode()) for a, b in site.writer.execute("SELECT id, n FROM items")}
    assert found == expected
    positions = [event.position for event in events([*loaded, *streamed])]
    assert positions == sorted(set(positions))


@VERSIONS
def test_only_what_was_confirmed_is_confirmed(version: int, new_site: Callable[..., Site]) -> None:
    """Neither a keepalive, nor a Relation message (whose place in the WAL is 0), nor a graceful end moves the slot."""
    site = new_site(version=version, tables=("public.items",))
    site.execute("CREATE TABLE items (id int PRIMARY KEY)", "CREATE TABLE other (id int PRIMARY KEY)")
    at, _ = site.load()
    assert site.confirmed() == at.lsn
    with site.streaming() as source:
        for number in range(3):
            site.execute(
                f"ALTER TABLE items ADD COLUMN c{number} int",  # a Relation message before the next change
                f"INSERT INTO items VALUES ({number})",
                f"INSERT INTO other VALUES ({number})",
                f"SELECT pg_logical_emit_message(false, 'x', '{number}')",
            )
        items = receive(source, commits(3), confirm=at.lsn)
        receive(source, lambda more: any(isinstance(item, Heartbeat) for item in more), confirm=at.lsn)
        assert site.confirmed() == at.lsn

        first = next(item for item in items if isinstance(item, Commit) and item.event_counts)
        source.confirm(first.end_lsn)
        source.confirm(at.lsn)  # progress is monotonic
        _await(lambda: site.confirmed() == first.end_lsn)
        receive(source, lambda more: any(isinstance(item, Heartbeat) for item in more), confirm=first.end_lsn)
        assert site.confirmed() == first.end_lsn
    assert site.confirmed() == first.end_lsn

    with site.streaming() as source:
        again = receive(source, commits(2), confirm=first.end_lsn)
    assert [event.position for event in events(again)] == [event.position for event in events(items)][1:]


def test_a_quiet_captured_table_pins_no_wal_while_another_database_writes(
    new_site: Callable[..., Site], new_database: Databases
) -> None:
    site = new_site()
    site.execute("CREATE TABLE items (id int PRIMARY KEY)")
    at, _ = site.load()
    with site.streaming() as source, psycopg.connect(new_database(), autocommit=True) as busy:
        busy.execute("CREATE TABLE elsewhere AS SELECT g FROM generate_series(1, 1000) g")
        written = site.lsn("SELECT pg_current_wal_insert_lsn()")

        def beyond(items: list[StreamItem]) -> bool:
            busy.execute("INSERT INTO elsewhere VALUES (1)")
            return any(isinstance(item, Heartbeat) and item.lsn >= written for item in items)

        items = receive(source, beyond, confirm=at.lsn)
        assert events(items) == []
        source.confirm(max(item.lsn for item in items if isinstance(item, Heartbeat)))
        _await(lambda: site.confirmed() >= written)


@VERSIONS
def test_a_terminated_walsender_is_a_passing_fault_and_the_next_session_goes_on(
    version: int, new_site: Callable[..., Site]
) -> None:
    site = new_site(version=version)
    site.execute("CREATE TABLE items (id int PRIMARY KEY)")
    at, _ = site.load()
    with site.streaming() as source:
        site.execute("INSERT INTO items VALUES (1)")
        receive(source, commits(1), confirm=at.lsn)
        site.execute(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots"
            f" WHERE slot_name = '{site.settings.slot}'",
            "INSERT INTO items VALUES (2)",
        )
        with pytest.raises(PassingError):
            receive(source, lambda _: False, confirm=at.lsn)
    with site.streaming() as source:
        items = receive(source, commits(2), confirm=at.lsn)
    assert changes(items) == [Create((b"1",)), Create((b"2",))]


def test_a_second_reader_is_refused(new_site: Callable[..., Site]) -> None:
    site = new_site()
    site.execute("CREATE TABLE items (id int PRIMARY KEY)")
    site.load()
    with site.streaming(), PostgresSource(site.settings) as second, pytest.raises(SlotInUseError) as raised:
        second.start(epoch=1)
    assert raised.value.mend


def test_a_second_capture_is_refused_while_the_first_loads(
    new_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot is not active then, and a second capture would begin with dropping it."""
    monkeypatch.setattr("cdc.sources.postgres.source._LOCK_SECONDS", 1)
    site = new_site()
    site.execute("CREATE TABLE items (id int PRIMARY KEY)")
    with (
        PostgresSource(site.settings) as first,
        first.create(),
        PostgresSource(site.settings) as second,
        pytest.raises(SlotInUseError, match="another capture") as raised,
    ):
        second.identify()
    assert raised.value.mend
    with PostgresSource(site.settings) as third:
        third.identify()


@VERSIONS
def test_a_partitioned_table_is_captured_as_one_through_its_root(version: int, new_site: Callable[..., Site]) -> None:
    site = new_site(version=version)
    site.execute(
        "CREATE TABLE parted (id int PRIMARY KEY, n int) PARTITION BY RANGE (id)",
        "CREATE TABLE low PARTITION OF parted FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE high PARTITION OF parted FOR VALUES FROM (10) TO (20)",
        "INSERT INTO parted VALUES (1, 1), (11, 2)",
    )
    _, loaded = site.load()
    site.transaction("UPDATE parted SET n = 3 WHERE id = 11", "UPDATE parted SET id = 12 WHERE id = 1")
    site.execute("INSERT INTO low VALUES (5, 5)", "TRUNCATE parted")
    with site.streaming() as source:
        streamed = receive(source, commits(3))

    assert {str(event.table.id) for event in events([*loaded, *streamed])} == {"public.parted"}
    assert sorted(changes(loaded), key=repr) == [Read((b"1", b"1")), Read((b"11", b"2"))]
    # A row that moves to another partition is deleted and inserted by PostgreSQL itself.
    assert changes(streamed) == [
        Update(None, (b"11", b"3")),
        Delete(KeyImage((b"1",))),
        Create((b"12", b"1")),
        Create((b"5", b"5")),
        Truncate(),
    ]


def test_a_table_of_users_types_loads(new_site: Callable[..., Site]) -> None:
    site = new_site()
    site.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')", "CREATE DOMAIN email AS text")
    site.execute("CREATE TABLE people (id int PRIMARY KEY, mood mood, email email)")
    site.execute("INSERT INTO people VALUES (1, 'happy', 'a@b.c')")
    _, items = site.load()
    assert [change for change in changes(items) if isinstance(change, Read)] == [Read((b"1", b"happy", b"a@b.c"))]


@VERSIONS
def test_a_table_without_key(version: int, new_site: Callable[..., Site]) -> None:
    site = new_site(version=version)
    site.execute(
        "CREATE TABLE plain (a int, b text)",
        "ALTER TABLE plain REPLICA IDENTITY FULL",
        "INSERT INTO plain VALUES (1, NULL), (1, NULL)",
    )
    _, loaded = site.load()
    site.transaction(
        "UPDATE plain SET b = 'x' WHERE ctid = (SELECT ctid FROM plain LIMIT 1)", "DELETE FROM plain WHERE b IS NULL"
    )
    with site.streaming() as source:
        streamed = receive(source, commits(1))

    assert changes(loaded) == [Read((b"1", None)), Read((b"1", None))]
    assert changes(streamed) == [
        Update(FullImage((b"1", None)), (b"1", b"x")),
        Delete(FullImage((b"1", None))),
    ]
    assert all(event.table.key == () for event in events(streamed))


@VERSIONS
@pytest.mark.parametrize("identity", ["DEFAULT", "USING INDEX other_key", "FULL"])
def test_large_values_and_changed_keys_under(identity: str, version: int, new_site: Callable[..., Site]) -> None:
    site = new_site(version=version)
    site.execute(
        "CREATE TABLE items (id int PRIMARY KEY, code int NOT NULL, n int, large text)",
        "ALTER TABLE items ALTER large SET STORAGE EXTERNAL",
        "CREATE UNIQUE INDEX other_key ON items (code)",
        f"ALTER TABLE items REPLICA IDENTITY {identity}",
        f"INSERT INTO items SELECT 1, 7, 0, {LARGE}",
    )
    (large,) = site.writer.execute("SELECT large FROM items").fetchone() or ("",)
    value = str(large).encode()
    _, loaded = site.load()
    site.execute("UPDATE items SET n = 1", "UPDATE items SET id = 2", "UPDATE items SET code = 8", "DELETE FROM items")
    with site.streaming() as source:
        streamed = receive(source, commits(4))

    assert changes(loaded) == [Read((b"1", b"7", b"0", value))]
    kept = value if identity == "FULL" else UNCHANGED
    first, second, third, last = (
        (b"1", b"7", b"0", value),
        (b"1", b"7", b"1", value),
        (b"2", b"7", b"1", value),
        (b"2", b"8", b"1", value),
    )
    after = [(*row[:3], kept) for row in (second, third, last)]
    table = events(streamed)[0].table
    match identity:
        case "DEFAULT":
            assert (table.identity, table.key) == (ReplicaIdentity.DEFAULT, (0,))
            expected: list[object] = [
                Update(None, after[0]),
                Delete(KeyImage((b"1",)), moved_to=(b"2",), awaits_create=True),
                Create(after[1], moved_from=(b"1",)),
                Update(None, after[2]),
                Delete(KeyImage((b"2",))),
            ]
        case "FULL":
            assert (table.identity, table.key) == (ReplicaIdentity.FULL, (0,))
            expected = [
                Update(FullImage(first), after[0]),
                Delete(FullImage(second), moved_to=(b"2",)),
                Create(after[1], moved_from=(b"1",)),
                Update(FullImage(third), after[2]),
                Delete(FullImage(last)),
            ]
        case _:
            assert (table.identity, table.key) == (ReplicaIdentity.INDEX, (1,))
            expected = [
                Update(None, after[0]),
                Update(None, after[1]),
                Delete(KeyImage((b"7",)), moved_to=(b"8",), awaits_create=True),
                Create(after[2], moved_from=(b"7",)),
                Delete(KeyImage((b"8",))),
            ]
    assert changes(streamed) == expected


@VERSIONS
def test_what_the_log_has_is_not_sent_again(version: int, new_site: Callable[..., Site]) -> None:
    """Confirmed or not: the stream begins after what capture names."""
    site = new_site(version=version)
    site.execute("CREATE TABLE items (id int PRIMARY KEY)")
    site.load()
    for key in range(4):
        site.execute(f"INSERT INTO items VALUES ({key})", f"SELECT pg_logical_emit_message(false, 'm', '{key}')")
    with site.streaming() as source:
        items = receive(source, commits(4))
    ends = [item.end_lsn for item in items if isinstance(item, Commit) and item.event_counts]
    with site.streaming(after=ends[1]) as source:
        again = receive(source, commits(2))

    assert changes(items) == [Create((b"0",)), Create((b"1",)), Create((b"2",)), Create((b"3",))]
    assert changes(again) == [Create((b"2",)), Create((b"3",))]
    assert [item.content for item in again if isinstance(item, LogicalMessage)][:2] == [b"1", b"2"]
    assert site.confirmed() < ends[1]


@VERSIONS
def test_messages_in_and_outside_of_transactions(version: int, new_site: Callable[..., Site]) -> None:
    site = new_site(version=version)
    site.execute("CREATE TABLE items (id int PRIMARY KEY)")
    site.load()
    with site.writer.transaction(force_rollback=True):
        site.execute(
            "SELECT pg_logical_emit_message(false, 'aborted', 'a')", "SELECT pg_logical_emit_message(true, 'never', '')"
        )
    site.transaction("INSERT INTO items VALUES (1)", "SELECT pg_logical_emit_message(true, 'inside', 'b')")
    with site.streaming() as source:
        items = receive(source, commits(1))

    messages = [item for item in items if isinstance(item, LogicalMessage)]
    assert [(message.prefix, message.content, message.ordinal) for message in messages] == [
        ("aborted", b"a", 0),
        ("inside", b"b", 2),
    ]
    assert messages[0].position < events(items)[0].position < messages[1].position


def test_a_writer_that_truncates_while_the_slot_is_made_does_not_deadlock(new_site: Callable[..., Site]) -> None:
    """The slot waits for the writer's transaction to end; the writer must not have to wait for us in turn."""
    site = new_site()
    site.execute(
        "CREATE TABLE a (id int PRIMARY KEY)", "CREATE TABLE b (id int PRIMARY KEY)", "INSERT INTO b VALUES (1)"
    )
    loaded: list[StreamItem] = []
    thread = threading.Thread(target=lambda: loaded.extend(site.load()[1]))
    waiting = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event_type = 'Lock'"
    with psycopg.connect(site.url) as other:
        other.execute("INSERT INTO a VALUES (1)")
        thread.start()
        _await(lambda: site.writer.execute(f"SELECT EXISTS ({waiting})").fetchone() == (True,))
        other.execute("SET lock_timeout = '10s'")
        other.execute("TRUNCATE b")
        other.execute("INSERT INTO b VALUES (2)")
    thread.join()
    assert sorted(changes(loaded), key=repr) == [Read((b"1",)), Read((b"2",))]


def _await(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
