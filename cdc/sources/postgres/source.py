"""The PostgreSQL source: publication, slot, first load and stream behind the port `cdc.core.source.Source`."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Final, Self

from cdc.core.errors import PassingError, ProtocolViolationError, SlotInUseError, SourceError
from cdc.core.events import Alter, ChangeEvent, Drop, Heartbeat, Rereading, StreamItem
from cdc.core.patterns import TablePatterns
from cdc.core.position import Position, format_lsn, parse_lsn
from cdc.core.settings import SourceSettings
from cdc.core.source import LoadPoint, SlotStatus, SourceIdentity
from cdc.core.tables import TableId
from cdc.pgoutput.decoder import decode
from cdc.pgoutput.stream import Frame, PrimaryKeepalive, decode_frame, encode_status_update, message_in
from cdc.sources.postgres.assembler import Assembler
from cdc.sources.postgres.catalog import Catalog, SourceTable, capturable_tables, storage
from cdc.sources.postgres.connection import ReplicationConnection
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.ddl import ensure_triggers
from cdc.sources.postgres.descriptions import TableDescription, describe_sql
from cdc.sources.postgres.errors import LockTimeoutError
from cdc.sources.postgres.load import adopt_snapshot, load_tables
from cdc.sources.postgres.preflight import require
from cdc.sources.postgres.publication import ensure_publication, publish, publishes_generated, publishes_via_root
from cdc.sources.postgres.quoting import quote_identifier, quote_literal
from cdc.sources.postgres.rereads import Rereads
from cdc.sources.postgres.uncapturable import require_capturable
from cdc.sources.postgres.versions import Altered, Versions, name_of, oid_of

_STATUS_SECONDS: Final = 2.0  # well below wal_sender_timeout, 60 s by default
_APPLICATION: Final = "cdc capture"
_LOOK_SECONDS: Final = 10.0  # between two looks for new tables, without event triggers
_LOCK_SECONDS: Final = 5  # the source may not have noticed yet that the capture before us is gone
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
        self._stream = ReplicationConnection(settings.url, application_name=_APPLICATION)
        self._rows = self._stream
        self._identity: SourceIdentity | None = None
        self._assembler: Assembler | None = None
        self._versions_or_none: Versions | None = None
        self._generated_or_none: bool | None = None
        self._rereads: Rereads | None = None
        self._to_read: list[int] = []
        self._follows_ddl = False
        self._busy: set[int] = set()
        self._missed = False  # perhaps a new table
        self._look_due = 0.0
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
        if self._rereads is not None:
            self._rereads.close()
        self._resources.close()

    def _become_the_only_one(self) -> None:
        """SlotInUseError if another capture has the slot. The slot itself tells only while it streams: who made it, and
        loads for hours, would lose it to a second one. The lock ends with the connection.
        """
        name = f"cdc capture {self._settings.slot}"
        try:
            self._stream.execute(
                f"BEGIN; SET LOCAL lock_timeout = '{_LOCK_SECONDS}s';"
                f" SELECT pg_advisory_lock(hashtextextended({quote_literal(name)}, 0)); COMMIT",
                doing="looking for another capture",
            )
        except LockTimeoutError:
            raise SlotInUseError(
                f"another capture works on slot {self._settings.slot!r}",
                mend="stop the other capture on this slot, or give this one its own [source] slot",
            ) from None

    def identify(self) -> SourceIdentity:
        if self._identity is None:
            self._become_the_only_one()  # what is decided by who the source is holds for nobody else
            self._identity = self._identify()
        return self._identity

    def _identify(self) -> SourceIdentity:
        row = self._stream.execute("IDENTIFY_SYSTEM", doing="identifying the source")[0]
        system_id, timeline, flushed, database = row
        if system_id is None or timeline is None or flushed is None or database is None:
            raise ProtocolViolationError("IDENTIFY_SYSTEM gave NULL")
        return SourceIdentity(
            system_id=system_id, timeline=int(timeline), database=database, flushed_lsn=parse_lsn(flushed)
        )

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

    def remember(self, notes: Sequence[tuple[Position, str]], rereading: Collection[str]) -> None:
        for position, note in notes:
            self._versions.remember(position, note)
        self._to_read = [oid_of(name) for name in sorted(rereading)]

    def left_out(self) -> list[str]:
        known = self._versions.known()
        return [name_of(oid) for oid, table in known.items() if not self._patterns.matches(table)]

    def name(self, table: TableId) -> str:
        return name_of(self._versions.oid(table))

    @contextmanager
    def create(self) -> Iterator[LoadPoint]:
        self.identify()  # not later: any command on the connection that made the slot ends the slot's snapshot
        tables = self._captured_tables()
        require_capturable(self._database.query, self._settings, tables)
        self._prepare_publication(loaded=True)
        self._to_read = []  # the load reads all
        for _ in range(_MOST_SLOTS):
            before = storage(self._database.query, tables)
            self._report("creating the replication slot (waits for open transactions of the source to end)")
            at = self._create_slot()
            # The stream's connection must run nothing now; rows need no second WAL sender.
            with ReplicationConnection(
                self._settings.url, application_name=_APPLICATION, replication=False
            ) as self._rows:
                adopt_snapshot(self._rows, at, tables)
                if storage(self._database.query, tables) == before and self._same_shapes(tables):
                    yield at
                    return
            self._report("a table was altered or truncated meanwhile: beginning again with a new slot")
            self.drop_slot()
        raise SourceError(
            f"tables were altered or truncated during each of {_MOST_SLOTS} tries to take a snapshot of them",
            mend="start again when no ALTER TABLE or TRUNCATE runs at the source",
        )

    def _same_shapes(self, tables: Sequence[SourceTable]) -> bool:
        """Whether the tables, now locked, are still what the snapshot sees: COPY reads by today's shape."""
        publication, doing = quote_literal(self._settings.publication), "reading the source's columns"
        queries = [describe_sql(str(table.oid), publication) for table in tables]
        seen = [self._rows.execute(sql, doing=doing) for sql in queries]
        return seen == [self._database.query(sql, doing=doing) for sql in queries]

    def drop_slot(self) -> None:
        if self.slot() is not None:
            self._database.query(
                f"SELECT pg_drop_replication_slot({quote_literal(self._settings.slot)})", doing="dropping the slot"
            )

    def load(self, at: LoadPoint, *, epoch: int, again: bool) -> Iterator[StreamItem]:
        self._versions.begin(epoch, at.lsn - 1)
        tables: list[tuple[SourceTable, TableDescription]] = []
        alterations: list[Altered] = list(self._versions.gone({table.oid for table in self._captured_tables()}))
        for table in self._captured_tables():
            description = self._catalog.describe(table.oid)
            if description is not None:
                alterations += [
                    each for each in self._versions.read(table.oid, description) if isinstance(each, Altered)
                ]
                tables.append((table, description))
        yield from load_tables(
            self._rows,
            tables,
            at,
            alterations=alterations,
            epoch=epoch,
            again=again,
            database=self.identify().database,
            now_us=self._now_us,
            report=self._report,
        )

    def start(self, *, epoch: int, after: int = 0) -> None:
        self._prepare_publication(loaded=False)
        known, captured = self._versions.known(), self._captured_tables()
        require_capturable(self._database.query, self._settings, captured, gone=self._versions.ever())
        unknown = [table.oid for table in captured if table.oid not in known and table.oid not in self._busy]
        wanted = {oid for oid in self._to_read if oid not in known or self._patterns.matches(known[oid])}
        self._to_read = sorted({*wanted, *unknown})
        self._rereads = Rereads(
            self._settings.url,
            self._settings.publication,
            generated=self._generated,
            application_name=f"{_APPLICATION} (reading a table again)",
        )
        self._assembler = Assembler(
            epoch=epoch,
            database=self.identify().database,
            versions=self._versions,
            rereads=self._rereads,
            captured=self._patterns.matches,
            now_us=self._now_us,
        )
        options = (
            f"proto_version '1', publication_names {quote_literal(quote_identifier(self._settings.publication))}"
            ", messages 'true'"
        )
        self._stream.start_stream(
            f"START_REPLICATION SLOT {quote_identifier(self._settings.slot)} LOGICAL {format_lsn(after)} ({options})",
            doing=f"starting replication from slot {self._settings.slot!r}",
        )

    def receive(self, most: int, timeout: float) -> Iterator[StreamItem]:
        if self._assembler is None or self._rereads is None:
            raise PassingError("the stream was not started")
        self._rereads.check()
        if not self._assembler.in_transaction:
            self._look_for_new_tables()
            while self._to_read:
                yield from self._hold(self._to_read.pop())
        frames = iter(self._stream.receive(most, timeout))
        take = self._assembler.take
        self._assembler.take_time()
        for frame in frames:
            items, other = take(frame, frames)
            yield from items
            if other is not None:
                yield from self._fed(other, self._assembler)

    def _fed(self, frame: bytes, assembler: Assembler) -> Iterator[StreamItem]:
        message = message_in(frame)
        if message is None:
            yield from self._framed(decode_frame(frame))
            return
        for item in assembler.feed(decode(message[1]), message[0]):
            self._report_item(item)
            yield item

    def _hold(self, oid: int) -> Iterator[StreamItem]:
        if self._assembler is None:
            raise PassingError("the stream was not started")
        for item in self._assembler.hold(oid):
            self._report_item(item)
            yield item

    def _report_item(self, item: StreamItem) -> None:
        if isinstance(item, Rereading):
            table = self._versions.schema(oid_of(item.name))
            called = f"table {table.id}" if table is not None else "a new table"
            self._report(
                f"reading {called} again: its rows changed without events"
                if item.active
                else f"{called} was read again"
            )
        elif isinstance(item, ChangeEvent) and isinstance(item.change, (Alter, Drop)):
            self._report(
                f"table {item.table.id} {'was dropped' if isinstance(item.change, Drop) else 'has a new shape'}"
            )

    def _look_for_new_tables(self) -> None:
        """Without event triggers nobody else adds a new table to the publication; nor one that was busy before, or that
        they failed at.
        """
        if (self._follows_ddl and not self._busy and not self._missed) or time.monotonic() < self._look_due:
            return
        self._missed = False
        self._look_due = time.monotonic() + _LOOK_SECONDS
        try:
            self._prepare_publication(loaded=False)
        except SourceError as error:
            self._report(f"a new table is not captured: {error} ({error.mend})")

    def _trigger_failed(self, why: str) -> None:
        self._report(
            f"warning: an event trigger at the source could not describe a schema change ({why}): a new table is looked"
            " for now, any other change is noticed with its table's next row"
        )
        self._missed = True

    def _prepare_publication(self, *, loaded: bool) -> None:
        """Publication and event triggers as the settings want them. Tables that are added are to be read, unless all
        are `loaded` anyway; those that somebody writes to without a pause are left for the next look.
        """
        query, name = self._database.query, self._settings.publication
        busy: set[int] = set()
        for table in ensure_publication(query, name, self._captured_tables()):
            try:
                publish(query, name, table.id)
            except LockTimeoutError:
                busy.add(table.oid)
                if table.oid not in self._busy:
                    self._report(f"table {table.id} is captured once no transaction that writes to it is open")
            else:
                self._to_read += [] if loaded else [table.oid]
        self._busy = busy
        follows, self._follows_ddl = self._follows_ddl, ensure_triggers(query, name, self._patterns)
        if not self._follows_ddl and (follows or self._look_due == 0.0):
            self._report(
                "this role can't make event triggers: schema changes are noticed with a table's next row"
                " (a superuser can run what `cdc triggers` prints)"
            )

    def confirm(self, lsn: int) -> None:
        moved = lsn > self._confirmed
        self._confirmed = max(self._confirmed, lsn)
        if self._assembler is None:
            return  # a first load: nothing to keep alive yet
        due = time.monotonic() >= self._status_due
        if moved or due:
            self._send_status(ask=due)  # how far a quiet source has come

    def _framed(self, frame: Frame) -> Iterator[StreamItem]:
        assert isinstance(frame, PrimaryKeepalive)
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

    def _is_there(self, oid: int) -> bool:
        return bool(self._database.query(f"SELECT FROM pg_class WHERE oid = {oid}", doing="looking a table up"))

    def _captured_tables(self) -> list[SourceTable]:
        query = self._database.query
        via_root = publishes_via_root(query, self._settings.publication)
        return [table for table in capturable_tables(query, via_root=via_root) if self._patterns.matches(table.id)]

    @property
    def _catalog(self) -> Catalog:
        return Catalog(self._database.query, self._settings.publication, generated=self._generated)

    @property
    def _versions(self) -> Versions:
        if self._versions_or_none is None:
            self._versions_or_none = Versions(
                publication=self._settings.publication,
                generated=self._generated,
                captured=self._patterns.matches,
                is_there=self._is_there,
                failed=self._trigger_failed,
            )
        return self._versions_or_none

    @property
    def _generated(self) -> bool:
        if self._generated_or_none is None:
            self._generated_or_none = publishes_generated(self._database.query, self._settings.publication)
        return self._generated_or_none

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
