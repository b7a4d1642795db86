"""The PostgreSQL source: publication, slot, first load and stream behind the port `cdc.core.source.Source`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Final, Self

from cdc.core.errors import ConfigError, PassingError, ProtocolViolationError, SourceError
from cdc.core.events import Heartbeat, StreamItem
from cdc.core.patterns import TablePatterns
from cdc.core.position import format_lsn, parse_lsn
from cdc.core.settings import SourceSettings
from cdc.core.source import LoadPoint, SlotStatus, SourceIdentity
from cdc.core.tables import TableId, TableSchema
from cdc.pgoutput import messages as wire
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.stream import PrimaryKeepalive, XLogData, decode_frame, encode_status_update
from cdc.sources.postgres.assembler import Assembler
from cdc.sources.postgres.catalog import (
    Catalog,
    SourceColumn,
    SourceTable,
    capturable_tables,
    quote_identifier,
    quote_literal,
    storage,
)
from cdc.sources.postgres.connection import ReplicationConnection
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.load import adopt_snapshot, load_tables
from cdc.sources.postgres.preflight import require
from cdc.sources.postgres.publication import ensure_publication

_STATUS_SECONDS: Final = 2.0  # well below wal_sender_timeout, 60 s by default
_APPLICATION: Final = "cdc capture"
_MOST_SLOTS: Final = 10  # to make, until one is whose snapshot no rewritten table spoils


class PostgresSource:
    """One database, through logical decoding with pgoutput. Nothing but `confirm` ever moves what is confirmed."""

    def __init__(
        self,
        settings: SourceSettings,
        *,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._settings = settings
        self._patterns = TablePatterns(settings.tables)
        self._now_us = now_us
        self._report = report
        self._resources = ExitStack()
        self._database = SourceDatabase(settings.url, application_name=_APPLICATION)
        self._catalog = Catalog(self._database.query)
        self._stream = ReplicationConnection(settings.url, application_name=_APPLICATION)
        self._rows = self._stream
        self._identity: SourceIdentity | None = None
        self._assembler: Assembler | None = None
        self._confirmed = 0
        self._received = 0
        self._status_due = 0.0

    def __enter__(self) -> Self:
        with ExitStack() as opening:
            opening.enter_context(self._database)
            require(self._database.query, self._settings)
            opening.enter_context(self._stream)
            self._resources = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._resources.close()

    def identify(self) -> SourceIdentity:
        if self._identity is None:
            self._identity = self._identify()
        return self._identity

    def _identify(self) -> SourceIdentity:
        row = self._stream.execute("IDENTIFY_SYSTEM", doing="identifying the source")[0]
        system_id, timeline, _, database = row
        if system_id is None or timeline is None or database is None:
            raise ProtocolViolationError("IDENTIFY_SYSTEM gave NULL")
        return SourceIdentity(system_id=system_id, timeline=int(timeline), database=database)

    def tables(self) -> Sequence[TableId]:
        return [table.id for table in self._captured_tables()]

    def slot(self) -> SlotStatus | None:
        rows = self._database.query(
            f"""
            SELECT plugin, database, confirmed_flush_lsn::text, wal_status
            FROM pg_replication_slots WHERE slot_name = {quote_literal(self._settings.slot)}
            """,
            doing="looking at the replication slot",
        )
        if not rows:
            return None
        plugin, database, confirmed, wal_status = rows[0]
        if plugin != "pgoutput":
            raise SourceError(
                f"replication slot {self._settings.slot!r} belongs to {plugin or 'physical replication'}, not pgoutput",
                mend="choose another name in [source] slot",
            )
        if database != self.identify().database:
            raise SourceError(
                f"replication slot {self._settings.slot!r} belongs to database {database!r}",
                mend="choose another name in [source] slot",
            )
        lost = "the source removed WAL that it still needed (max_slot_wal_keep_size)" if wal_status == "lost" else None
        return SlotStatus(confirmed_lsn=parse_lsn(confirmed) if confirmed else 0, lost=lost)

    def switch_point(self, timeline: int) -> int | None:
        present = self.identify().timeline
        rows = self._stream.execute(f"TIMELINE_HISTORY {present}", doing="reading the source's timeline history")
        history = rows[0][1] or ""
        for line in history.splitlines():
            fields = line.split()
            if fields and fields[0] == str(timeline):
                return parse_lsn(fields[1])
        return None

    @contextmanager
    def create(self) -> Iterator[LoadPoint]:
        self.identify()  # not later: any command on the connection that made the slot ends the slot's snapshot
        tables = self._captured_tables()
        ensure_publication(self._database.query, self._settings.publication, tables)
        for _ in range(_MOST_SLOTS):
            before = storage(self._database.query, tables)
            self._report("creating the replication slot (waits for open transactions of the source to end)")
            at = self._create_slot()
            # The stream's connection must run nothing now; rows need no second WAL sender.
            with ReplicationConnection(
                self._settings.url, application_name=_APPLICATION, replication=False
            ) as self._rows:
                adopt_snapshot(self._rows, at, tables)
                if storage(self._database.query, tables) == before:
                    yield at
                    return
            self._report("a table was rewritten or truncated meanwhile: beginning again with a new slot")
            self.drop_slot()
        raise SourceError(
            f"tables were rewritten or truncated during each of {_MOST_SLOTS} tries to take a snapshot of them",
            mend="start again when no ALTER TABLE or TRUNCATE runs at the source",
        )

    def drop_slot(self) -> None:
        if self.slot() is not None:
            self._database.query(
                f"SELECT pg_drop_replication_slot({quote_literal(self._settings.slot)})", doing="dropping the slot"
            )

    def load(self, at: LoadPoint, *, epoch: int, again: bool) -> Iterator[StreamItem]:
        yield from load_tables(
            self._rows,
            [(table, self._schema_now(table)) for table in self._captured_tables()],
            at,
            epoch=epoch,
            again=again,
            database=self.identify().database,
            now_us=self._now_us,
            report=self._report,
        )

    def start(self, *, epoch: int) -> None:
        ensure_publication(self._database.query, self._settings.publication, self._captured_tables())
        self._assembler = Assembler(
            epoch=epoch,
            database=self.identify().database,
            resolve=self._resolve,
            captured=self._patterns.matches,
            now_us=self._now_us,
        )
        options = (
            f"proto_version '1', publication_names {quote_literal(quote_identifier(self._settings.publication))}"
            ", messages 'true'"
        )
        self._stream.start_stream(
            f"START_REPLICATION SLOT {quote_identifier(self._settings.slot)} LOGICAL 0/0 ({options})",
            doing=f"starting replication from slot {self._settings.slot!r}",
        )

    def receive(self, most: int, timeout: float) -> list[StreamItem]:
        if self._assembler is None:
            raise PassingError("the stream was not started")
        items: list[StreamItem] = []
        for message in self._stream.receive(most, timeout):
            frame = decode_frame(message)
            if isinstance(frame, XLogData):
                items.extend(self._assembler.feed(decode(frame.payload), frame.start_lsn))
            else:
                items.extend(self._keepalive(frame))
        return items

    def confirm(self, lsn: int) -> None:
        moved = lsn > self._confirmed
        self._confirmed = max(self._confirmed, lsn)
        if self._assembler is None:
            return  # a first load: nothing to keep alive yet
        due = time.monotonic() >= self._status_due
        if moved or due:
            self._send_status(ask=due)  # how far a quiet source has come

    def _keepalive(self, frame: PrimaryKeepalive) -> Iterator[StreamItem]:
        self._received = max(self._received, frame.wal_end)
        if frame.reply_requested:
            self._send_status()
        if self._assembler is not None and not self._assembler.in_transaction:
            yield Heartbeat(frame.wal_end)

    def _send_status(self, *, ask: bool = False) -> None:
        # Only `flushed` moves the slot. While neither it nor `written` has reached what was sent, the walsender pings
        # again whenever it wakes (WalSndWaitForWal): both sides could spin while a quiet position is unconfirmed.
        lsn = self._confirmed
        self._stream.send(
            encode_status_update(
                written=max(lsn, self._received),
                flushed=lsn,
                applied=lsn,
                client_time_us=self._now_us(),
                reply_requested=ask,
            )
        )
        self._status_due = time.monotonic() + _STATUS_SECONDS

    def _captured_tables(self) -> list[SourceTable]:
        tables = [table for table in capturable_tables(self._database.query) if self._patterns.matches(table.id)]
        unmatched = self._patterns.unmatched(table.id for table in tables)
        if unmatched:
            raise ConfigError(
                f"[source] tables: no table of the source matches {', '.join(map(repr, unmatched))}",
                mend="correct the pattern, or create the table first (temporary and unlogged tables can't be captured)",
            )
        return tables

    def _schema_now(self, table: SourceTable) -> TableSchema:
        return self._catalog.table_schema(table.oid, table.id, table.identity, self._catalog.columns(table.oid))

    def _resolve(self, relation: wire.Relation) -> TableSchema:
        columns = [
            SourceColumn(
                name=column.name,
                type_oid=column.type_oid,
                type_modifier=column.type_modifier,
                is_identity=column.is_identity,
            )
            for column in relation.columns
        ]
        return self._catalog.table_schema(
            relation.oid, TableId(relation.schema, relation.name), relation.identity, columns
        )

    def _create_slot(self) -> LoadPoint:
        slot = quote_identifier(self._settings.slot)
        row = self._stream.execute(
            f"CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput EXPORT_SNAPSHOT",
            doing=f"creating replication slot {self._settings.slot!r}",
        )[0]
        consistent_point, snapshot = row[1], row[2]
        if consistent_point is None or snapshot is None:
            raise ProtocolViolationError("CREATE_REPLICATION_SLOT gave NULL")
        self._report(f"created replication slot {self._settings.slot!r} at {format_lsn(parse_lsn(consistent_point))}")
        return LoadPoint(lsn=parse_lsn(consistent_point), snapshot=snapshot)
