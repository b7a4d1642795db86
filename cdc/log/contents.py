"""What the log holds, as its writer tells: capture in its state topic, a Debezium connector by its topics' names."""

from __future__ import annotations

from collections.abc import Mapping

from cdc.avro.names import is_dead_letter_topic, state_topic
from cdc.core.log import LogReader
from cdc.core.settings import LogSettings
from cdc.core.state import LogState, TableState, read_state
from cdc.core.tables import TableId
from cdc.log.reading import read_to_end


def log_state(reader: LogReader, settings: LogSettings) -> LogState:
    """The state now; an empty one if nothing was written yet. Nothing else may be assigned to `reader`."""
    topics = reader.topics()
    if settings.written_by == "debezium":
        return connector_state(settings.prefix, topics)
    topic = state_topic(settings.prefix)
    return read_state(read_to_end(reader, topic)) if topic in topics else LogState()


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
