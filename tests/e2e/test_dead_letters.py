"""Dead letters: what a target refuses waits, with what depends on it, until it is retried or dropped."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from cdc.core.errors import AlreadyRunningError, ConfigError, ConstraintError
from cdc.core.settings import LogSettings, RegistrySettings, Settings
from cdc.log.open import open_log
from consumers import dlq
from tests.replica import Replica
from tests.target_databases import DuckDB, MariaDB

Row = tuple[object, ...]


class Site:
    """A source with a table `item`, and a target whose `item` refuses prices of 100 and more, until `mend`."""

    def __init__(self, source: str, target: str, log: LogSettings) -> None:
        self.source, self.url, self.log_settings = source, target, log
        self.writer = psycopg.connect(source, autocommit=True)
        self.run("CREATE TABLE item (id int PRIMARY KEY, price int, note text)", "CREATE TABLE bag (what int)")
        self.run("ALTER TABLE bag REPLICA IDENTITY FULL", "CREATE TABLE other (id int PRIMARY KEY)")
        self.at_target(
            "CREATE TABLE item (id int PRIMARY KEY, price int, note text, CONSTRAINT item_price CHECK (price < 100))",
            "CREATE TABLE bag (what int, CONSTRAINT bag_what CHECK (what < 100))",
        )
        self.replica = Replica(
            source,
            {"it": target},
            name=log.prefix,
            log=open_log(log),
            log_settings=log,
            options={"it": {"on_error": "dead-letter", "batch_events": 50}},
        )
        self.name = f"{log.prefix}_it"

    def run(self, *statements: str) -> None:
        for statement in statements:
            self.writer.execute(statement.encode())

    def step(self, *statements: str) -> None:
        """Each by itself: within a batch only the last state of a row counts."""
        for statement in statements:
            self.run(statement)
            self.replica.catch_up()

    def at_target(self, *statements: str) -> list[Row]:
        found: list[Row] = []
        if self.url.startswith("sqlite"):
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as lite, lite:
                for statement in statements:
                    found = lite.execute(statement).fetchall()
            return found
        if self.url.startswith("mysql"):
            for statement in statements:
                found = MariaDB(self.url).values(statement)
            return found
        with psycopg.connect(self.url) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
                found = cursor.fetchall() if cursor.description else []
        return found

    def mend(self) -> None:
        if self.url.startswith("sqlite"):
            for table, columns in (("item", "id int PRIMARY KEY, price int, note text"), ("bag", "what int")):
                self.at_target(
                    f"CREATE TABLE new ({columns})",
                    f"INSERT INTO new SELECT * FROM {table}",
                    f"DROP TABLE {table}",
                    f"ALTER TABLE new RENAME TO {table}",
                )
        else:
            self.at_target("ALTER TABLE item DROP CONSTRAINT item_price", "ALTER TABLE bag DROP CONSTRAINT bag_what")

    @property
    def settings(self) -> Settings:
        targets = {self.name: self.replica._targets["it"]}
        return Settings(source=None, log=self.log_settings, registry=RegistrySettings(), targets=targets)

    def letters(self) -> list[tuple[str, bool]]:
        """Their tables, and whether they only wait behind another."""
        return [(str(each.letter.table), not each.error) for each in dlq.listed(self.settings, self.name)]

    def retry(self, which: str | None = None) -> tuple[int, int, int]:
        """How many were applied, refused again, and wait."""
        self.replica.close()
        found = dlq.retry(self.settings, self.name, dlq.chosen(which))
        return found.done, len(found.refused), found.waiting

    def drop(self, which: str) -> tuple[int, int]:
        self.replica.close()
        return dlq.drop(self.settings, self.name, dlq.chosen(which), lambda _: True)

    def assert_equal(self, *tables: str) -> None:
        self.replica.catch_up()
        for table in tables:
            query = f"SELECT * FROM {table} ORDER BY 1"
            assert self.at_target(query) == self.writer.execute(query.encode()).fetchall(), table

    def close(self) -> None:
        self.replica.close()
        self.replica.drop()
        self.writer.close()


ON_BOTH = pytest.mark.parametrize("site", ["postgresql", "sqlite"], indirect=True)
ON_EACH = pytest.mark.parametrize("site", ["postgresql", "sqlite", "mariadb"], indirect=True)
ON_SERVERS = pytest.mark.parametrize("site", ["postgresql", "mariadb"], indirect=True)


@pytest.fixture(params=["postgresql"])
def site(
    request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path: Path, unique_name: str
) -> Iterator[Site]:
    match request.param:
        case "postgresql":
            target = new_database()
        case "mariadb":
            target = request.getfixturevalue("new_mariadb")()
        case _:
            target = f"sqlite:///{tmp_path / 'replica.db'}"
    log = LogSettings(url=f"sqlite:///{tmp_path / 'log.db'}", prefix=unique_name, partitions=2)
    site = Site(new_database(), target, log)
    yield site
    site.close()


@ON_EACH
def test_later_events_of_the_key_wait_and_others_go_on(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a'), (2, 2, 'b'), (3, 3, 'c')")
    site.replica.catch_up()
    site.step("UPDATE item SET price = 500 WHERE id = 1", "UPDATE item SET price = 20 WHERE id = 2")
    site.step("UPDATE item SET note = 'x' WHERE id = 1", "INSERT INTO other VALUES (1)")
    assert site.at_target("SELECT * FROM item ORDER BY 1") == [(1, 1, "a"), (2, 20, "b"), (3, 3, "c")]
    assert site.at_target("SELECT * FROM other") == [(1,)]
    assert site.letters() == [("public.item", False), ("public.item", True)]
    assert any("item" in said and "check" in said.lower() for said in site.replica.said)
    site.step("UPDATE item SET note = 'later' WHERE id = 1", "DELETE FROM item WHERE id = 3")
    site.replica.reopen()
    site.replica.catch_up()
    assert site.letters() == [("public.item", False), ("public.item", True), ("public.item", True)]
    assert site.retry() == (0, 1, 2)
    site.mend()
    assert site.retry() == (3, 0, 0)
    assert site.letters() == []
    site.assert_equal("item", "other")


@ON_EACH
@pytest.mark.parametrize("partitions", [1, 2])
def test_poison_in_a_first_load(site: Site, partitions: int) -> None:
    """With one partition its rows come together."""
    site.replica.reopen(log_settings=replace(site.log_settings, partitions=partitions))
    site.run(
        "INSERT INTO item SELECT g, CASE WHEN g % 40 = 7 THEN 500 ELSE 1 END, 'n' || g FROM generate_series(1, 100) g",
        "INSERT INTO bag SELECT CASE WHEN g = 30 THEN 500 ELSE g END FROM generate_series(1, 60) g",
        "INSERT INTO other SELECT generate_series(1, 100)",
    )
    site.assert_equal("other")
    assert site.at_target("SELECT count(*) FROM item") == [(97,)]
    assert site.letters().count(("public.item", False)) == 3
    assert site.letters().count(("public.bag", False)) == 1
    site.step("UPDATE item SET note = 'later' WHERE id IN (7, 8)")
    assert site.letters().count(("public.item", True)) == 1
    site.mend()
    assert site.retry()[1:] == (0, 0)
    site.assert_equal("item", "bag", "other")


def test_what_stops_without_dead_letters(site: Site) -> None:
    site.replica.set_options("it", on_error="stop")
    site.run("INSERT INTO item VALUES (1, 500, 'a')")
    with pytest.raises(ConstraintError) as raised:
        site.replica.catch_up()
    assert raised.value.mend
    site.mend()
    site.replica.reopen()
    site.assert_equal("item")


def test_letters_that_are_there_are_waited_for_by_one_that_stops(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "UPDATE item SET price = 500")
    site.replica.set_options("it", on_error="stop")
    site.step("UPDATE item SET price = 7")
    assert site.letters() == [("public.item", False), ("public.item", True)]
    assert site.at_target("SELECT price FROM item") == [(1,)]
    site.run("INSERT INTO item VALUES (2, 500, 'b')")
    with pytest.raises(ConstraintError):
        site.replica.catch_up()


def test_letters_of_a_table_that_would_have_another_name_now(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "UPDATE item SET price = 500")
    site.replica.set_options("it", rename={"public.item": "public.thing"})
    site.at_target("ALTER TABLE item RENAME TO thing")
    site.run("UPDATE item SET price = 7")
    with pytest.raises(ConfigError, match=r"public\.item has dead letters, and would be public\.thing now"):
        site.replica.catch_up()
    assert site.at_target("SELECT price FROM thing") == [(1,)]
    site.at_target("ALTER TABLE thing RENAME TO item")
    site.replica.set_options("it", rename={})
    site.replica.catch_up()
    site.mend()
    assert site.retry() == (2, 0, 0)
    site.at_target("ALTER TABLE item RENAME TO thing")
    site.replica.set_options("it", rename={"public.item": "public.thing"})
    site.step("UPDATE item SET note = 'b'")
    assert site.at_target("SELECT * FROM thing") == [(1, 7, "b")]


def test_a_moved_row_blocks_both_keys(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a'), (2, 2, 'b')")
    site.step("UPDATE item SET price = 500 WHERE id = 1", "UPDATE item SET id = 9 WHERE id = 1")
    site.step("UPDATE item SET price = 3 WHERE id = 9", "INSERT INTO item VALUES (1, 11, 'new')")
    site.step("UPDATE item SET price = 4 WHERE id = 2")
    site.replica.catch_up()
    assert site.at_target("SELECT * FROM item ORDER BY 1") == [(1, 1, "a"), (2, 4, "b")]
    assert len(site.letters()) == 5
    site.mend()
    assert site.retry("public.item") == (5, 0, 0)
    site.assert_equal("item")


def test_a_move_that_is_poison_itself_keeps_the_row(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')")
    site.replica.catch_up()
    site.step("UPDATE item SET id = 9, price = 500 WHERE id = 1", "UPDATE item SET price = 3 WHERE id = 9")
    site.replica.catch_up()
    assert site.at_target("SELECT * FROM item") in ([(1, 1, "a")], [])  # [] if its halves came apart
    site.mend()
    site.retry()
    assert site.letters() == []
    site.assert_equal("item")


@ON_BOTH
@pytest.mark.parametrize("half", [0, 1])
def test_one_half_of_a_move_is_not_retried_without_the_other(site: Site, half: int) -> None:
    """The second does not say what it would be without the row that the first one deletes."""
    site.run("ALTER TABLE item ALTER note SET STORAGE EXTERNAL")
    site.step("INSERT INTO item VALUES (1, 1, repeat('a', 3000))")
    site.replica.catch_up()
    site.step("UPDATE item SET id = 9, price = 500 WHERE id = 1")
    letters = [each.letter.position for each in dlq.listed(site.settings, site.name)]
    assert len(letters) == 2
    site.mend()
    assert site.retry(str(letters[half])) == (2, 0, 0)
    site.assert_equal("item")


@ON_BOTH
def test_a_table_without_key_waits_as_a_whole(site: Site) -> None:
    site.step("INSERT INTO bag VALUES (1)", "INSERT INTO bag VALUES (500)", "INSERT INTO bag VALUES (2)")
    site.step("DELETE FROM bag WHERE what = 500", "INSERT INTO item VALUES (1, 1, 'a')")
    site.assert_equal("item")
    assert site.at_target("SELECT * FROM bag") == [(1,)]
    site.mend()
    assert site.retry() == (3, 0, 0)
    site.assert_equal("bag")


def test_a_truncate_waits_and_makes_what_came_before_moot(site: Site) -> None:
    site.step(
        "INSERT INTO item VALUES (1, 500, 'a'), (2, 2, 'b')", "TRUNCATE item", "INSERT INTO item VALUES (3, 3, 'c')"
    )
    site.replica.catch_up()
    assert site.at_target("SELECT id FROM item") == [(2,)]
    assert site.retry() == (3, 0, 0)
    site.assert_equal("item")


def test_a_truncate_of_a_table_that_is_called_otherwise_at_the_target(site: Site) -> None:
    site.at_target("ALTER TABLE item RENAME TO goods")
    site.replica.set_options("it", rename={"public.item": "public.goods"})
    site.step("INSERT INTO item VALUES (1, 500, 'a')", "TRUNCATE item", "INSERT INTO item VALUES (3, 3, 'c')")
    assert site.retry() == (3, 0, 0)
    assert site.letters() == []
    assert site.at_target("SELECT id FROM goods") == [(3,)]


def test_a_truncate_of_another_table_that_got_the_name(site: Site) -> None:
    """What became a letter under that name before is still to be applied, to the table that has another one now."""
    site.step("INSERT INTO item VALUES (1, 500, 'a')", "ALTER TABLE item RENAME TO thing")
    site.step("CREATE TABLE item (id int PRIMARY KEY, price int, note text)", "INSERT INTO item VALUES (2, 2, 'b')")
    site.step("TRUNCATE item", "INSERT INTO item VALUES (3, 3, 'c')")
    site.mend()
    site.retry()
    assert site.letters() == []
    site.assert_equal("thing", "item")


@ON_SERVERS
def test_a_change_of_shape_waits(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "INSERT INTO item VALUES (2, 500, 'b')")
    site.step("ALTER TABLE item ADD COLUMN more int DEFAULT 5", "INSERT INTO item VALUES (3, 3, 'c', 6)")
    site.step("INSERT INTO other VALUES (1)")
    site.replica.catch_up()
    assert site.at_target("SELECT * FROM item") == [(1, 1, "a")]
    assert site.at_target("SELECT * FROM other") == [(1,)]
    site.mend()
    assert site.retry()[1:] == (0, 0)
    site.assert_equal("item")
    site.step("UPDATE item SET more = 7")
    site.assert_equal("item")


@ON_SERVERS
def test_a_transaction_that_alters_a_table_with_poison_before_and_after_it(site: Site) -> None:
    """MySQL alters it at once; what comes before is written in the new shape."""
    site.step("INSERT INTO item VALUES (1, 1, 'a'), (2, 2, 'b')")
    site.replica.catch_up()
    with site.writer.transaction():
        site.run(
            "INSERT INTO item VALUES (3, 500, 'poison'), (4, 4, 'd')",
            "UPDATE item SET price = 20 WHERE id = 2",
            "INSERT INTO other VALUES (1)",
            "ALTER TABLE item DROP COLUMN note, ADD COLUMN more int DEFAULT 5",
            "INSERT INTO item VALUES (5, 5, 6)",
        )
    site.run("UPDATE item SET more = 7 WHERE id = 1")
    site.replica.catch_up()
    assert site.at_target("SELECT id, price FROM item ORDER BY 1") == [(1, 1), (2, 20), (4, 4)]
    site.assert_equal("other")
    assert [waits for _, waits in site.letters()].count(False) == 1
    assert site.retry()[1] == 1
    site.mend()
    assert site.retry()[1:] == (0, 0)
    site.assert_equal("item")


@ON_EACH
def test_a_table_that_does_not_fit_waits_alone(site: Site) -> None:
    site.at_target("CREATE TABLE odd (id int PRIMARY KEY)")
    site.step("CREATE TABLE odd (id int PRIMARY KEY, a int)", "INSERT INTO odd VALUES (1, 1)")
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "INSERT INTO odd VALUES (2, 2)")
    site.assert_equal("item")
    assert len([table for table, _ in site.letters() if table == "public.odd"]) == len(site.letters()) >= 2
    site.at_target("ALTER TABLE odd ADD COLUMN a int")
    assert site.retry("public.odd")[1:] == (0, 0)
    site.assert_equal("odd")


def test_dropped_letters_let_the_key_go_on(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "UPDATE item SET price = 500", "UPDATE item SET price = 7")
    site.replica.catch_up()
    (poison, _) = dlq.listed(site.settings, site.name)
    assert site.drop(str(poison.letter.position)) == (1, 1)
    assert site.retry() == (1, 0, 0)
    site.step("UPDATE item SET note = 'z'")
    site.assert_equal("item")


def test_what_a_later_state_of_the_row_mends_is_applied(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "UPDATE item SET price = 500", "UPDATE item SET price = 7")
    assert len(site.letters()) == 2
    assert site.retry() == (2, 0, 0)
    site.assert_equal("item")


def test_a_letter_behind_another_is_not_retried_alone(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 1, 'a')", "UPDATE item SET price = 500", "UPDATE item SET price = 7")
    site.replica.catch_up()
    (_, behind) = dlq.listed(site.settings, site.name)
    site.mend()
    assert site.retry(str(behind.letter.position)) == (0, 0, 2)
    assert site.retry() == (2, 0, 0)
    site.assert_equal("item")


def test_a_running_applier_is_told_of(site: Site) -> None:
    site.step("INSERT INTO item VALUES (1, 500, 'a')")
    site.replica.catch_up()
    for change in (
        lambda: dlq.retry(site.settings, site.name, dlq.chosen(None)),
        lambda: dlq.drop(site.settings, site.name, dlq.chosen(None), lambda _: True),
    ):
        with pytest.raises(AlreadyRunningError) as raised:
            change()
        assert "stop it" in str(raised.value.mend)
    assert len(site.letters()) == 1


def test_a_target_without_savepoints(new_database: Callable[..., str], tmp_path: Path, unique_name: str) -> None:
    """DuckDB, which has no NaN in a NUMERIC."""
    source, database = new_database(), DuckDB(tmp_path)
    log = LogSettings(url=f"sqlite:///{tmp_path / 'log.db'}", prefix=unique_name, partitions=2)
    options = {"it": {"on_error": "dead-letter"}}
    with (
        psycopg.connect(source, autocommit=True) as writer,
        Replica(
            source, {"it": database.url}, name=unique_name, log=open_log(log), log_settings=log, options=options
        ) as replica,
    ):
        writer.execute("CREATE TABLE item (id int PRIMARY KEY, price numeric(9,2))")
        writer.execute(
            "INSERT INTO item SELECT n, CASE WHEN n % 7 = 0 THEN 'NaN' ELSE n::numeric END"
            " FROM generate_series(1, 30) AS n"
        )
        replica.catch_up()
        writer.execute("UPDATE item SET price = price + 1 WHERE id IN (7, 8)")
        replica.catch_up()
        assert database.execute("SELECT count(*), sum(price) FROM item") == [(26, 30 * 31 // 2 - 7 - 14 - 21 - 28 + 1)]
        writer.execute("UPDATE item SET price = 0 WHERE price = 'NaN'")
        replica.catch_up()
        name = f"{unique_name}_it"
        targets = {name: replica._targets["it"]}
        settings = Settings(source=None, log=log, registry=RegistrySettings(), targets=targets)
        assert [not each.error for each in dlq.listed(settings, name)].count(False) == 4
        replica.close()
        found = dlq.retry(settings, name, dlq.chosen(None))
        assert (found.done, found.refused, found.waiting) == (9, [], 0)
        replica.catch_up()
        query = "SELECT id, price FROM item ORDER BY 1"
        assert database.execute(query) == writer.execute(query.encode()).fetchall()


STEPS = (
    "apply.1-fenced",
    "apply.letters-in-log",
    "apply.2-written",
    "apply.3-checkpointed",
    "apply.4-committed",
    "apply.5-offsets-committed",
)


def command(site: Site, folder: Path, *words: str, dying_at: str = "") -> subprocess.CompletedProcess[str]:
    """`cdc …` in a process of its own, which may die at a failpoint."""
    config = folder / "cdc.toml"
    log, target = site.log_settings, site.replica._targets["it"]
    config.write_text(
        f'[source]\nurl = "{site.source}"\ntables = ["public.*"]\n'
        f'[log]\nurl = "{log.url}"\nprefix = "{log.prefix}"\n'
        f'[targets.{target.name}]\nurl = "{target.url}"\non_error = "dead-letter"\n'
    )
    return subprocess.run(
        [sys.executable, "-m", "cdc", *words, "--config", str(config)],
        env=os.environ | {"CDC_FAILPOINT": dying_at},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("kind", ["local", "kafka"])
def test_a_kill_at_any_step_loses_and_doubles_nothing(
    kind: str, request: pytest.FixtureRequest, new_database: Callable[..., str], tmp_path: Path, unique_name: str
) -> None:
    """Capture's writer is open all the time: an applier writes its letters beside it."""
    url = f"sqlite:///{tmp_path / 'log.db'}" if kind == "local" else f"kafka://{request.getfixturevalue('kafka')}"
    with closing(Site(new_database(), new_database(), LogSettings(url=url, prefix=unique_name, partitions=2))) as site:
        site.replica.capture()
        steps = STEPS if kind == "local" else STEPS[1::2]
        for number, step in enumerate(steps):
            site.run(
                f"INSERT INTO item VALUES ({number}, 500, 'poison'), ({number + 100}, 1, 'free')",
                f"UPDATE item SET note = 'waits' WHERE id = {number}",
                f"INSERT INTO bag VALUES ({number % 2})",
                f"INSERT INTO other VALUES ({number})",
            )
            site.replica.capture()
            assert command(site, tmp_path, "apply", site.name, dying_at=step).returncode == -signal.SIGKILL
        site.replica.apply("it")
        assert len(site.letters()) == 2 * len(steps)
        assert site.at_target("SELECT id FROM item ORDER BY 1") == [(100 + n,) for n in range(len(steps))]
        site.assert_equal("bag", "other")
        site.step("INSERT INTO bag VALUES (500)", "INSERT INTO bag VALUES (1)")
        site.mend()
        site.replica.close()
        listed = json.loads(command(site, tmp_path, "dlq", "list", site.name, "--json").stdout)
        assert [each["waits"] for each in listed].count(True) == len(steps) + 1
        for step in ("apply.3-checkpointed", "apply.4-committed"):
            dead = command(
                site, tmp_path, "dlq", "retry", site.name, "public.item" if "3" in step else "*.*", dying_at=step
            )
            assert dead.returncode == -signal.SIGKILL
        assert site.letters() == []
        assert "applied 0" in command(site, tmp_path, "dlq", "retry", site.name).stdout
        site.assert_equal("item", "bag", "other")
