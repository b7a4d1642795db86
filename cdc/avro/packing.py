"""Writers of rows that are compiled once for each table version: from canonical texts to the bytes of the envelope.

The functions' source is made from the list of columns, so that it has neither a loop over them nor, for the commonest
types, a call for each: of four columns it takes 0.6 µs, against 1.1 µs for a loop that calls the same packers
(measured). They write what is usual, and raise one of `UNUSUAL` for the rest: then whoever calls them asks the plain
writer (`cdc.avro.rows.RowWriter`), which writes the same bytes, and has words for what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, Final, NamedTuple

from cdc.avro import binary
from cdc.avro.packers import PLAIN_TEXTS, packer_of
from cdc.core.events import Value
from cdc.core.tables import Column, TableSchema
from cdc.core.types import has_one_text

Pack = Callable[[Sequence[Value]], tuple[bytes, bytes, bytes]]
"""The bytes of the envelope's `before` or `after` (present), of the key's fields, and of those of them that decide the
key's partition.
"""

_SHORT: Final = 1024
_LENGTHS: Final = tuple(binary.long(n) for n in range(_SHORT))
_PRESENT_LENGTHS: Final = tuple(binary.PRESENT + length for length in _LENGTHS)


class RowPackers(NamedTuple):
    """`row` packs whole rows, `key` rows of which nothing but the key is known, from a value of each of its columns."""

    row: Pack
    key: Pack


def row_packers(table: TableSchema, fillers: Sequence[bytes]) -> RowPackers:
    """`fillers` are the bytes of fields of which nothing is known."""
    return RowPackers(
        row=_compiled(table, range(len(table.columns)), fillers), key=_compiled(table, table.key, fillers)
    )


def _compiled(table: TableSchema, known: Collection[int], fillers: Sequence[bytes]) -> Pack:
    """The function that takes the values of the `known` columns."""
    columns = table.columns
    lines = [f"({_listed('v', known)}) = row", *(f"f{i} = {_packed(i, columns[i])}" for i in known)]
    placing = [i for i in table.key if has_one_text(columns[i].type)]
    everything = _listed("f", range(len(columns)))
    lines += [f"key = {_joined(table.key)}", f"place = {'key' if len(placing) == len(table.key) else _joined(placing)}"]
    lines += [f"return join((present, {everything})), key, place"]
    names: dict[str, Any] = {
        "join": b"".join,
        "null": binary.NULL,
        "present": binary.PRESENT,
        "lengths": _LENGTHS,
        "present_lengths": _PRESENT_LENGTHS,
    }
    names |= {f"f{i}": filler for i, filler in enumerate(fillers) if i not in known}
    names |= {f"pack{i}": packer_of(columns[i].type) for i in known}
    source = "def pack(row):\n" + "".join(f"    {line}\n" for line in lines)
    exec(source, names)  # noqa: S102 - made of numbers and the names above, of nothing that a source said
    compiled: Pack = names["pack"]
    return compiled


def _packed(i: int, column: Column) -> str:
    """The expression for a field's bytes."""
    packed = f"pack{i}(v{i})"
    if column.nullable:
        packed = f"present + {packed}"
    if column.type.kind in PLAIN_TEXTS:
        lengths = "present_lengths" if column.nullable else "lengths"
        packed = f"{lengths}[len(v{i})] + v{i} if len(v{i}) < {_SHORT} and v{i}.isascii() else {packed}"
    return f"null if v{i} is None else {packed}" if column.nullable else packed


def _joined(fields: Sequence[int]) -> str:
    return f"f{fields[0]}" if len(fields) == 1 else f"join(({_listed('f', fields)}))"


def _listed(name: str, numbers: Iterable[int]) -> str:
    return "".join(f"{name}{i}, " for i in numbers)
