"""Every shape of row, from a real source through a local log into a PostgreSQL and a SQLite target, compared there."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from cdc.avro.names import state_topic
from cdc.core.errors import ConfigError, SlotInUseError, TargetSchemaError
from cdc.core.log import TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.position import parse_lsn
from cdc.core.settings import LogSettings, RegistrySettings, Settings, SourceSettings, TargetSettings
from cdc.core.state import read_state
from cdc.core.tables import TableId
from cdc.log.open import open_log
from cdc.log.reading import read_to_end
from cdc.wiring import capture_session
from consumers.targets.open import open_target
from consumers.targets.sqlite.tables import target_name
from consumers.wiring import apply_session

Databases = Callable[..., str]
Texts = tuple[str | None, ...]

PATIENCE_SECONDS: Final = 120.0
VERSIONS = pytest.mark.parametrize("version", [15, 16, 18])


class Replication:
    """A source, a local log and two targets. Nothing runs between the calls.

    Tables are named as they are stored: `items` is public.items.
    """

    def __init__(self, folder: Path, source: str, target: str, name: str) -> None:
        self.settings = Settings(
            source=SourceSettings(url=source, tables=("public.*",), slot=name, publication=name),
            log=LogSettings(url=f"sqlite:///{folder / 'log.db'}", prefix=name, partitions=3),
            registry=RegistrySettings(),
            targets={
                "postgres": TargetSettings(name="postgres", url=target),
                "sqlite": TargetSettings(name="sqlite", url=f"sqlite:///{folder / 'replica.db'}"),
            },
        )
        self.source = psycopg.connect(source, autocommit=True)
        self.target = psycopg.connect(target, autocommit=True)
        self.replica = folder / "replica.db"

    def close(self) -> None:
        self.source.close()
        self.target.close()

    def capturing(self, *tables: str) -> None:
        """Capture these tables only."""
        self.settings = replace(self.settings, source=replace(self.settings.source, tables=tables))

    def naming_topics(self, topics: dict[str, str]) -> None:
        """Give the tables of these patterns these topics."""
        self.settings = replace(self.settings, log=replace(self.settings.log, topics=topics))

    def applying(self, target: str, *tables: str, batch_events: int = 10_000) -> None:
        """Apply these tables only to this target."""
        changed = replace(self.settings.targets[target], tables=tables or ("*.*",), batch_events=batch_events)
        self.settings = replace(self.settings, targets={**self.settings.targets, target: changed})

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.source.execute(statement)

    def transaction(self, *statements: str) -> None:
        with self.source.transaction():
            self.execute(*statements)

    def synchronize(self, *tables: str | TableId, start_over: bool = False) -> None:
        """Bring all that is committed now to the targets, and compare these tables."""
        self.capture(start_over=start_over)
        for name in self.settings.targets:
            self.apply(name)
        for table in tables:
            self.require_equal(table)

    def capture(self, *, start_over: bool = False) -> None:
        """Capture until all that was committed when the stream began is in the log, and confirmed."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                return self._capture(deadline, start_over=start_over)
            except SlotInUseError:  # the session before has ended, which the source has not noticed yet
                assert time.monotonic() < deadline
                time.sleep(0.02)

    def _capture(self, deadline: float, *, start_over: bool) -> None:
        committed: list[int] = []

        def mark() -> None:
            row = self.source.execute("SELECT pg_logical_emit_message(true, 'committed', '')::text").fetchone()
            assert row is not None
            committed.append(parse_lsn(row[0]))

        with capture_session(self.settings, print) as capture:

            def finished() -> bool:
                assert time.monotonic() < deadline
                return bool(committed) and capture.progress.confirmed_lsn > committed[0]

            capture.run(finished, start_over=start_over, streaming=mark)

    def apply(self, target: str) -> None:
        """Apply until nothing is left."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.left(target):
            assert time.monotonic() < deadline, self.left(target)
            with apply_session(self.settings, target, print) as applier:
                quiet = _Quiet(lambda applier=applier: applier.progress.events)
                applier.run(quiet, applying=quiet.begin)
            if not applier.progress.events:
                return

    def left(self, name: str) -> dict[TopicPartition, int]:
        """How many records the target has not taken of each partition that it reads."""
        settings, prefix = self.settings.targets[name], self.settings.log.prefix
        with (
            closing(open_target(settings)) as target,
            open_log(self.settings.log) as log,
            closing(log.reader(name)) as reader,
        ):
            done = target.read_checkpoint().partitions
            tables = read_state(read_to_end(reader, state_topic(prefix))).tables.values()
            patterns = TablePatterns(settings.tables)
            read = [
                TopicPartition(t.topic, n) for t in tables if patterns.matches(t.table) for n in range(t.partitions)
            ]
            behind = {p: reader.offsets(p).next - (done[p].next_offset if p in done else 0) for p in read}
        return {partition: records for partition, records in behind.items() if records}

    def require_equal(self, table: str | TableId) -> None:
        table = TableId("public", table) if isinstance(table, str) else table
        columns, expected = self.at_source(table)
        for name in self.settings.targets:
            if self._takes(name, table):
                found_columns, found = self.at_target(name, table)
                assert found_columns == columns
                assert found == expected, f"{table} at {name}"

    def _takes(self, target: str, table: TableId) -> bool:
        return f"!{table.schema}.{table.name}" not in self.settings.targets[target].tables

    def at_source(self, table: TableId) -> tuple[list[str], list[Texts]]:
        return _texts(self.source, table)

    def at_target(self, name: str, table: TableId) -> tuple[list[str], list[Texts]]:
        """Columns by name, and rows, as text."""
        if name == "postgres":
            return _texts(self.target, table)
        with closing(sqlite3.connect(self.replica)) as replica:
            cursor = replica.execute(f'SELECT * FROM "{target_name(table).replace(chr(34), chr(34) * 2)}"')
            names = [column[0] for column in cursor.description]
            places = sorted(range(len(names)), key=names.__getitem__)
            rows = [tuple(None if row[i] is None else str(row[i]) for i in places) for row in cursor]
            return sorted(names), _sorted(rows)


class _Quiet:
    """True when a count has not changed for some looks at it after `begin`."""

    def __init__(self, count: Callable[[], int]) -> None:
        self._count = count
        self._seen = 0
        self._looks: int | None = None

    def begin(self) -> None:
        self._looks = 0

    def __call__(self) -> bool:
        if self._looks is None:
            return False
        before, self._seen = self._seen, self._count()
        self._looks = self._looks + 1 if self._seen == before else 0
        return self._looks > 20


def _texts(connection: psycopg.Connection, table: TableId) -> tuple[list[str], list[Texts]]:
    """A table's columns, sorted, and its own rows (not those of tables that inherit it) as text."""
    ((partitioned, oid),) = connection.execute(
        "SELECT relkind = 'p', c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE nspname = %s AND relname = %s",
        table,
    ).fetchall()
    found = connection.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0 AND NOT attisdropped", [oid]
    )
    names = sorted(name for (name,) in found)
    query = sql.SQL("SELECT {} FROM {} {}").format(
        sql.SQL(", ").join(sql.SQL("{}::text").format(sql.Identifier(name)) for name in names),
        sql.SQL("" if partitioned else "ONLY"),
        sql.Identifier(*table),
    )
    return names, _sorted(connection.execute(query).fetchall())


def _quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _sorted(rows: Sequence[Texts]) -> list[Texts]:
    return sorted(rows, key=lambda row: [(value is None, value or "") for value in row])


@pytest.fixture
def new_replication(
    tmp_path: Path, new_database: Databases, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Replication]]:
    """`new_replication(version=18)`: from a source of that version to a target of the newest."""
    monkeypatch.setattr("consumers.apply.applier._IDLE_SECONDS", 0.01)  # the log is complete: nothing to wait for
    made: list[Replication] = []

    def replication(*, version: int = 18) -> Replication:
        made.append(Replication(tmp_path, new_database(version=version), new_database(), unique_name))
        return made[-1]

    yield replication
    for each in made:
        each.close()


@pytest.fixture
def replication(new_replication: Callable[..., Replication]) -> Replication:
    return new_replication()


LARGE = "(SELECT string_agg(md5(g::text || {seed}), '') FROM generate_series(1, 100) g)"  # out of line where EXTERNAL


# ---- replica identities, keys, TOAST --------------------------------------------------------------------------------

IDENTITIES: Final = {"by_default": "DEFAULT", "whole": "FULL", "coded": "USING INDEX coded_code"}


@VERSIONS
def test_replica_identities(version: int, new_replication: Callable[..., Replication]) -> None:
    """Updates of values and of keys, also several of one row in one batch, with values that are not sent again."""
    replication = new_replication(version=version)
    for table, identity in IDENTITIES.items():
        replication.execute(
            f"CREATE TABLE {table} (id int PRIMARY KEY, code int NOT NULL, n int, large text)",
            f"ALTER TABLE {table} ALTER large SET STORAGE EXTERNAL",
            f"CREATE UNIQUE INDEX {table}_code ON {table} (code)",
            f"ALTER TABLE {table} REPLICA IDENTITY {identity}",
            f"INSERT INTO {table} SELECT i, 100 + i, 0, {LARGE.format(seed='i')} FROM generate_series(1, 12) i",
        )
    replication.synchronize(*IDENTITIES)
    for table in IDENTITIES:
        replication.execute(
            f"INSERT INTO {table} SELECT i, 100 + i, 0, {LARGE.format(seed='i')} FROM generate_series(13, 20) i",
            f"UPDATE {table} SET n = 1 WHERE id <= 18",
            f"UPDATE {table} SET id = id + 100 WHERE id % 3 = 0",
            f"UPDATE {table} SET code = -code WHERE id % 3 = 1",
            f"UPDATE {table} SET id = -id, code = code + 1000, n = NULL, large = NULL WHERE id = 5",
            f"UPDATE {table} SET n = n + 1, large = large || 'x' WHERE id % 4 = 0",
            f"DELETE FROM {table} WHERE id IN (2, 4, 103)",
        )
    replication.synchronize(*IDENTITIES)
    for table in IDENTITIES:
        replication.transaction(
            f"UPDATE {table} SET n = 2 WHERE id = 7",
            f"UPDATE {table} SET id = 1007, code = 1007 WHERE id = 7",
            f"UPDATE {table} SET n = 3 WHERE id = 1007",
            f"UPDATE {table} SET id = 2007, code = 2007 WHERE id = 1007",
            f"UPDATE {table} SET n = 4 WHERE id = 2007",
            f"DELETE FROM {table} WHERE id = 10",
            f"UPDATE {table} SET id = 10, code = 10, n = 5 WHERE id = 11",
            f"UPDATE {table} SET id = 7, code = 7 WHERE id = 2007",
        )
    replication.synchronize(*IDENTITIES)


@VERSIONS
def test_replica_identity_nothing(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, n int)",
        "ALTER TABLE items REPLICA IDENTITY NOTHING",
        "INSERT INTO items VALUES (1, 1), (2, 2)",
    )
    replication.synchronize("items")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        replication.execute("UPDATE items SET n = 1")
    replication.transaction("INSERT INTO items VALUES (3, NULL)")
    replication.synchronize("items")
    replication.transaction("TRUNCATE items", "INSERT INTO items VALUES (1, 3)")
    replication.synchronize("items")


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
@pytest.mark.parametrize("batch_events", [1, 10_000])
def test_keys_swapped_through_a_third(identity: str, batch_events: int, replication: Replication) -> None:
    """With values that are not sent again, so that only a move keeps them."""
    replication.applying("postgres", batch_events=batch_events)
    replication.applying("sqlite", batch_events=batch_events)
    replication.execute(
        "CREATE TABLE items (a int, b text, n int, large text, PRIMARY KEY (a, b))",
        "ALTER TABLE items ALTER large SET STORAGE EXTERNAL",
        f"ALTER TABLE items REPLICA IDENTITY {identity}",
        f"INSERT INTO items SELECT i, 'x', i, {LARGE.format(seed='i')} FROM generate_series(1, 9) i",
    )
    replication.synchronize("items")
    swap = (
        "UPDATE items SET a = -1 WHERE a = {0}",
        "UPDATE items SET a = {0} WHERE a = {1}",
        "UPDATE items SET a = {1} WHERE a = -1",
    )
    replication.transaction(*(statement.format(1, 2) for statement in swap))
    replication.transaction(
        *(statement.format(3, 4) for statement in swap),
        "UPDATE items SET n = n * 10 WHERE a IN (3, 4)",
        *(statement.format(4, 5) for statement in swap),
        "UPDATE items SET b = 'y', n = -n WHERE a = 5",  # a part of the key
        "UPDATE items SET a = 50, b = 'z', large = 'new' WHERE a = 5",
        "UPDATE items SET a = 5, b = 'x' WHERE a = 50",
    )
    replication.transaction(
        "DELETE FROM items WHERE a = 6",
        "UPDATE items SET a = 6 WHERE a = 7",
        "INSERT INTO items VALUES (7, 'x', 0, '')",
    )
    replication.synchronize("items")


def test_keys_swapped_in_one_statement(replication: Replication) -> None:
    """Only a deferrable key lets a statement do it; such a key tells the source nothing, so whole rows have to."""
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY DEFERRABLE, body text)",
        "ALTER TABLE items REPLICA IDENTITY FULL",
        "INSERT INTO items VALUES (1, 'one'), (2, 'two'), (3, 'three')",
    )
    replication.synchronize("items")
    replication.execute("UPDATE items SET id = 3 - id WHERE id < 3")
    replication.transaction(
        "SET CONSTRAINTS ALL DEFERRED",
        "UPDATE items SET id = 3 WHERE id = 1",
        "UPDATE items SET id = 1 WHERE body = 'three'",
    )
    replication.synchronize("items")
    assert replication.at_target("postgres", TableId("public", "items"))[1] == [
        ("one", "2"),
        ("three", "1"),
        ("two", "3"),
    ]


def test_keys_swapped_by_delete_and_insert(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE items (id int PRIMARY KEY, body text)", "INSERT INTO items VALUES (1, 'one'), (2, 'two')"
    )
    replication.synchronize("items")
    replication.transaction("DELETE FROM items", "INSERT INTO items VALUES (1, 'two'), (2, 'one')")
    replication.synchronize("items")


def test_a_key_with_included_columns(replication: Replication) -> None:
    replication.execute(
        "CREATE TABLE items (id int, body text, PRIMARY KEY (id) INCLUDE (body))",
        "CREATE TABLE coded (code int NOT NULL, body text)",
        "CREATE UNIQUE INDEX coded_key ON coded (code) INCLUDE (body)",
        "ALTER TABLE coded REPLICA IDENTITY USING INDEX coded_key",
        "CREATE TABLE whole (id int, body text, PRIMARY KEY (id) INCLUDE (body))",
        "ALTER TABLE whole REPLICA IDENTITY FULL",
        *(f"INSERT INTO {table} VALUES (1, NULL), (2, 'two')" for table in ("items", "coded", "whole")),
    )
    replication.synchronize("items", "coded", "whole")
    for table in ("items", "coded", "whole"):
        replication.execute(f"UPDATE {table} SET body = 'changed'", f"DELETE FROM {table} WHERE body = 'two'")
    replication.synchronize("items", "coded", "whole")


@VERSIONS
def test_tables_without_a_key(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    replication.execute(
        "CREATE TABLE bag (a int, b text, large text)",
        "ALTER TABLE bag ALTER large SET STORAGE EXTERNAL",
        "ALTER TABLE bag REPLICA IDENTITY FULL",
        "CREATE TABLE appended (a int, b text)",
        f"INSERT INTO bag SELECT i % 3, NULLIF('x' || i % 2, 'x0'), {LARGE.format(seed='i % 2')}"
        " FROM generate_series(1, 30) i",
        "INSERT INTO appended SELECT i % 3, NULL FROM generate_series(1, 30) i",
    )
    replication.synchronize("bag", "appended")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        replication.execute("DELETE FROM appended")
    replication.execute(
        "INSERT INTO appended VALUES (1, NULL), (1, NULL), (1, '')",
        "UPDATE bag SET a = a + 1 WHERE ctid IN (SELECT ctid FROM bag WHERE a = 1 LIMIT 2)",
        "DELETE FROM bag WHERE ctid IN (SELECT ctid FROM bag WHERE a = 2 AND b IS NULL LIMIT 1)",
        "INSERT INTO bag VALUES (NULL, NULL, NULL), (NULL, NULL, NULL)",
        "UPDATE bag SET b = b WHERE a = 0",
    )
    replication.transaction(
        "UPDATE bag SET a = a + 1", "UPDATE bag SET a = a + 1 WHERE a > 2", "DELETE FROM bag WHERE a = 4"
    )
    replication.synchronize("bag", "appended")


# ---- names ----------------------------------------------------------------------------------------------------------

NAMES: Final = (
    "with space", 'quote"d', "dot.ted", "über", "ÜBER", "Upper", "select", "percent%s", "back\\slash", "apo'strophe",
    "semi;--", "a" * 63, "ü" * 31, "1digit", "$dollar", "tab\tbed", "line\nbroken", "cdc", "_", "-",
)  # fmt: skip


@VERSIONS
def test_names_that_need_quoting(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    tables = [TableId(schema, name) for schema in ("public", 'S "x".y') for name in NAMES]
    replication.capturing("*.*")
    replication.naming_topics({'public."-"': "public.dash", '"S ""x"".y"."-"': "other.dash"})
    replication.execute('CREATE SCHEMA "S ""x"".y"')
    for table in tables:
        columns = ", ".join(f"{_quoted(name)} text" for name in NAMES if name != table.name)
        replication.execute(f"CREATE TABLE {_quoted(*table)} ({_quoted(table.name)} int PRIMARY KEY, {columns})")
        replication.execute(f"INSERT INTO {_quoted(*table)} SELECT i, i, i FROM generate_series(1, 3) i")
    replication.synchronize(*tables)
    for table in tables:
        other = next(name for name in NAMES if name != table.name)
        replication.execute(
            f"UPDATE {_quoted(*table)} SET {_quoted(other)} = 'changed' WHERE {_quoted(table.name)} = 1",
            f"UPDATE {_quoted(*table)} SET {_quoted(table.name)} = 4 WHERE {_quoted(table.name)} = 2",
            f"DELETE FROM {_quoted(*table)} WHERE {_quoted(table.name)} = 3",
        )
    replication.synchronize(*tables)


def test_columns_whose_avro_names_are_equal(replication: Replication) -> None:
    replication.execute(
        'CREATE TABLE items ("a b" int, "a_b" int, "a-b" int, "ü" text, "ö" text, "_" text, "A b" int,'
        ' PRIMARY KEY ("a b", "a-b"))',
        "INSERT INTO items VALUES (1, 2, 3, 'u', 'o', '_', 4)",
    )
    replication.applying("sqlite", "*.*", "!public.items")  # SQLite does not tell the columns "a b" and "A b" apart
    replication.synchronize("items")
    replication.execute(
        "UPDATE items SET a_b = 5, ü = NULL", 'UPDATE items SET "a-b" = 6', "INSERT INTO items VALUES (7, 8, 9)"
    )
    replication.synchronize("items")


def test_tables_whose_topics_are_equal_are_refused(replication: Replication) -> None:
    replication.execute(
        'CREATE SCHEMA "a.b"', "CREATE SCHEMA a", 'CREATE TABLE "a.b".c (id int)', 'CREATE TABLE a."b.c" (id int)'
    )
    replication.capturing('"a.b".*', "a.*")
    with pytest.raises(ConfigError, match=r'"a"\."b\.c" and "a\.b"\."c" would share the topic'):
        replication.capture()


def test_tables_whose_names_sqlite_does_not_tell_apart_are_refused(replication: Replication) -> None:
    replication.execute('CREATE TABLE "Items" (id int)', "CREATE TABLE items (id int)", "INSERT INTO items VALUES (1)")
    replication.capture()
    replication.apply("postgres")
    replication.execute('INSERT INTO "Items" VALUES (2)')
    replication.capture()
    replication.apply("postgres")
    with pytest.raises(TargetSchemaError, match="Items"):
        replication.apply("sqlite")


# ---- columns --------------------------------------------------------------------------------------------------------


def test_1600_columns(replication: Replication) -> None:
    columns = ", ".join(f"c{i} smallint" for i in range(1, 1600))
    values = ", ".join(f"i + {i}" for i in range(1, 1600))
    for table, key in (("wide", "PRIMARY KEY"), ("bag", "")):
        replication.execute(
            f"CREATE TABLE {table} (id int {key}, {columns})",
            f"ALTER TABLE {table} REPLICA IDENTITY {'DEFAULT' if key else 'FULL'}",
            f"INSERT INTO {table} SELECT i, {values} FROM generate_series(1, 3) i",
        )
    replication.synchronize("wide", "bag")
    for table in ("wide", "bag"):
        replication.execute(
            f"INSERT INTO {table} SELECT i, {values} FROM generate_series(4, 6) i",
            f"UPDATE {table} SET c1599 = NULL, c1 = -1 WHERE id = 1",
            f"UPDATE {table} SET id = 9 WHERE id = 2",
            f"DELETE FROM {table} WHERE id = 3",
        )
    replication.synchronize("wide", "bag")


def test_1600_columns_some_of_them_not_sent_again(replication: Replication) -> None:
    columns = ", ".join(f"c{i} smallint" for i in range(2, 1600))
    replication.execute(
        f"CREATE TABLE wide (id int PRIMARY KEY, large text, {columns})",
        "ALTER TABLE wide ALTER large SET STORAGE EXTERNAL",
        f"INSERT INTO wide SELECT i, {LARGE.format(seed='i')}, i, i FROM generate_series(1, 5) i",
    )
    replication.synchronize("wide")
    replication.execute("UPDATE wide SET c2 = 7 WHERE id < 3", "UPDATE wide SET id = id + 10 WHERE id > 3")
    replication.transaction(
        "UPDATE wide SET id = 20 WHERE id = 1",
        "UPDATE wide SET id = 1 WHERE id = 2",
        "UPDATE wide SET id = 2 WHERE id = 20",
    )
    replication.synchronize("wide")


def test_a_table_of_zero_columns(replication: Replication) -> None:
    replication.execute("CREATE TABLE nothing ()", "ALTER TABLE nothing REPLICA IDENTITY FULL")
    replication.execute(*["INSERT INTO nothing DEFAULT VALUES"] * 3)
    replication.applying("sqlite", "*.*", "!public.nothing")
    replication.synchronize("nothing")
    replication.execute(*["INSERT INTO nothing DEFAULT VALUES"] * 2, "DELETE FROM nothing WHERE ctid = '(0,1)'")
    replication.synchronize("nothing")
    assert len(replication.at_target("postgres", TableId("public", "nothing"))[1]) == 4

    replication.applying("sqlite")
    with pytest.raises(TargetSchemaError, match="it has no columns"):
        replication.apply("sqlite")
