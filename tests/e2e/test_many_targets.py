"""Several targets of one log, each with its own start, names and columns."""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from replica import Replica
from target_databases import DuckDB, MariaDB

from cdc.core.errors import ConfigError, LogGapError
from cdc.core.log import TopicPartition
from cdc.core.position import Position, parse_lsn
from cdc.core.settings import LogSettings
from cdc.log.memory import MemoryLog

KEY = "sixteen letters or more"
LONG = "SECRET" * 2000  # kept out of line, so that an update of another column leaves it UNCHANGED


def lite(path: Path, sql: str) -> list[tuple]:
    with sqlite3.connect(path) as connection:
        return connection.execute(sql).fetchall()


def pg(url: str, sql: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def h(value: object) -> str:
    return hmac.new(KEY.encode(), str(value).encode(), hashlib.sha256).hexdigest()


def test_a_target_that_must_not_know(
    new_database: Callable[[], str], new_mariadb: Callable[[], str], unique_name: str, tmp_path: Path
) -> None:
    """Through inserts, moves, partial updates, tables without key, and changes of shape."""
    source, copy, path = new_database(), new_database(), tmp_path / "copy.db"
    maria, duck = MariaDB(new_mariadb()), DuckDB(tmp_path)
    options = {
        "rename": {"public.*": "crm.*", "public.people": "crm.humans"},
        "exclude_columns": ("public.people.secret", "*.notes.author"),
        "mask": {
            "public.people.ssn": "hash",
            "*.*.email": "hash",
            "public.people.phone": "null",
            "*.people.name": "n. n.",
            "*.notes.text": "x",
        },
        "mask_key": KEY,
    }
    targets = {"pg": copy, "lite": f"sqlite:///{path}", "maria": maria.url, "duck": duck.url}
    with (
        psycopg.connect(source, autocommit=True) as writer,
        Replica(source, targets, name=unique_name, options=dict.fromkeys(targets, options)) as replica,
    ):
        for statement in (
            "CREATE TABLE people (ssn text PRIMARY KEY, age int, secret text, email text, phone int, name text)",
            "ALTER TABLE people ALTER secret SET STORAGE EXTERNAL, ALTER email SET STORAGE EXTERNAL",
            "CREATE TABLE notes (email text, text text, author text)",
            "CREATE TABLE plain (id int PRIMARY KEY, v text); INSERT INTO plain VALUES (1, 'v')",
            "ALTER TABLE notes REPLICA IDENTITY FULL",
            f"INSERT INTO people VALUES ('SECRET-1', 1, '{LONG}', '{LONG}', 666, 'SECRET')",
            f"INSERT INTO people VALUES ('SECRET-2', 2, '{LONG}', '{LONG}', 666, NULL)",
            "INSERT INTO people VALUES ('SECRET-3', 3, 'SECRET', NULL, NULL, 'SECRET')",
            f"INSERT INTO notes VALUES ('{LONG}', 'SECRET', 'SECRET'), ('a', 'SECRET', 'SECRET'), ('a', NULL, 'b')",
        ):
            writer.execute(statement)
        replica.catch_up()
        for statement in (
            "UPDATE people SET age = 20 WHERE age = 2",
            "UPDATE people SET ssn = 'SECRET-4', age = 10 WHERE age = 1",
            "DELETE FROM people WHERE age = 3",
            "UPDATE notes SET text = 'SECRET', author = 'b' WHERE author = 'SECRET' AND email = 'a'",
            "DELETE FROM notes WHERE author = 'SECRET'",
            "ALTER TABLE people ADD backup_email text DEFAULT 'open', ADD note text DEFAULT 'open'",
            "ALTER TABLE plain RENAME TO simple; INSERT INTO simple VALUES (2, 'w')",
            "INSERT INTO people VALUES ('SECRET-5', 5, 'SECRET', 'SECRET', 666, 'SECRET', NULL, NULL)",
        ):
            writer.execute(statement)
        replica.catch_up()

        people = [
            (h("SECRET-2"), 20, h(LONG), None, "n. n.", "open", "open"),
            (h("SECRET-4"), 10, h(LONG), None, "n. n.", "open", "open"),
            (h("SECRET-5"), 5, h("SECRET"), None, "n. n.", None, None),
        ]
        notes = [(h("a"), "x"), (h("a"), "x")]
        assert sorted(pg(copy, "SELECT * FROM crm.humans"), key=lambda row: -row[1]) == people
        assert pg(copy, "SELECT * FROM crm.notes") == notes
        simple = 'SELECT * FROM "crm.simple" ORDER BY 1'
        assert maria.values(simple.replace('"', "`")) == duck.execute(simple) == lite(path, simple)
        assert lite(path, simple) == pg(copy, "SELECT * FROM crm.simple") == [(1, "v"), (2, "w")]
        assert sorted(lite(path, 'SELECT * FROM "crm.humans"'), key=lambda row: -row[1]) == people
        assert lite(path, 'SELECT * FROM "crm.notes"') == notes
        assert sorted(maria.values("SELECT * FROM `crm.humans`"), key=lambda row: -row[1]) == people
        assert maria.values("SELECT * FROM `crm.notes`") == notes
        assert sorted(duck.execute('SELECT * FROM "crm.humans"'), key=lambda row: -row[1]) == people
        assert duck.execute('SELECT * FROM "crm.notes"') == notes
        assert pg(copy, "SELECT 1 FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'cdc%'") == []
        lite(path, "PRAGMA wal_checkpoint(TRUNCATE)")
        assert b"SECRET" not in path.read_bytes()

        # What makes no sense for the tables as they are is refused before anything is read again.
        replica.set_options("lite", exclude_columns=("public.people.ssn",))
        with pytest.raises(ConfigError, match=r"people, column ssn: it is of the key, and left out"):
            replica.apply("lite")
        replica.set_options("lite", exclude_columns=options["exclude_columns"])

        writer.execute("ALTER TABLE people RENAME secret TO diary")
        replica.capture()
        for target in targets:
            with pytest.raises(ConfigError, match=r"people\.secret is left out by exclude_columns, and became"):
                replica.apply(target)
        for target in targets:
            patterns = (*options["exclude_columns"], "public.people.diary")
            replica.set_options(target, exclude_columns=patterns)
        writer.execute("UPDATE people SET diary = 'SECRET', age = 0")
        replica.catch_up()
        assert [each[0] for each in pg(copy, "SELECT age FROM crm.humans")] == [0, 0, 0]


def test_two_tables_of_one_name_are_refused_before_anything_is_applied(
    new_database: Callable[[], str], unique_name: str, tmp_path: Path
) -> None:
    source, path = new_database(), tmp_path / "copy.db"
    options = {"rename": {"*.*": "all.*"}}
    with (
        psycopg.connect(source, autocommit=True) as writer,
        Replica(
            source, {"lite": f"sqlite:///{path}"}, name=unique_name, tables=["*.*"], options={"lite": options}
        ) as replica,
    ):
        writer.execute("CREATE SCHEMA other; CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE other.t (id int)")
        replica.capture()
        with pytest.raises(ConfigError, match=r"tables (public|other)\.t and (other|public)\.t would both be all\.t"):
            replica.apply("lite")
        assert lite(path, "SELECT name FROM sqlite_master WHERE name LIKE '%t' AND name NOT LIKE 'cdc%'") == []


def test_where_targets_begin(new_database: Callable[[], str], unique_name: str, tmp_path: Path) -> None:
    source = new_database()
    paths = {name: tmp_path / f"{name}.db" for name in ("all", "latest", "lsn", "position", "time", "never", "gap")}
    log = MemoryLog()
    with (
        psycopg.connect(source, autocommit=True) as writer,
        Replica(
            source,
            {name: f"sqlite:///{path}" for name, path in paths.items()},
            name=unique_name,
            log=log,
            log_settings=LogSettings(prefix=unique_name, partitions=3),
        ) as replica,
    ):
        writer.execute("CREATE TABLE t (id int PRIMARY KEY, n int, long text)")
        writer.execute("ALTER TABLE t ALTER long SET STORAGE EXTERNAL")
        writer.execute("CREATE TABLE emptied (id int PRIMARY KEY)")
        writer.execute("INSERT INTO t SELECT n, 0, 'x' FROM generate_series(1, 5000) n")
        replica.capture()
        writer.execute("UPDATE t SET long = %s WHERE id IN (1, 2)", [LONG])
        writer.execute("INSERT INTO emptied VALUES (1)")
        writer.execute("TRUNCATE emptied")
        writer.execute("ALTER TABLE t ADD extra int")
        replica.capture()
        (lsn,) = writer.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        (now,) = writer.execute("SELECT clock_timestamp()").fetchone()
        replica.set_options("latest", start="latest")
        replica.apply("latest")
        assert lite(paths["latest"], "SELECT name FROM sqlite_master WHERE name NOT LIKE '%cdc%'") == []

        writer.execute("UPDATE t SET n = 1 WHERE id <= 3")  # two of them only in part
        writer.execute("INSERT INTO t VALUES (9000, 2, 'new', 3)")
        writer.execute("UPDATE t SET id = 9001 WHERE id = 1")  # a part of what is not there moves
        writer.execute("INSERT INTO emptied VALUES (2), (3)")
        replica.capture()
        replica.reopen()  # the checkpoint wins: `latest` is not asked again
        replica.set_options("lsn", start=Position(0, parse_lsn(lsn), 0), consistency="key")
        replica.set_options("position", start=Position(1, parse_lsn(lsn), 7))
        replica.set_options("time", start=now.astimezone(dt.timezone(dt.timedelta(hours=5))))
        replica.set_options("never", start=now + dt.timedelta(days=1))
        for name in paths.keys() - {"gap"}:
            replica.apply(name)

        for name in ("latest", "lsn", "position", "time"):
            assert lite(paths[name], "SELECT id, n, long, extra FROM t ORDER BY id") == [
                (3, 1, "x", None),
                (9000, 2, "new", 3),
            ], name
            assert lite(paths[name], "SELECT id FROM emptied ORDER BY id") == [(2,), (3,)], name
            assert replica.left_out(name) == 3, name  # two updates, and a move
        assert replica.left_out("all") == 0
        assert lite(paths["never"], "SELECT name FROM sqlite_master WHERE name NOT LIKE '%cdc%'") == []
        assert lite(paths["all"], "SELECT count(*), sum(n) FROM t") == [(5001, 5)]

        # What comes later is whole, a new table as well.
        writer.execute("CREATE TABLE later (id int PRIMARY KEY)")
        writer.execute("INSERT INTO later VALUES (1)")
        writer.execute("UPDATE t SET n = 7 WHERE id IN (2, 4)")
        replica.capture()
        for name in paths.keys() - {"gap"}:
            replica.apply(name)
        for name in ("latest", "lsn", "never"):
            assert lite(paths[name], "SELECT * FROM later") == [(1,)], name
            assert (4, 7) in lite(paths[name], "SELECT id, n FROM t"), name

        # What retention took can't be begun with.
        log.trim(TopicPartition(f"{unique_name}.public.t", 1), 1500)
        replica.set_options("gap", start=Position(0, 1, 0))
        with pytest.raises(LogGapError, match="no longer holds"):
            replica.apply("gap")
        replica.set_options("gap", start=Position(0, parse_lsn(lsn), 0))
        replica.apply("gap")
        assert lite(paths["gap"], "SELECT id FROM t ORDER BY id") == [(3,), (4,), (9000,)]


def test_one_slow_and_one_broken_target_hold_none_of_the_others(
    new_database: Callable[[], str], unique_name: str, tmp_path: Path
) -> None:
    source, slow, good, broken = new_database(), new_database(), tmp_path / "good.db", tmp_path / "broken.db"
    urls = {
        "slow": slow,
        "good": f"sqlite:///{good}",
        "broken": f"sqlite:///{broken}",
    }
    lite(broken, "CREATE TABLE t (another text NOT NULL)")
    targets = "".join(f'[targets.{name}]\nurl = "{url}"\n' for name, url in urls.items())
    (tmp_path / "cdc.toml").write_text(
        f'[source]\nurl = "{source}"\ntables = ["public.*"]\nslot = "{unique_name}"\npublication = "{unique_name}"\n'
        f'[log]\nurl = "sqlite:///{tmp_path}/log.db"\nprefix = "{unique_name}"\n{targets}'
    )
    with psycopg.connect(source, autocommit=True) as writer, psycopg.connect(slow) as holder:
        writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
        writer.execute("INSERT INTO t VALUES (0)")
        holder.execute("CREATE TABLE t (id int PRIMARY KEY)")
        holder.commit()
        holder.execute("LOCK TABLE t IN EXCLUSIVE MODE")
        said = tmp_path / "said"
        with (
            said.open("w") as errors,
            subprocess.Popen([sys.executable, "-m", "cdc", "run"], cwd=tmp_path, stderr=errors) as run,
        ):
            try:
                until(lambda: "apply broken ended with exit code 1" in said.read_text())
                for number in range(1, 4):
                    writer.execute("INSERT INTO t VALUES (%s)", [number])
                    until(lambda: good.exists() and is_table(good) and len(lite(good, "SELECT * FROM t")) == number + 1)  # noqa: B023
                assert pg(slow, "SELECT * FROM t") == []
                holder.commit()
                until(lambda: len(pg(slow, "SELECT * FROM t")) == 4)
                assert run.poll() is None
            finally:
                run.terminate()
                run.wait(60)
    assert run.returncode == 1
    assert "error: target table public.t lacks id" in said.read_text()
    assert "error: failed: apply broken\n" in said.read_text()


def is_table(path: Path) -> bool:
    return bool(lite(path, "SELECT 1 FROM sqlite_master WHERE name = 't'"))


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
