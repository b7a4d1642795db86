"""An event that reads its row when it is asked for it. `scanning.py` makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

from typing_extensions import override

from cdc.avro.binary import NULL
from cdc.avro.compiled import MALFORMED
from cdc.core.events import Change, ChangeEvent, Key, Row, SnapshotMark, Transaction
from cdc.core.log import Place, StoredRecord

if TYPE_CHECKING:
    from cdc.avro.scanning import EnvelopeScanner

ROWS: Final = 5  # where the bytes of the rows begin, behind the framing
THERE: Final = 2  # the branch of what is not null
_DELETE: Final = ord("d")
_READ: Final = ord("r")


class ScannedEvent(ChangeEvent):
    """An event of which transaction, table and ordinal were read, and the rest is when it is asked for. What changed is
    one row, whose key did not.

    ProtocolViolationError from what reads it, if it is damaged.
    """

    __slots__ = ("_begins", "_event", "_op", "_record", "_scanner")

    defines_table = False

    def __init__(  # by place, as it is made for each change
        self,
        scanner: EnvelopeScanner,
        record: StoredRecord,
        begins: int,
        op: int,
        transaction: Transaction,
        ordinal: int,
    ) -> None:
        """`source` begins at `begins` in the record's value."""
        self._scanner = scanner
        self._record = record
        self._begins = begins
        self._op = op
        self._event: ChangeEvent | None = None
        self.transaction = transaction  # type: ignore[misc]
        self.table = scanner.table  # type: ignore[misc]
        self.ordinal = ordinal  # type: ignore[misc]

    @property
    def is_delete(self) -> bool:
        return self._op == _DELETE

    @property
    def is_read(self) -> bool:
        return self._op == _READ

    def key(self) -> Key | None:
        """That of the row, if the event deletes it or has all of its values. None if a closer look is needed."""
        value: bytes = self._record[5]  # type: ignore[assignment]  # no tombstone is scanned
        try:
            if self._op == _DELETE:
                at = ROWS + 1
                key, end = self._scanner.read_key(value, at)
                if value[end : self._begins] != NULL:  # nobody reads more of it: what is damaged is seen now, or never
                    return None
            else:
                at = ROWS + 2 if value[ROWS] == 0 and not self._record[6] else self._scanner.new_row(self._record)
                key, end = self._scanner.read_only_key(value, at)
        except MALFORMED:
            return None
        if end > self._begins:  # damaged: slices never fail
            return None
        return None if None in key or value[at - 1] != THERE else cast("Key", key)

    def row(self) -> Row | None:
        """The row, if the event has all of its values. None if a closer look is needed."""
        value: bytes = self._record[5]  # type: ignore[assignment]
        try:
            at = ROWS + 2 if value[ROWS] == 0 and not self._record[6] else self._scanner.new_row(self._record)
            row, end = self._scanner.read_row(value, at)
        except MALFORMED:
            return None
        return row if end == self._begins and value[at - 1] == THERE else None

    @property
    def whole(self) -> ChangeEvent:
        """The same, with all that it says."""
        if self._event is None:
            self._event = self._scanner.decode(self._record)
        return self._event

    @property
    @override
    def change(self) -> Change:
        return self.whole.change

    @property
    @override
    def table_ordinal(self) -> int:
        return self.whole.table_ordinal

    @property
    @override
    def lsn(self) -> int | None:
        return self.whole.lsn

    @property
    @override
    def captured_us(self) -> int:
        return self.whole.captured_us

    @property
    @override
    def snapshot(self) -> SnapshotMark:
        return self.whole.snapshot

    @property
    @override
    def place(self) -> Place | None:
        return tuple.__new__(Place, self._record[:3])  # Place's own __new__ takes twice as long

    @override
    def __eq__(self, other: object) -> bool:
        return self.whole == (other.whole if isinstance(other, ScannedEvent) else other)

    @override
    def __hash__(self) -> int:
        return hash(self.whole)
