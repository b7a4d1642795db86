"""The transaction topic: a BEGIN and an END for each source transaction, in commit order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final, NamedTuple, Self

import schemas
from cdc.avro import binary
from cdc.avro.framing import header, unframe
from cdc.avro.names import transaction_topic
from cdc.avro.reader import AvroReader
from cdc.avro.source import TransactionWriter
from cdc.core.errors import ProtocolViolationError
from cdc.core.events import Commit
from cdc.core.position import Position
from cdc.core.tables import TableId
from cdc.core.values import value

MESSAGES: Final = "LOGICAL_DECODING_MESSAGE"
"""What Debezium calls a transaction's logical messages among its data collections."""

_BEGIN: Final = binary.string("BEGIN")
_END: Final = binary.string("END")
_NO_COUNTS: Final = binary.NULL + binary.NULL
_MOST_COUNTS: Final = 1024
_XID: Final = re.compile(r"\d+:\d+:\d+")


def collection_name(table: TableId) -> str:
    """How a table is called among the data collections: Debezium's `schema.table`, quoted where that is ambiguous."""
    if "." not in table.schema and "." not in table.name:
        return str(table)
    return ".".join('"' + part.replace('"', '""') + '"' for part in table)


class EncodedBoundary(NamedTuple):
    key: bytes
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionBegin:
    """The events of transaction `id` may follow."""

    id: str
    epoch: int
    commit_lsn: int
    commit_time_ms: int


@value(kw_only=True)
class TransactionEnd:
    """The transaction is in the log as a whole. `event_counts` are by data collection, as `encode` named them."""

    id: str
    epoch: int
    commit_lsn: int
    commit_time_ms: int
    end_lsn: int
    last_ordinal: int
    event_count: int
    event_counts: Mapping[str, int] = field(default_factory=dict)


@value()
class End:
    """What an applier needs of an END and of its headers. `is_transaction`: of the source; a first load is none, nor is
    a message that stands alone. `alterations` counts the changes of shape in the transaction. `resent`: an earlier
    capture may have written it too.
    """

    id: str
    epoch: int
    commit_lsn: int
    last_ordinal: int
    event_counts: Mapping[str, int]
    is_transaction: bool = True
    alterations: int = 0
    resent: bool = False

    @classmethod
    def of(cls, said: TransactionEnd, *, alterations: int = 0, resent: bool = False) -> Self:
        is_transaction = _XID.fullmatch(said.id) is not None
        place = said.epoch, said.commit_lsn, said.last_ordinal
        return cls(said.id, *place, said.event_counts, is_transaction, alterations, resent)

    @property
    def position(self) -> Position:
        return Position(self.epoch, self.commit_lsn, self.last_ordinal)

    @property
    def key(self) -> tuple[int, int]:
        return self.epoch, self.commit_lsn


class TransactionCodec:
    """Encodes the records of the topic `topic`. May share `transactions` with who writes the events."""

    def __init__(self, prefix: str, transactions: TransactionWriter | None = None) -> None:
        self._transactions = transactions or TransactionWriter()
        self.topic = transaction_topic(prefix)
        self.key_schema = json.dumps(schemas.load("transaction_key"), separators=(",", ":"))
        self.value_schema = json.dumps(schemas.load("transaction_value"), separators=(",", ":"))
        self._counts: dict[tuple[object, ...], bytes] = {}

    def encode(self, commit: Commit, *, key_id: int, value_id: int) -> tuple[EncodedBoundary, EncodedBoundary]:
        """BEGIN and END."""
        name, time_ms, commit_lsn, epoch = self._transactions.write(commit.transaction)
        key, begins = header(key_id) + name, header(value_id)
        begin = (begins, _BEGIN, name, _NO_COUNTS, time_ms, commit_lsn, binary.NULL, epoch, binary.NULL)
        end = (
            begins,
            _END,
            name,
            self._counted(commit),
            time_ms,
            commit_lsn,
            binary.optional_long(commit.end_lsn),
            epoch,
            binary.optional_long(commit.last_ordinal),
        )
        return EncodedBoundary(key, b"".join(begin)), EncodedBoundary(key, b"".join(end))

    def _counted(self, commit: Commit) -> bytes:
        """The END's counts, which many transactions have alike."""
        counts = (*commit.event_counts.items(), commit.messages)
        known = self._counts.get(counts)
        if known is None:
            if len(self._counts) >= _MOST_COUNTS:
                self._counts.clear()
            known = self._counts[counts] = _counts(commit)
        return known


def _counts(commit: Commit) -> bytes:
    named = {collection_name(table): count for table, count in commit.event_counts.items()}
    if commit.messages:
        named[MESSAGES] = commit.messages
    collections = [binary.string(name) + binary.long(count) for name, count in named.items()]
    return binary.optional_long(sum(named.values())) + binary.PRESENT + binary.array(collections)


def decode_boundary(value: bytes, schema: Callable[[int], str]) -> TransactionBegin | TransactionEnd:
    """A record of the transaction topic that cdc wrote; `schema` gives the text of an id.

    ProtocolViolationError for anything else, a Debezium connector's too: those have no positions.
    """
    schema_id, offset = unframe(value)
    record = _reader(schema(schema_id)).read(value, offset)
    try:
        return _read(record)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolViolationError(
            "a transaction record without positions",
            mend='Use consistency = "key" with a Debezium connector\'s topics.',
        ) from error


def decode_end(value: bytes, schema: Callable[[int], str]) -> TransactionEnd:
    """As `decode_boundary`, of an END."""
    match decode_boundary(value, schema):
        case TransactionEnd() as end:
            return end
        case TransactionBegin():
            raise ProtocolViolationError("a BEGIN where a transaction's END was expected")


@lru_cache(maxsize=16)
def _reader(schema: str) -> AvroReader:
    return AvroReader(schema)


def _read(record: Mapping[str, Any]) -> TransactionBegin | TransactionEnd:
    name, time_ms = record["id"].decode(), record["ts_ms"]
    epoch, commit_lsn = _there(record["epoch"]), _there(record["commit_lsn"])
    match record["status"]:
        case b"BEGIN":
            return TransactionBegin(id=name, epoch=epoch, commit_lsn=commit_lsn, commit_time_ms=time_ms)
        case b"END":
            counts = {item["data_collection"].decode(): item["event_count"] for item in record["data_collections"]}
            return TransactionEnd(
                id=name,
                epoch=epoch,
                commit_lsn=commit_lsn,
                commit_time_ms=time_ms,
                end_lsn=_there(record["end_lsn"]),
                last_ordinal=_there(record["last_ordinal"]),
                event_count=_there(record["event_count"]),
                event_counts=counts,
            )
        case _:
            raise ValueError("neither BEGIN nor END")


def _there(number: int | None) -> int:
    if number is None:
        raise ValueError("a number is missing")
    return number
