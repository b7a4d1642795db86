"""Names of topics, subjects, Avro records and Avro fields.

Kafka allows `[a-zA-Z0-9._-]` and 249 characters in a topic's name, Avro `[A-Za-z_][A-Za-z0-9_]*` in each part of a
record's and in a field's. Every other character becomes `_`, as Debezium does it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final

from cdc.core.errors import ConfigError
from cdc.core.tables import Column, TableId

_LONGEST_TOPIC: Final = 249
_DEAD_LETTERS: Final = "dlq"
_NOT_FOR_TOPICS: Final = re.compile(r"[^a-zA-Z0-9._-]")
_NOT_FOR_AVRO: Final = re.compile(r"[^A-Za-z0-9_]")


def topic_name(prefix: str, table: TableId, given: str | None = None) -> str:
    """`<prefix>.<schema>.<table>`, or `<prefix>.<given>`. ConfigError if it is too long for Kafka."""
    return _topic(f"{prefix}.{given or f'{table.schema}.{table.name}'}")


def transaction_topic(prefix: str) -> str:
    return _topic(f"{prefix}.transaction")


def message_topic(prefix: str) -> str:
    return _topic(f"{prefix}.message")


def dead_letter_topic(prefix: str, target: str) -> str:
    return _topic(f"{prefix}.{_DEAD_LETTERS}.{target}")


def is_dead_letter_topic(prefix: str, topic: str) -> bool:
    """Whether it is one, or that of a table of a schema that is called so."""
    return topic.startswith(f"{prefix}.{_DEAD_LETTERS}.")


def state_topic(prefix: str) -> str:
    return _topic(f"{prefix}-cdc-state")


def tables_topic(prefix: str) -> str:
    return _topic(f"{prefix}-cdc-tables")


def consumer_topic(prefix: str, consumer: str) -> str:
    """Where a user's consumer keeps its checkpoint."""
    return _topic(f"{prefix}-cdc-consumer-{consumer}")


def schemas_topic(prefix: str) -> str:
    return _topic(f"{prefix}-cdc-schemas")


def _topic(name: str) -> str:
    topic = _NOT_FOR_TOPICS.sub("_", name)
    if len(topic) > _LONGEST_TOPIC:
        raise ConfigError(
            f"the topic name {topic} has {len(topic)} characters; Kafka takes {_LONGEST_TOPIC}",
            mend="choose a shorter [log] prefix, or a shorter name in [log.topics]",
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


def field_names(columns: Sequence[Column]) -> tuple[str, ...]:
    """The Avro field name of each column. Of those that come out equal, one that is the column's own name stays, and
    the others get a number: `a_b`, `a_b_2` for `a_b`, `a b`.
    """
    taken = {column.name for column in columns if avro_name(column.name) == column.name}
    names: list[str] = []
    for column in columns:
        name = avro_name(column.name)
        if name != column.name:
            name = next(free for free in _numbered(name) if free not in taken)
            taken.add(name)
        names.append(name)
    return tuple(names)


def _numbered(name: str) -> Iterator[str]:
    yield name
    yield from (f"{name}_{number}" for number in count(2))


def claim_topic(owners: dict[str, TableId], table: TableId, topic: str) -> None:
    """Add the table's topic to `owners`. ConfigError if another table has it, or the Avro names made of it."""
    # Avro names are topic names with more characters replaced: equal topics have equal namespaces.
    name = avro_namespace(topic)
    other = owners.setdefault(name, table)
    if other != table:
        raise ConfigError(
            f"the tables {other.quoted} and {table.quoted} would share the topic or Avro name {name}",
            mend=f"give one of them a topic of its own: [log.topics] '{table.quoted}' = \"schema.another_name\"",
        )
