"""A target that is read-only, full, locked, out of connections, or altered behind our back, while an applier runs.

What can pass is said once and waited for; what can't stops the applier with what happened and what mends it. Nothing is
lost either way: in the end the target has what the source has.
"""

from __future__ import annotations

import os
import pwd
import re
import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import pymysql
import pytest
import sqlalchemy
from confluent_kafka import OFFSET_END
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient
from replica import Replica
from target_databases import Database, DuckDB, MariaDB, Sqlite

from cdc.core.errors import CdcError, PassingError, TargetError
from cdc.core.settings import LogSettings, RegistrySettings, Settings, TargetSettings
from cdc.embedded import EmbeddedMariaDB, EmbeddedPostgres
from cdc.log.local.retention import remove_older
from cdc.log.open import open_log
from cdc.retries import Retries
from consumers.preflight import all_checks
from consumers.status import read_status
from consumers.targets.mysql import session as mysql_session
from consumers.targets.open import open_target
from consumers.targets.postgresql import session as postgres_session
from consumers.targets.sqlite import session as sqlite_session
from consumers.wiring import apply_session, swap_session

PATIENCE_SECONDS = 180.0
Databases = Callable[..., str]
PASSWORD = "n0t-for-anybodys-eyes"


class Applying:
    """An applier, run in a thread as `cdc apply` runs it."""

    def __init__(self, settings: Settings, name: str) -> None:
        self.said: list[str] = []
        self.error: BaseException | None = None
        self._settings, self._name = settings, name
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def await_said(self, pattern: str) -> str:
        def found() -> str | None:
            return next((line for line in self.said if re.search(pattern, line)), None)

        with self._changed:
            self._changed.wait_for(lambda: found() or self.error is not None, PATIENCE_SECONDS)
        line = found()
        assert line is not None, (pattern, self.said, self.error)
        return line

    def await_end(self, what: str, mend: str) -> None:
        """It ends with this error."""
        self._thread.join(PATIENCE_SECONDS)
        assert isinstance(self.error, CdcError), (self.error, self.said)
        assert re.search(what, str(self.error)), self.error
        assert re.search(mend, str(self.error.mend)), self.error.mend
        assert PASSWORD not in f"{self.error}{self.error.mend}{self.said}"

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        retries = Retries(self._stop, self._report)

        def session() -> None:
            with apply_session(self._settings, self._name, self._report) as applier:
                applier.run(self._stop.is_set, applying=retries.established, got_on=retries.got_on)

        try:
            retries.run(session)
        except BaseException as error:  # noqa: BLE001  # looked at by the test
            self.error = error
        with self._changed:
            self._changed.notify_all()

    def _report(self, text: str) -> None:
        with self._changed:
            self.said.append(text)
            self._changed.notify_all()


class Site:
    """A source with the table `item`, whose target is in trouble. `url` is how the applier comes to the target."""

    def __init__(self, source: str, database: Database, folder: Path, name: str, kafka: str | None = None) -> None:
        self.database = database
        self.url = database.url
        self.name = name
        self.options: dict[str, Any] = {}
        self.log_file = folder / "log.db"
        url = f"sqlite:///{self.log_file}" if kafka is None else f"kafka://{kafka}"
        self.log = LogSettings(url=url, prefix=name, partitions=2)
        self.writer = psycopg.connect(source, autocommit=True)
        self.replica = Replica(source, {}, name=name, log=open_log(self.log), log_settings=self.log)
        self._rows = 0
        self.run("CREATE TABLE item (id int PRIMARY KEY, body text)")
        self.change()

    @property
    def settings(self) -> Settings:
        target = TargetSettings(name=self.name, url=self.url, **self.options)
        return Settings(source=None, log=self.log, registry=RegistrySettings(), targets={self.name: target})

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.writer.execute(statement.encode())

    def change(self) -> None:
        """Some more rows, which the log has then."""
        first, self._rows = self._rows, self._rows + 10
        self.run(f"INSERT INTO item SELECT n, 'row ' || n FROM generate_series({first}, {self._rows - 1}) n")
        self.replica.capture()

    @contextmanager
    def applying(self) -> Iterator[Applying]:
        applying = Applying(self.settings, self.name)
        try:
            yield applying
        finally:
            applying.stop()

    @contextmanager
    def in_step(self) -> Iterator[Applying]:
        """An applier that has applied all that there is."""
        with self.applying() as applying:
            self.await_equal(applying)
            yield applying

    def await_equal(self, applying: Applying | None = None) -> None:
        wanted = self.writer.execute("SELECT id::text, body FROM item ORDER BY id::text").fetchall()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (found := self.rows()) != wanted:
            assert time.monotonic() < deadline, found
            if applying is not None and applying.error is not None:
                raise applying.error
            time.sleep(0.02)

    def rows(self) -> list[tuple[Any, ...]]:
        with suppress(psycopg.Error, pymysql.MySQLError, sqlite3.Error, sqlalchemy.exc.DBAPIError, OSError, Exception):
            found = self.database.execute("SELECT id, body FROM item")
            return sorted((str(_text(number)), _text(body)) for number, body in found)
        return []

    def checkpoint(self) -> list[list[tuple[Any, ...]]]:
        return [self.database.execute(f"SELECT {', '.join(columns)} FROM {table}") for table, columns in self._own()]

    def restore(self, kept: list[list[tuple[Any, ...]]]) -> None:
        """As it was, in tables that are as they were."""
        self.database.execute("DROP TABLE IF EXISTS cdc_checkpoint")
        with self.database.opened(self.name):  # makes it
            pass
        for (table, columns), rows in zip(self._own(), kept, strict=True):
            self.database.execute(f"DELETE FROM {table}")
            for row in rows:
                values = ", ".join("NULL" if value is None else f"'{_text(value)}'" for value in row)
                self.database.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({values})")

    def _own(self) -> list[tuple[str, list[str]]]:
        number = "`partition`" if isinstance(self.database, MariaDB) else "partition"
        position = ["epoch", "commit_lsn", "ordinal", "next_offset"]
        return [
            ("cdc_applier", ["name", "version", "log_id", "owner"]),
            ("cdc_checkpoint", ["applier", "topic", number, *position]),
        ]

    def end_sessions(self) -> None:
        """Of the applier, as a restart of the server would."""
        if isinstance(self.database, MariaDB):
            for number, user in self.database.values("SELECT id, user FROM information_schema.processlist"):
                if user == self.name:
                    self.database.execute(f"KILL {number}")
        else:
            self.database.execute(
                f"SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE usename = '{self.name}'"
            )

    def as_user(self, server: EmbeddedPostgres | EmbeddedMariaDB) -> None:
        """From here on the applier comes as a user of its own, called as the site is."""
        parts = sqlalchemy.make_url(self.database.url)
        if isinstance(server, EmbeddedMariaDB):
            server.execute(
                f"CREATE USER {self.name} IDENTIFIED BY '{PASSWORD}'", f"GRANT ALL ON {parts.database}.* TO {self.name}"
            )
        else:
            server.create_user(self.name, PASSWORD)
            self.database.execute(f"GRANT CREATE ON SCHEMA public TO {self.name}")
        self.url = server.url(parts.database or "", self.name, PASSWORD)

    def close(self) -> None:
        self.replica.close()
        self.replica.drop()
        self.writer.close()


def _succeeds(database: MariaDB, statement: str) -> bool:
    try:
        database.execute(statement)
    except pymysql.OperationalError:
        return False
    return True


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.retries._LONGEST_WAIT", 0.1)
    monkeypatch.setitem(postgres_session._SETTINGS, "lock_timeout", "200ms")
    monkeypatch.setattr(mysql_session, "_DDL_WAIT", "SET SESSION lock_wait_timeout = 1")
    monkeypatch.setattr(sqlite_session, "_BUSY_TIMEOUT", 0.2)


@pytest.fixture(params=["postgresql"])
def site(
    request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path: Path, unique_name: str
) -> Iterator[Site]:
    database: Database
    match request.param:
        case "postgresql":
            database = Database(new_database())
        case "mariadb":
            database = MariaDB(request.getfixturevalue("new_mariadb")())
        case "duckdb":
            database = DuckDB(tmp_path)
        case _:
            database = Sqlite(tmp_path)
    with closing(Site(new_database(), database, tmp_path, unique_name)) as made:
        yield made


@pytest.fixture
def user(site: Site, request: pytest.FixtureRequest) -> Iterator[str]:
    """A user of the applier's own at the target, a server."""
    if isinstance(site.database, MariaDB):
        server: EmbeddedMariaDB = request.getfixturevalue("mariadb")
        site.as_user(server)
        yield site.name
        server.execute(f"DROP USER {site.name}")
    else:
        site.as_user(request.getfixturevalue("pg_server")(18))
        yield site.name
        site.database.execute(f"DROP OWNED BY {site.name} CASCADE; DROP ROLE {site.name}")


ON_EACH = pytest.mark.parametrize("site", ["postgresql", "mariadb", "sqlite"], indirect=True)
ON_ALL = pytest.mark.parametrize("site", ["postgresql", "mariadb", "sqlite", "duckdb"], indirect=True)
ON_SERVERS = pytest.mark.parametrize("site", ["postgresql", "mariadb"], indirect=True)


# -- what passes -----------------------------------------------------------------------------------------------------


class TestPassing:
    """Said once, waited for, and over by itself."""

    @staticmethod
    def _assert_waits(site: Site, applying: Applying, said: str, end: Callable[[], object]) -> None:
        site.change()
        line = applying.await_said(said)
        assert "trying again" in line
        time.sleep(0.5)  # in which it is tried several times
        site.change()
        assert len(applying.said) == len(set(applying.said)), applying.said
        end()
        applying.await_said("goes on")
        site.await_equal(applying)
        assert applying.error is None

    @ON_EACH
    def test_locked(self, site: Site) -> None:
        with site.in_step() as applying, self._locked(site) as (said, unlock):
            self._assert_waits(site, applying, said, unlock)

    @staticmethod
    @contextmanager
    def _locked(site: Site) -> Iterator[tuple[str, Callable[[], object]]]:
        parts = sqlalchemy.make_url(site.database.url)
        if isinstance(site.database, MariaDB):
            other = pymysql.connect(host=parts.host, port=parts.port, user="root", database=parts.database)
            with closing(other), other.cursor() as cursor:
                cursor.execute("LOCK TABLES item WRITE")
                yield r"public\.item: .*timeout.*SHOW PROCESSLIST", lambda: cursor.execute("UNLOCK TABLES")
        elif isinstance(site.database, Sqlite):
            with closing(sqlite3.connect(str(parts.database), isolation_level=None)) as lite:
                lite.execute("BEGIN EXCLUSIVE")
                yield "SQLITE_BUSY: another process holds the database", lambda: lite.execute("COMMIT")
        else:
            with psycopg.connect(site.database.url) as connection:
                connection.execute("LOCK TABLE item")
                yield r"public\.item: .*lock timeout.*pg_locks", connection.commit

    @pytest.mark.parametrize("site", ["sqlite"], indirect=True)
    def test_full_sqlite(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = sqlite_session._SETTINGS
        with site.in_step():
            pass
        pages = site.database.execute("PRAGMA page_count")[0][0]
        monkeypatch.setattr(sqlite_session, "_SETTINGS", (*settings, f"PRAGMA max_page_count = {pages}"))
        site.run("INSERT INTO item VALUES (-1, repeat('x', 100000))")
        with site.applying() as applying:
            end = partial(monkeypatch.setattr, sqlite_session, "_SETTINGS", settings)
            self._assert_waits(site, applying, "SQLITE_FULL.*make room", end)

    def test_full_postgresql(self, site: Site, pg_server: Callable[[int], EmbeddedPostgres]) -> None:
        """The table's file, empty still, is on a device that is always full."""
        with site.in_step() as applying:
            site.run("TRUNCATE item")
            site.replica.capture()
            site.await_equal(applying)
        site.database.execute("TRUNCATE item")  # which deletes left as long as it was
        ((name,),) = site.database.execute("SELECT pg_relation_filepath('item')")
        file = pg_server(18).data_directory / name
        owner = file.stat()
        assert owner.st_size == 0
        file.unlink()
        file.symlink_to("/dev/full")

        def make_room() -> None:
            empty = file.with_suffix(".new")
            empty.touch(mode=0o600)
            os.chown(empty, owner.st_uid, owner.st_gid)
            empty.rename(file)

        with site.applying() as applying:
            self._assert_waits(site, applying, "public.item: .*No space left on device.*make room", make_room)

    def test_full_mariadb(
        self, own_mariadb: Callable[..., EmbeddedMariaDB], new_database: Databases, tmp_path: Path, unique_name: str
    ) -> None:
        """All tables are in one file, which may grow no more; not even a table can be dropped then."""
        server = own_mariadb(innodb_data_file_path="ibdata1:12M:autoextend:max:24M", innodb_file_per_table="OFF")
        database = MariaDB(server.create_database(unique_name))

        def make_room() -> None:
            server._settings["innodb-data-file-path"] = "ibdata1:12M:autoextend"
            server.restart()

        with closing(Site(new_database(), database, tmp_path, unique_name)) as site, site.in_step() as applying:
            database.execute("CREATE TABLE filler (body longtext)")
            while _succeeds(database, "INSERT INTO filler VALUES (repeat('x', 1000000))"):
                pass
            site.run("INSERT INTO item SELECT -n, repeat('x', 500000) FROM generate_series(1, 3) n")
            self._assert_waits(site, applying, "is full.*make room", make_room)

    def test_read_only(self, site: Site, user: str) -> None:
        with site.in_step() as applying:
            site.database.execute(f"ALTER ROLE {user} SET default_transaction_read_only = on")
            site.end_sessions()
            assert any(not check.ok and "takes no writes" in check.found for check in all_checks(site.settings))
            reset = f"ALTER ROLE {user} RESET default_transaction_read_only"
            self._assert_waits(site, applying, "read-only.*takes writes", lambda: site.database.execute(reset))

    @ON_SERVERS
    def test_out_of_connections(self, site: Site, user: str) -> None:
        if isinstance(site.database, MariaDB):
            limit, said = f"ALTER USER {user} WITH MAX_USER_CONNECTIONS {{}}", "max_user_connections"
            none, many = limit.format(1), limit.format(0)
        else:
            limit, said = f"ALTER ROLE {user} CONNECTION LIMIT {{}}", "too many connections for role"
            none, many = limit.format(0), limit.format(-1)
        with site.in_step() as applying:
            site.database.execute(none)
            site.end_sessions()
            self._assert_waits(site, applying, said, lambda: site.database.execute(many))


class TestCredentials:
    @ON_SERVERS
    def test_a_privilege_that_is_revoked(self, site: Site, user: str) -> None:
        table = f"{sqlalchemy.make_url(site.url).database}.*" if isinstance(site.database, MariaDB) else "item"
        what = "ALL" if isinstance(site.database, MariaDB) else "INSERT"
        with site.in_step() as applying:
            site.database.execute(f"REVOKE {what} ON {table} FROM {user}")
            if isinstance(site.database, MariaDB):
                site.database.execute(f"GRANT SELECT ON {table} TO {user}")
                site.end_sessions()  # its database's privileges are a session's
            site.change()
            applying.await_end("denied", "grant the missing privilege")
        site.database.execute(f"GRANT {what} ON {table} TO {user}")
        with site.in_step():
            pass

    @ON_SERVERS
    @pytest.mark.parametrize("how", ["locked", "password"])
    def test_a_user_that_may_not_come_back(self, how: str, site: Site, user: str) -> None:
        maria = isinstance(site.database, MariaDB)
        with site.in_step() as applying:
            if how == "password":
                other = "IDENTIFIED BY 'other'" if maria else "PASSWORD 'other'"
                site.database.execute(f"ALTER {'USER' if maria else 'ROLE'} {user} {other}")
            else:
                site.database.execute(f"ALTER USER {user} ACCOUNT LOCK" if maria else f"ALTER ROLE {user} NOLOGIN")
            site.end_sessions()
            site.change()
            if how == "password":
                applying.await_end("Access denied|password authentication failed", "password in the target's url")
            else:
                applying.await_end("account is locked|not permitted to log in", "ACCOUNT UNLOCK|ALTER ROLE … LOGIN")


class TestSqliteFile:
    @pytest.mark.parametrize("site", ["sqlite"], indirect=True)
    def test_removed_during_a_session(self, site: Site) -> None:
        """Nothing is written to a file that nobody sees: a new one is filled."""
        path = Path(site.url.removeprefix("sqlite:///"))
        with site.in_step() as applying:
            for each in path.parent.glob(f"{path.name}*"):
                each.unlink() if not each.name.endswith(".lock") else None
            site.change()
            applying.await_said("the target's file was removed, moved or replaced")
            site.await_equal(applying)

    @pytest.mark.parametrize(
        ("file", "folder", "said"), [(0o444, 0o777, "READONLY"), (0o644, 0o555, "Permission denied")]
    )
    def test_not_writable(self, file: int, folder: int, said: str) -> None:
        with tempfile.TemporaryDirectory(prefix="cdc-read-only-") as name:
            path = Path(name) / "target.db"
            with closing(sqlite3.connect(path)) as lite:
                lite.execute("CREATE TABLE other (id int)")
            path.chmod(file)
            path.parent.chmod(folder)
            target = open_target(TargetSettings(name="copy", url=f"sqlite:///{path}"))
            with unprivileged(), closing(target):
                with pytest.raises(TargetError, match=said) as raised:
                    target.open()
                assert [check.found for check in target.checks() if not check.ok]
            assert not isinstance(raised.value, PassingError)
            assert re.search("writable|let this user write", str(raised.value.mend))
            path.parent.chmod(0o755)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Not as root, to whom all is allowed."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(pwd.getpwnam("nobody").pw_uid)
    try:
        yield
    finally:
        os.seteuid(before)


# -- a checkpoint that was edited ------------------------------------------------------------------------------------

ITEM = "topic LIKE '%item'"
EDITS = [
    (
        f"UPDATE cdc_checkpoint SET next_offset = -7 WHERE {ITEM}",
        "item: next_offset can't be -7",
        "DELETE FROM cdc_applier",
    ),
    (f"UPDATE cdc_checkpoint SET next_offset = 999 WHERE {ITEM}", "item never held offset 999", "another log"),
    (f"UPDATE cdc_checkpoint SET epoch = 7 WHERE {ITEM}", "ahead of the log: .*item stands in epoch 7", "start-over"),
    ("UPDATE cdc_applier SET log_id = 'another'", "belongs to another log", r"\[log\] url"),
    ("UPDATE cdc_applier SET log_id = NULL", "does not say of which log", "write what was there before"),
    ("DELETE FROM cdc_applier", "does not say of which log", "write what was there before"),
    ("DELETE FROM cdc_checkpoint", "cdc_checkpoint was emptied", "DELETE FROM cdc_applier"),
    ("DROP TABLE cdc_checkpoint", "cdc_checkpoint was emptied or dropped", "DELETE FROM cdc_applier"),
    ("ALTER TABLE cdc_checkpoint DROP COLUMN ordinal", "altered cdc's own tables", "put them back"),
]
GARBAGE = [(f"UPDATE cdc_checkpoint SET ordinal = 'x' WHERE {ITEM}", "ordinal can't be 'x'", "DELETE FROM cdc_applier")]


class TestEditedCheckpoint:
    """Stops before anything is applied, and goes on when it is put right."""

    @ON_EACH
    def test_before_a_session(self, site: Site) -> None:
        with site.in_step():
            pass
        kept = site.checkpoint()
        before = site.rows()
        site.change()
        for edit, what, mend in EDITS + (GARBAGE if isinstance(site.database, Sqlite) else []):
            site.database.execute(edit)
            with site.applying() as applying:
                applying.await_end(what, mend)
            assert site.rows() == before, edit
            site.restore(kept)
        site.database.execute(f"UPDATE cdc_checkpoint SET commit_lsn = commit_lsn + 100000000 WHERE {ITEM}")
        with site.applying() as applying:
            applying.await_said("beyond .* the last transaction that the log has as a whole")
        site.restore(kept)
        with site.in_step() as applying:
            assert applying.said == []

    @ON_EACH
    def test_during_one(self, site: Site) -> None:
        for edit in ("UPDATE cdc_applier SET version = version - 1", "UPDATE cdc_applier SET version = version + 1"):
            with site.in_step() as applying:
                site.database.execute(edit)
                site.change()
                applying.await_end(
                    "another applier took over", "somebody edited the checkpoint .* start this one again"
                )

    @ON_EACH
    def test_its_table_is_dropped_during_one(self, site: Site) -> None:
        with site.in_step() as applying:
            site.database.execute("DROP TABLE cdc_checkpoint")
            site.change()
            applying.await_end("cdc_checkpoint was emptied or dropped", "DELETE FROM cdc_applier")
        site.database.execute("DROP TABLE item")
        site.database.execute("DELETE FROM cdc_applier")
        with site.in_step():
            pass


# -- a checkpoint that is older than what the log holds ---------------------------------------------------------------


class TestRetention:
    @pytest.mark.parametrize("consistency", ["transaction", "key"])
    def test_of_a_local_log(self, consistency: str, site: Site) -> None:
        def trim() -> None:
            site.replica.close()
            with closing(sqlite3.connect(site.log_file)) as log, log:
                assert not remove_older(log, (int(time.time()) + 60) * 1000)

        site.options = {"consistency": consistency}
        self._assert_told(site, trim)

    def test_of_topics_in_kafka(
        self, new_database: Callable[..., str], kafka: str, tmp_path: Path, unique_name: str
    ) -> None:
        with closing(Site(new_database(), Sqlite(tmp_path), tmp_path, unique_name, kafka)) as site:

            def trim() -> None:
                admin = AdminClient({"bootstrap.servers": kafka})
                places = [Place(f"{unique_name}.public.item", number, OFFSET_END) for number in range(2)]
                for removed in admin.delete_records(places).values():
                    removed.result()

            self._assert_told(site, trim)

    @staticmethod
    def _assert_told(site: Site, trim: Callable[[], None]) -> None:
        """The applier stops, and `cdc status` and `cdc check` say why."""
        with site.in_step():
            pass
        before = site.rows()
        site.change()
        assert all(check.ok for check in all_checks(site.settings))
        trim()
        lost = "no longer holds offset .* were removed before they were read"
        with site.applying() as applying:
            applying.await_end(lost, "--start-over")
        assert site.rows() == before
        assert re.search(lost, read_status(site.settings).targets[site.name]["error"])
        (wrong,) = [check for check in all_checks(site.settings) if not check.ok]
        assert re.search(lost, wrong.found)
        assert "--start-over" in str(wrong.mend)
        site.run("DELETE FROM item WHERE id < 3")
        site.replica.start_over()
        with site.applying() as applying:
            site.replica.capture()
            site.await_equal(applying)


# -- tables that were altered behind our back --------------------------------------------------------------------------


class TestTables:
    @ON_ALL
    @pytest.mark.parametrize("when", ["during", "between"])
    def test_dropped(self, when: str, site: Site) -> None:
        """Never made anew without the rows that it had."""
        if when == "during" and isinstance(site.database, DuckDB):
            pytest.skip("one process has the file")
        gone = ("public.item is gone, with the rows that it had", f"cdc rebuild {site.name}")
        with site.in_step() as applying:
            if when == "during":
                site.database.execute("DROP TABLE item")
                site.change()
                applying.await_end(*gone)
        if when == "between":
            site.database.execute("DROP TABLE item")
            site.change()
        with site.applying() as applying:
            applying.await_end(*gone)
        assert site.rows() == []
        if isinstance(site.database, DuckDB):
            for table in ("cdc_checkpoint", "cdc_applier"):
                site.database.execute(f"DELETE FROM {table}")
        else:
            with swap_session(site.settings, site.name, lambda _: None) as swap:
                assert swap.run(lambda: False)
        with site.in_step():
            pass

    @ON_EACH
    def test_altered_during_a_session(self, site: Site) -> None:
        """What does not matter goes on, what does is told by the next session, which looks."""
        maria = isinstance(site.database, MariaDB)
        with site.in_step() as applying:
            site.database.execute("ALTER TABLE item ADD COLUMN more int")
            site.change()
            site.await_equal(applying)
            site.database.execute("ALTER TABLE item RENAME COLUMN body TO text")
            site.change()
            applying.await_end("item lacks body", "give it the source's columns")
        site.database.execute("ALTER TABLE item RENAME COLUMN text TO body")
        with site.in_step() as applying:
            if isinstance(site.database, Sqlite):
                site.database.execute("CREATE TABLE other (id int, body text)")
                site.database.execute("INSERT INTO other SELECT id, body FROM item")
                site.database.execute("DROP TABLE item")
                site.database.execute("ALTER TABLE other RENAME TO item")
            elif maria:
                return  # there a batch is written without an error, see docs/operations.md
            else:
                site.database.execute("ALTER TABLE item DROP CONSTRAINT item_pkey")
            site.change()
            applying.await_end("item.* has no unique key on id", "UNIQUE")
