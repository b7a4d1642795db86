"""What only the local log has: one file, one lock, a WAL that stays small."""

import os
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from cdc.core.errors import ConfigError, LogError, PassingError
from cdc.core.log import Offsets, Record, TopicPartition, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.local import LocalLog, database
from cdc.log.local import writer as writing

_T0 = TopicPartition("t", 0)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "log.db"


@pytest.fixture
def log(path):
    return LocalLog(LogSettings(url=f"sqlite:///{path}"))


def records(count, partition=0, size=1):
    return [Record("t", partition, b"k%d" % n, b"v" * size) for n in range(count)]


def store(writer, batch):
    ticket = writer.append(batch)
    assert writer.poll(0) == ticket


def test_a_reader_may_come_before_the_file(log):
    with closing(log.reader("early")) as reader:
        assert reader.topics() == {}
        assert reader.poll(10, 0.01) == []
        with closing(log.writer()) as writer:
            assert reader.topics() == {}
            writer.create_topics([TopicSpec("t", 1)])
            store(writer, records(3))

            assert reader.topics() == {"t": 1}
            reader.assign({_T0: 0})
            assert len(reader.poll(10, 1)) == 3


def test_an_empty_file_is_a_log_to_come(log, path):
    path.touch()
    with closing(log.reader("early")) as reader, closing(log.writer()) as writer:
        assert reader.topics() == {}
        writer.create_topics([TopicSpec("t", 1)])
        assert reader.topics() == {"t": 1}


class MadeMeanwhile(sqlite3.Connection):
    """Reads a file in which another process makes the log after the first look."""

    def execute(self, statement, *parameters):
        done = super().execute(statement, *parameters)
        if statement == "PRAGMA application_id":
            (file,) = (row[2] for row in super().execute("PRAGMA database_list"))
            database.open_for_writing(file).close()
        return done


def test_a_log_that_is_made_while_it_is_looked_at_is_one_to_come(path):
    with closing(sqlite3.connect(path, isolation_level=None)) as empty:
        empty.execute("PRAGMA journal_mode = WAL")
    with closing(sqlite3.connect(path, isolation_level=None, factory=MadeMeanwhile)) as connection:
        assert not database.holds_log(connection, path)
        assert database.holds_log(connection, path)


def test_commits_are_synchronous_and_in_wal_mode(log):
    with closing(log.writer()) as writer:
        assert writer._connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert writer._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert writer._connection.execute("PRAGMA auto_vacuum").fetchone() == (2,)


def test_a_second_writer_is_told_who_the_first_is(log):
    with closing(log.writer()), pytest.raises(LogError, match=f"is written by process {os.getpid()} on ") as refused:
        log.writer()

    assert "stop it first" in refused.value.mend
    log.writer().close()


def test_a_writer_of_one_topic_writes_no_other_and_is_alone_there(log):
    with closing(log.writer()) as writer, closing(log.writer(only="a")) as own:
        writer.create_topics([TopicSpec("a", 1), TopicSpec("b", 1)])
        own.create_topics([TopicSpec("a", 1)])
        with pytest.raises(LogError):
            own.append([Record("b", 0, None, b"x")])
        with pytest.raises(LogError, match="topic a, is written by process"):
            log.writer(only="a")
        log.writer(only="b").close()


def test_another_process_can_not_write_either(log, path):
    script = (
        "import sys; from cdc.core.errors import LogError; from cdc.core.settings import LogSettings\n"
        "from cdc.log.local import LocalLog\n"
        "try: LocalLog(LogSettings(url=sys.argv[1])).writer()\n"
        "except LogError as error: print(error)"
    )
    with closing(log.writer()):
        said = subprocess.run(
            [sys.executable, "-c", script, f"sqlite:///{path}"], capture_output=True, text=True, check=True
        )

    assert f"process {os.getpid()}" in said.stdout


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///log.db?mode=ro"])
def test_a_url_that_names_no_file_is_refused(url):
    with pytest.raises(ConfigError, match="does not name an SQLite file"):
        LocalLog(LogSettings(url=url))


def test_options_are_refused(path):
    with pytest.raises(ConfigError, match=r"\[log.options\] acks"):
        LocalLog(LogSettings(url=f"sqlite:///{path}", options={"acks": "all"}))


def test_a_relative_path_is_one_of_this_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    LocalLog(LogSettings(url="sqlite:///here.db")).writer().close()

    assert (tmp_path / "here.db").exists()


def test_a_file_that_is_no_database_is_refused(log, path):
    path.write_bytes(b"this is no database" * 100)

    for opening in (log.writer, lambda: log.reader("r").topics()):
        with pytest.raises(LogError, match="file is not a database") as refused:
            opening()
        assert "[log] url" in refused.value.mend


def test_a_database_of_something_else_is_refused(log, path):
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE topics (mine INTEGER)")

    for opening in (log.writer, lambda: log.reader("r").topics()):
        with pytest.raises(LogError, match="a database of something else"):
            opening()
    log2 = LocalLog(LogSettings(url=f"sqlite:///{path}2"))
    log2.writer().close()


def test_a_newer_layout_is_refused(log, path):
    log.writer().close()
    with closing(sqlite3.connect(path)) as newer:
        newer.execute("PRAGMA user_version = 4")

    for opening in (log.writer, lambda: log.reader("r").topics()):
        with pytest.raises(LogError, match="has layout 4"):
            opening()


def test_an_older_layout_says_what_to_do(log, path):
    log.writer().close()
    with closing(sqlite3.connect(path)) as older:
        older.execute("PRAGMA user_version = 1")

    with pytest.raises(LogError, match="has layout 1") as refused:
        log.writer()
    assert "load all tables again" in refused.value.mend


def test_the_layout_before_runs_is_read_and_written_on(log, path):
    with closing(log.writer()) as writer:
        writer.create_topics([TopicSpec("t", 1)])
        store(writer, records(3))
    with closing(sqlite3.connect(path)) as older:
        older.execute("PRAGMA user_version = 2")
    with closing(log.reader("r")) as reader:
        reader.assign({_T0: 0})
        assert len(reader.poll(10, 1)) == 3
        with closing(log.writer()) as writer:
            store(writer, records(2))
        assert len(reader.poll(10, 1)) == 2
    with closing(sqlite3.connect(path)) as now:
        assert now.execute("PRAGMA user_version").fetchone() == (3,)


def test_a_missing_folder_is_named(tmp_path):
    log = LocalLog(LogSettings(url=f"sqlite:///{tmp_path}/nowhere/log.db"))

    with pytest.raises(LogError, match="nowhere") as refused:
        log.writer()
    assert "folder" in refused.value.mend


def test_a_full_disk_ends_the_writer_and_loses_nothing_durable(log):
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 1)])
        store(writer, records(10))
        pages = writer._connection.execute("PRAGMA page_count").fetchone()[0]
        writer._connection.execute(f"PRAGMA max_page_count = {pages + 10}")
        writer.append(records(1000, size=1000))

        with pytest.raises(LogError, match="full") as full:
            writer.poll(0)
        assert "make room" in full.value.mend
        with pytest.raises(LogError, match="full"):
            writer.append(records(1))
        with pytest.raises(LogError, match="full"):
            writer.poll(0)

        assert reader.offsets(_T0) == Offsets(0, 10)
    with closing(log.writer()) as following:
        store(following, records(1))


def test_a_file_locked_by_another_program_is_a_passing_error(log, path, monkeypatch):
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    with closing(log.writer()) as writer, closing(sqlite3.connect(path, isolation_level=None)) as other:
        writer.create_topics([TopicSpec("t", 1)])
        other.execute("BEGIN IMMEDIATE")
        writer.append(records(1))

        with pytest.raises(PassingError, match="locked by another program"):
            writer.poll(0)
        other.execute("ROLLBACK")


def test_a_replaced_file_is_noticed(log, path):
    with closing(log.reader("r")) as reader:
        with closing(log.writer()) as writer:
            writer.create_topics([TopicSpec("t", 1)])
            store(writer, records(3))
            reader.assign({_T0: 0})
            reader.poll(10, 1)
        path.rename(path.with_suffix(".old"))
        with closing(log.writer()) as writer:
            writer.create_topics([TopicSpec("t", 1)])
            store(writer, records(10))

            with pytest.raises(LogError, match="replaced by another file"):
                reader.poll(10, 1)


def test_a_busy_partition_does_not_starve_the_others(log):
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 3)])
        store(writer, records(10_000) + records(5, partition=1) + records(5_000, partition=2))
        reader.assign({TopicPartition("t", partition): 0 for partition in range(3)})

        batch = reader.poll(100, 1)
        assert len(batch) == 100
        assert [sum(record.partition == partition for record in batch) for partition in range(3)] in (
            [47, 5, 48],
            [48, 5, 47],
        )
        one_by_one = [reader.poll(1, 1)[0].partition for _ in range(10)]
        assert set(one_by_one) == {0, 2}


def test_one_poll_takes_a_bounded_number_of_bytes(log, monkeypatch):
    monkeypatch.setattr("cdc.log.local.reader._MOST_BYTES", 1_000_000)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 1)])
        store(writer, records(3000, size=1000))
        reader.assign({_T0: 0})
        sizes = []
        while batch := reader.poll(10_000, 0.01):
            sizes.append(len(batch))

    assert sum(sizes) == 3000
    assert max(sizes) <= 1500


def test_a_large_record_before_a_hole_of_a_compacted_topic_is_passed(log, monkeypatch):
    monkeypatch.setattr("cdc.log.local.reader._MOST_BYTES", 1000)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 1, compacted=True)])
        store(writer, [Record("t", 0, b"a", b"v" * 2000), Record("t", 0, b"b", b"1")])
        store(writer, [Record("t", 0, b"b", None)])
        reader.assign({_T0: 0})

        assert [record.offset for record in reader.poll(1000, 0)] == [0]
        assert [record.offset for record in reader.poll(1000, 0)] == [2]


def test_what_is_left_of_blocks_is_bounded(log, monkeypatch):
    monkeypatch.setattr("cdc.log.local.reader._MOST_LEFT", 50)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 2)])
        store(writer, records(100) + records(100, partition=1))
        reader.assign({TopicPartition("t", partition): 0 for partition in range(2)})
        found = []
        while batch := reader.poll(10, 0):
            found += batch
            assert sum(map(len, reader._left.values())) <= 50

    assert [[record.offset for record in found if record.partition == n] for n in range(2)] == [[*range(100)]] * 2


def test_what_is_left_of_a_block_and_the_next_blocks_come_together(log):
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 1)])
        for _ in range(3):
            store(writer, records(10))
        reader.assign({_T0: 0})

        assert [len(reader.poll(14, 0)) for _ in range(3)] == [14, 14, 2]


def test_append_stores_by_itself_when_much_is_waiting(log, monkeypatch):
    monkeypatch.setattr(writing, "_RECORDS_AT_ONCE", 100)
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 1)])
        for _ in range(5):
            writer.append(records(30))

        assert reader.offsets(_T0).next == 120


def test_the_wal_stays_small_while_readers_poll(log, path, monkeypatch):
    monkeypatch.setattr(writing, "_WAL_BYTES", 2 << 20)
    wal = path.with_name("log.db-wal")
    stop = threading.Event()

    def read():
        with closing(log.reader("busy")) as reader:
            reader.assign({_T0: 0})
            while not stop.is_set():
                reader.poll(50, 0.001)

    with closing(log.writer()) as writer:
        writer._wal_limit = 2 << 20
        writer._connection.execute("PRAGMA wal_autocheckpoint = 0")  # SQLite's own, which readers may hold up
        writer.create_topics([TopicSpec("t", 1)])
        readers = [threading.Thread(target=read) for _ in range(2)]
        for reader in readers:
            reader.start()
        try:
            sizes = []
            for _ in range(40):
                store(writer, records(500, size=1000))
                sizes.append(wal.stat().st_size)
        finally:
            stop.set()
            for reader in readers:
                reader.join()

    assert max(sizes) < 6 << 20


def test_a_reader_leaves_the_wal_to_the_writer(log, path):
    wal = path.with_name("log.db-wal")
    writer = log.writer()
    writer.create_topics([TopicSpec("t", 1)])
    store(writer, records(10))
    reader = log.reader("last to close")
    reader.topics()
    writer.close()
    size = wal.stat().st_size
    reader.close()

    assert size > 0
    assert wal.stat().st_size == size


def test_retention_gives_space_back(path):
    now = [1_800_000_000.0]
    log = LocalLog(LogSettings(url=f"sqlite:///{path}", retention_hours=1), clock=lambda: now[0])
    with closing(log.writer()) as writer, closing(log.reader("r")) as reader:
        writer.create_topics([TopicSpec("t", 2), TopicSpec("c", 1, compacted=True)])
        store(writer, [*records(45_000, size=100), Record("c", 0, b"k", b"kept")])
        writer._connection.execute("PRAGMA wal_checkpoint").fetchall()
        before = path.stat().st_size
        now[0] += 3700
        store(writer, records(1, partition=1))
        firsts = [reader.offsets(_T0).first]
        while firsts[-1] < 45_000 and len(firsts) < 10:
            writer.poll(0)
            firsts.append(reader.offsets(_T0).first)
        writer._connection.execute("PRAGMA wal_checkpoint").fetchall()

        assert firsts == [20_000, 40_000, 45_000]  # a bounded piece at a time
        assert reader.offsets(TopicPartition("t", 1)) == Offsets(0, 1)
        assert reader.offsets(TopicPartition("c", 0)) == Offsets(0, 1)
        reader.assign({TopicPartition("c", 0): 0})
        assert len(reader.poll(10, 1)) == 1
        assert path.stat().st_size < before * 0.6
