from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from cdc.core.errors import CdcError, PassingError, TargetChangedError, TargetError
from cdc.retries import Retries


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.retries._LONGEST_WAIT", 0.0)


def ran(*sessions: Callable[[Retries], None]) -> tuple[list[str], CdcError | None]:
    """What was reported while they ran, one after the other, and the error it ended with."""
    said: list[str] = []
    retries = Retries(threading.Event(), said.append)
    todo: Iterator[Callable[[Retries], None]] = iter(sessions)
    try:
        retries.run(lambda: next(todo)(retries))
    except CdcError as error:
        return said, error
    return said, None


def well(retries: Retries) -> None:
    retries.established()


def fails(error: CdcError, *, at_work: bool = False) -> Callable[[Retries], None]:
    def session(retries: Retries) -> None:
        if at_work:
            retries.established()
        raise error

    return session


AWAY = PassingError("the server is away", mend="start it")
FULL = PassingError("the disk is full")
CHANGED = TargetChangedError("no such table")


def test_a_fault_at_the_very_start_is_told_at_once() -> None:
    assert ran(fails(AWAY)) == ([], AWAY)


def test_a_fault_that_comes_again_and_again_is_told_once_and_so_is_its_end() -> None:
    said, error = ran(fails(AWAY, at_work=True), fails(AWAY), fails(AWAY), lambda retries: retries.got_on() or None)
    assert error is None
    assert [line.partition(";")[0] for line in said] == ["the server is away", "goes on"]
    assert "(mend: start it)" in said[0]


def test_of_faults_that_take_turns_each_is_told_once() -> None:
    said, _ = ran(*[fails(error, at_work=True) for error in (AWAY, FULL, AWAY, FULL)], well)
    assert [line.partition(";")[0] for line in said] == ["the server is away", "the disk is full"]


def test_what_failed_before_it_got_to_work_is_over_when_it_does() -> None:
    said, _ = ran(fails(AWAY, at_work=True), fails(AWAY), well)
    assert said[1:] == ["goes on"]


def test_what_failed_at_work_is_over_only_when_work_is_done() -> None:
    said, _ = ran(fails(FULL, at_work=True), fails(FULL, at_work=True), well)
    assert len(said) == 1


def test_a_target_that_was_changed_is_looked_at_again_once() -> None:
    said, error = ran(fails(CHANGED, at_work=True), fails(CHANGED, at_work=True), well)
    assert error is CHANGED
    assert len(said) == 1
    said, error = ran(fails(CHANGED, at_work=True), lambda retries: retries.got_on(), fails(CHANGED), well)
    assert error is None


def test_what_does_not_pass_ends_it() -> None:
    refused = TargetError("permission denied")
    assert ran(fails(AWAY, at_work=True), fails(refused), well)[1] is refused
