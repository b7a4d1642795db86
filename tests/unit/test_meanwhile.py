"""Work in a thread, and what is done beside it."""

from __future__ import annotations

from threading import Event, current_thread

import pytest

from consumers.apply.meanwhile import Meanwhile

SECONDS = 30  # until a test fails that would never end


def test_each_goes_on_while_the_other_does():
    here, there = Event(), Event()

    def go_on() -> bool:
        here.set()
        return not there.wait(SECONDS)

    def work() -> None:
        assert here.wait(SECONDS)
        assert current_thread() is not thread
        there.set()

    thread = current_thread()
    Meanwhile(go_on).run(work)
    assert there.is_set()


def test_nothing_to_do_is_to_wait():
    done = Event()
    Meanwhile(lambda: False).run(done.set)
    assert done.is_set()


def test_an_error_of_the_work_is_raised():
    def work() -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        Meanwhile(lambda: False).run(work)


@pytest.mark.parametrize("work_fails", [False, True])
def test_an_interrupt_comes_first_and_the_work_is_over(work_fails: bool):
    interrupted, over = Event(), Event()

    def go_on() -> bool:
        interrupted.set()
        raise KeyboardInterrupt

    def work() -> None:
        assert interrupted.wait(SECONDS)
        over.set()
        if work_fails:
            raise ValueError("refused")

    with pytest.raises(KeyboardInterrupt):
        Meanwhile(go_on).run(work)
    assert over.is_set()
