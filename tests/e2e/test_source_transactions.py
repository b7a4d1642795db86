"""Savepoints, prepared transactions and logical messages, from a real source into two targets."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from replication import MARKER, VERSIONS, Replication

from cdc.avro.transactions import TransactionBegin, TransactionEnd
from cdc.cli.tail import tail
from cdc.core.tables import TableId
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.source import PostgresSource

# ---- transactions ---------------------------------------------------------------------------------------------------


def test_a_transaction_of_10_000_savepoints(replication: Replication) -> None:
    replication.execute("CREATE TABLE items (id int PRIMARY KEY, n int)", "INSERT INTO items VALUES (0, 0)")
    replication.synchronize("items")
    replication.execute(
        """
        DO $$ BEGIN FOR i IN 1..10000 LOOP
            BEGIN
                INSERT INTO items VALUES (i, 0);
                IF i % 50 = 0 THEN UPDATE items SET n = i WHERE id = 0; END IF;
                IF i % 3 = 0 THEN RAISE EXCEPTION 'rolled back'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
        END LOOP; END $$
        """
    )
    replication.synchronize("items")


@VERSIONS
def test_prepared_transactions(version: int, new_replication: Callable[..., Replication]) -> None:
    """They come when they are committed, in that order, and never if they are rolled back."""
    replication = new_replication(version=version)
    replication.execute("CREATE TABLE items (id int PRIMARY KEY, n int)", "INSERT INTO items VALUES (1, 1), (2, 2)")
    replication.synchronize("items")

    def prepare(name: str, *statements: str) -> None:
        replication.execute("BEGIN", *statements, f"PREPARE TRANSACTION '{replication.log_settings.prefix}{name}'")

    def end(how: str, name: str) -> None:
        replication.execute(f"{how} PREPARED '{replication.log_settings.prefix}{name}'")

    prepare("a", "UPDATE items SET n = 10 WHERE id = 1", "INSERT INTO items VALUES (3, 3)")
    prepare("b", "DELETE FROM items WHERE id = 2")
    replication.execute("INSERT INTO items VALUES (4, 4)")
    replication.synchronize("items")
    end("ROLLBACK", "b")
    end("COMMIT", "a")
    replication.execute("UPDATE items SET n = n + 1")
    replication.synchronize("items")


TEN_THOUSAND_TABLES: Final = """
    DO $$ BEGIN FOR i IN 1..10000 LOOP
        EXECUTE format('CREATE TABLE many.t%s (n int)', i);
    END LOOP; END $$
"""


def test_three_of_10_000_tables(
    new_replication: Callable[..., Replication], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What is asked of the source does not grow with the tables that are not captured, whatever is published."""
    asked: list[str] = []
    query = SourceDatabase.query

    def listened(self: SourceDatabase, sql: str, *, doing: str) -> list[tuple[object, ...]]:
        asked.append(sql)
        return query(self, sql, doing=doing)

    monkeypatch.setattr(SourceDatabase, "query", listened)
    replication = new_replication()
    tables = [TableId("many", f"t{number}") for number in (1, 5000, 10000)]
    replication.execute("SET synchronous_commit = off", "CREATE SCHEMA many", TEN_THOUSAND_TABLES)
    replication.execute(
        *(f"ALTER TABLE {table} ADD id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY" for table in tables)
    )
    replication.execute(*(f"INSERT INTO {table} (n) VALUES (1)" for table in tables))
    replication.capturing("many.t1", "many.t5000", "many.t10000")
    for publication in ("of three", "of all"):
        asked.clear()
        replication.synchronize(*tables)
        for number in range(1, 10001, 200):
            replication.execute(f"INSERT INTO many.t{number} (n) VALUES (2)")
        replication.execute("UPDATE many.t1 SET n = n + 1", "DELETE FROM many.t5000 WHERE id = 1")
        replication.synchronize(*tables)
        assert len(asked) < 50, publication
        replication.close()
        replication.execute(f"DROP PUBLICATION {replication.log_settings.prefix}")
        replication.publish("FOR ALL TABLES WITH (publish_via_partition_root = true)")


# ---- logical messages -----------------------------------------------------------------------------------------------

# Published and not, in and outside of transactions, with rows and without.
MESSAGES: Final = (
    (
        "BEGIN",
        "SELECT pg_logical_emit_message(true, 'audit', 'who')",
        "INSERT INTO items VALUES (1)",
        "SELECT pg_logical_emit_message(true, 'cdc.own', '')",
        "SELECT pg_logical_emit_message(true, 'größe', '\\xff00'::bytea)",
        "COMMIT",
    ),
    ("SELECT pg_logical_emit_message(true, 'alone', '')",),
    ("SELECT pg_logical_emit_message(true, 'cdc.own', '')",),
    ("SELECT pg_logical_emit_message(false, 'at once', 'now')",),
    ("SELECT pg_logical_emit_message(false, 'cdc.own', '')",),
    (
        "BEGIN",
        "SELECT pg_logical_emit_message(false, 'kept', '')",
        "SELECT pg_logical_emit_message(true, 'rolled back', '')",
        "INSERT INTO items VALUES (2)",
        "ROLLBACK",
    ),
)


@VERSIONS
def test_messages(version: int, new_replication: Callable[..., Replication]) -> None:
    replication = new_replication(version=version)
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)", "INSERT INTO items VALUES (0)")
    replication.synchronize("items")
    for statements in MESSAGES:
        replication.execute(*statements)
    replication.synchronize("items")

    read = [(record, replication.message(record)) for record in replication.records("message")]
    found = [(record, message) for record, message in read if message.prefix != MARKER]
    assert [(m.prefix, m.content, m.ordinal, m.message_ordinal) for _, m in found] == [
        ("audit", b"who", 1, 1),
        ("größe", b"\xff\x00", 4, 2),
        ("alone", b"", 1, 1),
        ("at once", b"now", 0, 1),
        ("kept", b"", 0, 1),
    ]
    assert found[1][0].key is not None
    assert found[1][0].key[5:] == b"\x02\x0e" + "größe".encode()
    assert [message.transaction.xid is None for _, message in found] == [False, False, False, True, True]
    positions = [message.position for _, message in read]
    assert positions == sorted(set(positions))

    boundaries = [replication.boundary(record) for record in replication.records("transaction")]
    assert [type(each) for each in boundaries] == [TransactionBegin, TransactionEnd] * (len(boundaries) // 2)
    ends = {each.id: each for each in boundaries if isinstance(each, TransactionEnd)}
    counted = "LOGICAL_DECODING_MESSAGE"
    assert [(e.event_count, e.event_counts, e.last_ordinal) for e in (ends[m.transaction.id] for _, m in found)] == [
        (3, {"public.items": 1, counted: 2}, 4),
        (3, {"public.items": 1, counted: 2}, 4),
        (1, {counted: 1}, 1),
        (1, {counted: 1}, 0),
        (1, {counted: 1}, 0),
    ]
    assert len(ends) == len({message.transaction.id for _, message in read}) + 1  # the load's


def test_messages_survive_restarts(replication: Replication) -> None:
    """What is confirmed is not sent again, and nothing is left out."""
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    for number in range(4):
        replication.execute(f"SELECT pg_logical_emit_message({str(number % 2 == 0).lower()}, 'number', '{number}')")
        replication.synchronize()
        replication.reopen()
    messages = [replication.message(record) for record in replication.records("message")]
    assert [message.content for message in messages if message.prefix == "number"] == [b"1", b"2", b"3"]


def test_what_is_in_the_log_is_not_written_again(replication: Replication, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the log would end with an END that the slot may be ahead of, when a crash comes before the next one."""
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    replication.synchronize()
    with monkeypatch.context() as unconfirmed:
        unconfirmed.setattr(PostgresSource, "confirm", lambda *_: None)
        replication.execute("INSERT INTO items VALUES (1)", "INSERT INTO items VALUES (2)")
        replication.synchronize("items")
        replication.reopen()
    replication.execute("INSERT INTO items VALUES (3)")
    replication.synchronize("items")
    ends = [replication.boundary(record).id for record in replication.records("transaction")][1::2]
    assert len(ends) == len(set(ends))


def test_tail_shows_messages(replication: Replication, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    replication.execute("CREATE TABLE items (id int PRIMARY KEY)")
    replication.synchronize()
    replication.transaction(
        "INSERT INTO items VALUES (1)",
        "SELECT pg_logical_emit_message(true, 'audit', 'who')",
        "SELECT pg_logical_emit_message(true, 'audit', '\\xff'::bytea)",
    )
    replication.synchronize("items")
    replication.close()
    config = tmp_path / "cdc.toml"
    config.write_text(
        f'[source]\nurl = "postgresql://nowhere/x"\ntables = ["*.*"]\n'
        f'[log]\nurl = "{replication.log_settings.url}"\nprefix = "{replication.log_settings.prefix}"\n'
    )
    tail(None, config, from_start=True, count=5, as_json=True)
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shown = [{name: one.get(name) for name in ("op", "table", "prefix", "content", "content_hex")} for one in said]
    assert {"op": "m", "table": None, "prefix": "audit", "content": "who", "content_hex": None} in shown
    assert {"op": "m", "table": None, "prefix": "audit", "content": None, "content_hex": "ff"} in shown
    assert {"op": "c", "table": "public.items", "prefix": None, "content": None, "content_hex": None} in shown
    tail(["public.*"], config, from_start=True, count=1)
    assert "  c  public.items  after id=1" in capsys.readouterr().out
