"""A real Apache Kafka broker on the loopback: one node in KRaft mode, broker and controller in one process."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from typing_extensions import override

from cdc.core.errors import CdcError
from cdc.embedded.jars import fetched
from cdc.embedded.java import LOG4J, SMALL_JVM, JavaServer, find_java
from cdc.embedded.ports import LOOPBACK, accepts_connections, free_port

_LOCK = Path(__file__).with_name("kafka.lock")
_CLUSTER_ID = "ZW1iZWRkZWQtY2RjLWxvZw"
# Its only answer while it starts: a broker that is not there yet is no news.
_QUIET = {"log_level": 0, "socket.connection.setup.timeout.ms": 1000}
_METADATA_SECONDS = 5.0


class EmbeddedKafka(JavaServer):
    """A broker whose logs stay in `directory`, used again by the next broker there. Topics must be created.

    `settings` go to `server.properties`. `jvm_options` are for a quick start; benchmarks want `("-Xmx1g",)`.
    """

    def __init__(
        self, directory: Path, *, settings: Mapping[str, str] | None = None, jvm_options: Sequence[str] = SMALL_JVM
    ) -> None:
        super().__init__("Kafka", directory, jvm_options=jvm_options)
        self._settings = dict(settings or {})
        self._controller_port: int | None = None

    @property
    def bootstrap_servers(self) -> str:
        return f"{LOOPBACK}:{self.port}"

    @override
    def start(self) -> None:
        """Start, fetching Kafka the first time; return when the broker serves metadata."""
        jars = fetched(_LOCK)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._choose_port()
        self._controller_port = self._controller_port or free_port()
        properties = self._write_configuration()
        self._format(jars, properties)
        self._run([*_class_path(jars, self._directory), "kafka.Kafka", str(properties)], self._serves)

    def _write_configuration(self) -> Path:
        (self._directory / "log4j2.properties").write_text(LOG4J)
        assert self._controller_port is not None
        path = self._directory / "server.properties"
        path.write_text(
            _properties({**_settings(self.port, self._controller_port, self._directory / "data"), **self._settings})
        )
        return path

    def _format(self, jars: Path, properties: Path) -> None:
        data = self._directory / "data"
        if (data / "meta.properties").exists():
            return
        done = subprocess.run(
            [
                *(str(find_java()), *SMALL_JVM, *_class_path(jars, self._directory), "kafka.tools.StorageTool"),
                *("format", "--cluster-id", _CLUSTER_ID, "--config", str(properties)),
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise CdcError(f"Kafka could not format {data}\n{done.stdout}{done.stderr}")

    def _serves(self) -> bool:
        if not accepts_connections(self.port):
            return False
        client = AdminClient({"bootstrap.servers": self.bootstrap_servers, **_QUIET})
        try:
            return bool(client.list_topics(timeout=_METADATA_SECONDS).brokers)
        except KafkaException:
            return False


def _class_path(jars: Path, directory: Path) -> list[str]:
    return [f"-Dlog4j2.configurationFile={directory / 'log4j2.properties'}", "-cp", f"{jars}/*"]


def _settings(broker_port: int, controller_port: int, data: Path) -> dict[str, str]:
    return {
        "process.roles": "broker,controller",
        "node.id": "1",
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{broker_port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "controller.listener.names": "CONTROLLER",
        "log.dirs": str(data),
        "auto.create.topics.enable": "false",
        # One node: nothing to replicate to, nobody to wait for.
        "offsets.topic.num.partitions": "1",
        "offsets.topic.replication.factor": "1",
        "transaction.state.log.num.partitions": "1",
        "transaction.state.log.replication.factor": "1",
        "transaction.state.log.min.isr": "1",
        "share.coordinator.state.topic.num.partitions": "1",
        "share.coordinator.state.topic.replication.factor": "1",
        "share.coordinator.state.topic.min.isr": "1",
        "group.initial.rebalance.delay.ms": "0",
        # A broker that was killed is let in again only when its last session has timed out (by default 9 s).
        "broker.session.timeout.ms": "3000",
        "broker.heartbeat.interval.ms": "500",
        "num.network.threads": "2",
        "num.io.threads": "4",
        "log.cleaner.dedupe.buffer.size": "16777216",
    }


def _properties(settings: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in settings.items())
