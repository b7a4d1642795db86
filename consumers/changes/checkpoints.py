"""Where a consumer keeps how far it has come: in a topic of the log, or in any SQL database."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, Final, Protocol

import sqlalchemy as sa
from typing_extensions import override

from cdc.avro.names import consumer_topic
from cdc.core.errors import PassingError, StaleApplierError, TargetError
from cdc.core.log import Log, LogWriter, Record, TopicPartition, TopicSpec
from cdc.core.position import Position
from cdc.log.reading import read_to_end
from consumers.plan.checkpoint import Checkpoint, PartitionProgress

Progress = Mapping[TopicPartition, PartitionProgress]

_PATIENCE_SECONDS: Final = 60.0
_WHOLE: Final = b"checkpoint"
_OLD_NAMES: Final = ("topic", "partition", "position", "next_offset")


class CheckpointStore(Protocol):
    """One consumer's checkpoint. One thread."""

    def open(self) -> Checkpoint:
        """The checkpoint as it stands; from here on, whoever opened it before is out, if the store can tell."""

    def save(self, progress: Progress, *, log_id: str, connection: sa.Connection | None = None) -> None:
        """Durable when it returns; with a `connection`, once that is committed. StaleApplierError, and nothing is
        written, if another consumer of the name opened it meanwhile and the store can tell.
        """

    def close(self) -> None: ...


class LogCheckpoints(CheckpointStore):
    """In the compacted topic `<prefix>-cdc-consumer-<name>` of the log.

    One consumer of a name at a time: in a local log a second one is refused; in Kafka see to it yourself.
    """

    def __init__(self, log: Log, prefix: str, name: str) -> None:
        self._log = log
        self._topic = consumer_topic(prefix, name)
        self._writer: LogWriter | None = None
        self._partitions: dict[TopicPartition, PartitionProgress] = {}

    @override
    def open(self) -> Checkpoint:
        self._writer = self._log.writer(only=self._topic)
        self._writer.create_topics([TopicSpec(self._topic, compacted=True, single=True)])
        log_id: str | None = None
        partitions: dict[TopicPartition, PartitionProgress] = {}
        with closing(self._log.reader(self._topic)) as reader:
            for record in read_to_end(reader, self._topic):
                said = json.loads(record.value or b"{}")
                if record.key == _WHOLE:
                    log_id, partitions = said["log"], dict(map(_read, said["partitions"]))
                elif record.key == b"log":
                    log_id = said["id"]
                elif said:  # versions before this one wrote a record for each partition
                    partitions.update([_read([said[name] for name in _OLD_NAMES])])
        # A crash may have cut the first of all short, before it said of which log it is.
        self._partitions = partitions if log_id is not None else {}
        return Checkpoint(version=0, log_id=log_id, partitions=dict(self._partitions))

    @override
    def save(self, progress: Progress, *, log_id: str, connection: sa.Connection | None = None) -> None:
        if connection is not None:
            raise TargetError(
                "a checkpoint in the log can't be of a database's transaction", mend="give the consumer SqlCheckpoints"
            )
        assert self._writer is not None
        self._partitions |= progress
        # One record, so that a crash leaves all of it or nothing: a moved row is in two partitions.
        said = [[*place, str(at.position), at.next_offset] for place, at in self._partitions.items()]
        value = json.dumps({"log": log_id, "partitions": said}, separators=(",", ":")).encode()
        ticket = self._writer.append([Record(self._topic, 0, _WHOLE, value)])
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while self._writer.poll(1.0) < ticket:
            if time.monotonic() > deadline:
                raise PassingError(f"topic {self._topic} did not take a checkpoint in {_PATIENCE_SECONDS:.0f} s")

    @override
    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def _read(said: Sequence[Any]) -> tuple[TopicPartition, PartitionProgress]:
    topic, partition, position, next_offset = said
    return TopicPartition(topic, partition), PartitionProgress(Position.parse(position), next_offset)


_METADATA: Final = sa.MetaData()
_CONSUMERS: Final = sa.Table(
    "cdc_consumer",
    _METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("log_id", sa.String(255)),
)
_PARTITIONS: Final = sa.Table(
    "cdc_consumer_checkpoint",
    _METADATA,
    sa.Column("consumer", sa.String(255), primary_key=True),
    sa.Column("topic", sa.String(255), primary_key=True),
    sa.Column("partition_number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("position", sa.String(64), nullable=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)


class SqlCheckpoints(CheckpointStore):
    """In the tables `cdc_consumer` and `cdc_consumer_checkpoint` of an SQL database, made if they are missing.

    Whoever opens it sets a version, with which each save compares: a paused consumer that comes back can't save any
    more, and what it does in the same transaction is rolled back. A save changes nothing here, because it may be rolled
    back too.
    """

    def __init__(self, engine: sa.Engine, name: str) -> None:
        self._engine = engine
        self._name = name
        self._version = 0

    @override
    def open(self) -> Checkpoint:
        with self._translated("opening"), self._engine.begin() as connection:
            _METADATA.create_all(connection)
            mine = _CONSUMERS.c.name == self._name
            row = connection.execute(sa.select(_CONSUMERS.c.version, _CONSUMERS.c.log_id).where(mine)).first()
            if row is None:
                connection.execute(_CONSUMERS.insert().values(name=self._name, version=1))
            else:
                connection.execute(_CONSUMERS.update().where(mine).values(version=_CONSUMERS.c.version + 1))
            self._version = connection.execute(sa.select(_CONSUMERS.c.version).where(mine)).scalar_one()
            found = connection.execute(
                sa.select(
                    _PARTITIONS.c.topic,
                    _PARTITIONS.c.partition_number,
                    _PARTITIONS.c.position,
                    _PARTITIONS.c.next_offset,
                ).where(_PARTITIONS.c.consumer == self._name)
            )
            partitions = {
                TopicPartition(topic, number): PartitionProgress(Position.parse(position), offset)
                for topic, number, position, offset in found
            }
        return Checkpoint(version=self._version, log_id=None if row is None else row.log_id, partitions=partitions)

    @override
    def save(self, progress: Progress, *, log_id: str, connection: sa.Connection | None = None) -> None:
        with self._translated("saving"):
            if connection is not None:
                self._save(connection, progress, log_id)
            else:
                with self._engine.begin() as own:
                    self._save(own, progress, log_id)

    def _save(self, connection: sa.Connection, progress: Progress, log_id: str) -> None:
        taken = connection.execute(
            _CONSUMERS.update()
            .where(_CONSUMERS.c.name == self._name, _CONSUMERS.c.version == self._version)
            .values(log_id=log_id)
        )
        if taken.rowcount != 1:
            raise StaleApplierError(f"another consumer took over the checkpoint of {self._name!r}")
        for (topic, number), at in progress.items():
            place = {"consumer": self._name, "topic": topic, "partition_number": number}
            values = {"position": str(at.position), "next_offset": at.next_offset}
            same = sa.and_(*(_PARTITIONS.c[column] == value for column, value in place.items()))
            if connection.execute(_PARTITIONS.update().where(same).values(**values)).rowcount == 0:
                connection.execute(_PARTITIONS.insert().values(**place, **values))

    @override
    def close(self) -> None:
        """The engine is its owner's to dispose of."""

    @contextmanager
    def _translated(self, doing: str) -> Iterator[None]:
        try:
            yield
        except sa.exc.OperationalError as error:
            raise PassingError(f"{doing} the checkpoint of {self._name!r}: {type(error.orig).__name__}") from error
        except sa.exc.SQLAlchemyError as error:
            raise TargetError(f"{doing} the checkpoint of {self._name!r}: {type(error).__name__}") from error
