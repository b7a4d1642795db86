"""Rows of a first load as a log keeps them of which only cdc's own readers read: one head, and COPY's text.

To make an event's record of a row takes as long as to read it from there again, and is for those who read the log as it
is. An applier needs none of it. So such a log keeps what the source sent, and makes the records of who asks for them:
the same that would have been written (see `RunReader`), with the same offsets.

The head: how many rows there are, in four bytes (see `cdc.core.log.Run`), and the length of what follows, in four;
what is alike in all runs of a table version, in compressed JSON; then what is said of this one, in JSON.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Final, NamedTuple

from cdc.avro.codec import TableCodec
from cdc.avro.schemas import envelope_schema
from cdc.avro.tables import table_schema_from
from cdc.core.copy_text import NULL, parse_copy_line
from cdc.core.errors import CdcError, ProtocolViolationError
from cdc.core.events import LoadedRows, Read, SnapshotMark, Transaction
from cdc.core.log import Headers, Place, Run, StoredRecord, StoredRun
from cdc.core.runs import ReadRun
from cdc.core.tables import TableSchema
from cdc.core.types import Kind

_LENGTH: Final = 4


class RunVersion(NamedTuple):
    """What the runs of a table version have in common: the table, and what the records of its rows are written with."""

    table: TableSchema
    topic: str
    prefix: str
    key_id: int
    value_id: int

    def written(self) -> bytes:
        said = self._asdict() | {"table": envelope_schema(self.table, self.topic)}
        return zlib.compress(json.dumps(said, ensure_ascii=False).encode())


class _Head(NamedTuple):
    """`ordinal` and `table_ordinal` are those of the first row."""

    of: _Known
    transaction: Transaction
    ordinal: int
    table_ordinal: int
    captured_us: int


def may_run(table: TableSchema) -> bool:
    """Whether events of the table's rows have the very texts that its source sent. Those of money lack its sign."""
    return bool(table.columns) and not any(column.type.kind is Kind.MONEY for column in table.columns)


def breaks_not_null(table: TableSchema, lines: Iterable[bytes]) -> bool:
    """Whether a line has NULL where its table has none: that is no event."""
    required = [at for at, column in enumerate(table.columns) if not column.nullable]
    return any(
        fields[at] == NULL for line in lines if NULL in line for fields in [line[:-1].split(b"\t")] for at in required
    )


def run_of(rows: LoadedRows, version: bytes, topic: str, headers: Headers) -> Run:
    """These rows as one record of partition 0; `version` is what `RunVersion.written` gave of their table."""
    of = rows.transaction
    said = (of.epoch, of.commit_lsn, of.commit_time_us, of.database, rows.ordinal, rows.table_ordinal, rows.captured_us)
    head = (_length(len(rows.lines)), _length(len(version)), version, json.dumps(said, ensure_ascii=False).encode())
    return Run(topic, 0, b"".join(head), b"".join(rows.lines), headers)


class _Known:
    """A table version of which runs were read: `seen` is the table as its events have it."""

    def __init__(self, written: bytes, seen: Callable[[TableSchema], TableSchema]) -> None:
        said = json.loads(zlib.decompress(written))
        self.version = RunVersion(**said | {"table": table_schema_from(said["table"])})
        self.seen = seen(self.version.table)

    @cached_property
    def codec(self) -> TableCodec:
        return TableCodec(self.version.table, self.version.topic, prefix=self.version.prefix)


class RunReader:
    """Reads runs, for one thread."""

    def __init__(self, seen: Callable[[TableSchema], TableSchema] = lambda table: table) -> None:
        """Events have their table as `seen` gives it; those of one version share one object for it."""
        self._seen = seen
        self._known: dict[bytes, _Known] = {}

    def event(self, run: StoredRun) -> ReadRun:
        """The events of its rows, as one. ProtocolViolationError if it is damaged, as far as it shows without reading
        each row.
        """
        head, text, count = self._head(run), run.value or b"", run.rows
        if not count or text.count(b"\n") != count or not text.endswith(b"\n"):
            raise _damaged(run)
        if text.count(b"\t") != count * (len(head.of.version.table.columns) - 1):
            raise _damaged(run)  # some row's values would come to the wrong columns
        try:
            first = parse_copy_line(text[: text.index(b"\n")])
        except ProtocolViolationError:
            raise _damaged(run) from None
        return ReadRun(
            transaction=head.transaction,
            table=head.of.seen,
            change=Read(first),
            ordinal=head.ordinal + count - 1,
            table_ordinal=head.table_ordinal + count - 1,
            captured_us=head.captured_us,
            snapshot=SnapshotMark.YES,
            place=Place(*run[:3]),
            text=text,
            count=count,
        )

    def records(self, run: StoredRun) -> list[StoredRecord]:
        """The records that would have been written without runs. CdcError if that can't be, with the row's place."""
        of = self._head(run).of
        key_id, value_id = of.version.key_id, of.version.value_id
        records: list[StoredRecord] = []
        try:
            events = list(self.event(run).events())
        except ProtocolViolationError:
            raise _damaged(run) from None
        for offset, event in enumerate(events, run.offset):
            alone = StoredRecord(run.topic, run.partition, offset, run.timestamp_ms, None, None, run.headers)
            try:
                key, value, headers, _ = of.codec.encode(event, key_id=key_id, value_id=value_id)
            except CdcError as error:
                raise type(error)(f"{alone.where}: {error}", mend=error.mend) from None
            records.append(alone._replace(key=key, value=value, headers=headers + run.headers))
        return records

    def _head(self, run: StoredRun) -> _Head:
        written, head = _written(run), run.key or b""
        try:
            said = json.loads(head[2 * _LENGTH + len(written) :])
            epoch, commit_lsn, commit_time_us, database, ordinal, table_ordinal, captured_us = said
            known = self._known.get(written)
            if known is None:
                known = self._known[written] = _Known(written, self._seen)
        except (ValueError, KeyError, TypeError, zlib.error, ProtocolViolationError):
            raise _damaged(run) from None
        transaction = Transaction(
            epoch=epoch, commit_lsn=commit_lsn, xid=None, commit_time_us=commit_time_us, database=database
        )
        return _Head(known, transaction, ordinal, table_ordinal, captured_us)


def _length(length: int) -> bytes:
    return length.to_bytes(_LENGTH, "big")


def _written(run: StoredRun) -> bytes:
    """What it says of its table version."""
    head, begins = run.key or b"", 2 * _LENGTH
    return head[begins : begins + int.from_bytes(head[_LENGTH:begins], "big")]


def _damaged(run: StoredRun) -> ProtocolViolationError:
    return ProtocolViolationError(f"{run.where}: a damaged run of rows")
