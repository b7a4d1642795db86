"""Dead letters are tried again, in order: those that the target takes now are done with, the others stay as they are.

The applier must not run meanwhile: the target's lock says so. In one target transaction each, rows are written and
their letters taken out of the index; then tombstones give the room in the topic back. A crash in between leaves records
that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from cdc.avro.names import tables_topic
from cdc.core.errors import CdcError, GapError
from cdc.core.events import ChangeEvent, Truncate
from cdc.core.log import Place
from cdc.core.position import Position
from cdc.core.tables import TableId
from cdc.registry.decoding import Decoding
from consumers.apply.delivery import Delivery
from consumers.apply.following import followed
from consumers.apply.letters import DeadLetters, StoredLetter
from consumers.plan.letters import Letter, Scope, Scopes
from consumers.plan.mapping import EventMapping
from consumers.plan.source_order import Unit
from consumers.targets.target import Target, TargetTransaction

Chosen = Callable[[Letter], bool]

_AT_ONCE: Final = 1_000


@dataclass(slots=True)
class Retried:
    """`refused` has the error of each that is still poison, `waiting` counts those behind one that is not done with."""

    done: int = 0
    waiting: int = 0
    refused: list[tuple[Letter, CdcError]] = field(default_factory=list)


class Retry:
    """Of the letters of one open target, which has the checkpoint of the log `log_id`."""

    def __init__(
        self,
        *,
        letters: DeadLetters,
        target: Target,
        decoding: Decoding,
        mapping: EventMapping,
        prefix: str,
        is_ours: Callable[[TableId], bool],
        log_id: str,
    ) -> None:
        self._letters = letters
        self._target = target
        self._decoding = decoding
        self._mapping = mapping
        self._tables_topic = tables_topic(prefix)
        self._is_ours = is_ours
        self._log_id = log_id

    def run(self, chosen: Chosen) -> Retried:
        """Try all letters that are `chosen`, in order; one that is not keeps those behind it back."""
        index = {letter.place: letter for letter in self._letters.read_index()}
        todo = _Todo(self._letters, index)
        delivery = Delivery(self._target, self._mapping, todo)
        emptied = self._emptied(index, chosen)
        part: list[ChangeEvent] = []
        for number, stored in enumerate(open_letters(self._letters, index)):
            letter = index[stored.place]
            if not chosen(letter) or todo.waits(letter.scopes):
                todo.leave(letter)
            elif self._is_moot(number, stored, letter, emptied) or (event := self._event(stored)) is None:
                todo.moot(stored.place)
            else:
                part.append(event)
            if len(part) >= _AT_ONCE:
                self._deliver(delivery, todo, part)
                part = []
        self._deliver(delivery, todo, part)
        return todo.result

    def _deliver(self, delivery: Delivery, todo: _Todo, part: list[ChangeEvent]) -> None:
        todo.begin(part)
        delivery.write(part, log_id=self._log_id)
        delivery.commit({}, log_id=self._log_id)

    def _emptied(self, index: dict[Place, Letter], chosen: Chosen) -> dict[TableId, int]:
        """By table, how many letters come before its last truncate: what they do to it alone is gone with that."""
        found: dict[TableId, int] = {}
        for number, stored in enumerate(open_letters(self._letters, index)):
            # A truncate has no key.
            if stored.record.key is None and chosen(index[stored.place]) and stored.record.topic != self._tables_topic:
                event = self._event(stored)
                if event is not None and isinstance(event.change, Truncate):
                    found[event.table.id] = number
        return found

    def _is_moot(self, number: int, stored: StoredLetter, letter: Letter, emptied: dict[TableId, int]) -> bool:
        return (
            stored.record.topic != self._tables_topic
            and number < emptied.get(letter.table, 0)
            and all(scope.table == letter.table for scope in letter.scopes)
        )

    def _event(self, stored: StoredLetter) -> ChangeEvent | None:
        if stored.record.topic != self._tables_topic:
            return self._decoding.event(stored.record)
        found = self._decoding.alteration(stored.record)
        return None if found is None else followed(found, self._is_ours).event


class _Todo:
    """What `Delivery` asks of dead letters, when its events are some already."""

    def __init__(self, letters: DeadLetters, index: dict[Place, Letter]) -> None:
        self._letters = letters
        self._index = index
        self._left = Scopes()
        self._part: dict[Place, None] = {}
        self._moot: list[Place] = []
        self._refused: dict[Place, CdcError | None] = {}
        self.result = Retried()

    @property
    def blocked(self) -> bool:
        return bool(self._left)

    def begin(self, events: Iterable[ChangeEvent]) -> None:
        self._part = dict.fromkeys(event.place for event in events if event.place is not None)

    def waits(self, scopes: Iterable[Scope]) -> bool:
        return self._left.concern(scopes)

    def leave(self, letter: Letter) -> None:
        self._left.add(letter.scopes)
        self.result.waiting += 1

    def moot(self, place: Place) -> None:
        self._moot.append(place)

    def add(self, unit: Unit, error: CdcError) -> None:
        for event in unit:
            self._refuse(event, error)

    def take(self, event: ChangeEvent) -> bool:
        letter = self._index[_place(event)]
        waits = letter.place in self._refused or self._left.concern(letter.scopes)
        if waits:
            self._refuse(event, None)
        return waits

    def take_unit(self, unit: Unit) -> bool:
        if not any(self.take(event) for event in unit):
            return False
        for event in unit:
            self._refuse(event, None)
        return True

    def write(self, transaction: TargetTransaction) -> None:
        self._letters.release(transaction, self._done())

    def committed(self) -> None:
        done = self._done()
        self._letters.bury(done)
        self.result.done += len(done)
        for place, error in self._refused.items():
            if error is None:
                self.result.waiting += 1
            else:
                self.result.refused.append((self._index[place], error))
        self._part, self._moot, self._refused = {}, [], {}

    def forget(self) -> None:
        self._refused = {}

    def forget_from(self, position: Position) -> None:
        """Never asked for: here a change that is left to people stays a letter."""

    def _done(self) -> list[Place]:
        return [*self._moot, *(place for place in self._part if place not in self._refused)]

    def _refuse(self, event: ChangeEvent, error: CdcError | None) -> None:
        place = _place(event)
        self._refused.setdefault(place, error)
        self._left.add(self._index[place].scopes)


def open_letters(letters: DeadLetters, index: dict[Place, Letter]) -> Iterator[StoredLetter]:
    """Those that the index has, in an order in which they may be retried. GapError if the topic lacks one."""
    missing = dict(index)
    for stored in letters.stored():
        if missing.pop(stored.place, None) is not None:
            yield stored
    if missing:
        first = min(letter.position for letter in missing.values())
        raise GapError(
            f"{len(missing)} dead letters are not in the log any more, the first at {first}",
            mend="`cdc dlq drop` gives them up; `cdc capture --start-over` loads all tables again",
        )


def _place(event: ChangeEvent) -> Place:
    if event.place is None:
        raise AssertionError("a dead letter was read from the log")
    return event.place
