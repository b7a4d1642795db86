"""The statements that write rows of one table version, in pieces that a packet holds.

Rows go as constants in multi-row statements. Measured, that is as fast as LOAD DATA LOCAL INFILE into a temporary table
(150,000 rows of five columns a second against 140,000), which turns errors in values into warnings, and needs a server
and a client that allow it. Pieces of 64 KiB were the fastest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Final, Generic, NamedTuple, TypeVar

from cdc.core.errors import FidelityError
from cdc.core.events import UNCHANGED, Key, Row
from consumers.targets.grouping import by_present_columns
from consumers.targets.mysql.quoting import quoted, quoted_list
from consumers.targets.mysql.session import Server
from consumers.targets.mysql.tables import PreparedTable

_PIECE: Final = 64 * 1024
_MOST_KEYS: Final = 500  # of a list: MariaDB makes a subquery of one of 1,000
_MOST_STATEMENTS: Final = 500  # in one trip
Item = TypeVar("Item")


class Statements:
    """Of a table, for a server."""

    def __init__(self, table: PreparedTable, server: Server) -> None:
        self._table = table
        self._version = table.version
        self._codec = table.codec
        self._max_packet = server.max_packet
        self._guarded = server.is_mariadb
        self._name = quoted(table.name).encode()

    def upserts(self, rows: Iterable[Row]) -> Iterator[bytes]:
        """For a table whose only unique key is the source's: of several, any would do as the one that is there. If it
        has got another one since we looked, and a row is there for that, the statement fails: a subquery of two rows is
        no value. On MariaDB: whether MySQL asks it only where it has to was never tried.
        """
        same = " AND ".join(f"{self._quoted(i)} = VALUES({self._quoted(i)})" for i in self._version.key)
        first, *others = (self._quoted(i) for i in self._settable())
        guarded = f"IF({same} OR (SELECT 1 UNION SELECT 2), VALUES({first}), NULL)"
        sets = [f"{first} = {guarded if self._guarded else f'VALUES({first})'}"]
        sets += [f"{each} = VALUES({each})" for each in others]
        return self._inserts(rows, f" ON DUPLICATE KEY UPDATE {', '.join(sets)}".encode())

    def inserts(self, rows: Iterable[Row]) -> Iterator[bytes]:
        return self._inserts(rows, b"")

    def updates(self, rows: Iterable[Row]) -> Iterator[Trip[Row]]:
        """Set what each row has; it finds one row, or none."""
        for present, group in by_present_columns(rows).items():
            yield from self._trips(group, partial(self._update_of, self._settable(present)))

    def move(self, old_key: Key, row: Row) -> bytes:
        columns = [index for index in self._table.written if row[index] is not UNCHANGED]
        return self._checked(self._update(row, columns, self._same_key(old_key)))

    def deletes(self, keys: Iterable[Key]) -> Iterator[bytes]:
        head = b"DELETE FROM " + self._name + b" WHERE "
        key = self._version.key
        if len(key) == 1:
            head += self._quoted(key[0]).encode() + b" IN ("
            return self._pieces(head, (self._codec.value(key[0], part) for (part,) in keys), b",", b")", _MOST_KEYS)
        return self._pieces(head, (b"(" + self._same_key(each) + b")" for each in keys), b" OR ", b"", _MOST_KEYS)

    def removals(self, rows: Iterable[Row]) -> Iterator[Trip[tuple[Row, int]]]:
        """Of equal rows, as many as are to be removed. `<=>`: NULL is the same as NULL."""
        copies = Counter(rows)
        return self._trips(copies.items(), lambda item: self._removal(*item))

    def empty(self) -> bytes:
        """Not TRUNCATE, which commits."""
        return b"DELETE FROM " + self._name

    def _inserts(self, rows: Iterable[Row], tail: bytes) -> Iterator[bytes]:
        written = self._table.written
        names = quoted_list(self._version.columns[index].name for index in written)
        head = b"INSERT INTO " + self._name + f" ({names}) VALUES ".encode()
        return self._pieces(head, (self._codec.row(row, written) for row in rows), b",", tail)

    def _pieces(
        self, head: bytes, parts: Iterable[bytes], between: bytes, tail: bytes, most: int | None = None
    ) -> Iterator[bytes]:
        piece: list[bytes] = []
        size = 0
        for part in parts:
            if piece and (size + len(part) > _PIECE or len(piece) == most):
                yield self._checked(head + between.join(piece) + tail)
                piece, size = [], 0
            piece.append(part)
            size += len(part)
        if piece:
            yield self._checked(head + between.join(piece) + tail)

    def _trips(self, items: Iterable[Item], statement: Callable[[Item], bytes]) -> Iterator[Trip[Item]]:
        statements: list[bytes] = []
        rows: list[Item] = []
        size = 0
        for item in items:
            each = self._checked(statement(item))
            if statements and (size + len(each) > _PIECE or len(statements) == _MOST_STATEMENTS):
                yield Trip(b";".join(statements), rows)
                statements, rows, size = [], [], 0
            statements.append(each)
            rows.append(item)
            size += len(each)
        if statements:
            yield Trip(b";".join(statements), rows)

    def _checked(self, statement: bytes) -> bytes:
        if len(statement) + 1024 > self._max_packet:
            raise FidelityError(
                f"writing table {self._version.id}: a row takes {len(statement)} bytes in a statement, more than the"
                f" target's max_allowed_packet of {self._max_packet}",
                mend="raise it at the target (up to 1G), and start the applier again",
            )
        return statement

    def _update_of(self, columns: Sequence[int], row: Row) -> bytes:
        return self._update(row, columns, self._same_key(self._key_of(row)))

    def _update(self, row: Row, columns: Sequence[int], same: bytes) -> bytes:
        sets = [self._quoted(index).encode() + b" = " + self._codec.value(index, row[index]) for index in columns]
        return b"UPDATE " + self._name + b" SET " + b", ".join(sets) + b" WHERE " + same

    def _removal(self, row: Row, count: int) -> bytes:
        same = [self._same(index, self._codec.value(index, row[index])) for index in self._table.written]
        return b"DELETE FROM " + self._name + b" WHERE " + b" AND ".join(same) + b" LIMIT %d" % count

    def _same(self, index: int, value: bytes) -> bytes:
        name = self._quoted(index).encode()
        if index in self._table.compared_as_bytes and value != b"NULL":
            return b"CAST(CONVERT(" + name + b" USING utf8mb4) AS BINARY) <=> CAST(" + value + b" AS BINARY)"
        return name + b" <=> " + value

    def _same_key(self, key: Key) -> bytes:
        return b" AND ".join(
            self._quoted(index).encode() + b" = " + self._codec.value(index, part)
            for index, part in zip(self._version.key, key, strict=True)
        )

    def _key_of(self, row: Row) -> Key:
        return tuple([row[index] for index in self._version.key])  # type: ignore[misc]  # never NULL nor UNCHANGED

    def _settable(self, present: Sequence[int] | None = None) -> list[int]:
        """Where there is nothing else, the key is set to itself: the row must be there all the same."""
        key = self._version.key
        columns = self._table.written if present is None else [i for i in present if i in self._table.written]
        return [index for index in columns if index not in key] or list(key[:1])

    def _quoted(self, index: int) -> str:
        return quoted(self._version.columns[index].name)


class Trip(NamedTuple, Generic[Item]):
    """Several statements in one, and what each is of."""

    statement: bytes
    items: Sequence[Item]
