"""Names of topics, subjects, Avro records and Avro fields.

Kafka allows `[a-zA-Z0-9._-]` and 249 characters in a topic's name, Avro `[A-Za-z_][A-Za-z0-9_]*` in each part of a
record's and in a field's. Every other character becomes `_`, as Debezium does it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from cdc.core.errors import ConfigError, FidelityError
from cdc.core.tables import Column, TableId

_LONGEST_TOPIC: Final = 249
_NOT_FOR_TOPICS: Final = re.compile(r"[^a-zA-Z0-9._-]")
_NOT_FOR_AVRO: Final = re.compile(r"[^A-Za-z0-9_]")


def topic_name(prefix: str, table: TableId) -> str:
    """`<prefix>.<schema>.<table>`. ConfigError if it is too long for Kafka."""
    return _topic(f"{prefix}.{table.schema}.{table.name}")


def transaction_topic(prefix: str) -> str:
    return _topic(f"{prefix}.transaction")


def message_topic(prefix: str) -> str:
    return _topic(f"{prefix}.message")


def state_topic(prefix: str) -> str:
    return _topic(f"{prefix}-cdc-state")


def tables_topic(prefix: str) -> str:
    return _topic(f"{prefix}-cdc-tables")


def schemas_topic(prefix: str) -> str:
    return _topic(f"{prefix}-cdc-schemas")


def _topic(name: str) -> str:
    topic = _NOT_FOR_TOPICS.sub("_", name)
    if len(topic) > _LONGEST_TOPIC:
        raise ConfigError(
            f"the topic name {topic} has {len(topic)} characters; Kafka takes {_LONGEST_TOPIC}",
            mend="Choose a shorter [log] prefix, or leave the table out of [source] tables.",
        )
    return topic


def key_subject(topic: str) -> str:
    return f"{topic}-key"


def value_subject(topic: str) -> str:
    return f"{topic}-value"


def avro_namespace(topic: str) -> str:
    """The namespace of a topic's records: each part between dots made a legal Avro name."""
    return ".".join(map(avro_name, topic.split(".")))


def avro_name(name: str) -> str:
    legal = _NOT_FOR_AVRO.sub("_", name)
    return legal if legal and not legal[0].isdigit() else f"_{legal}"


def field_names(table: TableId, columns: Sequence[Column]) -> tuple[str, ...]:
    """The Avro field name of each column. FidelityError if two come out equal."""
    owners: dict[str, str] = {}
    for column in columns:
        name = avro_name(column.name)
        if name in owners:
            raise FidelityError(
                f'{table}: the columns "{owners[name]}" and "{column.name}" would both be the Avro field {name}',
                mend="Rename one of the columns, or leave the table out of [source] tables.",
            )
        owners[name] = column.name
    return tuple(owners)


def require_distinct_topics(topics: Mapping[TableId, str]) -> None:
    """ConfigError if two tables' topics, or the Avro names made of them, are equal: they must not share one."""
    owners: dict[str, TableId] = {}
    for table, topic in topics.items():
        # Avro names are topic names with more characters replaced: equal topics have equal namespaces.
        other = owners.setdefault(avro_namespace(topic), table)
        if other != table:
            raise ConfigError(
                f'the tables "{other.schema}"."{other.name}" and "{table.schema}"."{table.name}" '
                f"would share the topic or Avro name {avro_namespace(topic)}",
                mend="Rename one of them at the source, or leave one out of [source] tables.",
            )
