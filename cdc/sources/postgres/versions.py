"""What each table is at the present point of the stream. Pure.

Two things tell: descriptions, which event triggers write into the stream (`ddl`), and pgoutput's Relation messages. A
description says all; a Relation says names and types only, but can't be missed. Where a Relation says something else
than the last description, nobody described the change, and the table has to be read again, unless columns only went;
so has one that nobody ever described: it may have had rows before it was published.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from cdc.core.errors import ProtocolViolationError
from cdc.core.events import Alter, Drop
from cdc.core.position import Position
from cdc.core.tables import ReplicaIdentity, TableId, TableSchema
from cdc.core.types import ColumnType, Kind
from cdc.pgoutput import messages as wire
from cdc.sources.postgres.descriptions import ColumnDescription, TableDescription
from cdc.sources.postgres.types import PgType

_NEW_AND_EMPTY: Final = "CREATE TABLE"
# Of those that become one another without a rewrite; all others write in a way of their own.
_WRITTEN_AS: Final = dict.fromkeys(("text", "varchar", "bpchar", "citext"), "text") | {"bit": "bit", "varbit": "bit"}


@dataclass(frozen=True, slots=True)
class Altered:
    """To be published: the table is now of this version."""

    table: TableSchema
    change: Alter | Drop


@dataclass(frozen=True, slots=True)
class Unread:
    """Rows of this table changed without events."""

    oid: int


Outcome = Altered | Unread


class Versions:
    """`captured` says whether a table's events are wanted, `is_there` whether a table exists today. `publication` is
    ours: descriptions for others are left alone. `failed` is told why an event trigger could not describe a command.
    """

    def __init__(
        self,
        *,
        publication: str,
        generated: bool,
        captured: Callable[[TableId], bool],
        is_there: Callable[[int], bool] = lambda _: False,
        failed: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._publication = publication
        self._generated = generated
        self._captured = captured
        self._is_there = is_there
        self._failed = failed
        self._history: deque[tuple[Position, int, TableDescription | None]] = deque()
        self._published: dict[int, TableDescription] = {}
        self._schemas: dict[int, TableSchema] = {}
        self._wanted: set[int] = set()
        self._parts: dict[int, frozenset[int]] = {}
        self._rewritten: set[int] = set()
        self._unread: set[int] = set()
        self._ever: set[TableId] = set()

    def remember(self, position: Position, note: str) -> None:
        """What was published before this session, in its order."""
        said = json.loads(note)
        described = None if said.get("dropped") else TableDescription.restored(said)
        self._history.append((position, said["oid"], described))
        if described is not None:
            self._ever.add(described.id)

    def begin(self, epoch: int, commit_lsn: int) -> bool:
        """A transaction begins here: what was published before it counts. What was published later, by a session whose
        end the source does not know of, counts from there on. Whether a table may be another now.
        """
        self._rewritten.clear()
        if not self._history:
            return False
        here = Position(epoch, commit_lsn, 0)
        while self._history and self._history[0][0] < here:
            _, oid, described = self._history.popleft()
            self._set(oid, described)
        return True

    def described(self, message: bytes) -> Iterable[Outcome]:  # a table
        """One message of our event triggers. All outcomes but the last are of tables that became its partitions.

        Any role may write such a message. One that is not ours means nothing; what a forged one says of a table, the
        next Relation message corrects, and a table that is still there was not dropped.
        """
        try:
            said = json.loads(message)
            if said["publication"] != self._publication:
                return ()
            match said:
                case {"rewritten": int(oid)}:
                    self._rewritten.add(oid)
                    return ()
                case {"dropped": int(oid)}:
                    return () if self._is_there(oid) else self._dropped(oid)
                case {"table": dict(table), "tag": str(tag), "reread": bool(reread)}:
                    description = TableDescription.from_json(json.dumps(table), generated=self._generated)
                    return self._now(description, tag=tag, reread=reread)
                case {"failed": str(why)}:
                    self._failed(why)  # of a table that is known, the next Relation will differ
                case _:
                    pass
        except (ValueError, KeyError, TypeError, ProtocolViolationError):
            pass
        return ()

    def relation(self, relation: wire.Relation) -> Iterable[Outcome]:
        """A Relation message whose table has an event right now."""
        if not self._captured(TableId(relation.schema, relation.name)):
            return ()
        known = self._published.get(relation.oid)
        if known is None:
            return (Unread(relation.oid),)
        if agrees(known, relation):
            return ()
        kept = _narrowed(known, relation)
        return (Unread(relation.oid),) if kept is None else self._altered(kept)

    @property
    def rewrote(self) -> bool:
        """Whether `rewritten` may have something to tell."""
        return bool(self._rewritten)

    def rewritten(self) -> list[int]:
        """At a transaction's end: published tables whose rows it rewrote, and that nobody described after that. A
        parent's ALTER TABLE rewrites those that inherit from it.
        """
        left = [oid for oid in sorted(self._rewritten) if oid in self._published and oid not in self._unread]
        self._rewritten.clear()
        return left

    def gone(self, present: Collection[int]) -> Iterator[Altered]:
        """Drop the published tables that are not `present` any more, though they would be captured."""
        for oid in sorted(self._wanted - set(present)):
            yield from self._dropped_table(oid)

    def known(self) -> dict[int, TableId]:
        """The tables that the log knows, at the end of what it has of them."""
        tables = {oid: described.id for oid, described in self._published.items()}
        for _, oid, described in self._history:
            if described is None:
                tables.pop(oid, None)
            else:
                tables[oid] = described.id
        return tables

    def ever(self) -> Collection[TableId]:
        """The tables that the log told of when this session began, those that are gone included."""
        return self._ever

    def is_captured(self, oid: int) -> bool:
        """Whether events of this table, which is known, are wanted."""
        return oid in self._wanted

    def captured(self, oid: int) -> TableSchema | None:
        """The published version of a table whose events are wanted; None for any other."""
        return self._schemas.get(oid) if oid in self._wanted else None

    def _is_part(self, oid: int) -> bool:
        return any(oid in parts for root, parts in self._parts.items() if root != oid)

    def hold(self, oid: int) -> None:
        """The table is about to be read again: until it has been, it stays what was published last."""
        self._unread.add(oid)

    def read(self, oid: int, description: TableDescription | None) -> Iterable[Outcome]:
        """The table was read, and was this; None if there was none. It may have left our sight meanwhile."""
        self._unread.discard(oid)
        if description is None:
            return ()
        is_ours = self._captured(description.id) and not self._is_part(oid)
        return self._altered(description) if is_ours else self._dropped_table(oid)

    def schema(self, oid: int) -> TableSchema | None:
        """The published version; None for a table that is not captured or not known yet."""
        return self._schemas.get(oid)

    def oid(self, table: TableId) -> int:
        """Of a table that is known. KeyError if it is not."""
        return {described.id: oid for oid, described in self._published.items()}[table]

    def _now(self, description: TableDescription, *, tag: str, reread: bool) -> Iterable[Outcome]:
        oid, known = description.oid, self._published.get(description.oid)
        if not self._captured(description.id):
            return self._dropped(oid)  # renamed out of our sight: its events end here
        self._parts[oid] = description.parts
        swallowed = [outcome for part in description.parts - {oid} for outcome in self._dropped_table(part)]
        moved = known is not None and known.parts != description.parts and tag != _NEW_AND_EMPTY
        unseen = known is None and tag != _NEW_AND_EMPTY
        spelled_anew = known is not None and _spelled_anew(known, description)
        seen_before = known is not None and not known.hidden.isdisjoint(c.number for c in description.columns)
        refiltered = known is not None and known.filter != description.filter
        taken = bool(self._others_called(description.id, oid))
        unread = oid in self._rewritten | self._unread
        if any((reread, moved, unseen, spelled_anew, seen_before, refiltered, taken, unread)):
            return [*swallowed, Unread(oid)]
        return [*swallowed, *self._altered(description)]

    def _dropped(self, oid: int) -> Iterable[Outcome]:
        gone = list(self._dropped_table(oid))
        return gone or [Unread(root) for root, known in self._published.items() if oid in known.parts]

    def _dropped_table(self, oid: int) -> Iterator[Altered]:
        schema = self._schemas.get(oid)
        if schema is None:
            return
        self._set(oid, None)
        yield Altered(schema, Drop(note=json.dumps({"oid": oid, "dropped": True})))

    def _altered(self, description: TableDescription) -> Iterable[Outcome]:
        before, known = self._schemas.get(description.oid), self._published.get(description.oid)
        if known == description:
            return
        for other in self._others_called(description.id, description.oid):
            yield from self._dropped_table(other)
        self._set(description.oid, description)
        after = self._schemas[description.oid]
        note = json.dumps(description.to_json(), separators=(",", ":"))
        old = {column.number for column in known.columns} if known is not None else set()
        fills = {
            column.name: column.fill.encode()
            for column in description.columns
            if column.fill is not None and column.number not in old and known is not None
        }
        yield Altered(after, Alter(before=before, fills=fills, note=note))

    def _others_called(self, table: TableId, oid: int) -> list[int]:
        return [other for other, known in self._published.items() if known.id == table and other != oid]

    def _set(self, oid: int, described: TableDescription | None) -> None:
        if described is None:
            self._published.pop(oid, None)
            self._schemas.pop(oid, None)
            self._wanted.discard(oid)
            self._parts.pop(oid, None)
        else:
            self._published[oid] = described
            self._parts[oid] = described.parts
            self._schemas[oid] = described.schema()
            if self._captured(described.id):
                self._wanted.add(oid)
            else:
                self._wanted.discard(oid)


def _spelled_anew(known: TableDescription, now: TableDescription) -> bool:
    """Whether rows that are there now have another text, though none was written: as timestamp becomes timestamptz, or
    cidr inet.
    """
    before, after = _spellings(known), _spellings(now)
    return any(spelling != before.get(column, spelling) for column, spelling in after.items())


def _spellings(of: TableDescription) -> dict[int | None, tuple[int | str, tuple[Kind, ...]]]:
    """What decides how values are written, by the columns' numbers."""
    types = {each.oid: each for each in of.types}
    return {
        described.number: (_writer(types, described.type_oid), _kinds(column.type))
        for described, column in zip(of.columns, of.schema().columns, strict=True)
    }


def _writer(types: Mapping[int, PgType], oid: int) -> int | str:
    """The type by which a value is written, whatever domains and arrays it is in."""
    of = types.get(oid)
    if of is None:
        return oid
    if of.category == "d":
        return _writer(types, of.base)
    return _writer(types, of.element) if of.is_array else _WRITTEN_AS.get(of.name, oid)


def _kinds(of: ColumnType) -> tuple[Kind, ...]:
    return (of.kind,) if of.element is None else (of.kind, *_kinds(of.element))


def agrees(known: TableDescription, relation: wire.Relation) -> bool:
    """Whether the Relation says nothing that the description does not."""
    return (
        known.id == TableId(relation.schema, relation.name)
        and known.identity is relation.identity
        and [_shape(column) for column in known.columns] == [_shape(column) for column in relation.columns]
        and (not _marks_key(relation) or set(known.key) == _marked(relation))
    )


def _narrowed(known: TableDescription, relation: wire.Relation) -> TableDescription | None:
    """The table with only those of its columns that the Relation has; None if that is not what it has become."""
    wanted = [_shape(column) for column in relation.columns]
    columns = tuple(column for column in known.columns if _shape(column) in wanted)
    key = tuple(column.name for column in relation.columns if column.is_identity) if _marks_key(relation) else known.key
    if [_shape(column) for column in columns] != wanted or not set(key) <= {column.name for column in columns}:
        return None
    return replace(
        known, id=TableId(relation.schema, relation.name), identity=relation.identity, columns=columns, key=key
    )


def _marks_key(relation: wire.Relation) -> bool:
    return relation.identity in {ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX}


def _marked(relation: wire.Relation) -> set[str]:
    return {column.name for column in relation.columns if column.is_identity}


def _shape(column: ColumnDescription | wire.RelationColumn) -> tuple[str, int, int]:
    return column.name, column.type_oid, column.type_modifier


def partitions_in(message: bytes) -> int:
    """How many partitions the table has that an event trigger's message describes."""
    try:
        said = json.loads(message)
        return len(said["table"]["parts"]) if "table" in said else 0
    except (ValueError, KeyError, TypeError):
        return 0


def name_of(oid: int) -> str:
    """The source's own name for a table: what it keeps through a rename."""
    return str(oid)


def oid_of(name: str) -> int:
    return int(name)
