"""The same changes are the same events, whether we capture them or Debezium's connector does."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import psycopg
import pytest

from cdc.core.log import StoredRecord
from cdc.demo.processes import Processes

PATIENCE_SECONDS = 180.0
CHANGES = (
    "UPDATE kinds SET a_text = 'changed' WHERE id = 1; UPDATE kinds SET id = 20 WHERE id = 2",
    "DELETE FROM kinds WHERE id = 11",
)
ROWS_BEFORE, RECORDS = 3, 3 + 3 + 1 + 3 + 2  # a changed key: delete, tombstone, create
# Both are ISO 8601.
INTERVALS = {"P0Y0M-3DT0H0M0S": "P-3D"}


@pytest.fixture
def records(new_database, unique_name, capture_config, connect, kinds, postgres_connector, topics):
    """`records(settings)`: what we and the connector, with these settings, make of the same changes, by topic."""

    def captured(settings: dict[str, str]) -> dict[str, list[StoredRecord]]:
        source, theirs = new_database(), f"{unique_name}_theirs"
        both = [f"{prefix}.public.kinds" for prefix in (unique_name, theirs)]
        execute(source, kinds.types, kinds.ddl("kinds"), kinds.insert("kinds"))
        with Processes(capture_config(unique_name, source)) as processes:

            def await_records(wanted: int) -> None:
                deadline = time.monotonic() + PATIENCE_SECONDS
                while any(topics.count(topic) < wanted for topic in both):
                    processes.require_running()
                    connect.require_running()
                    assert time.monotonic() < deadline
                    time.sleep(0.1)  # between two looks at a log that tells no one when it grows

            try:
                connect.add(theirs, postgres_connector(theirs, source, settings))
                processes.start("capture", "capture")
                await_records(ROWS_BEFORE)
                execute(source, kinds.insert("kinds", 11), *CHANGES)
                await_records(RECORDS)
            finally:
                connect.remove(theirs)
        return {topic: topics.read(topic) for topic in both}

    return captured


def test_of_all_kinds(records, recommended, connect_view):
    seen = {
        topic: connect_view(held)
        for topic, held in records({**recommended, "provide.transaction.metadata": "true"}).items()
    }
    ours, theirs = map(by_key, seen.values())
    assert ours == theirs
    assert sum(map(len, ours.values())) == RECORDS
    our_shape, their_shape = (shape(seen[topic], topic) for topic in seen)
    assert our_shape["source"][:-2] == their_shape["source"]
    assert [field["field"] for field in our_shape["source"][-2:]] == ["commit_lsn", "epoch"]
    for part in ("key", "before", "after", "transaction", "envelope"):
        assert our_shape[part] == their_shape[part], part


def by_key(records: list[tuple[Any, Any]]) -> dict[int, list[Any]]:
    """What the events of each key say, in order: op and rows, or None for a tombstone."""
    events = defaultdict(list)
    for key, value in records:
        payload = value and value["payload"]
        said = payload and (payload["op"], row(payload["before"]), row(payload["after"]))
        events[key["payload"]["id"]].append(said)
    return dict(events)


def row(payload: dict[str, Any] | None) -> dict[str, Any] | None:
    return payload and {**payload, "an_interval": INTERVALS.get(payload["an_interval"], payload["an_interval"])}


def shape(records: list[tuple[Any, Any]], topic: str) -> dict[str, Any]:
    """Connect's schemas of the key, the envelope and its parts, less the parameters that tell of the source's type."""
    key, value = next((key["schema"], value["schema"]) for key, value in records if value is not None)
    parts = {field["field"]: field for field in value["fields"]}
    envelope = [{**field, "fields": None} for field in parts.values()] + [{**value, "fields": None}]
    return {
        "key": plain(key, topic),
        "envelope": [plain(part, topic) for part in envelope],
        **{name: plain(parts[name], topic)["fields"] for name in ("before", "after", "source", "transaction")},
    }


def plain(schema: dict[str, Any], topic: str) -> dict[str, Any]:
    said = {name: said for name, said in schema.items() if name not in {"parameters", "doc"}}
    if said.get("fields"):
        said["fields"] = [plain(field, topic) for field in said["fields"]]
    return {**said, "name": said["name"].replace(topic, "")} if "name" in said else said


def execute(url: str, *statements: str) -> None:
    """Each in a transaction of its own."""
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)
