"""What the demo and the tests compare tables with, looked at before and after a target has the table."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import psycopg2

from cdc.demo.compare import differences, postgres_table, sqlite_table


def test_target_not_made_yet_has_no_rows(tmp_path: Path, new_database: Callable[..., str]) -> None:
    """An applier killed before its first load leaves no file, or one without the table: its rows are missing."""
    source = new_database()
    with closing(psycopg2.connect(source)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE items (id int PRIMARY KEY, sold bool); INSERT INTO items VALUES (1, true)")
    lite = tmp_path / "lite.db"
    missing = ["items 1: is missing", "items: 1 row(s) differ of 1"]

    def found() -> list[str]:
        return list(differences("items", postgres_table(source, "items"), sqlite_table(lite, "items", source)))

    assert found() == missing
    with closing(sqlite3.connect(lite)) as target, target:
        target.execute("CREATE TABLE checkpoints (id integer)")
    assert found() == missing
    with closing(sqlite3.connect(lite)) as target, target:
        target.execute("CREATE TABLE items (id integer PRIMARY KEY, sold integer)")
        target.execute("INSERT INTO items VALUES (1, 1)")
    assert found() == []


def test_texts_with_what_ends_a_line_elsewhere_are_compared_whole(
    tmp_path: Path, new_database: Callable[..., str]
) -> None:
    text = "a\u2028b\u0085c\x1cd\x1de\x1ef\be\fg\vh\ti\nj\rk\\l"
    source = new_database()
    with closing(psycopg2.connect(source)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE items (id int PRIMARY KEY, note text)")
        cursor.execute("INSERT INTO items VALUES (1, %s), (2, '')", (text,))
    with closing(sqlite3.connect(tmp_path / "lite.db")) as target, target:
        target.execute("CREATE TABLE items (id integer PRIMARY KEY, note text)")
        target.execute("INSERT INTO items VALUES (1, ?), (2, '')", (text,))
    rows = postgres_table(source, "items")
    assert len(rows) == 2
    assert sqlite_table(tmp_path / "lite.db", "items", source) == rows
