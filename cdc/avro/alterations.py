"""The tables topic: what became of each table, in JSON.

It has one partition, and is kept for ever: it is compacted, and each record has a key of its own. It is the source's
history of its tables, and what appliers follow. Versions are whole Avro schemas, so that nothing else is needed to read
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from cdc.avro.kinds.numbers import MONEY
from cdc.avro.names import tables_topic
from cdc.avro.schemas import envelope_schema
from cdc.avro.tables import table_schema_from
from cdc.core.errors import ProtocolViolationError
from cdc.core.events import Alter, ChangeEvent, Drop, TableChange, Transaction
from cdc.core.log import Record
from cdc.core.position import Position
from cdc.core.tables import TableId, TableSchema
from cdc.core.types import ColumnType, Kind


class Alteration(NamedTuple):
    """A record of the topic: an event whose change is an Alter or a Drop, the table's topic, and the one that it had
    before, if there was one (it may be the same).
    """

    event: ChangeEvent
    topic: str
    topic_before: str | None
    note: str

    @property
    def topics(self) -> frozenset[str]:
        return frozenset({self.topic, self.topic_before or self.topic})


def alteration_record(event: ChangeEvent, *, prefix: str, topic_of: Callable[[TableId], str]) -> Record:
    transaction, change = event.transaction, event.change
    value: dict[str, Any] = {
        "position": str(event.position),
        "xid": transaction.xid,
        "commit_time_us": transaction.commit_time_us,
        "database": transaction.database,
        "captured_us": event.captured_us,
        "table": _version(event.table, topic_of),
    }
    match change:
        case Alter(before=before, fills=fills, note=note):
            value |= {
                "change": "alter",
                "before": None if before is None else _version(before, topic_of),
                "fills": {column: text.decode() for column, text in fills.items()},
                "note": json.loads(note),
            }
        case Drop(note=note):
            value |= {"change": "drop", "note": json.loads(note)}
        case _:
            raise AssertionError("a change of a row is not the table's")
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return Record(tables_topic(prefix), 0, str(event.position).encode(), text.encode())


def read_alteration(value: bytes) -> Alteration:
    """What `alteration_record` wrote. ProtocolViolationError for anything else."""
    try:
        said = json.loads(value)
        position = Position.parse(said["position"])
        table, topic = _table(said["table"])
        before = said.get("before")
        change: TableChange
        topic_before = None
        note = json.dumps(said["note"], separators=(",", ":"))
        if said["change"] == "drop":
            change = Drop(note=note)
        else:
            old = None if before is None else _table(before)
            types = {column.name: column.type for column in table.columns}
            fills = {column: _as_in_events(text.encode(), types[column]) for column, text in said["fills"].items()}
            change = Alter(before=None if old is None else old[0], fills=fills, note=note)
            topic_before = None if old is None else old[1]
        transaction = Transaction(
            epoch=position.epoch,
            commit_lsn=position.commit_lsn,
            xid=said["xid"],
            commit_time_us=said["commit_time_us"],
            database=said["database"],
        )
        event = ChangeEvent(
            transaction=transaction,
            table=table,
            change=change,
            ordinal=position.ordinal,
            table_ordinal=0,
            captured_us=said["captured_us"],
        )
        return Alteration(event, topic, topic_before, note)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ProtocolViolationError(f"a damaged record of the tables topic ({error})") from None


def _as_in_events(text: bytes, of: ColumnType) -> bytes:
    """The source's catalog says `$1,234.50` of money, as rows do that come by COPY; a value has one text here."""
    return MONEY.decode(MONEY.encode(text)) if of.kind is Kind.MONEY else text


def _version(table: TableSchema, topic_of: Callable[[TableId], str]) -> dict[str, Any]:
    topic = topic_of(table.id)
    return {"topic": topic, "schema": json.loads(envelope_schema(table, topic))}


def _table(said: dict[str, Any]) -> tuple[TableSchema, str]:
    return table_schema_from(json.dumps(said["schema"])), said["topic"]
