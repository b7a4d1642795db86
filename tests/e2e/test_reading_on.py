"""An applier reads on while its target's server writes a large batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psycopg
import pytest
from replica import Replica

from cdc.core.errors import PassingError
from cdc.core.log import StoredRecord
from cdc.log.followed import FollowedReader
from consumers.apply.meanwhile import Meanwhile

ROWS = 6000
PATIENCE_SECONDS = 20.0  # less than the target's lock_timeout
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'item'::regclass"


@dataclass
class Place:
    """A table at the source, and all its rows in the log, of which the target has none yet: it takes 2,000 at once."""

    source: str
    target: str
    replica: Replica

    def rows(self, url: str) -> list[tuple[object, ...]]:
        with psycopg.connect(url) as connection:
            return connection.execute("SELECT * FROM item ORDER BY id").fetchall()


@pytest.fixture(params=["key", "transaction"])
def place(request: pytest.FixtureRequest, new_database: Callable[[], str], unique_name: str) -> Iterator[Place]:
    source, target = new_database(), new_database()
    options = {"copy": {"consistency": request.param, "batch_events": 2000}}
    with (
        psycopg.connect(source, autocommit=True) as writer,
        Replica(source, {"copy": target}, name=unique_name, options=options) as replica,
    ):
        writer.execute("CREATE TABLE item (id int PRIMARY KEY, note text)")
        replica.catch_up()
        for first in range(1, ROWS, 500):
            writer.execute("INSERT INTO item SELECT g, 'new' FROM generate_series(%s::int, %s) g", (first, first + 499))
        replica.capture()
        yield Place(source, target, replica)


def beside_the_first_write(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
    """`do` it when the applier reads while the target is written for the first time."""
    monkeypatch.setattr("consumers.apply.delivery._MANY", 1)
    run = Meanwhile.run
    done: list[bool] = []
    writing = False

    def watched_run(meanwhile: Meanwhile, work: Callable[[], None]) -> None:
        nonlocal writing
        writing = True
        try:
            run(meanwhile, work)
        finally:
            writing = False

    def watched(poll: Callable[..., list[StoredRecord]]) -> Callable[..., list[StoredRecord]]:
        def watched_poll(reader: FollowedReader, most: int, timeout: float) -> list[StoredRecord]:
            if writing and not done:
                done.append(True)
                do()
            return poll(reader, most, timeout)

        return watched_poll

    monkeypatch.setattr(Meanwhile, "run", watched_run)
    monkeypatch.setattr(FollowedReader, "poll", watched(FollowedReader.poll))
    monkeypatch.setattr(FollowedReader, "poll_runs", watched(FollowedReader.poll_runs))


def test_it_reads_while_its_server_writes(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server can write only once the applier has read on."""
    with psycopg.connect(place.target) as blocker, psycopg.connect(place.target, autocommit=True) as looker:
        blocker.execute("LOCK TABLE item IN SHARE ROW EXCLUSIVE MODE")

        def let_go() -> None:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while looker.execute(WAITING).fetchone() == (0,):
                assert time.monotonic() < deadline, "the server does not come to the lock"
                time.sleep(0.01)
            blocker.rollback()

        beside_the_first_write(monkeypatch, let_go)
        place.replica.reopen()
        place.replica.apply("copy")
    assert len(place.rows(place.source)) == ROWS
    assert place.rows(place.target) == place.rows(place.source)


def test_what_goes_wrong_while_it_reads_on_comes_after_what_is_written(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise PassingError("the log is gone")

    with monkeypatch.context() as patched:
        beside_the_first_write(patched, fail)
        place.replica.reopen()
        with pytest.raises(PassingError, match="the log is gone"):
            place.replica.apply("copy")
    assert 0 < len(place.rows(place.target)) < ROWS
    place.replica.reopen()
    place.replica.catch_up()
    assert place.rows(place.target) == place.rows(place.source)
