"""The first load: every row, as of the slot's consistent point, before the stream goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from cdc.core.copy_text import parse_copy_line
from cdc.core.events import (
    Alter,
    Begin,
    ChangeEvent,
    Commit,
    Drop,
    LoadedRows,
    Read,
    RowFormat,
    StreamItem,
    Transaction,
    Truncate,
)
from cdc.core.source import LoadPoint
from cdc.core.tables import TableId, TableSchema
from cdc.sources.postgres.catalog import SourceTable
from cdc.sources.postgres.connection import ReplicationConnection
from cdc.sources.postgres.descriptions import TableDescription
from cdc.sources.postgres.quoting import quote_identifier, quote_literal, quote_table
from cdc.sources.postgres.versions import Altered

_REPORT_EVERY: Final = 100_000  # rows


def load_tables(
    connection: ReplicationConnection,
    tables: Sequence[tuple[SourceTable, TableDescription]],
    at: LoadPoint,
    *,
    alterations: Sequence[Altered],
    epoch: int,
    again: bool,
    database: str,
    now_us: Callable[[], int],
    report: Callable[[str], None],
) -> Iterator[StreamItem]:
    """All rows of `tables` as one transaction at `at.lsn - 1`: the first commit of the stream often equals `at.lsn`.

    First go the tables that are no more. A load that starts over (`again`) then truncates what the tables were: rows
    deleted since the first try would stay otherwise, and those of tables without a key double. Then come the other
    `alterations`, on empty tables.
    """
    transaction = Transaction(epoch=epoch, commit_lsn=at.lsn - 1, xid=None, commit_time_us=now_us(), database=database)
    yield Begin(transaction)
    numbered = _Numbered(transaction, now_us)
    for altered in alterations:
        if isinstance(altered.change, Drop):
            yield numbered.event(altered.table, altered.change)
    described = [(table, description, description.schema()) for table, description in tables]
    if again:
        before = {
            altered.table.id: altered.change.before for altered in alterations if isinstance(altered.change, Alter)
        }
        for _, _, schema in described:
            yield numbered.event(before.get(schema.id) or schema, Truncate())
    for altered in alterations:
        if isinstance(altered.change, Alter):
            yield numbered.event(altered.table, altered.change)
    for table, description, schema in described:
        report(f"loading {schema.id} (about {table.estimated_rows:,} rows)")
        statement = copy_statement(description, partitioned=table.partitioned)
        for lines in connection.copy_out(statement, doing=f"reading {schema.id}"):
            so_far = numbered.last // _REPORT_EVERY
            yield numbered.rows(schema, lines)
            if numbered.last // _REPORT_EVERY > so_far:
                report(f"loaded {numbered.last:,} rows")
        report(f"loaded {schema.id}: {numbered.counts.get(schema.id, 0):,} rows")
    connection.execute("COMMIT", doing="ending the first load")
    yield Commit(transaction, at.lsn, numbered.last, numbered.counts)


def copy_statement(table: TableDescription, *, partitioned: bool) -> str:
    """COPY of all the table's rows that are published, in text format; for a table of zero columns, an empty line for
    each. Rows of tables that inherit it are not its own, as they are not in the stream; those of partitions are.
    """
    columns = ", ".join(quote_identifier(column.name) for column in table.columns)
    where = "" if table.filter is None else f" WHERE {table.filter}"
    return f"COPY (SELECT {columns} FROM {'' if partitioned else 'ONLY '}{quote_table(table.id)}{where}) TO STDOUT"


def adopt_snapshot(connection: ReplicationConnection, at: LoadPoint, tables: Sequence[SourceTable]) -> None:
    """Read from now on as of `at`, and keep rewriting ALTER TABLEs and TRUNCATEs of these tables out.

    They are not MVCC-safe: an older snapshot sees no rows (https://www.postgresql.org/docs/current/mvcc-caveats.html).
    Locks that were taken before the slot is made would keep them out altogether, but deadlock where nobody sees it: the
    slot waits for a transaction that has written to end, and that one for our lock to truncate. So the locks come after
    it, and the caller compares the tables' `storage` before and after.
    """
    doing = "reading under the slot's snapshot"
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY", doing=doing)
    connection.execute(f"SET TRANSACTION SNAPSHOT {quote_literal(at.snapshot)}", doing=doing)
    if tables:
        names = ", ".join(quote_table(table.id) for table in tables)
        connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE", doing=doing)


class _Numbered:
    """Numbers the events of the load's transaction."""

    def __init__(self, transaction: Transaction, now_us: Callable[[], int]) -> None:
        self._transaction = transaction
        self._now_us = now_us
        self.last = 0
        self.counts: dict[TableId, int] = {}

    def event(self, table: TableSchema, change: Truncate | Alter | Drop) -> ChangeEvent:
        self.last += 1
        if isinstance(change, Truncate):
            self.counts[table.id] = self.counts.get(table.id, 0) + 1
        return ChangeEvent(
            transaction=self._transaction,
            table=table,
            change=change,
            ordinal=self.last,
            table_ordinal=self.counts.get(table.id, 0),
            captured_us=self._now_us(),
        )

    def rows(self, table: TableSchema, lines: Sequence[bytes]) -> LoadedRows:
        first, before = self.last + 1, self.counts.get(table.id, 0)
        self.last += len(lines)
        self.counts[table.id] = before + len(lines)
        return LoadedRows(
            transaction=self._transaction,
            table=table,
            lines=lines,
            ordinal=first,
            table_ordinal=before + 1,
            captured_us=self._now_us(),
            format=COPY_FORMAT,
        )


def _reading(columns: int) -> list[str]:
    """For RowFormat: `data` is a line. Most have no backslash, which NULL has too."""
    if not columns:
        return [r'if data != b"\n":', "    raise ValueError"]
    values = "".join(f"v{i}, " for i in range(columns))
    return [rf'({values}) = parse(data) if b"\\" in data else data[:-1].split(b"\t")']


def _read(table: TableSchema, line: bytes) -> Read:
    return Read(parse_copy_line(line) if table.columns else ())


COPY_FORMAT: Final = RowFormat(reading=_reading, names={"parse": parse_copy_line}, change=_read)
