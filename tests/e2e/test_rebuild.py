"""`cdc rebuild`: fresh tables from the log, in place of the live ones or beside them."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import psycopg
import pymysql
import pytest
from replica import Replica
from target_databases import MariaDB

from cdc.core.errors import (
    ConfigError,
    GapError,
    LogGapError,
    PassingError,
    TargetError,
    TargetReplacedError,
    TargetSchemaError,
)
from cdc.core.position import Position, parse_lsn
from cdc.core.settings import LogSettings
from cdc.log.local.layout import place_of
from cdc.log.open import open_log
from consumers.rebuild.moment import Moment
from consumers.targets.mysql.replacing import settle
from consumers.wiring import copy_session, discard, swap_session

ACCOUNTS = 40
SUM = 100 * ACCOUNTS
TOTAL = "SELECT (SELECT sum(n) FROM savings), (SELECT sum(n) FROM current)"
ALL = "SELECT 's', id, n FROM savings UNION ALL SELECT 'c', id, n FROM current ORDER BY 1, 2"
PATIENCE_SECONDS = 180.0
KILLS = {
    "postgresql": ("apply.3-checkpointed:3", "rebuild.3-replaced"),
    "sqlite": ("rebuild.1-replayed", "rebuild.2-held", "rebuild.4-committed"),  # the last is done
    "mariadb": ("rebuild.3-announced", "rebuild.3-renamed"),  # the last is ended by the live applier
}
OLD = {"postgresql": '"copy~old".savings', "sqlite": '"copy~old.savings"', "mariadb": "`copy~old.savings`"}
BESIDE = {
    "postgresql": "SELECT tablename FROM pg_tables WHERE schemaname LIKE '%~%'",
    "sqlite": "SELECT name FROM sqlite_master WHERE name LIKE '%~%'",
    "mariadb": "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = DATABASE() AND table_name LIKE '%~%'",
}


class Place:
    """A source, a log and a target of either kind, and the commands between them."""

    def __init__(self, folder: Path, source: str, target: str, name: str) -> None:
        self.source, self.target, self.folder = source, target, folder
        self.errors: list[BaseException] = []
        self.savings = SUM  # as it was read last: it only becomes less
        (folder / "cdc.toml").write_text(
            f'[source]\nurl = "{source}"\ntables = ["public.*"]\nslot = "{name}"\npublication = "{name}"\n'
            f'[log]\nurl = "sqlite:///{folder}/log.db"\nprefix = "{name}"\npartitions = 2\n'
            f'[targets.copy]\nurl = "{target}"\nbatch_events = 50\n'
        )
        with psycopg.connect(source, autocommit=True) as connection:
            for table in ("savings", "current"):
                connection.execute(f"CREATE TABLE {table} (id int PRIMARY KEY, n int)".encode())
                connection.execute(f"INSERT INTO {table} SELECT g, 50 FROM generate_series(1, {ACCOUNTS}) g".encode())

    def query(self, sql: str) -> list[tuple]:
        return rows_at(self.target, sql)

    def rebuild(self, *options: str, failpoint: str | None = None) -> subprocess.CompletedProcess[str]:
        environment = {name: value for name, value in os.environ.items() if name != "CDC_FAILPOINT"}
        command = [sys.executable, "-m", "cdc", "rebuild", "copy", *options]
        return subprocess.run(
            command,
            cwd=self.folder,
            env=environment | ({"CDC_FAILPOINT": failpoint} if failpoint else {}),
            check=False,
            text=True,
            capture_output=True,
            timeout=PATIENCE_SECONDS,
        )

    def rebuilt(self, *options: str) -> str:
        done = self.rebuild(*options)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    @contextmanager
    def running(self) -> Iterator[None]:
        with subprocess.Popen([sys.executable, "-m", "cdc", "run"], cwd=self.folder) as run:
            try:
                yield
                assert run.poll() is None
            finally:
                run.terminate()
                ended = run.wait(PATIENCE_SECONDS)
        assert ended == 0

    @contextmanager
    def meanwhile(self, *works: Callable[[], None]) -> Iterator[None]:
        """Do these again and again."""
        stop = threading.Event()

        def again(work: Callable[[], None]) -> None:
            try:
                while not stop.is_set():
                    work()
            except BaseException as error:  # noqa: BLE001
                self.errors.append(error)

        threads = [threading.Thread(target=again, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        assert self.errors == []

    def transfer(self) -> None:
        """From an account of one table to one of the other."""
        with psycopg.connect(self.source) as connection:
            connection.execute("UPDATE savings SET n = n - 1")  # more than a batch
            connection.execute("UPDATE current SET n = n + 1")
            connection.commit()
            for step in range(20):
                one, other = step % ACCOUNTS + 1, (7 * step) % ACCOUNTS + 1
                connection.execute("UPDATE savings SET n = n - 1 WHERE id = %s", [one])
                connection.execute("UPDATE current SET n = n + 1 WHERE id = %s", [other])
                connection.commit()
                time.sleep(0.01)

    def read(self) -> None:
        ((savings, current),) = self.query(TOTAL)
        assert savings + current == SUM
        assert savings <= self.savings, "went back to an earlier state"
        self.savings = savings
        time.sleep(0.02)

    def is_equal(self) -> bool:
        return self.query(ALL) == pg(self.source, ALL)


def pg(url: str, sql: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


def rows_at(url: str, sql: str) -> list[tuple]:
    if url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite:///"), timeout=30) as lite:
            return lite.execute(sql).fetchall()
    return MariaDB(url).values(sql) if url.startswith("mysql") else pg(url, sql)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_loaded(place: Place) -> bool:
    try:
        return place.is_equal()
    except (psycopg.Error, sqlite3.Error, pymysql.MySQLError):
        return False


class Targets:
    """A source with several targets, in this process, of a log that commands can open too."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica

    def rebuild(self, target: str, **options: bool) -> list[str]:
        said: list[str] = []
        with swap_session(self.replica.settings, target, said.append, **options) as swap:
            assert swap.run(lambda: False)
        return said

    def copy(self, target: str, moment: Moment) -> None:
        with copy_session(self.replica.settings, target, moment, lambda _: None) as copy:
            assert copy.run(lambda: False)


@contextmanager
def targets_of(
    source: str, urls: dict[str, str], folder: Path, name: str, log_url: str | None = None
) -> Iterator[Targets]:
    log = LogSettings(url=log_url or f"sqlite:///{folder}/log.db", prefix=name, partitions=2)
    with (
        open_log(log) as opened,
        Replica(source, urls, name=name, log=opened, log_settings=log) as replica,
    ):
        yield Targets(replica)


def both(
    source: str, pg_url: str, folder: Path, name: str, log_url: str | None = None
) -> AbstractContextManager[Targets]:
    return targets_of(source, {"pg": pg_url, "lite": f"sqlite:///{folder}/copy.db"}, folder, name, log_url)


@pytest.mark.parametrize("kind", KILLS)
def test_a_rebuild_while_all_goes_on_killed_at_each_step(
    new_database: Callable[[], str], unique_name: str, tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    match kind:
        case "postgresql":
            target = new_database()
        case "mariadb":
            target = request.getfixturevalue("new_mariadb")()
        case _:
            target = f"sqlite:///{tmp_path}/copy.db"
    place = Place(tmp_path, new_database(), target, unique_name)
    with place.running():
        until(lambda: is_loaded(place))
        with place.meanwhile(place.transfer, place.read):
            for failpoint in KILLS[kind]:
                killed = place.rebuild(failpoint=failpoint)
                assert killed.returncode == -signal.SIGKILL, (failpoint, killed.stderr)
            if kind == "postgresql":
                assert "done: the old tables are in copy~old" in place.rebuilt()
        until(place.is_equal)

        refused = place.rebuild()
        assert refused.returncode == 1
        assert "2 tables that the last rebuild of target 'copy' replaced are still there" in refused.stderr
        assert place.query(f"SELECT count(*) FROM {OLD[kind]}") == [(ACCOUNTS,)]
        assert "dropped 2 tables of copy~old" in place.rebuilt("--drop-old")
        assert list(place.query(BESIDE[kind])) == []
        place.transfer()
        until(place.is_equal)
    assert place.query("SELECT DISTINCT name FROM cdc_applier") == [("copy",)]
    assert place.query("SELECT DISTINCT applier FROM cdc_checkpoint") == [("copy",)]


def test_what_people_made_at_the_live_tables(new_database: Callable[[], str], unique_name: str, tmp_path: Path) -> None:
    source, copy, path = new_database(), new_database(), tmp_path / "copy.db"
    on_pg, on_lite = f"{unique_name}_pg", f"{unique_name}_lite"
    with (
        psycopg.connect(source, autocommit=True) as writer,
        psycopg.connect(copy, autocommit=True) as target,
        closing(sqlite3.connect(path, isolation_level=None)) as lite,
        both(source, copy, tmp_path, unique_name) as place,
    ):
        writer.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
        writer.execute("CREATE TABLE gone (id int PRIMARY KEY)")
        writer.execute("CREATE TABLE empty (id int PRIMARY KEY)")
        writer.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
        place.replica.catch_up()
        letter = "VALUES (%s, 't', '0', '1', '1:0/1:1', '[]')"
        columns = '(applier text, topic text, partition text, "offset" text, position text, scopes text)'
        target.execute(f"CREATE TABLE cdc_letter {columns}")
        target.execute(f"INSERT INTO cdc_letter {letter}", [on_pg])
        with pytest.raises(TargetError, match="has 1 dead letters"):
            place.rebuild(on_pg)
        target.execute("DROP TABLE cdc_letter")
        target.execute("CREATE INDEX by_n ON t (n) WHERE n > 0")
        target.execute("CREATE VIEW sums WITH (security_barrier) AS SELECT sum(n) AS n FROM t")
        target.execute("GRANT SELECT ON t TO PUBLIC")
        target.execute("ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0), ADD note text")
        lite.execute("CREATE INDEX by_n ON t (n)")
        lite.execute("CREATE VIEW sums AS SELECT sum(n) AS n FROM t")
        lite.execute("CREATE TABLE seen (id int)")
        lite.execute("CREATE TABLE child (id int REFERENCES t)")
        lite.execute("CREATE TRIGGER look AFTER INSERT ON t BEGIN INSERT INTO seen VALUES (new.id); END")

        writer.execute("INSERT INTO t VALUES (3, 3)")
        writer.execute("DROP TABLE gone")
        place.replica.capture()
        with pytest.raises(TargetSchemaError, match=r"lacks check positive, column note text$"):
            place.rebuild(on_pg)
        assert target.execute("SELECT count(*) FROM t").fetchone() == (2,)  # live, and nothing was done to it
        with psycopg.connect(copy) as reader:  # one that takes its time makes nobody wait behind the rebuild
            reader.execute("SELECT FROM t")
            with pytest.raises(PassingError, match="waiting for readers of the tables"):
                place.rebuild(on_pg, leave_behind=True)
            assert reader.execute("SELECT count(*) FROM t").fetchone() == (2,)
        target.execute(f'ALTER TABLE "{on_pg}~new".t ADD CONSTRAINT positive CHECK (n > 0), ADD note text')
        assert any("table public.t: the new one will lack check positive" in line for line in place.rebuild(on_pg))
        place.rebuild(on_lite)
        for name in ("pg", "lite"):
            writer.execute("INSERT INTO t SELECT max(id) + 1, 7 FROM t")
            place.replica.capture()
            with pytest.raises(TargetReplacedError):
                place.replica.apply(name)
        place.replica.reopen()
        place.replica.catch_up()
        rows = [(1, 1), (2, 2), (3, 3), (4, 7), (5, 7)]
        assert target.execute("SELECT id, n FROM t ORDER BY id").fetchall() == rows
        assert lite.execute("SELECT id, n FROM t ORDER BY id").fetchall() == rows
        assert target.execute("SELECT n FROM sums").fetchall() == [(20,)]
        assert lite.execute("SELECT n FROM sums").fetchall() == [(20,)]
        assert lite.execute("SELECT id FROM seen").fetchall() == [(4,), (5,)]
        assert target.execute("SELECT reloptions FROM pg_class WHERE relname = 'sums'").fetchone() == (
            ["security_barrier=true"],
        )
        indexes = "SELECT indexdef FROM pg_indexes WHERE indexname = 'by_n' AND schemaname = 'public'"
        assert target.execute(indexes).fetchall() == [("CREATE INDEX by_n ON public.t USING btree (n) WHERE (n > 0)",)]
        granted = "SELECT 1 FROM information_schema.table_privileges WHERE grantee = 'PUBLIC' AND table_name = 't'"
        assert target.execute(f"{granted} AND table_schema = 'public'").fetchall() == [(1,)]
        tables = "SELECT tablename FROM pg_tables WHERE schemaname = %s ORDER BY 1"
        assert target.execute(tables, [f"{on_pg}~old"]).fetchall() == [("empty",), ("gone",), ("t",)]
        assert target.execute("SELECT to_regclass('gone'), to_regclass('empty')::text").fetchone() == (None, "empty")
        assert lite.execute("SELECT name FROM sqlite_master WHERE name LIKE '%~old.gone'").fetchall() != []
        assert lite.execute("SELECT name FROM sqlite_master WHERE name IN ('gone', 'empty')").fetchall() == [("empty",)]
        assert discard(place.replica.settings, on_pg, "old") == discard(place.replica.settings, on_lite, "old") == 3


def test_who_may_read_the_live_tables_and_what_else_refers_to_them(
    new_database: Callable[[], str], unique_name: str, tmp_path: Path
) -> None:
    source, copy, analyst = new_database(), new_database(), f"{unique_name}_analyst"
    name = f"{unique_name}_pg"
    granted = """
        SELECT relacl::text FROM pg_class WHERE oid = 't'::regclass UNION ALL
        SELECT attacl::text FROM pg_attribute WHERE attrelid = 't'::regclass AND attacl IS NOT NULL
    """
    with (
        psycopg.connect(source, autocommit=True) as writer,
        psycopg.connect(copy, autocommit=True) as target,
        targets_of(source, {"pg": copy}, tmp_path, unique_name) as place,
    ):
        target.execute(f"CREATE ROLE {analyst}".encode())
        try:
            target.execute(f"ALTER DEFAULT PRIVILEGES GRANT SELECT, DELETE ON TABLES TO {analyst}, PUBLIC".encode())
            writer.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
            writer.execute("INSERT INTO t VALUES (1, 1)")
            place.replica.catch_up()
            for statement in (
                "REVOKE ALL ON t FROM PUBLIC",
                f"REVOKE ALL ON t FROM {analyst}",
                f"GRANT UPDATE ON t TO {analyst}",
                f"GRANT SELECT (id) ON t TO {analyst}",
                "CREATE TABLE theirs (id int)",
                "CREATE POLICY known ON theirs USING (EXISTS (SELECT FROM t WHERE t.id = theirs.id))",
                "CREATE VIEW door AS SELECT 1 AS id",
                "CREATE RULE knock AS ON INSERT TO door DO INSTEAD INSERT INTO t VALUES (NEW.id)",
            ):
                target.execute(statement.encode())
            before = target.execute(granted.encode()).fetchall()
            assert [analyst in acl for (acl,) in before] == [True, True]

            lacks = "lacks policy known of theirs, privileges on column id, rule on door$"
            with pytest.raises(TargetSchemaError, match=lacks):
                place.rebuild(name)
            target.execute(f'GRANT SELECT (id) ON "{name}~new".t TO {analyst}'.encode())
            target.execute("DROP POLICY known ON theirs")
            target.execute("DROP RULE knock ON door")
            place.rebuild(name)
            assert target.execute(granted.encode()).fetchall() == before
        finally:
            target.execute(f"DROP OWNED BY {analyst}; DROP ROLE {analyst}".encode())


def test_what_people_made_at_mariadbs_tables(
    new_database: Callable[[], str],
    new_mariadb: Callable[[], str],
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source, copy, name = new_database(), MariaDB(new_mariadb()), f"{unique_name}_my"
    with (
        psycopg.connect(source, autocommit=True) as writer,
        targets_of(source, {"my": copy.url}, tmp_path, unique_name) as place,
    ):
        writer.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
        writer.execute("CREATE TABLE gone (id int PRIMARY KEY)")
        writer.execute("CREATE TABLE empty (id int PRIMARY KEY)")
        writer.execute("INSERT INTO t VALUES (1, 1), (2, 2)")
        place.replica.catch_up()
        (moment,) = writer.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        for statement in (
            "CREATE INDEX by_n ON t (n, id)",
            "CREATE VIEW sums AS SELECT sum(n) AS n FROM t",
            "CREATE TABLE seen (id int)",
            "CREATE TRIGGER look AFTER INSERT ON t FOR EACH ROW INSERT INTO seen VALUES (new.id)",
            "ALTER TABLE t ADD CONSTRAINT positive CHECK (n > 0), ADD note text, ADD UNIQUE (note(9))",
            "CREATE TABLE child (id int, FOREIGN KEY (id) REFERENCES t (id))",
        ):
            copy.execute(statement)
        writer.execute("INSERT INTO t VALUES (3, 3)")
        place.replica.capture()
        lacks = "check positive, column note text .*, foreign key of child, trigger after insert, unique \\(note\\)$"
        with pytest.raises(TargetSchemaError, match=f"lacks {lacks}"):
            place.rebuild(name)
        copy.execute("DROP TABLE child")
        new = f"`{name}~new.t`"
        copy.execute(f"ALTER TABLE {new} ADD CONSTRAINT positive CHECK (n > 0), ADD note text, ADD UNIQUE (note(9))")
        copy.execute(f"CREATE TRIGGER look_new AFTER INSERT ON {new} FOR EACH ROW INSERT INTO seen VALUES (new.id)")

        with copy.connected() as reader:  # one that takes its time makes nobody wait behind the rebuild
            reader.execute("START TRANSACTION")
            reader.execute("SELECT * FROM t")
            with pytest.raises(PassingError, match="waiting for readers of the tables"):
                place.rebuild(name)
            reader.execute("SELECT count(*) FROM t")
            assert reader.fetchall() == ((2,),)
        place.replica.apply("my")  # nothing was replaced, and it goes on
        assert copy.values("SELECT id FROM t ORDER BY id") == [(1,), (2,), (3,)]

        refused: list[str] = []

        def try_to_apply(step: str) -> None:
            if step == "rebuild.3-announced":  # as one who looked before it was
                monkeypatch.setattr("consumers.targets.mysql.target.settle", lambda *_: None)
            else:
                monkeypatch.setattr("consumers.targets.mysql.target.settle", settle)
            with pytest.raises(PassingError, match="a rebuild is replacing"):
                place.replica.apply("my")
            refused.append(step)

        writer.execute("DROP TABLE gone")
        place.replica.capture()
        place.replica.close()
        monkeypatch.setattr("consumers.targets.mysql.replacing.reached", try_to_apply)
        place.rebuild(name)
        assert refused == ["rebuild.3-announced", "rebuild.3-renamed"]

        writer.execute("INSERT INTO t SELECT max(id) + 1, 7 FROM t")
        place.replica.reopen()
        place.replica.catch_up()
        rows = [(1, 1), (2, 2), (3, 3), (4, 7)]
        assert copy.values("SELECT id, n FROM t ORDER BY id") == rows
        assert copy.values("SELECT n FROM sums") == [(13,)]
        assert (4,) in copy.values("SELECT id FROM seen")
        assert "KEY `by_n` (`n`,`id`)" in copy.values("SHOW CREATE TABLE t")[0][1]
        there = {table for (table,) in copy.values("SHOW TABLES")}
        assert {table for table in there if "~" in table} == {f"{name}~old.{table}" for table in ("empty", "gone", "t")}
        assert {"t", "empty"} <= there
        assert "gone" not in there
        assert discard(place.replica.settings, name, "old") == 3

        place.copy(name, Position(0, parse_lsn(moment), 0))
        assert copy.values(f"SELECT id, n FROM `{name}~until.t` ORDER BY id") == rows[:2]
        with monkeypatch.context() as patch:
            patch.delattr("consumers.targets.mysql.replacing._end_dropping")
            with pytest.raises(NameError):  # as a crash: the tables are still there, and nobody may go on with them
                discard(place.replica.settings, name, "until")
        copy.execute(f"INSERT INTO `{name}~until.t` VALUES (77, 7)")
        place.copy(name, Position(0, parse_lsn(moment), 0))
        assert copy.values(f"SELECT id, n FROM `{name}~until.t` ORDER BY id") == rows[:2]
        assert discard(place.replica.settings, name, "until") == 3
        assert copy.values("SELECT name FROM cdc_applier") == [(name,)]
        assert copy.values("SELECT name FROM cdc_table WHERE name LIKE '%~%'") == []


@pytest.mark.parametrize("log", ["local", "kafka"])
def test_the_target_as_of_a_moment(
    new_database: Callable[[], str], unique_name: str, tmp_path: Path, log: str, request: pytest.FixtureRequest
) -> None:
    log_url = f"kafka://{request.getfixturevalue('kafka')}" if log == "kafka" else None
    source, copy, path = new_database(), new_database(), tmp_path / "copy.db"
    names = {"pg": f"{unique_name}_pg", "lite": f"{unique_name}_lite"}

    def copied(column: str = "n") -> list[list[tuple]]:
        with sqlite3.connect(path) as lite:
            found = lite.execute(f'SELECT id, {column} FROM "{names["lite"]}~until.t" ORDER BY id').fetchall()
        return [pg(copy, f'SELECT id, {column} FROM "{names["pg"]}~until".t ORDER BY id'), found]

    with (
        psycopg.connect(source, autocommit=True) as writer,
        both(source, copy, tmp_path, unique_name, log_url) as place,
    ):
        writer.execute("CREATE TABLE t (id int PRIMARY KEY, n int)")
        writer.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 3) g")
        place.replica.catch_up()
        (before,) = writer.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        writer.execute("UPDATE t SET n = 1 WHERE id = 1")
        (moment,) = writer.execute("SELECT clock_timestamp()").fetchone()
        (lsn,) = writer.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
        time.sleep(0.005)  # commits are known to the millisecond
        with writer.transaction():
            writer.execute("UPDATE t SET n = 2")
            writer.execute("DELETE FROM t WHERE id = 2")
        writer.execute("ALTER TABLE t RENAME n TO m")
        writer.execute("TRUNCATE t")
        writer.execute("INSERT INTO t VALUES (9, 9)")
        place.replica.catch_up()

        for target in names.values():
            with pytest.raises(ConfigError, match="the log has come to"):
                place.copy(target, Position(0, parse_lsn(lsn) + (1 << 40), 0))
            with pytest.raises(LogGapError, match="the log begins with a first load"):
                place.copy(target, Position(0, 1, 0))
            place.copy(target, Position(0, parse_lsn(lsn), 0))
            place.copy(target, Position(0, parse_lsn(lsn), 0))  # is there already
            with pytest.raises(TargetError, match="has a copy of another moment"):
                place.copy(target, Position(0, parse_lsn(before), 0))
        assert copied() == [[(1, 1), (2, 0), (3, 0)]] * 2
        for target in names.values():
            assert discard(place.replica.settings, target, "until") == 1
            place.copy(target, moment)
        assert copied() == [[(1, 1), (2, 0), (3, 0)]] * 2
        for target in names.values():
            discard(place.replica.settings, target, "until")
            place.copy(target, Position(0, parse_lsn(before), 0))
        assert copied() == [[(1, 0), (2, 0), (3, 0)]] * 2

        writer.execute("INSERT INTO t VALUES (10, 10)")
        place.replica.catch_up()  # the live ones go on
        with sqlite3.connect(path) as lite:
            assert lite.execute("SELECT id, m FROM t").fetchall() == [(9, 9), (10, 10)]
        assert pg(copy, "SELECT id, m FROM t") == [(9, 9), (10, 10)]


@pytest.mark.parametrize("target", ["pg", "lite", "maria"])
def test_a_target_of_a_log_that_was_lost(
    new_database: Callable[[], str], new_mariadb: Callable[[], str], unique_name: str, tmp_path: Path, target: str
) -> None:
    """A new log knows nothing of how far the target had come, and its places may be lower."""
    source, made = new_database(), {"pg": new_database, "maria": new_mariadb}
    url = made[target]() if target in made else f"sqlite:///{tmp_path}/copy.db"
    with (
        psycopg.connect(source, autocommit=True) as writer,
        targets_of(source, {target: url}, tmp_path, unique_name) as place,
    ):
        writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
        for number in range(50):
            writer.execute("INSERT INTO t VALUES (%s)", [number])
        place.replica.catch_up()
        place.replica.close()
        place.replica.drop()
        settings = LogSettings(url=f"sqlite:///{tmp_path}/new.db", prefix=unique_name, partitions=2)
        with open_log(settings) as log:
            place.replica.reopen(log, settings)
            writer.execute("DELETE FROM t WHERE id < 10")
            place.replica.capture()
            with pytest.raises(GapError, match="belongs to another log") as raised:
                place.replica.apply(target)
            assert f"cdc rebuild {unique_name}_{target}" in str(raised.value.mend)
            place.replica.close()
            assert any("another log" in line for line in place.rebuild(f"{unique_name}_{target}"))
            place.replica.reopen(log, settings)
            writer.execute("INSERT INTO t VALUES (100)")
            place.replica.catch_up()
            assert rows_at(url, "SELECT id FROM t ORDER BY id") == [(number,) for number in (*range(10, 50), 100)]


def test_a_log_whose_oldest_records_are_gone(new_database: Callable[[], str], unique_name: str, tmp_path: Path) -> None:
    """A target begins with the latest first load; and what is not even there is said before anything is made."""
    source, copy, path = new_database(), new_database(), tmp_path / "copy.db"
    target = f"{unique_name}_pg"

    def lose(up_to: dict[str, list[int]] | None = None) -> dict[str, list[int]]:
        """Remove, as retention does, all records of the tables and of transactions; where they end."""
        ends: dict[str, list[int]] = {}
        with sqlite3.connect(tmp_path / "log.db") as log:
            rows = "SELECT number, topic, partition, next_offset FROM partitions WHERE topic LIKE ? ORDER BY 2, 3"
            for number, topic, partition, end in log.execute(rows, [f"{unique_name}.%"]).fetchall():
                ends.setdefault(topic, []).append(end)
                if up_to is not None:
                    first = up_to[topic][partition]
                    gone = [place_of(number, 0), place_of(number, first)]
                    log.execute("DELETE FROM blocks WHERE place >= ? AND place < ?", gone)
                    log.execute("UPDATE partitions SET first_offset = ? WHERE number = ?", [first, number])
        return ends

    with (
        psycopg.connect(source, autocommit=True) as writer,
        both(source, copy, tmp_path, unique_name) as place,
    ):
        for statement in (
            "CREATE TABLE t (id int PRIMARY KEY, n int)",
            "CREATE TABLE twins (n int)",
            "ALTER TABLE twins REPLICA IDENTITY FULL",
            "INSERT INTO t SELECT g, 0 FROM generate_series(1, 50) g",
            "INSERT INTO twins VALUES (1), (1)",
        ):
            writer.execute(statement)
        place.replica.capture()
        place.replica.apply("pg")
        writer.execute("ALTER TABLE t ADD more int DEFAULT 7")
        writer.execute("DELETE FROM t WHERE id < 10")
        place.replica.capture()
        place.replica.apply("pg")
        ends = lose()
        place.replica.start_over()
        writer.execute("UPDATE t SET n = 1 WHERE id = 11")
        writer.execute("ALTER TABLE t ADD last int")
        writer.execute("INSERT INTO t VALUES (100, 1, 2, 3)")
        writer.execute("UPDATE twins SET n = 2 WHERE ctid = (SELECT max(ctid) FROM twins)")
        place.replica.capture()
        place.replica.close()
        lose(ends)
        place.replica.set_options("lite", tables=("public.t",))
        place.replica.catch_up()  # a target without checkpoint, and one that has passed it
        place.replica.set_options("lite", tables=("public.*",))  # a table that is new to the target
        place.rebuild(target)
        place.replica.reopen()
        writer.execute("UPDATE t SET n = 5 WHERE id = 12")
        place.replica.catch_up()
        for table, columns in (("t", "id, n, more, last"), ("twins", "n")):
            sql = f"SELECT {columns} FROM {table} ORDER BY 1"
            with sqlite3.connect(path) as lite:
                assert pg(copy, sql) == lite.execute(sql).fetchall() == pg(source, sql)

        place.replica.close()
        discard(place.replica.settings, target, "old")
        lose(lose())
        with pytest.raises(LogGapError, match=r"no longer holds its first \d+ records, and target .* needs them"):
            place.rebuild(target)
        with pytest.raises(LogGapError, match="no longer holds"):
            place.copy(target, Position(0, 1, 0))
        assert pg(copy, "SELECT name FROM cdc_applier") == [(target,)]
        assert pg(copy, "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%~%'") == []
        place.replica.apply("pg")  # the live one needs none of it


@pytest.mark.parametrize(("before", "consistency"), [("key", "key"), ("transaction", "key"), ("key", "transaction")])
def test_a_table_that_is_made_while_indexes_are(
    before: str,
    consistency: str,
    new_database: Callable[..., str],
    unique_name: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The live applier has its rows first, and they stay there to see."""
    source, copy = new_database(), new_database()
    with (
        psycopg.connect(source, autocommit=True) as writer,
        targets_of(source, {"pg": copy}, tmp_path, unique_name) as place,
    ):
        writer.execute("CREATE TABLE one (id int PRIMARY KEY)")
        writer.execute("CREATE TABLE other (id int PRIMARY KEY)")
        writer.execute("INSERT INTO one VALUES (1)")
        place.replica.set_options("pg", tables=("public.*", "!public.other"), consistency=before, batch_events=10)
        place.replica.catch_up()
        writer.execute("INSERT INTO one VALUES (2)")
        place.replica.catch_up()
        place.replica.set_options("pg", consistency=consistency)
        place.replica.catch_up()
        with swap_session(place.replica.settings, f"{unique_name}_pg", lambda _: None) as swap:
            make_missing = swap._make_missing

            def meanwhile() -> None:
                writer.execute("CREATE TABLE bag (n int)")
                writer.execute("INSERT INTO bag SELECT generate_series(1, 500)")
                writer.execute("INSERT INTO other VALUES (1)")
                place.replica.catch_up()
                make_missing()

            monkeypatch.setattr(swap, "_make_missing", meanwhile)
            assert swap.run(lambda: False)
        assert pg(copy, "SELECT count(*) FROM bag") == [(500,)]
        place.replica.reopen()
        writer.execute("INSERT INTO bag VALUES (501)")
        place.replica.catch_up()
        assert pg(copy, "SELECT n FROM bag ORDER BY n") == [(number,) for number in range(1, 502)]
        assert pg(copy, "SELECT id FROM one ORDER BY id") == [(1,), (2,)]


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_a_table_that_joins_after_changes_of_its_shape_and_name(
    consistency: str, new_database: Callable[..., str], unique_name: str, tmp_path: Path
) -> None:
    """The way out that the error names."""
    source = new_database()
    name = f"{unique_name}_lite"
    with targets_of(source, {"lite": f"sqlite:///{tmp_path}/lite.db"}, tmp_path, unique_name) as targets:
        with psycopg.connect(source, autocommit=True) as writer:
            writer.execute("CREATE TABLE one (id int PRIMARY KEY)")
            writer.execute("CREATE TABLE two (id int PRIMARY KEY)")
            writer.execute("INSERT INTO two VALUES (1), (2), (3)")
            targets.replica.set_options("lite", tables=("public.one",), consistency=consistency)
            targets.replica.catch_up()
            writer.execute("ALTER TABLE two ADD COLUMN n int DEFAULT 7")
            writer.execute("ALTER TABLE two RENAME TO three")
            writer.execute("DELETE FROM three WHERE id = 1")
            writer.execute("INSERT INTO one VALUES (1)")
            targets.replica.catch_up()
            targets.replica.set_options("lite", tables=("public.*",))
            with pytest.raises(GapError, match="comes to target"):
                targets.replica.apply("lite")
            targets.replica.reopen()
            targets.rebuild(name)
            writer.execute("DELETE FROM three WHERE id = 2")
            targets.replica.catch_up()
        with closing(sqlite3.connect(tmp_path / "lite.db")) as lite:
            assert lite.execute("SELECT * FROM three").fetchall() == [(3, 7)]
            assert lite.execute("SELECT * FROM one").fetchall() == [(1,)]
