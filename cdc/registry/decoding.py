"""Records of table topics become events, by the schemas that they name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from cdc.avro.alterations import Alteration, read_alteration
from cdc.avro.decoder import EventDecoder
from cdc.avro.framing import unframe
from cdc.avro.headers import ALTERED, TRUNCATED
from cdc.core.errors import CdcError, ProtocolViolationError
from cdc.core.events import Alter, ChangeEvent
from cdc.core.log import StoredRecord
from cdc.core.position import ORIGIN, Position
from cdc.core.registry import SchemaRegistry
from cdc.core.tables import TableSchema


class Decoding:
    """Keeps a decoder for each schema id. Events have their table as `seen` gives it, which may make its columns text
    (all values are).
    """

    def __init__(
        self, registry: SchemaRegistry, *, seen: Callable[[TableSchema], TableSchema] = lambda table: table
    ) -> None:
        self._registry = registry
        self._seen = seen
        self._decoders: dict[int, EventDecoder] = {}

    def event(self, record: StoredRecord) -> ChangeEvent | None:
        """The record's event, or None for a tombstone. An error says which record could not be read."""
        if record.value is None:
            return None
        try:
            schema_id, _ = unframe(record.value)
            decoder = self._decoders.get(schema_id)
            if decoder is None:
                decoder = self._decoders[schema_id] = EventDecoder(self._registry.schema(schema_id))
                decoder.table = self._seen(decoder.table)
            return decoder.decode(record.key, record.value, record.headers)
        except CdcError as error:
            raise type(error)(f"{_where(record)}: {error}", mend=error.mend) from None

    def alteration(self, record: StoredRecord) -> Alteration | None:
        """The record of the tables topic; None for one taken back. An error says which could not be read."""
        if record.value is None:
            return None
        try:
            found = read_alteration(record.value)
        except CdcError as error:
            raise type(error)(f"{_where(record)}: {error}", mend=error.mend) from None
        event, change = found.event, found.event.change
        if isinstance(change, Alter) and change.before is not None:
            change = replace(change, before=self._seen(change.before))
        return found._replace(event=replace(event, table=self._seen(event.table), change=change))


def barriers(record: StoredRecord) -> tuple[Position, Position]:
    """The positions of the latest truncate and the latest change of shape of the record's table that it comes after;
    ORIGIN where there was none.
    """
    found = {TRUNCATED: ORIGIN, ALTERED: ORIGIN}
    for name, value in record.headers:
        if name in found:
            try:
                found[name] = Position.parse(value.decode())
            except ValueError:
                raise ProtocolViolationError(f"{_where(record)}: damaged header {name}") from None
    return found[TRUNCATED], found[ALTERED]


def _where(record: StoredRecord) -> str:
    return f"topic {record.topic!r}, partition {record.partition}, offset {record.offset}"
