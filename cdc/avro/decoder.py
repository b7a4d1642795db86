"""Framed Avro keys and values of one schema -> change events."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cdc.avro import headers
from cdc.avro.compiled import row_reader, row_types
from cdc.avro.framing import unframe
from cdc.avro.reader import AvroReader
from cdc.avro.rows import RowReader
from cdc.avro.scanned import ScannedEvent
from cdc.avro.scanning import EnvelopeScanner, Rows, Transactions
from cdc.avro.schemas import key_schema
from cdc.avro.source import SourceReader, connector_place
from cdc.avro.tables import ReadableTable, readable_table
from cdc.core.errors import CdcError, ProtocolViolationError
from cdc.core.events import (
    UNKNOWN_KEY,
    Change,
    ChangeEvent,
    Create,
    Delete,
    FullImage,
    Key,
    KeyImage,
    OldImage,
    Read,
    Row,
    SnapshotMark,
    Truncate,
    Update,
)
from cdc.core.log import Headers, Place, StoredRecord
from cdc.core.tables import ReplicaIdentity, TableSchema

_NOTHING: Final[Mapping[str, Any]] = {}


class EventDecoder:
    """Decodes events whose value has that schema. Its ids, and which schemas they name, are the caller's.

    `key_schema_text` is needed for a connector's topics (their envelopes don't say what the key is); ours carry it.

    Positions of a connector's events: epoch 0, and what `connector_place` says; the create of a changed key comes right
    after its delete. Such a position is not unique: the rows of one COPY may share it, and those of a snapshot do.
    """

    def __init__(
        self,
        value_schema_text: str,
        key_schema_text: str | None = None,
        *,
        transactions: Transactions | None = None,
        seen: Callable[[TableSchema], TableSchema] = lambda table: table,
    ) -> None:
        """Decoders that share `transactions` give the same object for a transaction. Events have their table as `seen`
        gives it, which may make its columns text (all values are).
        """
        readable = readable_table(value_schema_text, key_schema_text)
        self.table = seen(readable.table)
        self.ours = readable.ours
        self.namespace: str | None = json.loads(value_schema_text).get("namespace")
        self._values = AvroReader(value_schema_text)
        # Ours needs no second lookup: the row's schema says which columns the key has.
        key_text = key_schema(readable.table, "key") if self.ours else key_schema_text
        self._keys = None if key_text is None else AvroReader(key_text)
        self._rows = RowReader(readable.table, readable.fields)
        self._source = SourceReader()
        transactions = Transactions() if transactions is None else transactions
        self._scanner = self._made_scanner(readable, value_schema_text, transactions) if self.ours else None

    def _made_scanner(self, readable: ReadableTable, schema: str, transactions: Transactions) -> EnvelopeScanner | None:
        key, types = readable.table.key, row_types(json.loads(schema))
        columns = [column.type for column in readable.table.columns]
        row, row_key = row_reader(types, columns), row_reader(types, columns, key)
        only_key = row_reader(types, columns, key, to_end=False)
        if row is None or row_key is None or only_key is None:
            return None
        return EnvelopeScanner(self.table, Rows(row, row_key, only_key), transactions, self.decode_record)

    def scan(self, records: Sequence[StoredRecord], first: int, framing: bytes) -> Sequence[ScannedEvent]:
        """The events of these records, from the `first` on, up to one that has other framing, or is no usual one."""
        return () if self._scanner is None else self._scanner.scan_all(records, first, framing)

    def decode_record(self, record: StoredRecord) -> ChangeEvent:
        """As `decode`. The error says which record it is."""
        try:
            if record.value is None:
                raise ProtocolViolationError("a tombstone is no event")
            place = tuple.__new__(Place, record[:3])  # Place's own __new__ takes twice as long
            return self.decode(record.key, record.value, record.headers, place)
        except CdcError as error:
            raise type(error)(f"{record.where}: {error}", mend=error.mend) from None

    def decode(self, key: bytes | None, value: bytes, said: Headers = (), place: Place | None = None) -> ChangeEvent:
        """The event of a record. ProtocolViolationError if it is none, or not of this schema."""
        if self._scanner is not None:
            scanned = self._scanner.event(value, said, self.table, place)
            if scanned is not None:
                return scanned
        record = self._values.read(value, unframe(value)[1])
        try:
            event = self._event(record, key, dict(said), place)
            if self._scanner is not None:
                self._scanner.learn(record["source"])
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise ProtocolViolationError(
                f"{self.table.id}: an event with a value that its schema can't mean"
            ) from error
        return event

    def _event(
        self, record: Mapping[str, Any], key: bytes | None, said: Mapping[str, bytes], place: Place | None
    ) -> ChangeEvent:
        source, block = record["source"], record.get("transaction")
        change = self._change(record, key, said)
        captured_us, captured_ms = record.get("ts_us"), record.get("ts_ms") or 0
        return ChangeEvent(
            transaction=self._source.transaction(source),
            table=self.table,
            change=change,
            ordinal=block["total_order"] if self.ours and block else _connectors_ordinal(source, change),
            table_ordinal=0 if block is None else block["data_collection_order"],
            lsn=source.get("lsn"),
            captured_us=captured_ms * 1000 if captured_us is None else captured_us,
            snapshot=SnapshotMark((source.get("snapshot") or b"false").decode()),
            place=place,
        )

    def _change(self, record: Mapping[str, Any], key: bytes | None, said: Mapping[str, bytes]) -> Change:
        exact = headers.read_exact(said[headers.EXACT]) if headers.EXACT in said else _NOTHING
        before = record.get("before")
        match record["op"]:
            case b"r":
                return Read(self._after(record, exact, said))
            case b"c":
                return Create(self._after(record, exact, said), self._moved(headers.OLD_KEY, exact, said))
            case b"u":
                old = None if before is None else self._old(before, exact, said)
                return Update(old, self._after(record, exact, said))
            case b"d":
                return Delete(
                    self._of_key(key) if before is None else self._old(before, exact, said),
                    self._moved(headers.NEW_KEY, exact, said),
                    # A connector does not say whether it will be a whole row.
                    awaits_create=headers.AWAITS_CREATE in said or (not self.ours and headers.NEW_KEY in said),
                )
            case b"t":
                return Truncate()
            case _:
                raise ProtocolViolationError(f"{self.table.id}: an envelope of no known op, or without its row")

    def _after(self, record: Mapping[str, Any], exact: Mapping[str, Any], said: Mapping[str, bytes]) -> Row:
        after = record.get("after")
        if after is None:
            raise ProtocolViolationError(f"{self.table.id}: an envelope without its row")
        if not self.ours:
            return self._rows.foreign_row(after)
        unchanged = headers.read_unchanged(said[headers.UNCHANGED]) if headers.UNCHANGED in said else ()
        return self._rows.row(after, exact.get("after", _NOTHING), unchanged)

    def _old(self, before: Mapping[str, Any], exact: Mapping[str, Any], said: Mapping[str, bytes]) -> OldImage:
        texts = exact.get("before", _NOTHING)
        if self._is_full(said):
            return FullImage(self._rows.row(before, texts))
        return KeyImage(self._rows.key(before, texts))

    def _of_key(self, key: bytes | None) -> KeyImage:
        if key is None or self._keys is None:
            raise ProtocolViolationError(f"{self.table.id}: a delete that does not say of which row")
        return KeyImage(self._rows.key(self._keys.read(key, unframe(key)[1]), _NOTHING))

    def _is_full(self, said: Mapping[str, bytes]) -> bool:
        if headers.BEFORE in said:
            return said[headers.BEFORE] == b"full"
        if self.ours:
            return self.table.identity is ReplicaIdentity.FULL
        # A connector does not say, and has made-up values for columns that can't be NULL. The key is all we need.
        return not self.table.key

    def _moved(self, name: str, exact: Mapping[str, Any], said: Mapping[str, bytes]) -> Key | None:
        value = said.get(name)
        if value is None or self._keys is None:
            return None
        if not self.ours:
            return UNKNOWN_KEY  # Connect's own form of header values says no types
        return self._rows.key(self._keys.read(value, unframe(value)[1]), exact.get("moved", _NOTHING))


def _connectors_ordinal(source: Mapping[str, Any], change: Change) -> int:
    # The records of the WAL are aligned to 8 bytes: no other event has that number.
    moved = isinstance(change, Create) and change.moved_from is not None
    return connector_place(source).lsn + moved
