"""Events as one target is to see them: its names of tables, without the columns that it is not to have, with masks in
place of values that it is not to know. Pure, and done before anything is planned, so that no step, no statement and no
error of a target ever holds what was left out or masked.

A mask is one of three:

- `hash`: HMAC-SHA-256 of the value's canonical text under the target's key, in hexadecimal digits. Equal values have
  equal hashes, in every table, so that they can still be joined. NULL stays NULL. The column is `varchar(64)`.
- `null`: NULL. The column's type stays.
- any other text: that text, also in place of NULL. The column is `text`.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple, assert_never

from cdc.core.copy_text import copy_text
from cdc.core.errors import ConfigError
from cdc.core.events import (
    UNCHANGED,
    UNKNOWN_KEY,
    Alter,
    Change,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    Key,
    KeyImage,
    OldImage,
    Read,
    Row,
    Truncate,
    Update,
    Value,
)
from cdc.core.patterns import ColumnPatterns, pieces
from cdc.core.renaming import Renaming
from cdc.core.runs import ReadRun
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind, has_one_text
from consumers.plan.alterations import same_columns
from consumers.plan.beside import beside

_HASH: Final = "hash"
_NULL: Final = "null"
_HASHED: Final = ColumnType(kind=Kind.STRING, name="character varying(64)", length=64)
_TEXT: Final = ColumnType(kind=Kind.STRING, name="text")

_EXCLUDED: Final = "is left out by exclude_columns"
_Treatment = str | None
"""What is done to a column, in words; None: nothing."""


class EventMapping:
    """What `rename`, `exclude_columns` and `mask` of a target's settings say.

    `event` and `name` raise ConfigError for what makes no sense, naming table and column.
    """

    def __init__(self, settings: TargetSettings, *, area: str | None = None) -> None:
        """With `area`, tables are there, beside those that have their names. ConfigError if the settings can't be
        understood.
        """
        self._target = settings.name
        self._renaming = Renaming(settings.rename)
        self._excluded = ColumnPatterns(settings.exclude_columns)
        self._masks = _Masks(settings)
        self._patterns = (*settings.exclude_columns, *settings.mask)
        self._area = area
        self._is_trivial = not (area or settings.rename or settings.exclude_columns or settings.mask)
        self._owners: dict[TableId, TableId] = {}
        self._by_object: dict[int, _Version] = {}
        self._versions: dict[TableSchema, _Version] = {}

    def name(self, table: TableId) -> TableId:
        """The table's name at the target. ConfigError if another table that was asked for has it."""
        if self._is_trivial:
            return table
        name = self._renaming.name(table)
        name = name if self._area is None else beside(self._area, name)
        owner = self._owners.setdefault(name, table)
        if owner != table:
            raise ConfigError(
                f"[targets.{self._target}] rename: the tables {owner} and {table} would both be {name}",
                mend="give one of them another name, or exclude it in the target's tables",
            )
        return name

    def version(self, table: TableSchema) -> TableSchema:
        """The table version as the target is to see it."""
        return table if self._is_trivial else self._version(table).table

    @property
    def hides(self) -> bool:
        """Whether there is anything in events that must not reach the target, nor what is kept for it."""
        return bool(self._patterns)

    def require_sense(self, tables: Iterable[TableSchema]) -> None:
        """ConfigError for what makes no sense for these tables."""
        if not self._is_trivial:
            for table in tables:
                self._version(table)

    def unmatched(self, tables: Collection[TableSchema]) -> tuple[str, ...]:
        """The patterns of columns to hide that match none of these tables'."""
        return tuple(
            pattern
            for pattern in self._patterns
            if not any(ColumnPatterns([pattern]).matches(of.id, column.name) for of in tables for column in of.columns)
        )

    def events(self, events: Sequence[ChangeEvent]) -> Sequence[ChangeEvent]:
        """Each as the target is to see it."""
        return events if self._is_trivial else [self.event(event) for event in events]

    def event(self, event: ChangeEvent) -> ChangeEvent:
        """The event as the target is to see it."""
        if self._is_trivial:
            return event
        version = self._version(event.table)
        if isinstance(event, ReadRun):
            text = event.text if version.keeps_rows else copy_text(map(version.mapped_row, event.rows()))
            return replace(event, table=version.table, change=self._change(event, version), text=text)
        # Not `dataclasses.replace`, which takes four times as long, for each event.
        return ChangeEvent(
            transaction=event.transaction,
            table=version.table,
            change=self._change(event, version),
            ordinal=event.ordinal,
            table_ordinal=event.table_ordinal,
            lsn=event.lsn,
            captured_us=event.captured_us,
            snapshot=event.snapshot,
            place=event.place,
        )

    def _version(self, table: TableSchema) -> _Version:
        # Events of one version mostly share one object: hashing a version looks at each of its columns.
        known = self._by_object.get(id(table))
        if known is not None and known.source is table:
            return known
        made = self._versions.get(table)
        if made is None:
            made = self._versions[table] = self._made(table)
        self._by_object[id(table)] = made if made.source is table else replace(made, source=table)
        return self._by_object[id(table)]

    def _made(self, table: TableSchema) -> _Version:
        kept = [
            index for index, column in enumerate(table.columns) if not self._excluded.matches(table.id, column.name)
        ]
        masks = {index: self._masks.of(table.id, table.columns[index].name) for index in kept}
        self._require_key(table, kept, masks)
        if not kept:
            raise self._senseless(f"table {table.id} has no column left", "leave it out in the target's tables")
        new_index = {index: at for at, index in enumerate(kept)}
        columns = tuple(self._column(table.id, table.columns[index], masks[index]) for index in kept)
        return _Version(
            source=table,
            table=replace(
                table, id=self.name(table.id), columns=columns, key=tuple(new_index[index] for index in table.key)
            ),
            keeps_rows=len(kept) == len(table.columns) and not any(masks.values()),
            row=tuple(_Place(index, None if (mask := masks[index]) is None else mask.apply) for index in kept),
            key=tuple(None if (mask := masks[index]) is None else mask.apply for index in table.key),
        )

    def _require_key(self, table: TableSchema, kept: Iterable[int], masks: Mapping[int, _Mask | None]) -> None:
        """A row must be found by its key."""
        for index in table.key:
            column = table.columns[index]
            where = f"table {table.id}, column {column.name}: it is of the key"
            if index not in kept:
                raise self._senseless(f"{where}, and left out by exclude_columns", 'keep it, or mask it with "hash"')
            mask = masks[index]
            if mask is not None and mask.constant:
                raise self._senseless(f"{where}, and its mask would be the same in all rows", 'mask it with "hash"')
            if mask is not None and not has_one_text(column.type):
                raise self._senseless(
                    f"{where}, and equal values of type {column.type.name} may be spelled differently: their hashes"
                    " would not be equal",
                    "leave the table out, or give it another key at the source (REPLICA IDENTITY USING INDEX)",
                )

    def _column(self, table: TableId, column: Column, mask: _Mask | None) -> Column:
        if mask is None:
            return column
        if mask.type is not None:
            return replace(column, type=mask.type)
        if not column.nullable:
            what = f'table {table}, column {column.name}: it is NOT NULL, and mask = "null"'
            raise self._senseless(what, 'mask it with "hash" or a text, or leave it out with exclude_columns')
        return column

    def _change(self, event: ChangeEvent, version: _Version) -> Change:  # noqa: PLR0911  # a table
        if version.keeps_rows and not isinstance(event.change, Alter):
            return event.change
        match event.change:
            case Read(after):
                return Read(version.mapped_row(after))
            case Create(after, moved_from):
                return Create(version.mapped_row(after), None if moved_from is None else version.mapped_key(moved_from))
            case Update(before, after):
                return Update(None if before is None else version.mapped_image(before), version.mapped_row(after))
            case Delete(before, moved_to, awaits_create):
                to = None if moved_to is None else version.mapped_key(moved_to)
                return Delete(version.mapped_image(before), to, awaits_create)
            case Alter() as alter:
                return self._alter(event.table, alter, version)
            case Truncate() | Drop():
                return event.change
            case _:
                assert_never(event.change)

    def _alter(self, table: TableSchema, alter: Alter, version: _Version) -> Alter:
        if alter.before is not None:
            self._require_same_treatment(alter.before, table)
        fills = {}
        for place, column in zip(version.row, version.table.columns, strict=True):
            fill: Value = alter.fills.get(table.columns[place.source].name)
            fill = fill if place.mask is None else place.mask(fill)
            if fill is not None and fill is not UNCHANGED:
                fills[column.name] = fill
        # The note is the source's own, and may quote what is left out.
        return Alter(before=None if alter.before is None else self._version(alter.before).table, fills=fills)

    def _require_same_treatment(self, before: TableSchema, after: TableSchema) -> None:
        """A column that was renamed (or its table) must not come out from behind its mask."""
        for old, new in same_columns(before, after):
            was, would_be = self._treatment(before.id, old.name), self._treatment(after.id, new.name)
            if was != would_be:
                raise self._senseless(
                    f"column {before.id}.{old.name} {was or 'is shown'}, and became {after.id}.{new.name}, which"
                    f" {would_be or 'would be shown'}",
                    "name it in exclude_columns or mask as it was called and as it is called",
                )

    def _treatment(self, table: TableId, column: str) -> _Treatment:
        if self._excluded.matches(table, column):
            return _EXCLUDED
        mask = self._masks.of(table, column)
        return None if mask is None else f"has the mask {mask.name!r}"

    def _senseless(self, what: str, mend: str) -> ConfigError:
        return ConfigError(f"[targets.{self._target}]: {what}", mend=mend)


class _Place(NamedTuple):
    """Where a column's value is in the source's row, and what becomes of it."""

    source: int
    mask: Callable[[Value], Value] | None


@dataclass(frozen=True, slots=True)
class _Version:
    """A table version at the source, as the target sees it, and how its rows and keys come from the source's, if they
    are others.
    """

    source: TableSchema
    table: TableSchema
    keeps_rows: bool
    row: tuple[_Place, ...]
    key: tuple[Callable[[Value], Value] | None, ...]

    def mapped_row(self, row: Row) -> Row:
        return tuple([row[at] if mask is None else mask(row[at]) for at, mask in self.row])

    def mapped_key(self, key: Key) -> Key:
        if key == UNKNOWN_KEY:
            return key
        found: list[bytes] = []
        for part, mask in zip(key, self.key, strict=True):
            value = part if mask is None else mask(part)
            assert isinstance(value, bytes)
            found.append(value)
        return tuple(found)

    def mapped_image(self, image: OldImage) -> OldImage:
        match image:
            case FullImage(row):
                return FullImage(self.mapped_row(row))
            case KeyImage(key):
                return KeyImage(self.mapped_key(key))
            case _:
                assert_never(image)


@dataclass(frozen=True, slots=True)
class _Mask:
    """`type` is what the column becomes, None if it stays; `constant`: whether all values get the same."""

    name: str
    type: ColumnType | None
    apply: Callable[[Value], Value]
    constant: bool = True


class _Masks:
    """Which column has which mask. A pattern without wildcards comes before those with them."""

    def __init__(self, settings: TargetSettings) -> None:
        self._target = settings.name
        self._rules = [
            _Rule(pattern, ColumnPatterns([pattern]), _mask(name, settings), is_exact=_is_exact(pattern))
            for pattern, name in settings.mask.items()
        ]

    def of(self, table: TableId, column: str) -> _Mask | None:
        """ConfigError if two patterns say different things of the column."""
        rules = [rule for rule in self._rules if rule.columns.matches(table, column)]
        rules = [rule for rule in rules if rule.is_exact] or rules
        if len({rule.mask.name for rule in rules}) > 1:
            said = " and ".join(repr(rule.pattern) for rule in rules)
            raise ConfigError(
                f"[targets.{self._target}] mask: {said} have different masks for column {table}.{column}",
                mend="add a line for that column alone",
            )
        return rules[0].mask if rules else None


class _Rule(NamedTuple):
    pattern: str
    columns: ColumnPatterns
    mask: _Mask
    is_exact: bool


def _is_exact(pattern: str) -> bool:
    return not any(piece.is_wildcard for name in pieces(pattern) for piece in name)


def _mask(name: str, settings: TargetSettings) -> _Mask:
    if name == _NULL:
        return _Mask(name, None, lambda _: None)
    if name == _HASH:
        return _Mask(name, _HASHED, _hashing(settings), constant=False)
    text = name.encode()
    return _Mask(name, _TEXT, lambda _: text)


def _hashing(settings: TargetSettings) -> Callable[[Value], Value]:
    if not settings.mask_key:
        raise ConfigError(
            f"[targets.{settings.name}] mask_key is missing: hashes are made with it", mend='write mask_key = "${…}"'
        )
    key = settings.mask_key.encode()

    def hashed(value: Value) -> Value:
        if value is None or value is UNCHANGED:
            return value
        return hmac.digest(key, value, "sha256").hex().encode()

    return hashed
