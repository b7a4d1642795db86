"""Tables that are read again because their rows changed without events, while the stream goes on.

A rewriting ALTER TABLE, an attached partition or CREATE TABLE AS changes rows, and the stream says nothing of them.
So from that point on the table's events are held back, all its rows are read under a snapshot, and then a marker is
written into the WAL (a transactional logical message with prefix `cdc.reread`). Where the marker's transaction comes
back in the stream, the table's new version, a truncate and its rows take its place: what the snapshot saw, and on top
of it the events that were held back and that it did not see.

"Did not see" is decided by transaction visibility, never by LSN: a commit can be streamed before snapshots see it.
The table is locked in ACCESS SHARE mode from before the snapshot until the marker has committed, so its shape is the
same in the snapshot, in the events since, and at the marker.
"""

from __future__ import annotations

import tempfile
import threading
import uuid
from collections.abc import Iterator
from typing import IO, Final

from cdc.core.copy_text import parse_copy_line
from cdc.core.errors import CdcError, PassingError, ProtocolViolationError
from cdc.core.events import Row
from cdc.core.tables import TableId
from cdc.sources.postgres.assembler import MARKER, Reading
from cdc.sources.postgres.connection import ReplicationConnection
from cdc.sources.postgres.descriptions import TableDescription, describe_sql
from cdc.sources.postgres.load import copy_statement
from cdc.sources.postgres.quoting import quote_literal, quote_table
from cdc.sources.postgres.snapshots import Snapshot

_STOP_SECONDS: Final = 5.0
_MOST_AT_ONCE: Final = 3  # each has a connection, and takes the source's time


class Rereads:
    """The readings under way, each in a thread of its own, and those that wait their turn. `close` gives them up."""

    def __init__(self, url: str, publication: str, *, generated: bool, application_name: str) -> None:
        self._url = url
        self._publication = publication
        self._generated = generated
        self._application_name = application_name
        self._wanted: dict[str, _Reread] = {}

    def begin(self, oid: int) -> None:
        """See `assembler.Rereads`."""
        for attempt, other in list(self._wanted.items()):
            if other.oid == oid:
                self._wanted.pop(attempt).stop()
        reread = _Reread(
            ReplicationConnection(self._url, application_name=self._application_name, replication=False),
            oid,
            self._publication,
            generated=self._generated,
        )
        self._wanted[reread.attempt] = reread
        self._go_on()

    def finished(self, attempt: str) -> Reading | None:
        """See `assembler.Rereads`."""
        reread = self._wanted.pop(attempt, None)
        return None if reread is None else reread.reading()

    def check(self) -> None:
        """Raise the error that ended a reading, if one did; and begin the next, where one ended."""
        for reread in self._wanted.values():
            reread.check()
        self._go_on()

    def close(self) -> None:
        while self._wanted:
            self._wanted.popitem()[1].stop()

    def _go_on(self) -> None:
        free = _MOST_AT_ONCE - sum(reread.is_at_work for reread in self._wanted.values())
        waiting = [reread for reread in self._wanted.values() if not reread.was_started]
        for reread in waiting[: max(free, 0)]:
            reread.start()


class _Reread:
    """One reading of one table; its rows wait in a temporary file. `attempt` is what the marker carries."""

    def __init__(self, connection: ReplicationConnection, oid: int, publication: str, *, generated: bool) -> None:
        self.oid = oid
        self.attempt = uuid.uuid4().hex
        self._connection = connection
        self._publication = publication
        self._generated = generated
        self._stopping = threading.Event()
        self._error: Exception | None = None
        self._description: TableDescription | None = None
        self._snapshot: Snapshot | None = None
        self._spool_or_none: IO[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name=f"reread-{oid}", daemon=True)

    @property
    def was_started(self) -> bool:
        return self._spool_or_none is not None

    @property
    def is_at_work(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._spool_or_none = tempfile.TemporaryFile(prefix="cdc-reread-")  # noqa: SIM115  # lives on with the object
        self._thread.start()

    def check(self) -> None:
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Without waiting for long: a thread that hangs in the source is left behind."""
        if not self.was_started:
            return
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)
        if not self._thread.is_alive():
            self._spool.close()

    def reading(self) -> Reading:
        """What was read; the marker is in the stream, so it is all there."""
        self._thread.join()
        self.check()
        if self._snapshot is None:
            raise ProtocolViolationError("the marker of a reading came before its end")
        return Reading(self.oid, self._description, self._snapshot, self._rows(), self._spool.close)

    @property
    def _spool(self) -> IO[bytes]:
        assert self._spool_or_none is not None, "not started yet"
        return self._spool_or_none

    def _rows(self) -> Iterator[Row]:
        self._spool.seek(0)
        columns = self._description is not None and bool(self._description.columns)
        for line in self._spool:
            yield parse_copy_line(line) if columns else ()

    def _run(self) -> None:
        try:
            with self._connection:
                self._read()
        except Exception as error:  # noqa: BLE001  # `check` raises it where somebody can do something about it
            self._error = error

    def _read(self) -> None:
        doing = "reading a table again"
        self._begin_locked()
        seen = self._connection.execute("SELECT pg_current_snapshot()::text", doing=doing)[0][0]
        described = self._connection.execute(describe_sql(str(self.oid), quote_literal(self._publication)), doing=doing)
        if described and described[0][0] is not None:
            self._description = TableDescription.from_json(described[0][0], generated=self._generated)
            self._copy(self._description)
        self._snapshot = Snapshot.parse(str(seen))
        # It need not wait for a standby: nothing hangs on it but this process.
        self._connection.execute("SET LOCAL synchronous_commit = local", doing=doing)
        marker = f"SELECT pg_logical_emit_message(true, '{MARKER}', {quote_literal(self.attempt)})"
        self._connection.execute(marker, doing=doing)
        self._connection.execute("COMMIT", doing=doing)

    def _begin_locked(self) -> None:
        """Begin, with the table locked before the transaction has a snapshot. Locks go by name, which may change."""
        doing = "locking a table to read it again"
        table = self._table()
        while True:
            self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ", doing=doing)
            if table is None:
                return
            try:
                self._connection.execute(f"LOCK TABLE {quote_table(table)} IN ACCESS SHARE MODE", doing=doing)
            except CdcError:
                self._connection.execute("ROLLBACK", doing=doing)
                called_before, table = table, self._table()
                if table == called_before:
                    raise
            else:
                return

    def _table(self) -> TableId | None:
        """What it is called now."""
        rows = self._connection.execute(
            "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE c.oid = {self.oid}",
            doing="looking a table up",
        )
        return TableId(str(rows[0][0]), str(rows[0][1])) if rows else None

    def _copy(self, description: TableDescription) -> None:
        # A partitioned table without partitions has no rows either way.
        statement = copy_statement(description, partitioned=bool(description.parts))
        for lines in self._connection.copy_out(statement, doing=f"reading {description.id}"):
            if self._stopping.is_set():
                raise PassingError("given up")
            self._spool.writelines(lines)
