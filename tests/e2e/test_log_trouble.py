"""What happens to logs: copies that are put back, topics that somebody deletes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient

from cdc.core.errors import GapError
from cdc.core.settings import LogSettings
from cdc.log.open import open_log
from tests.replica import Replica

PATIENCE_SECONDS = 20


def rows(url: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute("SELECT id FROM t ORDER BY id").fetchall()


def run(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


@pytest.mark.parametrize("consistency", ["key", "transaction"])
def test_an_older_copy_of_the_log_is_put_back(
    new_database: Callable[..., str], tmp_path: Path, unique_name: str, consistency: str
) -> None:
    """The mend is a new first load, which gets offsets that the target has read already."""
    source, target = new_database(), new_database()
    folder, backup = tmp_path / "log", tmp_path / "backup"
    folder.mkdir()
    settings = LogSettings(url=f"sqlite:///{folder / 'log.db'}", prefix=unique_name)
    options = {"copy": {"consistency": consistency}}
    run(source, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 100)")
    with Replica(
        source, {"copy": target}, name=unique_name, log=open_log(settings), log_settings=settings, options=options
    ) as replica:
        replica.catch_up()
        replica.close()
        shutil.copytree(folder, backup)
        run(source, *(f"INSERT INTO t VALUES ({number})" for number in range(200, 250)))
        replica.catch_up()
        replica.close()
        shutil.rmtree(folder)
        shutil.copytree(backup, folder)
        run(source, "DELETE FROM t WHERE id > 50")
        with pytest.raises(GapError, match="ahead of this log"):
            replica.capture()
        replica.start_over()
        replica.catch_up()
        assert rows(target) == rows(source) == [(number,) for number in range(1, 51)]


def test_topics_that_somebody_deleted(new_database: Callable[..., str], kafka: str, unique_name: str) -> None:
    """Also that of a table which is gone: its applier would look for it for ever."""
    source, target = new_database(), new_database()
    settings = LogSettings(url=f"kafka://{kafka}", prefix=unique_name, partitions=2)
    run(source, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 100)")
    run(source, "CREATE TABLE gone (id int PRIMARY KEY)", "INSERT INTO gone VALUES (1)")
    with Replica(source, {"copy": target}, name=unique_name, log=open_log(settings), log_settings=settings) as replica:
        replica.catch_up()
        run(source, "DROP TABLE gone", "DELETE FROM t WHERE id > 90")
        replica.catch_up()
        replica.close()
        topics = [f"{unique_name}.public.{table}" for table in ("t", "gone")]
        with AdminClient({"bootstrap.servers": kafka}) as admin:
            for deleted in admin.delete_topics(topics).values():
                deleted.result()
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not admin.list_topics(timeout=5).topics.keys().isdisjoint(topics):
                assert time.monotonic() < deadline
        with pytest.raises(GapError, match="is gone from the log"):
            replica.capture()
        run(source, "DELETE FROM t WHERE id > 50")
        replica.start_over()
        replica.catch_up()
        assert rows(target) == rows(source) == [(number,) for number in range(1, 51)]
