"""Records of table topics become events, by the schemas that they name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from cdc.avro.alterations import Alteration, read_alteration
from cdc.avro.boundaries import EndScanner, is_begin
from cdc.avro.decoder import EventDecoder
from cdc.avro.framing import HEADER_LENGTH, unframe
from cdc.avro.headers import ALTERATIONS, ALTERED, RESENT, TRUNCATED
from cdc.avro.names import avro_namespace
from cdc.avro.runs import RunReader
from cdc.avro.scanning import Transactions
from cdc.avro.speedups import COMPILED
from cdc.avro.speedups.surroundings import Ends
from cdc.avro.transactions import End, TransactionEnd, decode_boundary
from cdc.core.errors import CdcError, ProtocolViolationError, UnknownSchemaError
from cdc.core.events import Alter, ChangeEvent
from cdc.core.log import Headers, Place, StoredRecord, StoredRun
from cdc.core.position import ORIGIN, Position
from cdc.core.registry import SchemaRegistry
from cdc.core.tables import TableSchema

Barriers = tuple[Position, Position]
NO_BARRIERS: Final = (ORIGIN, ORIGIN)


class Decoding:
    """Keeps a decoder for each schema id; for a connector's events, whose envelopes don't say what the key is, for each
    pair of a value's and a key's. Events have their table as `seen` gives it, which may make its columns text (all
    values are).
    """

    def __init__(
        self, registry: SchemaRegistry, *, seen: Callable[[TableSchema], TableSchema] = lambda table: table
    ) -> None:
        self._registry = registry
        self._seen = seen
        self._transactions = Transactions()
        self._boundaries: set[bytes] = set()
        self._ends = Ends() if COMPILED else EndScanner()
        # Ours, by topic and by the header of their framing.
        self._framed: defaultdict[str, dict[bytes, EventDecoder]] = defaultdict(dict)
        self._decoders: dict[int, EventDecoder] = {}
        self._connectors: dict[tuple[int, int], EventDecoder] = {}
        self._runs = RunReader(seen)

    def event(self, record: StoredRecord) -> ChangeEvent | None:
        """The record's event, or None for a tombstone. An error says which record could not be read."""
        value = record.value
        if value is None:
            return None
        decoder = self._framed[record.topic].get(value[:HEADER_LENGTH])
        if decoder is None:
            try:
                decoder = self._found(record, value)
            except CdcError as error:
                raise type(error)(f"{record.where}: {error}", mend=error.mend) from None
        return decoder.decode_record(record)

    def events(self, records: Sequence[StoredRecord]) -> Iterator[ChangeEvent | None]:
        """Of each its event, or None for a tombstone; all are of one topic. Usual events read their rows when they are
        asked for them, and may only then find them damaged. A run has one for all its rows.
        """
        framed = self._framed[records[0].topic] if records else {}
        at = 0
        while at < len(records):
            record = records[at]
            if isinstance(record, StoredRun):
                yield self._runs.event(record)
                at += 1
                continue
            framing = b"" if record.value is None else record.value[:HEADER_LENGTH]
            decoder = framed.get(framing)
            usual = () if decoder is None else decoder.scan(records, at, framing)
            yield from usual
            at += len(usual)
            if not usual:
                yield self.event(record)
                at += 1

    def end(self, record: StoredRecord) -> End | None:
        """The END of a transaction; None for any other record of the transaction topic."""
        if record.value is None:
            return None
        framing = record.value[:HEADER_LENGTH]
        end: End | None = None
        if framing in self._boundaries:  # of ours, as one was that was read the plain way
            if is_begin(record.value):
                return None
            end = self._ends.end(record.value)
        if end is None:
            try:
                boundary = decode_boundary(record.value, self._registry.schema)
            except CdcError as error:
                raise type(error)(f"{record.where}: {error}", mend=error.mend) from None
            self._boundaries.add(framing)
            if not isinstance(boundary, TransactionEnd):
                return None
            end = End.of(boundary)
        return _with_headers(end, record) if record.headers else end

    def alteration(self, record: StoredRecord) -> Alteration | None:
        """The record of the tables topic; None for one taken back. An error says which could not be read."""
        if record.value is None:
            return None
        try:
            found = read_alteration(record.value)
        except CdcError as error:
            raise type(error)(f"{record.where}: {error}", mend=error.mend) from None
        event, change = found.event, found.event.change
        if isinstance(change, Alter) and change.before is not None:
            change = replace(change, before=self._seen(change.before))
        event = replace(event, table=self._seen(event.table), change=change, place=Place(*record[:3]))
        return found._replace(event=event)

    def _found(self, record: StoredRecord, value: bytes) -> EventDecoder:
        schema_id, _ = unframe(value)
        decoder = self._decoders.get(schema_id)
        if decoder is None:
            decoder = self._decoders[schema_id] = self._decoder(schema_id)
        if decoder.ours:
            if decoder.namespace != avro_namespace(record.topic):
                raise UnknownSchemaError(
                    f"schema id {schema_id} is that of {decoder.namespace!r}, another topic: the registry has given out"
                    " anew what these events were written with",
                    mend="restore the registry as it was when they were written; or `cdc capture --start-over` loads"
                    " all tables again",
                )
            self._framed[record.topic][value[:HEADER_LENGTH]] = decoder
        elif record.key is not None:
            decoder = self._connectors_decoder(schema_id, unframe(record.key)[0])
        return decoder

    def _connectors_decoder(self, value_id: int, key_id: int) -> EventDecoder:
        known = self._connectors.get((value_id, key_id))
        if known is None:
            # Also for what comes without a key: a truncate.
            known = self._connectors[value_id, key_id] = self._decoders[value_id] = self._decoder(value_id, key_id)
        return known

    def _decoder(self, value_id: int, key_id: int | None = None) -> EventDecoder:
        key = None if key_id is None else self._registry.schema(key_id)
        return EventDecoder(self._registry.schema(value_id), key, transactions=self._transactions, seen=self._seen)


def barriers(record: StoredRecord) -> Barriers:
    """The positions of the latest truncate and the latest change of shape of the record's table that it comes after;
    ORIGIN where there was none.
    """
    headers = record[6]
    if not headers:
        return NO_BARRIERS
    try:
        return _known_barriers(headers) if len(headers) == 1 else _barriers(headers)
    except ValueError as error:
        raise ProtocolViolationError(f"{record.where}: damaged header {error}") from None


def _barriers(headers: Headers) -> Barriers:
    """ValueError names the header that is damaged."""
    found = {TRUNCATED: ORIGIN, ALTERED: ORIGIN}
    for name, value in headers:
        if name in found:
            try:
                found[name] = Position.parse(value.decode())
            except ValueError:
                raise ValueError(name) from None
    return found[TRUNCATED], found[ALTERED]


# All events after a barrier say the same.
_known_barriers: Final = lru_cache(maxsize=1024)(_barriers)


def _with_headers(end: End, record: StoredRecord) -> End:
    headers = dict(record.headers)
    try:
        end.alterations = int(headers.get(ALTERATIONS, b"0"))  # type: ignore[misc]  # nobody else has it yet
    except ValueError:
        raise ProtocolViolationError(f"{record.where}: damaged header {ALTERATIONS}") from None
    end.resent = RESENT in headers  # type: ignore[misc]
    return end
