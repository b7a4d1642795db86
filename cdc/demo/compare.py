"""Row by row: does a target hold what the source holds? By plain SQL, with no code that the replication uses."""

from __future__ import annotations

import io
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg2

_SHOWN: Final = 5
# https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.3.55.9.2
_ESCAPED: Final = str.maketrans(
    {"\\": r"\\", "\b": r"\b", "\f": r"\f", "\n": r"\n", "\r": r"\r", "\t": r"\t", "\v": r"\v"}
)

Rows = Mapping[tuple[str, ...], tuple[str, ...]]
"""A table's rows as text, by key."""


def postgres_table(url: str, table: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The rows of a table of schema public, as COPY spells them."""
    connection = psycopg2.connect(url, options="-c TimeZone=UTC -c DateStyle=ISO")
    try:
        with connection, connection.cursor() as cursor:
            columns, key = _columns(cursor, table)
            buffer = io.StringIO()
            cursor.copy_expert(f'COPY (SELECT {", ".join(columns)} FROM "{table}") TO STDOUT', buffer)
    finally:
        connection.close()
    # Not splitlines: to Python lines end at U+2028 and others too, which COPY leaves as they are.
    rows = (tuple(line.split("\t")) for line in buffer.getvalue().split("\n")[:-1])
    return {tuple(row[at] for at in key): row for row in rows}


def sqlite_table(path: Path, table: str, like_url: str) -> dict[tuple[str, ...], tuple[str, ...]]:
    """The rows of the same table in SQLite, spelled as PostgreSQL would; none before the file or the table is made."""
    source = psycopg2.connect(like_url)
    try:
        with source, source.cursor() as cursor:
            columns, key = _columns(cursor, table)
            booleans = _boolean_columns(cursor, table)
    finally:
        source.close()
    if not path.exists():
        return {}
    database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (table,)).fetchone():
            return {}
        found = database.execute(f'SELECT {", ".join(columns)} FROM "{table}"').fetchall()
    finally:
        database.close()
    names = [column.strip('"') for column in columns]
    rows = (tuple(_spelled(value, name in booleans) for value, name in zip(row, names, strict=True)) for row in found)
    return {tuple(row[at] for at in key): row for row in rows}


def differences(table: str, source: Rows, target: Rows) -> Iterator[str]:
    """A line for each of the first few differences, and one that counts them all."""
    missing = source.keys() - target.keys()
    extra = target.keys() - source.keys()
    changed = [key for key in source.keys() & target.keys() if source[key] != target[key]]
    for what, keys in (("is missing", missing), ("should not be there", extra), ("differs", changed)):
        for key in sorted(keys)[:_SHOWN]:
            yield f"{table} {', '.join(key)}: {what}"
    count = len(missing) + len(extra) + len(changed)
    if count:
        yield f"{table}: {count} row(s) differ of {len(source)}"


def _columns(cursor: Any, table: str) -> tuple[list[str], list[int]]:
    cursor.execute(
        "SELECT attname, attnum = ANY (i.indkey) FROM pg_attribute a JOIN pg_index i ON i.indrelid = a.attrelid"
        " WHERE a.attrelid = %s::regclass AND i.indisprimary AND attnum > 0 AND NOT attisdropped ORDER BY attname",
        (f'public."{table}"',),
    )
    rows = cursor.fetchall()
    return [f'"{name}"' for name, _ in rows], [at for at, (_, is_key) in enumerate(rows) if is_key]


def _boolean_columns(cursor: Any, table: str) -> set[str]:
    cursor.execute(
        "SELECT attname FROM pg_attribute WHERE attrelid = %s::regclass AND atttypid = 'boolean'::regtype",
        (f'public."{table}"',),
    )
    return {name for (name,) in cursor.fetchall()}


def _spelled(value: Any, is_boolean: bool) -> str:
    if value is None:
        return r"\N"
    if is_boolean:
        return "t" if value else "f"
    return str(value).translate(_ESCAPED)
