"""A source with a PostgreSQL and a SQLite target, whose tables are compared as they are."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import psycopg
from replica import Replica

from cdc.core.log import Log
from cdc.core.settings import LogSettings


class Pair:
    """A source, a PostgreSQL and a SQLite target of it, and a connection to write with."""

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
        **options: object,
    ) -> None:
        self.source, self.target, self.lite = source, target, folder / "replica.db"
        targets = {"pg": target, "lite": f"sqlite:///{self.lite}"}
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

    def assert_gone(self, table: str) -> None:
        self.replica.catch_up()
        assert columns(self.target, table) == []
        with sqlite3.connect(self.lite) as lite:
            assert lite.execute("SELECT 1 FROM sqlite_master WHERE name = ?", [table]).fetchall() == []

    def lite_rows(self, table: str, names: list[str]) -> list[tuple[str | None, ...]]:
        listed = ", ".join(f'"{name}"' for name in names)
        with sqlite3.connect(self.lite) as lite:
            present = [name for (name,) in lite.execute("SELECT name FROM pragma_table_info(?)", [table])]
            assert sorted(present) == sorted(names)
            found = lite.execute(f'SELECT {listed} FROM "{table}"').fetchall()
        return sorted((tuple(None if value is None else str(value) for value in row) for row in found), key=repr)


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
