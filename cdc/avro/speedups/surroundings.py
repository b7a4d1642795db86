"""What surrounds the rows of a usual event, and ENDs of transactions: read as the patterns of `cdc.avro.scanning` and
`cdc.avro.boundaries` do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from cdc.avro.boundaries import Kinds
from cdc.avro.headers import USUAL
from cdc.avro.scanned import ScannedEvent
from cdc.avro.transactions import End
from cdc.core.events import Transaction
from cdc.core.log import StoredRecord

if TYPE_CHECKING:
    from cdc.avro.scanning import EnvelopeScanner

_THERE = 2  # the branch of what is not null
_NO, _QUOTE, _OPENS, _CLOSES, _COMMA, _ZERO, _COLON = b'\x00"[],0:'
_MORE = 128  # a byte of a number that does not end with it
_MOST_DIGITS = 20
_ROWS = 5
_OPS = b"rcud"
_NULL_LSN = b"null]"
_DIGITS = 18  # of a number that is read here
_NONE = b"none"
_END = b"\x06END"


class _Digits:
    """Reads numbers in decimal digits."""

    def __init__(self) -> None:
        self._after = 0

    def _digits(self, value: bytes, at: int) -> int:
        """The number in decimal digits that stands there. It ends at `_after`."""
        n = 0
        start = at
        while 0 <= value[at] - _ZERO <= 9:
            digit = value[at] - _ZERO
            n = n * 10 + digit
            at += 1
            if at - start > _DIGITS:
                raise ValueError("a number of more than 18 digits")
        if at == start:
            raise ValueError("no digits")
        self._after = at
        return n

    def _behind_xid(self, value: bytes, at: int) -> int:
        """Behind `:123:` or `:none:`."""
        if value[at] != _COLON:
            raise ValueError("no epoch")
        if value.startswith(_NONE, at + 1):
            at += 1 + len(_NONE)
        else:
            self._digits(value, at + 1)
            at = self._after
        if value[at] != _COLON:
            raise ValueError("no xid")
        return at + 1


class Surroundings(_Digits):
    """Of one table version's events. `head`, `database` and `table` are what their `source` says alike, as it is there:
    before the times, behind the mark of a snapshot, and of the table. `marks` are all those marks.
    """

    def __init__(self, head: bytes, database: bytes, table: bytes, marks: Collection[bytes]) -> None:
        self._head = head
        self._database = database
        self._table = table
        self._marks = frozenset(marks)
        super().__init__()
        self._op = self._name = self._name_end = self._moment = self._moment_end = 0
        self._ordinal = 0

    def scan_all(
        self,
        records: Sequence[StoredRecord],
        first: int,
        framing: bytes,
        scanner: EnvelopeScanner,
        known: dict[bytes, Transaction],
        most_known: int,
    ) -> list[ScannedEvent]:
        """See EnvelopeScanner, whose transactions are `known`."""
        found: list[ScannedEvent] = []
        for i in range(first, len(records)):
            record = records[i]
            data = record[5]
            if data is None or not data.startswith(framing):
                break
            value = data
            for header in record[6]:
                if header[0] not in USUAL:
                    return found
            begins = value.rfind(self._head)
            if begins <= _ROWS:
                break
            try:
                self._look(value, begins)
                op = self._op
                ordinal = self._ordinal
                name = value[self._name : self._name_end] + value[self._moment : self._moment_end]
                transaction = known.get(name)
                if transaction is None:
                    transaction = self._begun(value, scanner.database)
                    if len(known) >= most_known:
                        known.clear()
                    known[name] = transaction
            except (IndexError, ValueError):
                break
            found.append(ScannedEvent(scanner, record, begins, op, transaction, ordinal))
        return found

    def _begun(self, value: bytes, database: str) -> Transaction:
        """Of the event that was looked at last. ValueError if its id is none of ours."""
        end = self._name_end
        moment = self._moment
        epoch = self._digits(value, self._name + 1)
        start = self._after + 1
        at = self._behind_xid(value, self._after)
        xid = None if value.startswith(_NONE, start) else self._digits(value, start)
        commit_lsn = self._digits(value, at)
        if self._after != end:
            raise ValueError("no commit LSN")
        return Transaction(
            epoch=epoch, commit_lsn=commit_lsn, xid=xid, commit_time_us=_long(value, moment), database=database
        )

    def _look(self, value: bytes, begins: int) -> None:
        """Note what is found. IndexError or ValueError if it is no usual event."""
        at = _behind_number(value, begins + len(self._head))  # ts_ms
        size = 2 + (value[at + 1] >> 1)
        if value[at : at + size] not in self._marks:
            raise ValueError("no mark")
        at = _behind(value, at + size, self._database)
        at = _behind_sequence(value, at)
        if value[at] != _THERE:
            raise ValueError("no moment")
        start = at + 1
        at = _behind_number(value, start)
        self._moment = start
        self._moment_end = at
        at = _behind_there(value, at)  # ts_ns
        at = _behind(value, at, self._table)
        at = _behind_optional(value, at)  # txId
        at = _behind_optional(value, at)  # lsn
        if value[at] != _NO or value[at + 1] != _NO or value[at + 2] != _NO:  # xmin, origin, origin_lsn
            raise ValueError("an origin")
        at = _behind_there(value, at + 3)  # commit_lsn
        at = _behind_there(value, at)  # epoch
        if value[at] != _THERE:
            raise ValueError("no transaction")
        start = at + 1
        at = start + 1 + (value[start] >> 1)
        self._name = start
        self._name_end = at
        ordinal = value[at] & (_MORE - 1)
        shift = 0
        while value[at] >= _MORE:
            at += 1
            shift += 7
            if shift > 56:
                raise ValueError("a number of more than 63 bits")
            bits = value[at] & (_MORE - 1)
            ordinal |= bits << shift
        at = _behind_number(value, at + 1)  # data_collection_order
        op = value[at + 1]
        if value[at] != _THERE or op not in _OPS:
            raise ValueError("no op")
        at += 2
        for _ in range(3):  # ts_ms, ts_us, ts_ns
            at = _behind_there(value, at)
        if at != len(value):
            raise ValueError("more than an event")
        self._op = op
        self._ordinal = ordinal >> 1


class Ends(_Digits):
    """See EndScanner."""

    def __init__(self) -> None:
        super().__init__()
        self._kinds = Kinds()
        self._bytes = b"\xff"  # no array begins so
        self._counts: Mapping[str, int] = {}

    def end(self, value: bytes) -> End | None:
        try:
            return self._end(value)
        except (IndexError, ValueError):
            return None

    def _end(self, value: bytes) -> End:
        if not value.startswith(_END, _ROWS):
            raise ValueError("no END")
        start = _ROWS + len(_END) + 1
        end = start + (value[start - 1] >> 1)
        epoch = self._digits(value, start)
        is_transaction = not value.startswith(_NONE, self._after + 1)
        at = self._behind_xid(value, self._after)
        commit_lsn = self._digits(value, at)
        if self._after != end:
            raise ValueError("no commit LSN")
        at = _behind_there(value, end)  # event_count
        if value[at] != _THERE:
            raise ValueError("no counts")
        at += 1
        if not value.startswith(self._bytes, at):
            self._counts, self._bytes = self._kinds.read(value, at)
        at = _behind_number(value, at + len(self._bytes))  # ts_ms
        for _ in range(3):  # commit_lsn, end_lsn, epoch
            at = _behind_there(value, at)
        if _behind_there(value, at) != len(value):
            raise ValueError("more than an END")
        last_ordinal = _long(value, at + 1)
        name = value[start:end].decode()
        return End(name, epoch, commit_lsn, last_ordinal, self._counts, is_transaction)


# Each of these says where what it expects ends; IndexError or ValueError if that is not there.


def _behind_number(value: bytes, at: int) -> int:
    while value[at] >= _MORE:
        at += 1
    return at + 1


def _behind_there(value: bytes, at: int) -> int:
    """A number that may be null, and is not."""
    if value[at] != _THERE:
        raise ValueError("nothing there")
    return _behind_number(value, at + 1)


def _behind_optional(value: bytes, at: int) -> int:
    return at + 1 if value[at] == _NO else _behind_there(value, at)


def _behind(value: bytes, at: int, expected: bytes) -> int:
    for i in range(len(expected)):
        if value[at + i] != expected[i]:
            raise ValueError("something else")
    return at + len(expected)


def _behind_sequence(value: bytes, at: int) -> int:
    """The commit's LSN and the event's own, if any: `["1","2"]`."""
    if value[at] != _THERE or value[at + 2] != _OPENS:
        raise ValueError("no sequence")
    at = _behind_digits(value, at + 3)
    if value[at] != _COMMA:
        raise ValueError("no sequence")
    if value[at + 1] != _QUOTE:
        return _behind(value, at + 1, _NULL_LSN)
    at = _behind_digits(value, at + 1)
    if value[at] != _CLOSES:
        raise ValueError("no sequence")
    return at + 1


def _behind_digits(value: bytes, at: int) -> int:
    """In quotes."""
    start = at + 1
    end = start
    while 0 <= value[end] - _ZERO <= 9:
        end += 1
    if value[at] != _QUOTE or value[end] != _QUOTE or not 1 <= end - start <= _MOST_DIGITS:
        raise ValueError("no digits")
    return end + 1


def _long(value: bytes, at: int) -> int:
    """The signed number that stands there. ValueError if it has more than 63 bits."""
    n = 0
    shift = 0
    while True:
        bits = value[at] & (_MORE - 1)
        n |= bits << shift
        if value[at] < _MORE:
            return (n >> 1) ^ -(n & 1)
        at += 1
        shift += 7
        if shift > 56:
            raise ValueError("a number of more than 63 bits")
