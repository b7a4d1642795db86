"""One source, a local log, a PostgreSQL and a SQLite target, in one process: what tests of row shapes share."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Final

import psycopg
import pytest
from psycopg import sql

from cdc.avro.messages import decode_message
from cdc.avro.names import schemas_topic
from cdc.avro.transactions import TransactionBegin, TransactionEnd, decode_boundary
from cdc.core.events import LogicalMessage
from cdc.core.log import StoredRecord
from cdc.core.settings import LogSettings
from cdc.core.tables import TableId
from cdc.log.open import open_log
from cdc.log.reading import read_to_end
from cdc.registry.embedded import EmbeddedRegistry
from consumers.targets.naming import flat_name
from tests.replica import Replica

Databases = Callable[..., str]
Texts = tuple[str | None, ...]

MARKER: Final = "replica"  # the prefix of the messages that Replica writes
TARGETS: Final = ("postgres", "sqlite")
VERSIONS = pytest.mark.parametrize("version", [15, 16, 18])


class Replication(Replica):
    """A source, a local log and two targets. Tables are named as they are stored: `items` is public.items."""

    def __init__(self, folder: Path, source: str, target: str, name: str) -> None:
        self.replica = folder / "replica.db"
        self.log_settings = LogSettings(url=f"sqlite:///{folder / 'log.db'}", prefix=name, partitions=3)
        self.source = psycopg.connect(source, autocommit=True)
        self.target = psycopg.connect(target, autocommit=True)
        super().__init__(
            source,
            {"postgres": target, "sqlite": f"sqlite:///{self.replica}"},
            name=name,
            log=open_log(self.log_settings),
            log_settings=self.log_settings,
        )

    def capturing(self, *tables: str) -> None:
        """Capture these tables only."""
        self.close()
        self._source_settings = replace(self._source_settings, tables=tables)

    def naming_topics(self, topics: dict[str, str]) -> None:
        """Give the tables of these patterns these topics."""
        self.close()
        self._log_settings = replace(self._log_settings, topics=topics)

    def applying(self, target: str, *tables: str, batch_events: int = 10_000) -> None:
        """Apply these tables only to this target."""
        self.close()
        self._targets[target] = replace(self._targets[target], tables=tables or ("*.*",), batch_events=batch_events)

    def publish(self, what: str) -> None:
        """Make the publication as a user would, with all its wishes."""
        self.execute(f"CREATE PUBLICATION {self._source_settings.publication} {what}")

    def execute(self, *statements: str) -> None:
        for statement in statements:
            self.source.execute(statement)

    def transaction(self, *statements: str) -> None:
        with self.source.transaction():
            self.execute(*statements)

    def synchronize(self, *tables: str | TableId) -> None:
        """Bring all that is committed to the targets, and compare these tables."""
        self.catch_up()
        for table in tables:
            self.require_equal(table)

    def records(self, topic: str) -> list[StoredRecord]:
        """All that a topic of one partition holds."""
        with closing(self.log.reader("test")) as reader:
            return list(read_to_end(reader, f"{self.log_settings.prefix}.{topic}"))

    def message(self, record: StoredRecord) -> LogicalMessage:
        assert record.value is not None
        return decode_message(record.value, self._schema)

    def boundary(self, record: StoredRecord) -> TransactionBegin | TransactionEnd:
        assert record.value is not None
        return decode_boundary(record.value, self._schema)

    def _schema(self, schema_id: int) -> str:
        with closing(EmbeddedRegistry(self.log, None, schemas_topic(self.log_settings.prefix))) as registry:
            return registry.schema(schema_id)

    def require_equal(self, table: str | TableId) -> None:
        table = TableId("public", table) if isinstance(table, str) else table
        columns, expected = self.at_source(table)
        for name in self._targets:
            if self._takes(name, table):
                found_columns, found = self.at_target(name, table)
                assert found_columns == columns
                assert found == expected, f"{table} at {name}"

    def _takes(self, target: str, table: TableId) -> bool:
        return f"!{table.schema}.{table.name}" not in self._targets[target].tables

    def at_source(self, table: TableId) -> tuple[list[str], list[Texts]]:
        return _texts(self.source, table)

    def at_target(self, name: str, table: TableId) -> tuple[list[str], list[Texts]]:
        """Columns by name, and rows, as text."""
        if name == "postgres":
            return _texts(self.target, table)
        with closing(sqlite3.connect(self.replica)) as replica:
            cursor = replica.execute(f'SELECT * FROM "{flat_name(table).replace(chr(34), chr(34) * 2)}"')
            names = [column[0] for column in cursor.description]
            places = sorted(range(len(names)), key=names.__getitem__)
            rows = [tuple(None if row[i] is None else str(row[i]) for i in places) for row in cursor]
            return sorted(names), _sorted(rows)


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


def quoted(*names: str) -> str:
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def _sorted(rows: Sequence[Texts]) -> list[Texts]:
    return sorted(rows, key=lambda row: [(value is None, value or "") for value in row])
