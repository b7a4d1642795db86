"""As `test_inbox`, with several appliers that share the partitions, lose them to each other, and are alone at times."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.core.log import TopicPartition
from consumers.apply.sharing import is_past
from consumers.plan.part import PartInbox
from consumers.plan.room import Room
from tests.unit.test_inbox import ALL, ALTERATIONS, CROWDED, PARTITIONS, RUNS, Site, large, positions

APPLIERS = 3


@dataclass
class Tenure:
    token: int
    inbox: PartInbox
    next_read: dict[TopicPartition, int]


class SharedSite(Site):
    def __init__(self, partitions: dict[str, int], seed: int) -> None:
        self._dice = Random(seed)
        self._tokens = 0
        self._holders: dict[TopicPartition, int] = {}
        self.alone_times = 0
        super().__init__(partitions)

    def restart(self) -> None:
        """A rebalance, of which not all hear at once; or somebody is alone, and perhaps gone before it is done."""
        if self._holders and self._dice.random() < 0.5:
            self._be_alone(rounds=self._dice.randrange(4))
            return
        self._owners = {place: self._dice.randrange(APPLIERS) for place in self.places}
        heard = [self._dice.random() < 0.5 or not self._holders for _ in range(APPLIERS)]
        self._tenures = [self._begun(n) if heard[n] else self._tenures[n] for n in range(APPLIERS)]

    def _begun(self, applier: int) -> Tenure:
        self._tokens += 1
        inbox = PartInbox(room=Room(CROWDED), reached=dict(self.checkpoint))
        next_read = {}
        for place in self.places:
            if place == ALTERATIONS or self._owners[place] == applier:
                assign = inbox.assign_tables if place == ALTERATIONS else inbox.assign
                assign(place, self.checkpoint[place])
                next_read[place] = self.checkpoint[place].next_offset
                if place != ALTERATIONS:
                    self._holders[place] = self._tokens
        return Tenure(self._tokens, inbox, next_read)

    def read(self, amounts: list[int]) -> None:
        for tenure in self._tenures:
            for at, amount in zip(self.places, amounts, strict=False):
                start = tenure.next_read.get(at, len(self.log[at]))
                for offset in range(start, min(start + amount, len(self.log[at]))):
                    if at not in tenure.inbox.crowded():
                        event, said = self.log[at][offset]
                        if at == ALTERATIONS:
                            tenure.inbox.add_alteration(at, offset, event.position, event, said["topics"])
                        else:
                            tenure.inbox.add(at, offset, event, **said, size=large(event))
                        tenure.next_read[at] = offset + 1

    def take(self, most: int, killed: bool = False) -> None:
        for applier, tenure in enumerate(self._tenures):
            batch = tenure.inbox.take(most)
            own = [place for place in tenure.next_read if place != ALTERATIONS]
            if killed or any(self._holders[place] != tenure.token for place in own):
                self._tenures[applier] = self._begun(applier)
                continue
            assert batch.progress.keys() <= set(own)
            self.checkpoint.update(batch.progress)
            self._apply(batch.events)

    def _be_alone(self, *, rounds: int) -> None:
        applier = next((n for n, tenure in enumerate(self._tenures) if tenure.inbox.tied), None)
        if applier is None:
            return
        tied = self._tenures[applier].inbox.tied
        self._holders = dict.fromkeys(self._holders, 0)
        self.alone_times += 1
        super().restart()
        for _ in range(rounds):
            if is_past(tied, self.checkpoint):
                break
            super().read([1] * len(self.places))
            super().take(3)
        self.is_past = is_past(tied, self.checkpoint)
        self._tenures[applier] = self._begun(applier)

    def apply_all(self) -> None:
        """Until nothing moves, all having heard who owns what."""
        self._tenures = [self._begun(applier) for applier in range(APPLIERS)]
        before = None
        while before != (before := (self._read(), dict(self.checkpoint))):
            self.read([1] * len(self.places))
            self.take(3)
            if before == (self._read(), self.checkpoint) and any(tenure.inbox.tied for tenure in self._tenures):
                self._be_alone(rounds=ALL)
                assert self.is_past

    def _read(self) -> list[tuple[int, dict[TopicPartition, int]]]:
        return [(tenure.token, dict(tenure.next_read)) for tenure in self._tenures]

    def catch_up(self) -> None:
        self.store_all()
        self.apply_all()
        assert self.taken >= self.source.due()
        assert self.target == self.source.tables
        left = chain(*(self.log[place][self.checkpoint[place].next_offset :] for place in self.places))
        assert positions(left) <= self.taken, "only what was resent is left"


@settings(max_examples=300)
@given(partitions=PARTITIONS, steps=RUNS, seed=st.integers(0, 1 << 16))
def test_the_target_becomes_the_source(partitions, steps, seed):
    site = SharedSite(partitions, seed)
    site.run(steps)
    site.catch_up()


def test_what_concerns_one_partition_is_never_taken_alone():
    site = SharedSite({"one": 4, "two": 1}, 0)
    for number in range(30):
        site.run([("commit", [("one", kind, b"%d" % (number % 7), b"9") for kind in ("write", "touch", "move")])])
        site.catch_up()
    assert site.alone_times == 0


@pytest.mark.parametrize("seed", range(5))
def test_no_truncate_is_overtaken_by_another_partition(seed):
    dice, site = Random(seed), SharedSite({"one": 4, "two": 1}, seed)
    for _ in range(6):
        writes = [
            ("one", dice.choice(["write", "truncate", "touch"]), b"%d" % dice.randrange(5), b"9") for _ in range(6)
        ]
        site.run([("commit", writes), ("store_all",), ("read", [dice.choice([0, 9]) for _ in range(9)]), ("take", 9)])
    site.catch_up()
