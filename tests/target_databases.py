"""Targets' databases, looked at from outside."""

from __future__ import annotations

import io
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg2
import pymysql
import sqlalchemy

from cdc.core.copy_text import parse_copy_line
from cdc.core.errors import AlreadyRunningError
from cdc.core.events import Row
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId, TableSchema
from cdc.core.types import Kind
from consumers.targets.open import open_target
from consumers.targets.target import Target

MYSQL_MODE = "STRICT_ALL_TABLES,NO_BACKSLASH_ESCAPES"
REFUSED = (sqlite3.Error, psycopg2.Error, pymysql.MySQLError, sqlalchemy.exc.DBAPIError)


class Database:
    """One of PostgreSQL. `text` and `key` declare columns for texts, `narrow` one that rounds numeric(10,2);
    `exclamation` is what column `a` is with an exclamation mark.
    """

    name = "postgresql"
    text = key = "text"
    narrow = "numeric(10,1)"
    exclamation = "a || '!'"

    def __init__(self, url: str) -> None:
        self.url = url

    def target(self, name: str = "copy", **settings: Any) -> Target:
        return open_target(TargetSettings(name=name, url=self.url, **settings))

    @contextmanager
    def opened(self, name: str = "copy", **settings: Any) -> Iterator[Target]:
        target = self.target(name, **settings)
        try:
            target.open()
            yield target
        finally:
            target.close()

    @contextmanager
    def reopened(self) -> Iterator[Target]:
        """Opened as soon as the server has noticed that the one before is dead."""
        for _ in range(200):
            try:
                with self.opened() as target:
                    yield target
                    return
            except AlreadyRunningError:
                time.sleep(0.02)
        raise AssertionError("the dead applier's lock is still held")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def rows(self, table: TableSchema) -> list[Row]:
        """All rows in canonical text, sorted."""
        columns = ", ".join(self.quoted(column.name) for column in table.columns)
        return sorted(self.selected(f"SELECT {columns} FROM {self.table(table.id)}", table), key=repr)

    def selected(self, query: str, table: TableSchema) -> list[Row]:
        settings = "-c IntervalStyle=iso_8601 -c TimeZone=UTC -c lc_monetary=C"
        with closing(psycopg2.connect(self.url, options=settings)) as connection, connection.cursor() as cursor:
            out = io.BytesIO()
            cursor.copy_expert(f"COPY ({query}) TO STDOUT", out)
            return [parse_copy_line(line + b"\n") for line in out.getvalue().split(b"\n")[:-1]]

    def quoted(self, name: str) -> str:
        return '"' + name.replace('"', '""') + '"'

    def table(self, table: TableId) -> str:
        return ".".join(map(self.quoted, table))

    def holds(self, kind: Kind, value: bytes) -> bool:
        return True


class ByRole(Database):
    """One of PostgreSQL, as `role` comes to it."""

    def __init__(self, url: str, role: str) -> None:
        super().__init__(url)
        self.role = role


class Flat(Database):
    """One without schemas."""

    def table(self, table: TableId) -> str:
        return self.quoted(table.name if table.schema == "public" else f"{table.schema}.{table.name}")

    def selected(self, query: str, table: TableSchema) -> list[Row]:
        return [
            tuple(
                None if value is None else self.canonical(column.type.kind, value)
                for column, value in zip(table.columns, row, strict=True)
            )
            for row in self.execute(query)
        ]

    def canonical(self, kind: Kind, value: Any) -> bytes:
        match value:
            case bytes() if kind is Kind.BYTES:
                return rb"\x" + value.hex().encode()
            case bytes():
                return value
            case int() if kind is Kind.BOOLEAN:
                return b"t" if value else b"f"
            case float():
                return {"inf": b"Infinity", "-inf": b"-Infinity", "nan": b"NaN"}.get(repr(value), repr(value).encode())
            case _:
                return str(value).encode()


class Sqlite(Flat):
    name = "sqlite"
    narrow = "numeric"

    def __init__(self, directory: Path) -> None:
        super().__init__(f"sqlite:///{directory / 'target.db'}")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection, connection:
            return connection.execute(sql).fetchall()


class MariaDB(Flat):
    name = "mariadb"
    text = "longtext character set utf8mb4 collate utf8mb4_nopad_bin"
    key = "varchar(100) character set utf8mb4 collate utf8mb4_nopad_bin"
    narrow = "decimal(10,1)"
    exclamation = "concat(a, '!')"

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        return self._execute(sql, conv={})  # texts, but for what is binary

    def values(self, sql: str) -> list[tuple[Any, ...]]:
        """Rows as Python's values."""
        return self._execute(sql)

    def _execute(self, sql: str, **options: Any) -> list[tuple[Any, ...]]:
        with self.connected(**options) as cursor:
            cursor.execute(sql)
            return list(cursor.fetchall())

    @contextmanager
    def connected(self, **options: Any) -> Iterator[Any]:
        """A cursor of a session that lasts."""
        parts = sqlalchemy.make_url(self.url)
        with (
            closing(
                pymysql.connect(
                    host=parts.host,
                    port=parts.port or 3306,
                    user=parts.username,
                    password=parts.password or "",
                    database=parts.database,
                    autocommit=True,
                    ssl_disabled=True,
                    charset="utf8mb4",
                    init_command=f"SET sql_mode = '{MYSQL_MODE}'",
                    **options,
                )
            ) as connection,
            connection.cursor() as cursor,
        ):
            yield cursor

    def quoted(self, name: str) -> str:
        return "`" + name.replace("`", "``") + "`"

    def canonical(self, kind: Kind, value: Any) -> bytes:
        match kind:
            case Kind.BOOLEAN:
                return super().canonical(kind, int(value))
            case Kind.FLOAT32 | Kind.FLOAT64:
                return super().canonical(kind, float(value))
            case Kind.TIME | Kind.TIMESTAMP:
                return re.sub(r"\.?0+$", "", value).encode() if "." in value else value.encode()
            case Kind.TIMESTAMPTZ:
                return self.canonical(Kind.TIMESTAMP, value) + b"+00"
            case _:
                return super().canonical(kind, value)

    def holds(self, kind: Kind, value: bytes) -> bool:
        if kind in {Kind.FLOAT32, Kind.FLOAT64}:
            return value not in {b"NaN", b"-0", b"Infinity", b"-Infinity"}
        if kind is Kind.DECIMAL:
            return value != b"NaN"
        if kind in {Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ}:
            return value[4:5] == b"-" and not value.endswith(b"BC")
        return True


class DuckDB(Flat):
    """By way of the generic target, which writes to tables of its own only."""

    name = "duckdb"

    def __init__(self, directory: Path) -> None:
        super().__init__(f"duckdb:///{directory / 'target.duckdb'}")

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        engine = sqlalchemy.create_engine(self.url, poolclass=sqlalchemy.pool.NullPool)
        with engine.begin() as connection:
            found = connection.exec_driver_sql(sql)
            return [tuple(row) for row in found.fetchall()] if found.returns_rows else []

    def canonical(self, kind: Kind, value: Any) -> bytes:
        if kind is Kind.TIMESTAMPTZ:
            return super().canonical(kind, value).removesuffix(b"000") + b"+00"
        text = super().canonical(kind, value)
        return text.removesuffix(b"000") if kind is Kind.TIMESTAMP else text

    def holds(self, kind: Kind, value: bytes) -> bool:
        if kind is Kind.DECIMAL:
            return value != b"NaN"
        if kind in {Kind.DATE, Kind.TIMESTAMP, Kind.TIMESTAMPTZ}:
            return value[4:5] == b"-" and not value.endswith(b"BC")
        return True
