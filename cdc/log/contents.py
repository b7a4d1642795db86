"""What the log holds, as its writer tells: capture in its state topic, a Debezium connector by its topics' names."""

from __future__ import annotations

from collections.abc import Mapping

from cdc.avro.alterations import read_alteration
from cdc.avro.names import is_dead_letter_topic, state_topic, tables_topic
from cdc.core.events import Alter
from cdc.core.log import LogReader
from cdc.core.settings import LogSettings
from cdc.core.state import LogState, TableState, read_state
from cdc.core.tables import TableId, TableSchema
from cdc.log.reading import read_to_end


def log_state(reader: LogReader, settings: LogSettings) -> LogState:
    """The state now; an empty one if nothing was written yet. Nothing else may be assigned to `reader`."""
    topics = reader.topics()
    if settings.written_by == "debezium":
        return connector_state(settings.prefix, topics)
    topic = state_topic(settings.prefix)
    return read_state(read_to_end(reader, topic)) if topic in topics else LogState()


def table_versions(reader: LogReader, prefix: str) -> list[TableSchema]:
    """The tables that cdc captured, as they are at the end of the log. Nothing else may be assigned to `reader`."""
    topic = tables_topic(prefix)
    found: dict[TableId, TableSchema] = {}
    for record in read_to_end(reader, topic) if topic in reader.topics() else ():
        if record.value is not None:
            event = read_alteration(record.value).event
            if isinstance(event.change, Alter):
                if event.change.before is not None:
                    found.pop(event.change.before.id, None)
                found[event.table.id] = event.table
            else:
                found.pop(event.table.id, None)
    return list(found.values())


def connector_state(prefix: str, topics: Mapping[str, int]) -> LogState:
    """The state of a log to which a connector with this `topic.prefix` writes, by its topics and their numbers of
    partitions: a table's is `<prefix>.<schema>.<table>`. The others (`<prefix>.transaction`) have fewer parts, or are
    our dead letters.
    """
    tables: dict[str, TableState] = {}
    for topic, partitions in topics.items():
        if topic.startswith(f"{prefix}.") and not is_dead_letter_topic(prefix, topic):
            schema, _, name = topic.removeprefix(f"{prefix}.").partition(".")
            if schema and name:
                tables[topic] = TableState(table=TableId(schema, name), topic=topic, partitions=partitions)
    return LogState(log_id=f"debezium:{prefix}" if tables else None, tables=tables)
