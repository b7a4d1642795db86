"""A source with a PostgreSQL, a SQLite and other targets, whose tables are compared as they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest
from replica import Replica
from target_databases import REFUSED, Flat

from cdc.core.log import Log
from cdc.core.settings import LogSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind

KINDS = {
    "boolean": Kind.BOOLEAN,
    "real": Kind.FLOAT32,
    "double precision": Kind.FLOAT64,
    "timestamp without time zone": Kind.TIMESTAMP,
    "timestamp with time zone": Kind.TIMESTAMPTZ,
    "bytea": Kind.BYTES,
}


class Pair:
    """A source, a PostgreSQL and a SQLite target of it, `flat` ones, and a connection to write with."""

    def __init__(
        self,
        source: str,
        target: str,
        folder: Path,
        name: str,
        *,
        log: Log | None = None,
        log_settings: LogSettings | None = None,
        registry: str | None = None,
        flat: Sequence[Flat] = (),
        **options: object,
    ) -> None:
        self.source, self.target, self.lite = source, target, folder / "replica.db"
        self.flat = flat
        targets = {"pg": target, "lite": f"sqlite:///{self.lite}"} | {each.name: each.url for each in flat}
        self.replica = Replica(
            source,
            targets,
            name=name,
            log=log,
            log_settings=log_settings,
            options=dict.fromkeys(targets, options),
            registry=registry,
        )
        self.writer = psycopg.connect(source, autocommit=True)

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.writer.execute(statement)

    def in_one(self, *statements: str) -> None:
        with self.writer.transaction():
            self.run(*statements)

    def assert_equal(self, *tables: str) -> None:
        self.replica.catch_up()
        for table in tables:
            expected = columns(self.source, table)
            found = columns(self.target, table)
            if not any(is_key for *_, is_key in expected):  # then the target's key is what rows are told apart by
                expected, found = [each[:3] for each in expected], [each[:3] for each in found]
            assert found == expected
            assert rows(self.target, table) == rows(self.source, table)
            names = [name for name, *_ in columns(self.source, table)]
            assert self.lite_rows(table, names) == rows(self.source, table)
            for each in self.flat:
                assert flat_rows(each, self.source, table) == rows(self.source, table), each.name

    def assert_gone(self, table: str) -> None:
        self.replica.catch_up()
        assert columns(self.target, table) == []
        with sqlite3.connect(self.lite) as lite:
            assert lite.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchall() == []
        for each in self.flat:
            with pytest.raises(REFUSED):
                each.execute(f"SELECT 1 FROM {table}")

    def lite_rows(self, table: str, names: list[str]) -> list[tuple[str | None, ...]]:
        listed = ", ".join(f'"{name}"' for name in names)
        with sqlite3.connect(self.lite) as lite:
            present = [name for (name,) in lite.execute("SELECT name FROM pragma_table_info(?)", [table])]
            assert sorted(present) == sorted(names)
            found = lite.execute(f'SELECT {listed} FROM "{table}"').fetchall()
        return sorted((tuple(None if value is None else str(value) for value in row) for row in found), key=repr)


def flat_rows(database: Flat, source: str, table: str) -> list[tuple[str | None, ...]]:
    """As PostgreSQL's text; all columns, under the source's names."""
    described = tuple(
        Column(name=name, type=ColumnType(kind=KINDS.get(type_, Kind.STRING), name=type_))
        for name, type_, *_ in columns(source, table)
    )
    schema = TableSchema(id=TableId("public", table), columns=described, key=())
    (width,) = {len(row) for row in database.execute(f"SELECT * FROM {database.table(schema.id)}")} or {len(described)}
    assert width == len(described)
    found = [tuple(None if value is None else value.decode() for value in row) for row in database.rows(schema)]
    return sorted(found, key=repr)


def columns(url: str, table: str) -> list[tuple[str, str, bool, bool]]:
    """Name, type, NOT NULL and whether in the primary key; in alphabetical order: a target's may differ."""
    with psycopg.connect(url) as connection:
        found = connection.execute(
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,"
            " coalesce(a.attnum = ANY (i.indkey), false)"
            " FROM pg_attribute a LEFT JOIN pg_index i ON i.indrelid = a.attrelid AND i.indisprimary"
            " WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY 1",
            [f'"{table}"'],
        )
        return found.fetchall()  # type: ignore[return-value]


def rows(url: str, table: str) -> list[tuple[str | None, ...]]:
    names = [name for name, *_ in columns(url, table)]
    with psycopg.connect(url, options="-c TimeZone=UTC -c IntervalStyle=iso_8601") as connection:
        listed = ", ".join(f'"{name}"::text' for name in names)
        found = connection.execute(f'SELECT {listed} FROM "{table}"'.encode()).fetchall()
    return sorted(found, key=repr)
