"""Writers of rows that are compiled once for each table version: from canonical texts to the bytes of the envelope.

The functions' source is made from the list of columns, so that it has neither a loop over them nor, for the commonest
types, a call for each: of four columns it takes 0.6 µs, against 1.1 µs for a loop that calls the same packers
(measured). They write what is usual, and raise one of `UNUSUAL` for the rest: then whoever calls them asks the plain
writer (`cdc.avro.rows.RowWriter`), which writes the same bytes, and has words for what is wrong.

Where `cdc.avro.speedups` is compiled to C, it writes events in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from cdc.avro import binary
from cdc.avro.packers import PLAIN_TEXTS, packer_of
from cdc.avro.speedups import COMPILED
from cdc.avro.speedups.packing import EventPacker
from cdc.core.events import RowFormat, Value
from cdc.core.tables import Column, ReplicaIdentity, TableSchema
from cdc.core.types import Kind, has_one_text

Pack = Callable[[Sequence[Value]], tuple[bytes, bytes, bytes]]
"""The bytes of the envelope's `before` or `after` (present), of the key's fields, and of those of them that decide the
key's partition.
"""

PackEvent = Callable[[bytes], tuple[bytes, bytes | None, bytes | None]]
"""From what the source sent: an envelope's bytes up to `after`, the whole key, and what decides its partition (which
is the key itself where all of it does).
"""

_SHORT: Final = 1024
_LENGTHS: Final = tuple(binary.long(n) for n in range(_SHORT))
_PRESENT_LENGTHS: Final = tuple(binary.PRESENT + length for length in _LENGTHS)
_INTEGERS: Final = frozenset({Kind.INT16, Kind.INT32, Kind.INT64})
_FEW: Final = range(-(1 << 13), 1 << 14)
_SMALL: Final = {b"%d" % n: binary.long(n) for n in _FEW}
"""Of integers that are common: found sooner than made."""
_PRESENT_SMALL: Final = {text: binary.PRESENT + written for text, written in _SMALL.items()}


class RowPackers(NamedTuple):
    """`row` packs whole rows, `key` rows of which nothing but the key is known, from a value of each of its columns."""

    row: Pack
    key: Pack


def row_packers(table: TableSchema, fillers: Sequence[bytes]) -> RowPackers:
    """`fillers` are the bytes of fields of which nothing is known."""
    return RowPackers(
        row=_row_packer(table, range(len(table.columns)), fillers), key=_row_packer(table, table.key, fillers)
    )


class EventPackers(NamedTuple):
    """`after` packs events that are a row's new image, `before` deletes."""

    after: PackEvent
    before: PackEvent


def event_packers(
    table: TableSchema, fillers: Sequence[bytes], form: RowFormat, *, key: bytes, value: bytes
) -> EventPackers:
    """`key` and `value` are the headers of both."""
    everything = range(len(table.columns))
    old = everything if table.identity is ReplicaIdentity.FULL else table.key
    return EventPackers(
        after=_event_packer(table, everything, fillers, form, (value + binary.NULL + binary.PRESENT, b"", key)),
        before=_event_packer(table, old, fillers, form, (value + binary.PRESENT, binary.NULL, key)),
    )


def _row_packer(table: TableSchema, known: Collection[int], fillers: Sequence[bytes]) -> Pack:
    """The function that takes the values of the `known` columns."""
    code = _Code(table, known, fillers)
    placing = _placing(table)
    place = "key" if len(placing) == len(table.key) else _joined(code.fields(placing))
    lines = [
        f"({_listed(f'v{i}' for i in known)}) = row",
        *code.lines,
        f"key = {_joined(code.fields(table.key))}",
        f"return {_joined(['present', *code.everything])}, key, {place}",
    ]
    pack: Pack = _compiled("row", lines, code.names)
    return pack


def _event_packer(
    table: TableSchema,
    known: Collection[int],
    fillers: Sequence[bytes],
    form: RowFormat,
    around: tuple[bytes, bytes, bytes],
) -> PackEvent:
    placing = _placing(table)
    if COMPILED and form.tuple_at is not None:
        return EventPacker(table, known, fillers, begins=form.tuple_at, around=around, placing=placing).pack
    code = _Code(table, known, fillers)
    # Without its key, a row is not ours to write.
    keyed = [line for i in table.key for line in (f"if v{i} is None:", "    raise ValueError")]
    lines = [*form.reading(len(table.columns)), *keyed, *code.lines]
    if table.key:
        lines += [f"key = {_joined(['key_head', *code.fields(table.key)])}"]
    rows = _joined(["head", *code.everything, "tail"])
    place = "key" if len(placing) == len(table.key) else _joined(code.fields(placing))
    lines += [f"return {rows}, key, {place}" if table.key else f"return {rows}, None, None"]
    head, tail, key_head = around
    pack: PackEvent = _compiled(
        "data", lines, {**form.names, **code.names, "head": head, "tail": tail, "key_head": key_head}
    )
    return pack


def _placing(table: TableSchema) -> list[int]:
    return [i for i in table.key if has_one_text(table.columns[i].type)]


def _compiled(argument: str, lines: Iterable[str], names: dict[str, Any]) -> Any:
    source = f"def pack({argument}):\n" + "".join(f"    {line}\n" for line in lines)
    exec(source, names)  # noqa: S102 - made of numbers and names of ours, of nothing that a source said
    return names["pack"]


class _Code:
    """Source that makes of v0, v1, …, the texts of the `known` columns, the bytes of all fields: one or two names for
    each column, so that a text need not be copied to stand after its length.
    """

    def __init__(self, table: TableSchema, known: Collection[int], fillers: Sequence[bytes]) -> None:
        self.lines: list[str] = []
        self.names: dict[str, Any] = {
            "join": b"".join,
            "null": binary.NULL,
            "present": binary.PRESENT,
            "lengths": _LENGTHS,
            "present_lengths": _PRESENT_LENGTHS,
            "small": _SMALL.get,
            "present_small": _PRESENT_SMALL.get,
        }
        self._fields: list[list[str]] = []
        for i, column in enumerate(table.columns):
            self._fields.append(self._known(i, column) if i in known else [f"f{i}"])
            if i not in known:
                self.names[f"f{i}"] = fillers[i]

    @property
    def everything(self) -> list[str]:
        return [name for names in self._fields for name in names]

    def fields(self, numbers: Iterable[int]) -> list[str]:
        return [name for i in numbers for name in self._fields[i]]

    def _known(self, i: int, column: Column) -> list[str]:
        self.names[f"pack{i}"] = packer_of(column.type)
        packed = f"present + pack{i}(v{i})" if column.nullable else f"pack{i}(v{i})"
        prefix = "present_" if column.nullable else ""
        if column.type.kind in PLAIN_TEXTS:
            self._text(i, packed, f"{prefix}lengths", nullable=column.nullable)
            return [f"f{i}", f"v{i}"]
        if column.type.kind in _INTEGERS:
            packed = f"{prefix}small(v{i}) or {packed}"
        self.lines.append(f"f{i} = null if v{i} is None else {packed}" if column.nullable else f"f{i} = {packed}")
        return [f"f{i}"]

    def _text(self, i: int, packed: str, lengths: str, *, nullable: bool) -> None:
        if nullable:
            self.lines += [f"if v{i} is None:", f'    f{i}, v{i} = null, b""']
        self.lines += [
            f"{'elif' if nullable else 'if'} len(v{i}) < {_SHORT} and v{i}.isascii():",
            f"    f{i} = {lengths}[len(v{i})]",
            "else:",
            f'    f{i}, v{i} = {packed}, b""',
        ]


def _joined(fields: Sequence[str]) -> str:
    return fields[0] if len(fields) == 1 else f"join(({_listed(fields)}))"


def _listed(names: Iterable[str]) -> str:
    return "".join(f"{name}, " for name in names)
