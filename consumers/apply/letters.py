"""Dead letters of one target: in a topic of their own, `<prefix>.dlq.<target>`, and in an index at the target.

The order in which a letter becomes one, within the target transaction that goes on without its event:

1. its record is written to the topic, and durable,
2. the target's index has it, with what waits behind it, in the transaction of rows and checkpoint.

Of a transaction that comes in parts this is done after each part, or all its letters would be kept until its commit. A
crash in between leaves a record that the index does not have, or two of one letter: the index is what counts. The
topic is compacted, and each letter has a key of its own: so it keeps letters for ever, whatever the log's retention,
and gives their room back when a tombstone says that they are done with.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from typing import Final, NamedTuple

from cdc.avro.names import dead_letter_topic
from cdc.core.errors import CdcError, ConfigError, LogGapError, PassingError, ProtocolViolationError
from cdc.core.events import ChangeEvent
from cdc.core.failpoints import reached
from cdc.core.log import Headers, Log, LogReader, LogWriter, Place, Record, StoredRecord, TopicPartition, TopicSpec
from cdc.core.position import Position
from cdc.core.state import TableState
from cdc.core.tables import TableId
from cdc.log.reading import read_to_end
from consumers.plan.letters import INDEX, Letter, Scopes, index_key, index_row, read_index, scopes_of
from consumers.plan.source_order import Unit
from consumers.plan.steps import WriteRows
from consumers.targets.target import Target, TargetTransaction

EXTRA_BYTES: Final = 64 * 1024
"""By how much a letter's record may be larger than its event's."""

_POSITION: Final = "cdc.dlq.position"
_ERROR: Final = "cdc.dlq.error"
_MEND: Final = "cdc.dlq.mend"
_BEHIND: Final = "cdc.dlq.behind"
_KEY: Final = "cdc.dlq.key"
_OURS: Final = "cdc.dlq."
_POLL_SECONDS: Final = 0.5
_PATIENCE_SECONDS: Final = 30.0
_LOT: Final = 1_000  # records
_MOST_ERROR: Final = 8_000


class _New(NamedTuple):
    letter: Letter
    error: CdcError | None  # None: it waits behind another


class StoredLetter(NamedTuple):
    """A record of the topic. `record` is the event's, as its own topic had it. `error` is empty for what only waits."""

    record: StoredRecord
    position: Position
    error: str
    mend: str

    @property
    def place(self) -> Place:
        return Place(*self.record[:3])


class DeadLetters:
    """The letters of one open target. One thread. `report` is told of each poison event. One that is not `taking` any
    ends with the error of a poison event; but what waits behind those that are there goes on to wait.

    Constructing it does no I/O; the topic is made, and written by this process alone, from the first letter on.
    """

    def __init__(
        self,
        *,
        log: Log,
        prefix: str,
        name: str,
        target: Target,
        taking: bool = True,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._log = log
        self._name = name
        self._topic = dead_letter_topic(prefix, name)
        self._target = target
        self._taking = taking
        self._report = report
        self._resources = ExitStack()
        self._writer: LogWriter | None = None
        self._blocked = Scopes()
        self._new: dict[Place, _New] = {}
        self._newly_blocked = Scopes()
        self._written: list[Letter] = []  # in the open transaction
        self._said: list[str] = []  # of those
        self.count = 0

    def open(self) -> None:
        """Learn what is blocked, from the target, which must be open."""
        letters = self.read_index()
        if self._taking or letters:
            self._target.prepare(INDEX)
        self.count = len(letters)
        self._blocked = Scopes()
        for letter in letters:
            self._blocked.add(letter.scopes)

    def require_own_topic(self, tables: Mapping[str, TableState]) -> None:
        """ConfigError if a table's topic is called so."""
        if self._taking and self._topic in tables:
            raise ConfigError(
                f"the dead letters of target {self._name!r} would be written to {self._topic!r}, which is the topic of"
                f" table {tables[self._topic].table}",
                mend="give the target another name, or the table another topic in [log.topics]",
            )

    def require_same_names(self, names: Mapping[str, TableId]) -> None:
        """ConfigError if letters are of a table that has another name at the target now: by the one that it had they
        know what has to wait behind them. `names` are by topic.
        """
        for letter in self.read_index() if self.count else ():
            name = names.get(letter.place.topic)
            if name is not None and all(scope.table != name for scope in letter.scopes):
                raise ConfigError(
                    f"[targets.{self._name}] rename: {letter.table} has dead letters, and would be {name} now: what"
                    " comes for their rows would not wait behind them",
                    mend=f"write rename as it was, then `cdc dlq retry {self._name}` or `cdc dlq drop`; and change it"
                    " when there are none",
                )

    def read_index(self) -> list[Letter]:
        return read_index(self._name, self._target.rows_of(INDEX))

    def close(self) -> None:
        self._resources.close()
        self._writer = None

    @property
    def blocked(self) -> bool:
        return bool(self._blocked) or bool(self._newly_blocked)

    def add(self, unit: Unit, error: CdcError) -> None:
        """These events are poison."""
        if not self._taking:
            raise error
        for event in unit:
            self._add(event, error)

    def take(self, event: ChangeEvent) -> bool:
        """Whether the event waits behind a letter; then it is one from now on."""
        scopes = scopes_of(event)
        waits = self._blocked.concern(scopes) or self._newly_blocked.concern(scopes)
        if waits:
            self._add(event, None)
        return waits

    def take_unit(self, unit: Unit) -> bool:
        """As `take`, of all events of the unit if of one."""
        if not self.blocked or not any(self.take(event) for event in unit):
            return False
        for event in unit:
            self._add(event, None)
        return True

    def write(self, transaction: TargetTransaction) -> None:
        """Make the new letters durable, in the topic and then in the index. The transaction may bring more."""
        if not self._new:
            return
        places = sorted(self._new)
        records = dict(zip(places, self._originals(places), strict=True))
        self._append([self._record(new, records[place]) for place, new in self._new.items()])
        reached("apply.letters-in-log")
        rows = [index_row(self._name, new.letter) for new in self._new.values()]
        transaction.run([WriteRows(INDEX, upserts=rows)])
        self._written += [new.letter for new in self._new.values()]
        self._said += [
            f"dead letter: {new.letter.table} at {new.letter.position}: {new.error}"
            for new in self._new.values()
            if new.error is not None
        ]
        self._new = {}

    def committed(self) -> None:
        for letter in self._written:
            self._blocked.add(letter.scopes)
        for said in self._said:
            self._report(said)
        self.count += len(self._written)
        self.forget()

    def forget(self) -> None:
        """The transaction was rolled back: what was added in it will come again."""
        self._new, self._written, self._said = {}, [], []
        self._newly_blocked = Scopes()

    def forget_from(self, position: Position) -> None:
        """What stands at it or beyond it will come again; nothing of that was written. What it blocks stays blocked:
        nothing more is taken now.
        """
        self._new = {place: new for place, new in self._new.items() if new.letter.position < position}

    def stored(self) -> Iterator[StoredLetter]:
        """All letters that the topic holds, in an order in which they may be retried; done with or not."""
        with closing(self._log.reader(self._topic)) as reader:
            if self._topic not in reader.topics():
                return
            # Of a letter that was written twice, the later one is in the index.
            latest = {record.key: record.offset for record in read_to_end(reader, self._topic)}
            for record in read_to_end(reader, self._topic):
                if record.value is not None and latest.get(record.key) == record.offset:
                    yield _read(record)

    def release(self, transaction: TargetTransaction, places: Iterable[Place]) -> None:
        """Take letters out of the index: they are applied in this transaction, or dropped."""
        keys = [index_key(self._name, place) for place in places]
        if keys:
            transaction.run([WriteRows(INDEX, deletes=keys)])

    def bury(self, places: Iterable[Place]) -> None:
        """Tombstones for letters that the index does not have any more."""
        self._append([Record(self._topic, 0, _key_of(place), None) for place in places])

    def _add(self, event: ChangeEvent, error: CdcError | None) -> None:
        if event.place is None:
            raise AssertionError("only what was read from a log can be a dead letter")
        if event.place in self._new:
            return
        scopes = scopes_of(event, error)
        self._newly_blocked.add(scopes)
        self._new[event.place] = _New(Letter(place=event.place, position=event.position, scopes=scopes), error)

    def _record(self, new: _New, original: StoredRecord) -> Record:
        error = new.error
        said: Headers = ((_POSITION, str(new.letter.position).encode()),)
        if original.key is not None:
            said = (*said, (_KEY, original.key))
        if error is None:
            said = (*said, (_BEHIND, b""))
        else:
            said = (*said, (_ERROR, _cut(str(error))), (_MEND, _cut(error.mend or "")))
        return Record(self._topic, 0, _key_of(new.letter.place), original.value, (*original.headers, *said))

    def _append(self, records: Sequence[Record]) -> None:
        if not records:
            return
        writer = self._opened_writer()
        for lot in range(0, len(records), _LOT):  # each has its time: of a large transaction they are many
            ticket = writer.append(records[lot : lot + _LOT])
            deadline = time.monotonic() + _PATIENCE_SECONDS
            while writer.poll(_POLL_SECONDS) < ticket:
                if time.monotonic() > deadline:
                    raise PassingError(f"the log does not take dead letters for topic {self._topic}")

    def _opened_writer(self) -> LogWriter:
        if self._writer is None:
            self._writer = self._resources.enter_context(closing(self._log.writer(only=self._topic)))
            self._writer.create_topics([TopicSpec(self._topic, compacted=True, single=True)])
        return self._writer

    def _originals(self, places: Sequence[Place]) -> Iterator[StoredRecord]:
        """The records at these places, which are sorted, as the log has them: with their keys and headers."""
        with closing(self._log.reader(self._topic)) as reader:
            todo = list(places)[::-1]
            while todo:
                yield from _read_run(reader, todo)


def _read_run(reader: LogReader, todo: list[Place]) -> Iterator[StoredRecord]:
    """Those of the last place's partition, taken from `todo`."""
    partition = TopicPartition(*todo[-1][:2])
    reader.assign({partition: todo[-1].offset})
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while todo and TopicPartition(*todo[-1][:2]) == partition:
        for record in reader.poll(1000, _POLL_SECONDS):
            deadline = time.monotonic() + _PATIENCE_SECONDS
            if not todo or (record.topic, record.partition) != partition:
                break
            if record.offset > todo[-1].offset and todo[-1][:2] == partition:
                raise LogGapError(
                    f"topic {partition.topic!r}, partition {partition.partition} lost the record at {todo[-1].offset}"
                    " just now",
                    mend="a longer [log] retention keeps what an applier is at",
                )
            if Place(*record[:3]) == todo[-1]:
                todo.pop()
                yield record
        if time.monotonic() > deadline:
            raise PassingError(f"topic {partition.topic!r} did not give its records")
    reader.unassign([partition])


def _read(record: StoredRecord) -> StoredLetter:
    said = dict(record.headers)
    try:
        topic, partition, offset = (record.key or b"").decode().rsplit("/", 2)
        original = record._replace(
            topic=topic,
            partition=int(partition),
            offset=int(offset),
            key=said.get(_KEY),
            headers=tuple(header for header in record.headers if not header[0].startswith(_OURS)),
        )
        position = Position.parse(said[_POSITION].decode())
    except (ValueError, KeyError):
        raise ProtocolViolationError(
            f"topic {record.topic!r}, offset {record.offset}: not a dead letter as cdc writes it"
        ) from None
    return StoredLetter(original, position, said.get(_ERROR, b"").decode(), said.get(_MEND, b"").decode())


def _key_of(place: Place) -> bytes:
    return "/".join(map(str, place)).encode()


def _cut(text: str) -> bytes:
    return text.encode()[:_MOST_ERROR].decode(errors="ignore").encode()
