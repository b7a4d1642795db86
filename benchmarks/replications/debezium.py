"""Debezium's PostgreSQL connector, and its JDBC sink, in one worker of Kafka Connect. Avro by Apicurio's converter."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

from typing_extensions import override

from benchmarks.backlog import PLAIN, PUBLICATION, Backlog
from benchmarks.measuring import WaitedInVainError
from benchmarks.plan import PeerFailedError
from benchmarks.processes import usage
from benchmarks.replications.replication import Replication, Running
from benchmarks.stage import SERVER_JVM, Stage
from cdc.core.errors import CdcError
from cdc.embedded.connect import EmbeddedConnect, installed

DEFAULTS: Final = "Debezium + JDBC sink, batch 500"
TUNED: Final = "Debezium + JDBC sink, tuned"
_PARTITIONS: Final = 4
_HEAP: Final = ("-Xms256M", "-Xmx2G")  # as Connect's own start script has it
_SOURCE: Final = "source"
_SINK: Final = "sink"

# What Debezium's documents recommend for throughput: larger batches and queues at the connector; at the sink larger
# batches (and polls, which bound them), one change of each row in a batch, and statements that write many rows. Its
# UNNEST (`dialect.postgres.unnest.insert.enabled`) would be quicker, but version 3.6.0 fails on timestamps with it.
_TUNED_SOURCE: Final = {
    "max.batch.size": "8192",
    "max.queue.size": "32768",
    "poll.interval.ms": "50",
    "producer.override.batch.size": "262144",
    "producer.override.linger.ms": "20",
    "producer.override.compression.type": "lz4",
}
_TUNED_SINK: Final = {
    "batch.size": "5000",
    "consumer.override.max.poll.records": "5000",
    "consumer.override.fetch.min.bytes": "1",
    "consumer.override.max.partition.fetch.bytes": "10485760",
    "consumer.override.fetch.max.bytes": "104857600",
    "use.reduction.buffer": "true",
}


class Debezium(Replication):
    """The worker and its sink run before the clock does; the source connector is added at its start."""

    def __init__(self, stage: Stage, name: str) -> None:
        self.name = name
        installed()
        self._stage = stage
        self._tuned = name == TUNED

    @override
    def prepare(self, backlog: Backlog) -> None:
        backlog.copy_tables()

    @override
    @contextmanager
    def resumed(self, backlog: Backlog) -> Iterator[Running]:
        with (
            backlog.slot(PLAIN) as slot,
            backlog.plain_target() as target,
            self._running(backlog, slot, target, {"snapshot.mode": "no_data"}) as running,
        ):
            yield running

    @override
    @contextmanager
    def loading(self, backlog: Backlog) -> Iterator[Running]:
        slot = backlog.new_name("load")
        with backlog.plain_target(with_rows=False) as target:
            with self._running(backlog, slot, target, {"snapshot.mode": "initial"}) as running:
                yield running
            backlog.drop_slot(slot)

    @override
    def forget(self) -> None:
        """Nothing is kept but databases."""

    @contextmanager
    def _running(self, backlog: Backlog, slot: str, target: str, settings: Mapping[str, str]) -> Iterator[Running]:
        broker = self._stage.broker
        broker.empty()
        folder = self._stage.folder / "connect"
        shutil.rmtree(folder, ignore_errors=True)
        with EmbeddedConnect(
            folder,
            kafka=broker.bootstrap_servers,
            registry=self._stage.registry.url,
            settings={"consumer.metadata.max.age.ms": "1000"},  # the sink finds a new topic that soon
            jvm_options=(*_HEAP, *SERVER_JVM),
        ) as connect:
            connect.add(_SINK, self._sink(slot, target))
            running = Running(
                target=target,
                alive=connect.require_running,
                usages=lambda: {"Kafka Connect": usage(connect.pid)},
                log_bytes=broker.bytes,
            )
            try:
                connect.add(_SOURCE, self._source(backlog, slot, settings))
                yield running
            except (CdcError, WaitedInVainError) as error:
                raise PeerFailedError(str(error)) from error
            connect.remove(_SINK)
            connect.remove(_SOURCE)

    def _source(self, backlog: Backlog, slot: str, settings: Mapping[str, str]) -> dict[str, str]:
        """The slot's name is the topics' prefix: a schema of an earlier run is not this one's."""
        return {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            **_database(backlog.source_url),
            "topic.prefix": slot,
            "plugin.name": "pgoutput",
            "slot.name": slot,
            "publication.name": PUBLICATION,
            "publication.autocreate.mode": "disabled",
            "table.include.list": r"public\..*",
            "tombstones.on.delete": "false",  # the sink has no use for them, and says so of each
            "topic.creation.enable": "true",
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": str(_PARTITIONS),
            **(_TUNED_SOURCE if self._tuned else {}),
            **settings,
        }

    @property
    def _rewriting(self) -> str:
        """What the reduction buffer asks for; without that buffer, a row that changes twice in a batch breaks it."""
        return "&reWriteBatchedInserts=true" if self._tuned else ""

    def _sink(self, prefix: str, target: str) -> dict[str, str]:
        _, _, address = target.rpartition("@")
        return {
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "tasks.max": str(_PARTITIONS),
            "topics.regex": rf"{prefix}\.public\..*",
            "connection.url": f"jdbc:postgresql://{address}?stringtype=unspecified{self._rewriting}",
            "connection.username": "postgres",
            "connection.password": "not asked for",
            "insert.mode": "upsert",
            "primary.key.mode": "record_key",
            "delete.enabled": "true",
            "schema.evolution": "none",
            "collection.name.format": "${source.table}",
            "batch.size": "500",
            **(_TUNED_SINK if self._tuned else {}),
        }


def _database(url: str) -> dict[str, str]:
    parts = urlsplit(url)
    return {
        "database.hostname": parts.hostname or "",
        "database.port": str(parts.port),
        "database.user": parts.username or "",
        "database.password": "not asked for",
        "database.dbname": parts.path.removeprefix("/"),
    }
