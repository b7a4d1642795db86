"""Dead letters are tried again, in order: those that the target takes now are done with, the others stay as they are.

The applier must not run meanwhile: the target's lock says so. In one target transaction each, rows are written and
their letters taken out of the index; then tombstones give the room in the topic back. A crash in between leaves records
that nothing refers to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from cdc.avro.names import tables_topic
from cdc.core.errors import CdcError, GapError
from cdc.core.events import Alter, ChangeEvent, Create, Delete, Truncate
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
        for unit in self._units(open_letters(self._letters, index)):
            letters = [index[each.stored.place] for each in unit]
            if not any(map(chosen, letters)) or any(todo.waits(letter.scopes) for letter in letters):
                for letter in letters:
                    todo.leave(letter)
            else:
                for each, letter in zip(unit, letters, strict=True):
                    if (
                        self._is_moot(each, letter, emptied)
                        or (event := each.event or self._event(each.stored)) is None
                    ):
                        todo.moot(letter.place)
                    else:
                        part.append(event)
            if len(part) >= _AT_ONCE:
                self._deliver(delivery, todo, part)
                part = []
        self._deliver(delivery, todo, part)
        return todo.result

    def _units(self, stored: Iterable[StoredLetter]) -> Iterator[list[_Numbered]]:
        """Both halves of a changed key together: to delete a row and not to move it would lose what its Create does not
        say. They were written one after the other.
        """
        first: _Numbered | None = None
        for number, each in enumerate(stored):
            found = _Numbered(number, each, None if self._is_alteration(each) else self._event(each))
            if first is not None and _is_second_half(first, found):
                yield [first, found]
                first = None
                continue
            if first is not None:
                yield [first]
                first = None
            if _is_first_half(found):
                first = found
            else:
                yield [found]
        if first is not None:
            yield [first]

    def _deliver(self, delivery: Delivery, todo: _Todo, part: list[ChangeEvent]) -> None:
        todo.begin(part)
        delivery.write(part, log_id=self._log_id)
        delivery.commit({}, log_id=self._log_id)

    def _emptied(self, index: dict[Place, Letter], chosen: Chosen) -> dict[TableId, list[range]]:
        """By table, as the target calls it, the numbers of letters that a truncate comes after: what they do to it
        alone is gone with that. What stands before another table got the name is not.
        """
        found: dict[TableId, list[range]] = {}
        begins: dict[TableId, int] = {}
        for number, stored in enumerate(open_letters(self._letters, index)):
            letter = index[stored.place]
            if self._is_alteration(stored):
                if not self._stays(stored):
                    begins |= {scope.table: number for scope in letter.scopes}
            # A truncate has no key.
            elif stored.record.key is None and chosen(letter):
                event = self._event(stored)
                if event is not None and isinstance(event.change, Truncate):
                    found.setdefault(letter.table, []).append(range(begins.get(letter.table, 0), number))
        return found

    def _is_moot(self, each: _Numbered, letter: Letter, emptied: dict[TableId, list[range]]) -> bool:
        return (
            not self._is_alteration(each.stored)
            and any(each.number in numbers for numbers in emptied.get(letter.table, ()))
            and all(scope.table == letter.table for scope in letter.scopes)
        )

    def _is_alteration(self, stored: StoredLetter) -> bool:
        return stored.record.topic == self._tables_topic

    def _stays(self, alteration: StoredLetter) -> bool:
        """Whether the table is the same after it, and called the same."""
        found = self._decoding.alteration(alteration.record)
        before = found.event.change.before if found is not None and isinstance(found.event.change, Alter) else None
        return found is not None and before is not None and before.id == found.event.table.id

    def _event(self, stored: StoredLetter) -> ChangeEvent | None:
        if not self._is_alteration(stored):
            return self._decoding.event(stored.record)
        found = self._decoding.alteration(stored.record)
        return None if found is None else followed(found, self._is_ours).event


class _Numbered(NamedTuple):
    """A letter's place in their order, and its event, if that is one of a row."""

    number: int
    stored: StoredLetter
    event: ChangeEvent | None


def _is_first_half(each: _Numbered) -> bool:
    change = None if each.event is None else each.event.change
    return isinstance(change, Delete) and change.moved_to is not None


def _is_second_half(first: _Numbered, then: _Numbered) -> bool:
    if first.event is None or then.event is None:
        return False
    follows = then.event.position == first.event.position._replace(ordinal=first.event.ordinal + 1)
    return follows and isinstance(then.event.change, Create) and then.event.change.moved_from is not None


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
