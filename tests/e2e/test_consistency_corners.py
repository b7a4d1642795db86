"""Corners of whole transactions, each found by a review that lost rows in it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions
from replica import Replica

from cdc.core.errors import GapError
from cdc.core.log import TopicPartition
from cdc.core.position import Position
from cdc.core.settings import LogSettings
from cdc.log.open import open_log

Make = Callable[..., tuple[Replica, str, str]]
ONE = "CREATE TABLE one (id int PRIMARY KEY, n int)"
TWO = "CREATE TABLE two (id int PRIMARY KEY, n int)"


def rows(url: str, table: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(f"SELECT * FROM {table} ORDER BY 1".encode()).fetchall()


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.fixture
def make(new_database: Callable[..., str], unique_name: str) -> Iterator[Make]:
    made: list[Replica] = []

    def replica(*statements: str, tables=("public.*",), topics=None, partitions=3, **options):
        source, target = new_database(), new_database()
        run(source, *statements)
        settings = LogSettings(prefix=unique_name, partitions=partitions, topics=topics or {})
        options = {"copy": options}
        made.append(
            Replica(source, {"copy": target}, name=unique_name, tables=tables, log_settings=settings, options=options)
        )
        return made[-1], source, target

    yield replica
    for each in made:
        each.close()
        each.drop()


def test_a_message_just_before_a_commit(make: Make) -> None:
    """It stands alone, at the same LSN as the commit."""
    replica, source, target = make(ONE, batch_events=2)
    replica.catch_up()
    with psycopg.connect(source) as connection:
        for number in range(20):
            connection.execute("INSERT INTO one VALUES (%s, 1), (%s, 2)", [2 * number, 2 * number + 1])
            connection.execute("SELECT pg_logical_emit_message(false, 'mine', 'x')")
            connection.commit()
    replica.catch_up()
    assert rows(target, "one") == rows(source, "one")


def test_a_target_by_key_that_stands_in_a_transaction_which_is_not_whole_yet(make: Make) -> None:
    replica, source, target = make(ONE, consistency="key")
    replica.catch_up()
    run(source, "INSERT INTO one SELECT g, g FROM generate_series(1, 20000) g")
    capture = replica._opened_capture()
    while capture.progress.events < 2000:
        replica.step_capture()
    replica.apply("copy")
    assert 0 < len(rows(target, "one")) < 20_000
    replica.set_options("copy", consistency="transaction")
    replica.apply("copy")
    replica.catch_up()
    assert rows(target, "one") == rows(source, "one")


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_a_start_before_the_load(consistency: str, make: Make) -> None:
    load = "INSERT INTO one SELECT g, g FROM generate_series(1, 10) g"
    replica, source, target = make(ONE, load, start=Position(0, 1, 0), consistency=consistency)
    replica.catch_up()
    run(source, "INSERT INTO one VALUES (11, 11)")
    replica.catch_up()
    assert rows(target, "one") == rows(source, "one")


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_names_with_dots(consistency: str, make: Make) -> None:
    replica, source, target = make(
        "CREATE SCHEMA a",
        'CREATE SCHEMA "a.b"',
        'CREATE TABLE a."b.c" (id int PRIMARY KEY)',
        'CREATE TABLE "a.b".c (id int PRIMARY KEY)',
        tables=("a.*", '"a.b".*'),
        topics={'"a"."b.c"': "other"},
        consistency=consistency,
    )
    replica.catch_up()
    run(source, 'INSERT INTO a."b.c" VALUES (1)', 'INSERT INTO "a.b".c VALUES (2)')
    replica.catch_up()
    assert (rows(target, 'a."b.c"'), rows(target, '"a.b".c')) == ([(1,)], [(2,)])


def test_a_table_that_began_to_join_by_key(make: Make) -> None:
    replica, source, target = make(ONE, TWO)
    replica.set_options("copy", tables=("public.one",), batch_events=10)
    replica.catch_up()
    run(source, *(f"INSERT INTO two VALUES ({number}, 1)" for number in range(40)), "INSERT INTO one VALUES (1, 1)")
    replica.catch_up()
    replica.set_options("copy", tables=("public.*",), consistency="key")
    applier, _ = replica._opened_applier("copy")
    while not applier.progress.events:
        applier.step(0.0)
    assert 0 < len(rows(target, "two")) < 40
    replica.set_options("copy", consistency="transaction")
    replica.catch_up()
    assert rows(target, "two") == rows(source, "two")


@pytest.mark.parametrize("consistency", ["key", "transaction"])
@pytest.mark.parametrize(
    ("ddl", "tables"),
    [
        ("RENAME TO three", ("public.*",)),
        ("RENAME TO three", ("public.one", "public.three")),
        ("RENAME COLUMN n TO m", ("public.*",)),
        ("ADD COLUMN m int DEFAULT 7", ("public.*",)),
    ],
)
def test_a_table_that_was_altered_before_it_joined(
    ddl: str, tables: tuple[str, ...], consistency: str, make: Make
) -> None:
    """Rows from before the change are not in the shape, or the topic, of those after it."""
    replica, source, target = make(ONE, TWO, "INSERT INTO two VALUES (1, 1), (2, 2)", consistency=consistency)
    replica.set_options("copy", tables=("public.one",))
    replica.catch_up()
    run(source, f"ALTER TABLE two {ddl}", "INSERT INTO one VALUES (1, 1)")
    run(source, f"DELETE FROM {'three' if 'three' in ddl else 'two'} WHERE id = 1")
    replica.catch_up()
    replica.set_options("copy", tables=tables)
    with pytest.raises(GapError, match="gone past the change of its shape or name") as told:
        replica.apply("copy")
    assert "cdc rebuild" in str(told.value.mend)
    assert rows(target, "one") == [(1, 1)]


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_a_table_whose_place_another_takes_while_a_target_is_without_it(consistency: str, make: Make) -> None:
    """The old one's rows are at the target, and nothing says that they are gone."""
    replica, source, target = make(ONE, TWO, "INSERT INTO two VALUES (1, 1)", consistency=consistency)
    replica.catch_up()
    replica.set_options("copy", tables=("public.one",))
    run(source, "INSERT INTO two VALUES (2, 2)", "INSERT INTO one VALUES (1, 1)")
    replica.catch_up()
    replica.set_options("copy", tables=("public.*",))
    replica.catch_up()
    run(source, "ALTER TABLE two ADD COLUMN m int DEFAULT 7", "INSERT INTO one VALUES (2, 2)")
    replica.catch_up()
    replica.reopen()
    replica.catch_up()  # what it followed after it came back stands against nothing
    assert rows(target, "two") == rows(source, "two") == [(1, 1, 7), (2, 2, 7)]
    replica.set_options("copy", tables=("public.one",))
    run(source, "DROP TABLE two", f"{TWO[:-1]}, m int)", "INSERT INTO two VALUES (3, 3, 3)")
    run(source, "INSERT INTO one VALUES (3, 3)")
    replica.catch_up()
    replica.set_options("copy", tables=("public.*",))
    with pytest.raises(GapError, match="gone past the change of its shape or name"):
        replica.apply("copy")
    assert rows(target, "two") == [(1, 1, 7), (2, 2, 7)]


@pytest.mark.parametrize("consistency", ["key", "transaction"])
@pytest.mark.parametrize("way", ["named", "loaded"])
def test_a_table_that_is_renamed_to_one_of_the_target_s(way: str, consistency: str, make: Make) -> None:
    """The error names ways out, and what the target has passed does not come up again."""
    replica, source, target = make(ONE, TWO, "INSERT INTO two VALUES (1, 1), (2, 2)", consistency=consistency)
    replica.set_options("copy", tables=("public.one",))
    replica.catch_up()
    run(source, "ALTER TABLE one RENAME TO one_old", "ALTER TABLE two RENAME TO one", "DELETE FROM one WHERE id = 1")
    with pytest.raises(GapError, match=r"public.two was renamed to public.one") as told:
        replica.catch_up()
    assert "name public.two in the target's tables too" in str(told.value.mend)
    if way == "named":
        replica.set_options("copy", tables=("public.one", "public.two"))
    else:
        replica.reopen()
        replica.start_over()
    replica.catch_up()
    assert rows(target, "one") == rows(source, "one") == [(2, 2)]
    replica.set_options("copy", tables=("public.one",))
    run(source, "ALTER TABLE one ADD COLUMN m int DEFAULT 7", "INSERT INTO one VALUES (3, 3, 3)")
    replica.catch_up()
    assert rows(target, "one") == rows(source, "one")


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_a_target_that_begins_after_a_table_got_its_name(consistency: str, make: Make) -> None:
    replica, source, target = make(ONE, TWO, consistency=consistency)
    replica.capture()
    run(source, "DROP TABLE one", "ALTER TABLE two RENAME TO one", "INSERT INTO one VALUES (1, 1)")
    replica.capture()
    replica.set_options("copy", tables=("public.one",), start="latest")
    replica.apply("copy")
    run(source, "INSERT INTO one VALUES (2, 2)")
    replica.catch_up()
    assert rows(target, "one") == [(2, 2)]


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_a_table_without_rows_that_is_altered(consistency: str, make: Make) -> None:
    """It does not join when its first row comes."""
    replica, source, target = make(ONE, TWO, consistency=consistency)
    replica.catch_up()
    run(source, "ALTER TABLE two RENAME TO three", "ALTER TABLE three ADD COLUMN m int", "CREATE TABLE four (id int)")
    run(source, "ALTER TABLE four ADD PRIMARY KEY (id)", "INSERT INTO one VALUES (1, 1)")
    replica.catch_up()
    replica.reopen()
    run(source, "INSERT INTO three VALUES (1, 1, 1)", "INSERT INTO four VALUES (1)")
    replica.catch_up()
    assert (rows(target, "three"), rows(target, "four")) == ([(1, 1, 1)], [(1,)])


@pytest.mark.parametrize("partitions", [1, 3])
def test_start_over_under_an_open_applier(partitions: int, make: Make) -> None:
    fill = "INSERT INTO {} SELECT g, g FROM generate_series(1, 100) g"
    replica, source, target = make(
        ONE, TWO, fill.format("one"), fill.format("two"), batch_events=10, partitions=partitions
    )
    replica.catch_up()
    run(source, "DELETE FROM one WHERE id <= 50", "UPDATE two SET n = 0")
    replica.start_over()
    replica.capture()
    replica.apply("copy")
    assert (rows(target, "one"), rows(target, "two")) == (rows(source, "one"), rows(source, "two"))


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_partitions_that_someone_adds_stay_unused(consistency: str, kafka: str, make: Make, unique_name: str) -> None:
    """With them keys would move, and what came first could not be told."""
    replica, source, target = make(ONE, consistency=consistency)
    settings = LogSettings(url=f"kafka://{kafka}", prefix=unique_name, partitions=2)
    with open_log(settings) as log:
        replica.reopen(log, settings)
        run(source, "INSERT INTO one SELECT g, g FROM generate_series(1, 100) g")
        replica.catch_up()
        replica.close()
        topics = [f"{unique_name}.public.one", f"{unique_name}.transaction"]
        admin = AdminClient({"bootstrap.servers": kafka})
        for done in admin.create_partitions([NewPartitions(topic, 5) for topic in topics]).values():
            done.result()
        run(source, "UPDATE one SET n = -n", "DELETE FROM one WHERE id % 7 = 0", "INSERT INTO one VALUES (200, 0)")
        replica.catch_up()
        with closing(log.reader("test")) as reader:
            unused = [TopicPartition(topic, number) for topic in topics for number in (2, 3, 4)]
            assert [reader.offsets(partition).next for partition in unused] == [0] * 6
        replica.close()
    assert rows(target, "one") == rows(source, "one")


def test_a_target_that_begins_after_other_tables_were_made(make: Make) -> None:
    """Each has a transaction whose END counts a change of shape that is not this target's."""
    replica, source, target = make(ONE, "INSERT INTO one VALUES (1, 1)")
    replica.capture()
    run(source, TWO, "ALTER TABLE two ADD more int", "INSERT INTO two VALUES (1, 1, 1)")
    run(source, "INSERT INTO one VALUES (2, 2)")
    replica.capture()
    replica.set_options("copy", tables=("public.one",))
    replica.apply("copy")
    assert rows(target, "one") == [(1, 1), (2, 2)]
    run(source, "DROP TABLE two", "INSERT INTO one VALUES (3, 3)", "ALTER TABLE one ADD more int")
    replica.catch_up()
    replica.reopen()
    run(source, "CREATE TABLE three (id int PRIMARY KEY)", "INSERT INTO one VALUES (4, 4, 4)")
    replica.catch_up()
    assert rows(target, "one") == [(1, 1, None), (2, 2, None), (3, 3, None), (4, 4, 4)]
