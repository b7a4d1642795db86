"""What a batch of events means for a target: the last write of each key before the database sees it.

Rows of different tables don't depend on each other here: a target runs a plan in one transaction, so only the order
within a table counts. What becomes of a table itself stands between all that came before it and all that comes after.
Within a table, a step is as large as it can be. Three things end it (a barrier): another version of the table, a
truncate, and a moved row whose values are not all known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, assert_never, cast

from cdc.avro.scanned import ScannedEvent
from cdc.core.errors import FidelityError, GapError, ProtocolViolationError
from cdc.core.events import (
    UNCHANGED,
    UNKNOWN_KEY,
    Alter,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    Key,
    OldImage,
    Read,
    Row,
    Truncate,
    Update,
)
from cdc.core.runs import ReadRun
from cdc.core.tables import TableId, TableSchema
from consumers.plan.steps import AlterTable, CopyRows, DropTable, MoveRow, Step, TruncateTable, WriteRows


def plan(events: Iterable[ChangeEvent], *, moving: Callable[[TableSchema], bool] = lambda _: False) -> list[Step]:
    """The steps that bring a target past `events`, in which each key's events are in commit order.

    A table's steps stand together, tables in the order of their first event. A `Create` with UNCHANGED values must come
    right after its table's `Delete` of the key that it moved from.

    A changed key is a row that goes and one that comes. Of tables that are `moving`, where both halves come one after
    the other, the row is moved, as at the source: that is what foreign keys that refer to it act upon.

    GapError if a row is written partly after it was deleted; FidelityError for a table without key whose events don't
    carry the whole old row; ProtocolViolationError for events that say what no event can.
    """
    done: list[Step] = []
    tables: dict[TableId, _KeyedRows | _KeylessRows] = {}
    usual: dict[int, _KeyedRows | _KeylessRows] = {}  # by their version, an object that most events share
    for event in events:
        version = event.table
        found = usual.get(id(version))
        if found is not None and not event.defines_table:
            found.add(event)
            continue
        if event.defines_table:
            done += [step for rows in tables.values() for step in rows.finished()]
            tables = {}
            usual = {}
            done.append(_table_step(event))
            continue
        rows = tables.get(version.id)
        if rows is None or (rows.version is not version and rows.version != version):
            steps = [] if rows is None else rows.finished()
            rows = tables[version.id] = (
                _KeyedRows(version, steps, moving=moving(version)) if version.key else _KeylessRows(version, steps)
            )
            usual = {id(each.version): each for each in tables.values()}
        rows.add(event)
    return done + [step for rows in tables.values() for step in rows.finished()]


def _table_step(event: ChangeEvent) -> Step:
    match event.change:
        case Alter(before=before, fills=fills):
            return AlterTable(event.table, before, fills, event.position)
        case _:
            return DropTable(event.table, event.position)


@dataclass(frozen=True, slots=True)
class _Gone:
    """The row at this key is deleted."""


_GONE: Final = _Gone()

_Outcome = Row | _Gone
_Unread = ScannedEvent
"""An outcome, too: the row that the event has all values of. It is read if no later event takes its place."""


@dataclass(frozen=True, slots=True)
class _Departure:
    """The first half of a changed key, and what was known of the row before it."""

    old_key: Key
    moved_to: Key
    known: _Outcome | None


class _KeyedRows:
    """The outcome of each key since the last barrier. A row with UNCHANGED values is a partial one."""

    def __init__(self, version: TableSchema, steps: list[Step], *, moving: bool) -> None:
        self.version = version
        self._key = version.key
        self._steps = steps
        self._moving = moving
        self._outcomes: dict[Key, _Outcome | _Unread] = {}
        self._has_partials = False  # whether rows with UNCHANGED values may be among them
        self._departure: _Departure | None = None

    def add(self, event: ChangeEvent) -> None:
        if isinstance(event, ScannedEvent):
            key = event.key()
            if key is not None:
                self._departure = None
                self._outcomes[key] = _GONE if event.is_delete else event
                return
        departure, self._departure = self._departure, None
        if isinstance(event, ReadRun):
            self._read_run(event)
            return
        match event.change:
            case Update(before, after):
                self._update(before, after)
            case Read(after):
                self._write_whole(after)
            case Create(after, moved_from):
                moves = self._moving and self._arrives(departure, moved_from, after)
                if moved_from is None or (not moves and UNCHANGED not in after):
                    self._write_whole(after)
                else:
                    self._move(moved_from, after, departure)
            case Delete(before, moved_to):
                self._delete(before, moved_to)
            case Truncate():
                # Whatever this batch did to the table before is gone with it.
                self._outcomes.clear()
                self._steps[:] = [TruncateTable(self.version)]
            case Alter() | Drop():
                raise AssertionError("what becomes of a table is no change of a row")
            case _:
                assert_never(event.change)

    def finished(self) -> list[Step]:
        """All steps so far; what is pending becomes the last of them."""
        if self._outcomes:
            self._steps.append(self._written())
            self._outcomes = {}
            self._has_partials = False
        return self._steps

    def _read_run(self, run: ReadRun) -> None:
        """Its rows stay together, and next to those of the runs before it."""
        steps = self.finished()
        last = steps[-1] if steps else None
        if not isinstance(last, CopyRows) or last.table is not self.version:
            last = CopyRows(self.version)
            steps.append(last)
        last.texts.append(run.text)
        last.count += run.count

    def _write_whole(self, row: Row) -> None:
        if UNCHANGED in row:
            raise _holds_unchanged(self.version)
        self._outcomes[self._key_of(row)] = row

    def _update(self, before: OldImage | None, after: Row) -> None:
        key = self._key_of(after)
        if UNCHANGED in after:
            known = before.row if isinstance(before, FullImage) else self._outcome(key)
            if isinstance(known, _Gone):
                raise GapError(
                    f"table {self.version.id}: a row was changed after it was deleted; an event between is missing",
                    mend="copy the table again, or rebuild the target",
                )
            after = after if known is None else _filled(after, known)
            self._has_partials |= UNCHANGED in after
        self._outcomes[key] = after

    def _delete(self, before: OldImage, moved_to: Key | None) -> None:
        key = self._key_of(before.row) if isinstance(before, FullImage) else before.key
        if moved_to is not None:
            known = before.row if isinstance(before, FullImage) else self._outcome(key)
            self._departure = _Departure(key, moved_to, known)
        self._outcomes[key] = _GONE

    def _move(self, moved_from: Key, after: Row, departure: _Departure | None) -> None:
        """The row's UNCHANGED values are those at its old key: known from this batch, or only to the target."""
        new_key = self._key_of(after)
        if departure is None or not self._arrives(departure, moved_from, after):
            raise ProtocolViolationError(
                f"table {self.version.id}: a row that moved from another key came without the delete of that key"
            )
        if isinstance(departure.known, _Gone):
            raise GapError(
                f"table {self.version.id}: a row changed its key after it was deleted; an event between is missing",
                mend="copy the table again, or rebuild the target",
            )
        old_key = departure.old_key
        row = after if departure.known is None else _filled(after, departure.known)
        if UNCHANGED not in row and not self._moving:
            self._outcomes[new_key] = row
            return
        # The move replaces both halves: take the delete back, and let all that came before it happen first.
        del self._outcomes[old_key]
        if departure.known is not None:
            self._outcomes[old_key] = departure.known
            self._has_partials = True  # it may be one
        self.finished().append(MoveRow(self.version, old_key, row))

    def _arrives(self, departure: _Departure | None, moved_from: Key | None, after: Row) -> bool:
        """Whether this is the second half of what left."""
        if departure is None or moved_from is None:
            return False
        return _is(departure.old_key, moved_from) and _is(self._key_of(after), departure.moved_to)

    def _outcome(self, key: Key) -> _Outcome | None:
        found = self._outcomes.get(key)
        return _row_of(found) if isinstance(found, _Unread) else found

    def _written(self) -> WriteRows:
        step = WriteRows(self.version)
        read = 0
        for key, outcome in self._outcomes.items():
            if isinstance(outcome, _Unread):
                read += outcome.is_read
                step.upserts.append(_row_of(outcome))
            elif isinstance(outcome, _Gone):
                step.deletes.append(key)
            elif self._has_partials and UNCHANGED in outcome:
                step.partials.append(outcome)
            else:
                step.upserts.append(outcome)
        step.loaded = 0 < read == len(step.upserts)
        return step

    def _key_of(self, row: Row) -> Key:
        key = tuple([row[index] for index in self._key])
        for value in key:
            if value is None or value is UNCHANGED:
                raise ProtocolViolationError(f"table {self.version.id}: a key column came without a value")
        return cast("Key", key)


class _KeylessRows:
    """How many copies of each whole row came (or went, if negative) since the last barrier."""

    def __init__(self, version: TableSchema, steps: list[Step]) -> None:
        self.version = version
        self._steps = steps
        self._copies: Counter[Row] = Counter()

    def add(self, event: ChangeEvent) -> None:
        if isinstance(event, ReadRun):
            for row in event.rows():
                self._count(row, +1)
            return
        match event.change:
            case Read(after) | Create(after):
                self._count(after, +1)
            case Update(before, after):
                old = self._whole(before)
                self._count(old, -1)
                self._count(_filled(after, old), +1)
            case Delete(before):
                self._count(self._whole(before), -1)
            case Truncate():
                self._copies.clear()
                self._steps[:] = [TruncateTable(self.version)]
            case Alter() | Drop():
                raise AssertionError("what becomes of a table is no change of a row")
            case _:
                assert_never(event.change)

    def finished(self) -> list[Step]:
        """All steps so far; what is pending becomes the last of them."""
        added, removed = +self._copies, -self._copies
        if added or removed:
            step = WriteRows(self.version, added=list(added.elements()), removed=list(removed.elements()))
            self._steps.append(step)
        self._copies = Counter()
        return self._steps

    def _count(self, row: Row, copies: int) -> None:
        if UNCHANGED in row:
            raise _holds_unchanged(self.version)
        self._copies[row] += copies

    def _whole(self, image: OldImage | None) -> Row:
        if isinstance(image, FullImage):
            return image.row
        raise FidelityError(
            f"table {self.version.id} has no key, and its events don't carry the whole old row:"
            " nothing says which row changed",
            mend="add a primary key at the source, or ALTER TABLE … REPLICA IDENTITY FULL",
        )


def _row_of(event: ScannedEvent) -> Row:
    """Of one that writes a whole row."""
    row = event.row()
    if row is None:  # damaged, or else what is wrong with it is said now
        match event.change:
            case Read(after) | Create(after) | Update(_, after):
                return after
            case _:
                raise AssertionError("what has no row was taken for one that has")
    return row


def _is(key: Key, told: Key) -> bool:
    """Whether it may be the key that the log tells."""
    return told in (key, UNKNOWN_KEY)


def _filled(row: Row, known: Row) -> Row:
    """`row` with its UNCHANGED values taken from `known` (which may lack some itself)."""
    return tuple([old if new is UNCHANGED else new for new, old in zip(row, known, strict=True)])


def _holds_unchanged(version: TableSchema) -> ProtocolViolationError:
    return ProtocolViolationError(f"table {version.id}: an event that must carry a whole row does not")
