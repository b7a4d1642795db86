"""What surrounds the rows of a usual event: read as the patterns of `cdc.avro.scanning` do."""

from __future__ import annotations

from collections.abc import Collection

_THERE = 2  # the branch of what is not null
_NO, _QUOTE, _OPENS, _CLOSES, _COMMA, _ZERO = b'\x00"[],0'
_MORE = 128  # a byte of a number that does not end with it
_MOST_DIGITS = 20
_ROWS = 5
_OPS = b"rcud"
_NULL_LSN = b"null]"


Found = tuple[int, int, bytes, bytes, int]
"""Where `source` begins; the op; the bytes of the transaction's id and of its moment; the event's ordinal."""


class Surroundings:
    """Of one table version's events. `head`, `database` and `table` are what their `source` says alike, as it is there:
    before the times, behind the mark of a snapshot, and of the table. `marks` are all those marks.
    """

    def __init__(self, head: bytes, database: bytes, table: bytes, marks: Collection[bytes]) -> None:
        self._head = head
        self._database = database
        self._table = table
        self._marks = frozenset(marks)

    def find(self, value: bytes) -> Found | None:
        """None if it is no usual event, or of no such source."""
        begins = value.rfind(self._head)
        if begins <= _ROWS:
            return None
        try:
            return self._found(value, begins)
        except (IndexError, ValueError):
            return None

    def _found(self, value: bytes, begins: int) -> Found:
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
        moment = value[start:at]
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
        name = value[start:at]
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
        return begins, op, name, moment, ordinal >> 1


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
