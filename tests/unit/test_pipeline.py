"""Capture's commit order, for any order in which the log reports deliveries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from cdc.capture.pipeline import Pipeline
from cdc.core.log import Record

END = "end"
EVENT = "event"


def event(transaction: int, size: int = 3) -> Record:
    return Record(EVENT, 0, str(transaction).encode(), b"x" * size)


def end(transaction: int) -> Record:
    return Record(END, 0, str(transaction).encode(), b"END")


@dataclass
class FakeLog:
    """Takes records and remembers what was durable when each call was made."""

    calls: list[list[Record]] = field(default_factory=list)
    durable_at_call: list[int] = field(default_factory=list)
    durable: int = 0

    def append(self, records: Sequence[Record]) -> int:
        self.calls.append(list(records))
        self.durable_at_call.append(self.durable)
        return len(self.calls)

    def ticket_of_end(self, transaction: int) -> int | None:
        wanted = end(transaction)
        return next((number for number, call in enumerate(self.calls, 1) if wanted in call), None)


def test_the_numbered_order_of_one_transaction() -> None:
    log = FakeLog()
    pipeline = Pipeline(log.append)

    pipeline.produce([event(1)])
    pipeline.end([end(1)], 100)
    assert pipeline.advance(0) == 0
    assert log.calls == [[event(1)]], "END waits until the events are durable"
    assert pipeline.advance(1) == 0, "END is not durable yet"
    assert log.calls[1:] == [[end(1)]]
    assert pipeline.advance(1) == 0
    assert pipeline.advance(2) == 100


def test_ends_that_are_due_together_are_one_call_in_commit_order() -> None:
    log = FakeLog()
    pipeline = Pipeline(log.append)
    for number in (1, 2, 3):
        pipeline.produce([event(number)])
        pipeline.end([end(number)], 100 * number)

    pipeline.advance(2)

    assert log.calls[3:] == [[end(1), end(2)]]
    assert pipeline.advance(4) == 200
    assert log.calls[4:] == [[end(3)]]
    assert pipeline.advance(5) == 300


def test_idle_only_when_nothing_is_under_way() -> None:
    log = FakeLog()
    pipeline = Pipeline(log.append)
    assert pipeline.idle

    pipeline.produce([event(1)])
    assert not pipeline.idle
    pipeline.advance(1)
    assert pipeline.idle, "an open transaction whose events are durable has nothing under way"

    pipeline.end([end(1)], 100)
    assert pipeline.all_durable
    assert not pipeline.idle, "its END was not even produced"
    pipeline.advance(1)
    assert not pipeline.idle
    pipeline.advance(2)
    assert pipeline.idle


def test_bytes_under_way_are_those_of_keys_and_values_that_are_not_durable() -> None:
    log = FakeLog()
    pipeline = Pipeline(log.append)

    pipeline.produce([event(1, size=10), Record(EVENT, 0, None, None)])
    pipeline.produce([event(1, size=20)])
    assert pipeline.bytes_under_way == 11 + 21
    pipeline.advance(1)
    assert pipeline.bytes_under_way == 21
    pipeline.end([end(1)], 100)
    pipeline.advance(2)
    assert pipeline.bytes_under_way == 4
    pipeline.advance(3)
    assert pipeline.bytes_under_way == 0


def test_nothing_is_handed_over_for_no_records() -> None:
    log = FakeLog()
    pipeline = Pipeline(log.append)
    pipeline.produce([])
    assert log.calls == []
    assert pipeline.idle


Transactions = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=8)
"""For each transaction, how many events each of its calls of `produce` has."""


@given(transactions=Transactions, data=st.data())
def test_no_end_before_its_events_and_nothing_confirmable_before_its_end(
    transactions: list[list[int]], data: st.DataObject
) -> None:
    log = FakeLog()
    pipeline = Pipeline(log.append)
    last_event_ticket: dict[int, int] = {}
    confirmable: list[int] = []

    def report_deliveries() -> None:
        log.durable = data.draw(st.integers(log.durable, len(log.calls)))
        durable = log.durable
        confirmable.append(pipeline.advance(durable))
        for number in last_event_ticket:
            ticket = log.ticket_of_end(number)
            if confirmable[-1] >= 100 * number:
                assert ticket is not None, f"{number} is confirmable, its END was never produced"
                assert ticket <= durable, f"{number} is confirmable, its END is not durable"

    for number, calls in enumerate(transactions, 1):
        for size in calls:
            pipeline.produce([event(number)] * size)
            if data.draw(st.booleans()):
                report_deliveries()
        last_event_ticket[number] = len(log.calls)
        pipeline.end([end(number)], 100 * number)
        if data.draw(st.booleans()):
            report_deliveries()

    for _ in range(3):  # the last events, the ENDs that then are due, their reports
        log.durable = len(log.calls)
        confirmable.append(pipeline.advance(log.durable))

    for number in last_event_ticket:
        ticket = log.ticket_of_end(number)
        assert ticket is not None
        own_events = [at for at, call in enumerate(log.calls, 1) if event(number) in call]
        assert max(own_events, default=0) <= log.durable_at_call[ticket - 1], "END was produced before its events"
    assert confirmable == sorted(confirmable), "progress is monotonic"
    assert confirmable[-1] == 100 * len(transactions)
    ends = [record for call in log.calls for record in call if record.topic == END]
    assert ends == [end(number) for number in range(1, len(transactions) + 1)], "once each, in commit order"
    assert pipeline.idle
    assert pipeline.bytes_under_way == 0
