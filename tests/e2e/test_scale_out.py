"""Several `cdc apply` of one target: standbys that take over, and processes that share its partitions."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from signal import SIGCONT, SIGKILL, SIGSTOP, SIGTERM

import psycopg
import pytest
from replica import Replica

from cdc.avro.names import schemas_topic
from cdc.cli.options import load_settings
from cdc.core.errors import TargetSchemaError
from cdc.core.log import TopicPartition
from cdc.core.settings import TargetSettings
from cdc.log.followed import FollowedReader
from cdc.registry.embedded import EmbeddedRegistry
from cdc.wiring import capture_session
from consumers.apply.applier import Applier
from consumers.targets.open import open_target
from consumers.wiring import shared_session

PATIENCE_SECONDS = 180
SESSION_TIMEOUT = 2

CONFIG = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"
publication = "{name}"

[log]
url = "{log}"
prefix = "{name}"
partitions = 4

[targets.replica]
url = "{target}"
consistency = "{consistency}"
session_timeout = {session_timeout}
"""


class Crew:
    """Processes of `cdc`, each with its output in a file."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._names: dict[int, str] = {}

    def start(self, name: str, *command: str) -> None:
        with self._output(name).open("ab") as output:
            self._running[name] = subprocess.Popen(
                [sys.executable, "-m", "cdc", *command],
                cwd=self._folder,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._names[self._running[name].pid] = name

    def signal(self, name: str, number: int) -> None:
        os.kill(self._running[name].pid, number)

    def end(self, name: str, number: int = SIGTERM) -> int:
        process = self._running.pop(name)
        process.send_signal(number)
        return process.wait(PATIENCE_SECONDS)

    def said(self, name: str) -> str:
        return self._output(name).read_text(errors="replace")

    @property
    def names(self) -> dict[int, str]:
        """By process id, of all that ever ran."""
        return self._names

    def require_running(self) -> None:
        for name, process in self._running.items():
            assert process.poll() is None, f"{name}: {self.said(name)}"

    def close(self) -> None:
        for process in self._running.values():
            process.send_signal(SIGCONT)
            process.terminate()
        for process in self._running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _output(self, name: str) -> Path:
        return self._folder / f"{name}.out"


@contextmanager
def crew(folder: Path) -> Iterator[Crew]:
    made = Crew(folder)
    try:
        yield made
    finally:
        made.close()


def until(condition: Callable[[], bool], people: Crew) -> float:
    """How many seconds it took."""
    started = time.monotonic()
    while not condition():
        people.require_running()
        assert time.monotonic() - started < PATIENCE_SECONDS
        time.sleep(0.01)
    return time.monotonic() - started


# Of the target's database alone: capture holds such a lock too, in the source's, and that is on the same server.
OWNER = """
    SELECT pid FROM pg_locks JOIN pg_database ON oid = database
    WHERE locktype = 'advisory' AND granted AND datname = current_database()
"""


def rows(url: str, sql: str) -> list[tuple]:
    with psycopg.connect(url) as connection:
        return connection.execute(sql.encode()).fetchall()


@pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
def test_a_standby_takes_over(kind: str, new_database: Callable[[], str], unique_name: str, tmp_path: Path) -> None:
    """After kill -9, a lost connection, and a process that stands still, which comes back as a standby."""
    source = new_database()
    target = new_database() if kind == "postgresql" else f"sqlite:///{tmp_path / 'replica.db'}"
    (tmp_path / "cdc.toml").write_text(
        CONFIG.format(
            source=source,
            target=target,
            log=f"sqlite:///{tmp_path / 'log.db'}",
            name=unique_name,
            consistency="transaction",
            session_timeout=SESSION_TIMEOUT,
        )
    )
    took: dict[str, float] = {}
    with psycopg.connect(source, autocommit=True) as writer, crew(tmp_path) as people:
        writer.execute("CREATE TABLE t (id int PRIMARY KEY)")
        people.start("capture", "capture")
        people.start("one", "apply", "replica")
        until(lambda: owner_is(people, kind, target), people)
        people.start("two", "apply", "replica")
        until(lambda: "standing by: another applier" in people.said("two"), people)

        people.end("one", SIGKILL)
        took["kill -9"] = until(lambda: people.said("two").count("taking over") == 1, people)
        if kind == "postgresql":
            people.start("one", "apply", "replica")
            until(lambda: "standing by" in people.said("one"), people)
            ((pid,),) = rows(target, OWNER)
            rows(target, f"SELECT pg_terminate_backend({pid})")
            took["connection cut"] = until(lambda: people.said("one").count("taking over") == 1, people)
            until(lambda: people.said("two").count("standing by") == 2, people)

            people.signal("one", SIGSTOP)
            took["SIGSTOP"] = until(lambda: people.said("two").count("taking over") == 2, people)
            writer.execute("INSERT INTO t VALUES (1)")
            until(lambda: rows(target, "SELECT * FROM t") == [(1,)], people)
            people.signal("one", SIGCONT)
            until(lambda: people.said("one").count("standing by") == 2, people)
        people.require_running()
        assert people.end("two") == 0
    print(kind, {what: round(seconds, 2) for what, seconds in took.items()})


def owner_is(people: Crew, kind: str, target: str) -> bool:
    if kind == "sqlite":
        return Path(target.removeprefix("sqlite:///")).exists()
    return bool(rows(target, OWNER))


LONG = "x" * 3000  # kept out of line, so that an update of another column leaves it UNCHANGED

TABLES = """
    CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL, long text NOT NULL);
    ALTER TABLE accounts ALTER long SET STORAGE EXTERNAL;
    CREATE TABLE parts (id int PRIMARY KEY, n int NOT NULL);
    CREATE TABLE emptied (id int PRIMARY KEY, n int NOT NULL);
    CREATE TABLE history (id int, n int);
"""


class Workload(threading.Thread):
    """Writes until it is stopped: rows that come, change, move to other keys and go; truncates; a change of shape."""

    def __init__(self, source: str) -> None:
        super().__init__(daemon=True)
        self._source = source
        self._stopping = threading.Event()
        self.rounds = 0
        self.error: psycopg.Error | None = None

    def run(self) -> None:
        try:
            with psycopg.connect(self._source, autocommit=True) as connection:
                while not self._stopping.wait(0.1):
                    self._round(connection, self.rounds)
                    self.rounds += 1
        except psycopg.Error as error:
            self.error = error

    def stop(self) -> None:
        self._stopping.set()
        self.join()
        assert self.error is None

    def _round(self, connection: psycopg.Connection, n: int) -> None:
        first = 100 * n
        with connection.transaction():
            connection.execute(
                "INSERT INTO accounts SELECT i, 0, %s || i FROM generate_series(%s::int, %s::int) i",
                [LONG, first, first + 9],
            )
            connection.execute(
                "INSERT INTO parts SELECT i, 0 FROM generate_series(%s::int, %s::int) i", [first, first + 99]
            )
            connection.execute("INSERT INTO history SELECT i, %s FROM generate_series(1, 5) i", [n])
        connection.execute("UPDATE accounts SET n = n + 1 WHERE id > %s", [first - 300])
        connection.execute("UPDATE parts SET n = n + 1 WHERE id BETWEEN %s AND %s", [first - 150, first + 50])
        connection.execute("DELETE FROM parts WHERE id > %s AND id %% 11 = %s", [first - 300, n % 11])
        if n % 20 == 5:
            connection.execute("UPDATE accounts SET id = -id WHERE id = %s", [first])  # moved, with a value unsent
            connection.execute("UPDATE accounts SET n = n + 1 WHERE id = %s", [-first])
        connection.execute("INSERT INTO emptied SELECT i, 0 FROM generate_series(%s::int, %s::int) i", [n, n + 9])
        if n % 2:
            connection.execute("UPDATE emptied SET n = 1")
        if n % 20 == 15:
            connection.execute("TRUNCATE emptied")
        else:
            connection.execute("DELETE FROM emptied WHERE id > %s", [n])
        if n == 40:
            connection.execute("ALTER TABLE parts ADD extra text DEFAULT 'filled'")


def test_appliers_share_the_partitions(
    new_database: Callable[[], str], kafka: str, unique_name: str, tmp_path: Path
) -> None:
    source, target = new_database(), new_database()
    (tmp_path / "cdc.toml").write_text(
        CONFIG.format(
            source=source,
            target=target,
            log=f"kafka://{kafka}",
            name=unique_name,
            consistency="key",
            session_timeout=6,
        )
    )
    shared = ("apply", "replica", "--shared")
    workload = Workload(source)
    with psycopg.connect(source, autocommit=True) as writer, crew(tmp_path) as people:
        writer.execute(TABLES)
        people.start("capture", "capture")
        people.start("one", *shared)
        people.start("two", *shared)
        workload.start()
        until(lambda: len(owners(target)) == 2, people)
        people.start("three", *shared)
        until(lambda: len(owners(target)) == 3, people)

        people.end("one", SIGKILL)
        gone = until(lambda: "one" not in owners(target, people) and len(owners(target)) == 2, people)
        people.signal("two", SIGSTOP)
        stopped = until(lambda: set(owners(target, people)) == {"three"}, people)
        people.signal("two", SIGCONT)
        until(lambda: set(owners(target, people)) == {"two", "three"}, people)
        assert people.end("three") == 0
        until(lambda: set(owners(target, people)) == {"two"}, people)
        until(lambda: workload.rounds > 60, people)
        workload.stop()
        behind = until(lambda: same_counts(source, target), people)
        for table in ("accounts", "parts", "emptied", "history"):
            until(lambda: rows(target, whole(table)) == rows(source, whole(table)), people)  # noqa: B023
        people.require_running()
    print(f"{workload.rounds} rounds; gone {gone:.1f} s, stopped {stopped:.1f} s, behind {behind:.1f} s")


def test_what_an_applier_that_shares_shows_is_what_it_did(
    new_database: Callable[[], str], kafka: str, unique_name: str, tmp_path: Path
) -> None:
    """It makes another applier whenever it gets other partitions."""
    source, file = new_database(), tmp_path / "cdc.toml"
    of = {"source": source, "target": new_database(), "log": f"kafka://{kafka}", "name": unique_name}
    file.write_text(CONFIG.format(**of, consistency="key", session_timeout=6))
    with psycopg.connect(source, autocommit=True) as writer:
        writer.execute("CREATE TABLE item (id int PRIMARY KEY)")
        writer.execute("INSERT INTO item SELECT generate_series(1, 20)")
    settings = load_settings(file)
    with capture_session(settings, print) as capture:
        capture.run(lambda: capture.progress.events >= 20)
    deadline = time.monotonic() + PATIENCE_SECONDS
    with shared_session(settings, "replica", print) as sharing:
        sharing.run(lambda: sharing.progress.events >= 20 or time.monotonic() > deadline)
        assert sharing.progress.events >= 20
    assert rows(of["target"], "SELECT count(*) FROM item") == [(20,)]


def test_a_table_that_somebody_drops_under_appliers_that_share(
    new_database: Callable[[], str], unique_name: str
) -> None:
    """Who has a part looks too: the table would come back without its rows."""
    source = new_database()
    settings = TargetSettings(name=unique_name, url=new_database(), consistency="key")
    with psycopg.connect(source, autocommit=True) as writer:
        writer.execute("CREATE TABLE item (id int PRIMARY KEY)")
        writer.execute("INSERT INTO item SELECT generate_series(1, 20)")
    with (
        Replica(source, {}, name=unique_name) as replica,
        closing(open_target(settings).shared()) as target,
        closing(FollowedReader(replica.log.reader("shared"))) as reader,
    ):

        def take(held: Collection[TopicPartition] | None) -> None:
            target.hold(held)
            applier = Applier(
                reader=reader,
                registry=EmbeddedRegistry(replica.log, None, schemas_topic(unique_name)),
                target=target,
                settings=settings,
                prefix=unique_name,
                held=held,
            )
            try:
                assert applier.start()
                if held is None:
                    applier.claim()
                while held and (applier.step(0.0) or not reader.at_end()):
                    pass
            finally:
                applier.leave()

        mine = [TopicPartition(f"{unique_name}.public.item", 0)]
        replica.capture()
        take(None)
        take(mine)
        with psycopg.connect(settings.url, autocommit=True) as copy, psycopg.connect(source, autocommit=True) as writer:
            assert copy.execute("SELECT count(*) FROM item").fetchone() == (20,)
            copy.execute("DROP TABLE item")
            writer.execute("INSERT INTO item VALUES (21)")
            replica.capture()
            with pytest.raises(TargetSchemaError, match="item is gone"):
                take(mine)


def owners(target: str, people: Crew | None = None) -> dict[str, int]:
    """How many partitions each process holds, by its name if `people` know it."""
    try:
        found = rows(target, "SELECT owner, count(*) FROM cdc_share GROUP BY 1")
    except psycopg.errors.UndefinedTable:
        return {}
    names = {} if people is None else people.names
    return {names.get(int(owner.rpartition(":")[2]), owner): count for owner, count in found}


def same_counts(source: str, target: str) -> bool:
    counts = "SELECT (SELECT count(*) FROM accounts), (SELECT count(*) FROM parts), (SELECT count(*) FROM history)"
    return rows(source, counts) == rows(target, counts)


def whole(table: str) -> str:
    return f"SELECT t::text FROM (SELECT * FROM {table}) t ORDER BY 1"
