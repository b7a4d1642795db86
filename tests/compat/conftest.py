"""Kafka Connect as others run it: its standalone worker, Apicurio's Avro converter, Debezium's connectors."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from zipfile import ZipFile

import pytest

from cdc.core.errors import CdcError
from cdc.core.log import LogReader, Offsets, StoredRecord, TopicPartition
from cdc.core.settings import LogSettings
from cdc.embedded.jars import fetched
from cdc.embedded.java import JavaServer, find_java
from cdc.embedded.ports import LOOPBACK, free_port
from cdc.log.open import open_log

HERE = Path(__file__).parent
PATIENCE_SECONDS = 60.0
JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")
LOGGING = """\
status = error
appender.file.type = Console
appender.file.name = file
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = WARN
rootLogger.appenderRef.file.ref = file
"""
CONVERTER = "io.apicurio.registry.utils.converter.AvroConverter"


def converter_settings(registry: str) -> dict[str, str]:
    """With these Apicurio's converter reads and writes Confluent's wire format, ids of the registry's Confluent API."""
    return {
        "apicurio.registry.url": registry.replace("/apis/ccompat/v7", "/apis/registry/v2"),
        "apicurio.registry.id-handler": "io.apicurio.registry.serde.Legacy4ByteIdHandler",
        "apicurio.registry.use-id": "contentId",
        "apicurio.registry.headers.enabled": "false",
        "apicurio.registry.auto-register": "true",
    }


class Installation(NamedTuple):
    """Directories of jars."""

    connect: Path
    converter: Path
    debezium: Path
    compiler: Path

    def converter_jars(self) -> list[Path]:
        """Without Kafka's own, which the worker has, in another version."""
        jars = sorted(self.converter.iterdir())
        return [jar for jar in jars if not jar.name.startswith(("connect-", "kafka-clients-"))]


@pytest.fixture(scope="session")
def installation() -> Installation:
    """Kafka Connect and its plugins, fetched the first time."""
    try:
        return Installation(
            connect=fetched(HERE / "connect.lock"),
            converter=fetched(HERE / "converter.lock"),
            debezium=fetched(HERE / "debezium.lock", unpack=True),
            compiler=fetched(HERE / "compiler.lock"),
        )
    except CdcError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{error}: {error.mend}")


class Connect:
    """A standalone worker. Connectors are added and removed; their offsets stay in `directory`."""

    def __init__(self, directory: Path, jars: Installation, kafka: str, registry: str) -> None:
        self._directory = directory
        self._jars = jars
        self._kafka = kafka
        self._registry = registry
        self._port = free_port()
        self._connectors: dict[str, dict[str, str]] = {}
        self._server = JavaServer("Kafka Connect", directory)

    def start(self) -> None:
        """Return when it runs the connectors that it had, if it was killed."""
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "log4j2.properties").write_text(LOGGING)
        worker = self._directory / "worker.properties"
        worker.write_text("".join(f"{key}={value}\n" for key, value in self._settings().items()))
        self._server.start(
            [
                *JVM,
                f"-Dlog4j2.configurationFile={self._directory / 'log4j2.properties'}",
                *("-cp", f"{self._jars.connect}/*", "org.apache.kafka.connect.cli.ConnectStandalone", str(worker)),
            ],
            lambda: self._ask("GET", "/connectors") is not None,
        )
        for name, settings in self._connectors.items():
            self.add(name, settings)

    def stop(self) -> None:
        self._server.stop()

    def kill(self) -> None:
        self._server.kill()

    def add(self, name: str, settings: Mapping[str, str]) -> None:
        """Return when the connector's task runs."""
        self._connectors[name] = dict(settings)
        body = {"name": name, "config": {"name": name, **settings}}
        assert self._ask("POST", "/connectors", json.dumps(body)) is not None, self.log.read_text()[-4000:]
        self._await(lambda: self._runs(name), f"{name} does not run")

    def remove(self, name: str) -> None:
        """Return when its task has ended. Its offsets stay."""
        del self._connectors[name]
        self._ask("DELETE", f"/connectors/{name}")
        self._await(lambda: self._status(name) is None, f"{name} does not end")

    def await_saved_offsets(self) -> None:
        """Return when it has just saved offsets, which it does again after 2 s."""
        before = self._saved_at()
        self._await(lambda: self._saved_at() != before, "no offsets are saved")

    @property
    def log(self) -> Path:
        return self._server.log

    def require_running(self) -> None:
        """AssertionError, with what a task says, if one failed."""
        for name in self._connectors:
            self._runs(name)

    @property
    def _offsets(self) -> Path:
        return self._directory / "offsets"

    def _saved_at(self) -> int:
        return self._offsets.stat().st_mtime_ns if self._offsets.exists() else 0

    def _runs(self, name: str) -> bool:
        status = self._status(name)
        if status is None:
            return False
        for task in status["tasks"]:
            assert task["state"] != "FAILED", task["trace"]
        return bool(status["tasks"]) and all(task["state"] == "RUNNING" for task in status["tasks"])

    def _status(self, name: str) -> dict[str, Any] | None:
        return self._ask("GET", f"/connectors/{name}/status")

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        """The answer, or None for a refusal."""
        connection = HTTPConnection(LOOPBACK, self._port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            return json.loads(said or "{}") if answer.status < 300 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def _await(self, is_so: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not is_so():
            assert time.monotonic() < deadline, f"{otherwise}\n{self.log.read_text()[-4000:]}"
            time.sleep(0.05)  # between two looks at a server that tells no one when it changes

    def _settings(self) -> dict[str, str]:
        converter = {"": CONVERTER} | {f".{name}": value for name, value in converter_settings(self._registry).items()}
        return {
            "bootstrap.servers": self._kafka,
            "listeners": f"http://{LOOPBACK}:{self._port}",
            "plugin.path": str(self._plugins()),
            "plugin.discovery": "service_load",
            "offset.storage.file.filename": str(self._offsets),
            "offset.flush.interval.ms": "2000",
            "consumer.metadata.max.age.ms": "500",  # a sink finds new topics that soon, instead of after 5 minutes
            **{f"{part}.converter{name}": value for part in ("key", "value") for name, value in converter.items()},
        }

    def _plugins(self) -> Path:
        plugins = self._directory / "plugins"
        if not plugins.exists():
            converter = plugins / "apicurio"
            converter.mkdir(parents=True)
            for jar in self._jars.converter_jars():
                (converter / jar.name).symlink_to(jar)
            with ZipFile(converter / "manifest.jar", "w") as manifest:  # what `connect-plugin-path sync-manifests` adds
                manifest.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", CONVERTER)
            for plugin in self._jars.debezium.iterdir():
                (plugins / plugin.name).symlink_to(plugin)
        return plugins


@pytest.fixture(scope="session")
def connect(
    tmp_path_factory: pytest.TempPathFactory, installation: Installation, kafka: str, schema_registry_url: str
) -> Iterator[Connect]:
    """The session's worker. Use connectors of your own, and remove them."""
    worker = Connect(tmp_path_factory.mktemp("connect"), installation, kafka, schema_registry_url)
    worker.start()
    yield worker
    worker.stop()


@pytest.fixture(scope="session")
def recommended() -> dict[str, str]:
    """The settings of Debezium's PostgreSQL connector that docs/debezium.md recommends."""
    return {
        "column.propagate.source.type": ".*",
        "interval.handling.mode": "string",
        "include.unknown.datatypes": "true",
    }


@pytest.fixture(scope="session")
def postgres_connector() -> Callable[..., dict[str, str]]:
    """`postgres_connector(name, source, settings, partitions)`: all settings of Debezium's PostgreSQL connector."""

    def connector(name: str, source: str, settings: Mapping[str, str], partitions: int = 2) -> dict[str, str]:
        database = urlsplit(source)
        return {
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "database.hostname": database.hostname or "",
            "database.port": str(database.port),
            "database.user": database.username or "",
            "database.password": "not asked for",
            "database.dbname": database.path.removeprefix("/"),
            "topic.prefix": name,
            "plugin.name": "pgoutput",
            "slot.name": name,
            "publication.name": name,
            "table.include.list": r"public\..*",
            "topic.creation.enable": "true",
            "topic.creation.default.replication.factor": "1",
            "topic.creation.default.partitions": str(partitions),
            **settings,
        }

    return connector


class ConnectView:
    """Records as Kafka Connect sees them behind its converter: its own JSON, `{"schema": …, "payload": …}`."""

    def __init__(self, directory: Path, jars: Installation, registry: str) -> None:
        self._directory = directory
        self._jars = jars
        self._settings = [f"{name}={value}" for name, value in converter_settings(registry).items()]

    def __call__(self, records: Sequence[StoredRecord]) -> list[tuple[Any, Any]]:
        """The key and the value of each record; None for null."""
        lines = [
            f"{record.topic} {part} {data.hex()}"
            for record in records
            for part, data in (("key", record.key), ("value", record.value))
            if data is not None
        ]
        seen = iter(json.loads(line) for line in self._java("ConnectView", *self._settings, said="\n".join(lines)))
        return [
            (None if record.key is None else next(seen), None if record.value is None else next(seen))
            for record in records
        ]

    def _java(self, *arguments: str, said: str) -> list[str]:
        command = [str(find_java()), *JVM, "-cp", f"{self._program}:{self._class_path}", *arguments]
        done = subprocess.run(command, input=said, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @property
    def _class_path(self) -> str:
        return ":".join(map(str, [*self._jars.connect.iterdir(), *self._jars.converter_jars()]))

    @cached_property
    def _program(self) -> Path:
        (compiler,) = self._jars.compiler.iterdir()
        command = [str(find_java()), *JVM, "-jar", str(compiler), "--release", "21", "-cp", self._class_path]
        subprocess.run([*command, "-d", str(self._directory), str(HERE / "ConnectView.java")], check=True)
        return self._directory


@pytest.fixture(scope="session")
def connect_view(
    tmp_path_factory: pytest.TempPathFactory, installation: Installation, schema_registry_url: str
) -> ConnectView:
    """`connect_view(records)`: their keys and values as Connect's JSON."""
    return ConnectView(tmp_path_factory.mktemp("connect-view"), installation, schema_registry_url)


class Topics:
    """What topics of the session's broker hold now."""

    def __init__(self, kafka: str) -> None:
        self._settings = LogSettings(url=f"kafka://{kafka}")

    def count(self, topic: str) -> int:
        """Its records; 0 if it is not there."""
        with self._reading(topic) as (_, offsets):
            return sum(held.next - held.first for held in offsets.values())

    def read(self, topic: str) -> list[StoredRecord]:
        with self._reading(topic) as (reader, offsets):
            records: list[StoredRecord] = []
            reader.assign({partition: held.first for partition, held in offsets.items()})
            while len(records) < sum(held.next - held.first for held in offsets.values()):
                records += reader.poll(10_000, 1.0)
            return records

    @contextmanager
    def _reading(self, topic: str) -> Iterator[tuple[LogReader, dict[TopicPartition, Offsets]]]:
        with open_log(self._settings) as log, closing(log.reader("compat")) as reader:
            partitions = [TopicPartition(topic, number) for number in range(reader.topics().get(topic, 0))]
            yield reader, {partition: reader.offsets(partition) for partition in partitions}


@pytest.fixture(scope="session")
def topics(kafka: str) -> Topics:
    return Topics(kafka)


CAPTURE = """\
[source]
url = "{source}"
tables = ["public.*"]
slot = "{name}"

[log]
url = "kafka://{kafka}"
prefix = "{name}"
partitions = 2

[registry]
url = "{registry}"
"""


@pytest.fixture(scope="session")
def capture_config(
    tmp_path_factory: pytest.TempPathFactory, kafka: str, schema_registry_url: str
) -> Callable[[str, str], Path]:
    """`capture_config(name, source)`: a configuration with which `cdc capture` writes to the session's broker."""

    def config(name: str, source: str) -> Path:
        path = tmp_path_factory.mktemp("capture") / "cdc.toml"
        path.write_text(CAPTURE.format(name=name, source=source, kafka=kafka, registry=schema_registry_url))
        return path

    return config


class Kind(NamedTuple):
    """A column of a type, two values of it in SQL, and what Kafka Connect calls it (type and name)."""

    type: str
    first: str
    second: str
    seen: tuple[str, str | None]


KINDS = {
    "a_boolean": Kind("boolean", "true", "false", ("boolean", None)),
    "a_bit": Kind("bit(1)", "B'1'", "B'0'", ("boolean", None)),
    "bits": Kind("bit(12)", "B'100000100101'", "B'100000000001'", ("bytes", "io.debezium.data.Bits")),
    "varbits": Kind(
        "bit varying(16)", "B'1000001001010001'", "B'1000000000010111'", ("bytes", "io.debezium.data.Bits")
    ),
    "a_smallint": Kind("smallint", "-32768", "32767", ("int16", None)),
    "an_integer": Kind("integer", "-2147483648", "2147483647", ("int32", None)),
    "a_bigint": Kind("bigint", "-9223372036854775808", "9223372036854775807", ("int64", None)),
    "an_oid": Kind("oid", "0", "4294967295", ("int64", None)),
    "a_real": Kind("real", "1.17549435e-38", "0.1", ("float", None)),
    "a_double": Kind("double precision", "2.2250738585072014e-308", "0.1", ("double", None)),
    "a_text": Kind("text", r"E'h\u00e9\n\U0001F600'", "''", ("string", None)),
    "a_varchar": Kind("character varying(20)", "'twenty characters...'", "'x'", ("string", None)),
    "a_char": Kind("character(5)", "'ab'", "'abcde'", ("string", None)),
    "an_inet": Kind("inet", "'10.1.2.3/24'", "'::1'", ("string", None)),
    "a_cidr": Kind("cidr", "'10.1.2.0/24'", "'fe80::/10'", ("string", None)),
    "a_macaddr": Kind("macaddr", "'08:00:2b:01:02:03'", "'ff:ff:ff:ff:ff:ff'", ("string", None)),
    "an_int4range": Kind("int4range", "'[1,10)'", "'empty'", ("string", None)),
    "an_int8range": Kind("int8range", "'[1,)'", "'(,5)'", ("string", None)),
    "a_numrange": Kind("numrange", "'[1.5,2.5]'", "'(,)'", ("string", None)),
    "a_tsrange": Kind("tsrange", "'[2020-01-01,2021-01-01)'", "'empty'", ("string", None)),
    "a_tstzrange": Kind("tstzrange", "'[2020-01-01 00:00:00+00,)'", "'empty'", ("string", None)),
    "a_daterange": Kind("daterange", "'[2020-01-01,2020-02-01)'", "'empty'", ("string", None)),
    "a_numeric": Kind("numeric(12,3)", "-123456789.125", "0.001", ("bytes", "org.apache.kafka.connect.data.Decimal")),
    "whole": Kind("numeric(20,0)", "12345678901234567890", "-1", ("bytes", "org.apache.kafka.connect.data.Decimal")),
    "any_numeric": Kind(
        "numeric", "123456789012345678901234567890.0001", "-0.5", ("struct", "io.debezium.data.VariableScaleDecimal")
    ),
    "a_money": Kind("money", "'-92233720368547758.08'", "'12.50'", ("bytes", "org.apache.kafka.connect.data.Decimal")),
    "a_date": Kind("date", "'0001-01-01'", "'9999-12-31'", ("int32", "io.debezium.time.Date")),
    "a_time": Kind(
        "time(6) without time zone", "'23:59:59.999999'", "'00:00'", ("int64", "io.debezium.time.MicroTime")
    ),
    "a_timetz": Kind(
        "time(6) with time zone", "'12:34:56.789+00'", "'00:00+00'", ("string", "io.debezium.time.ZonedTime")
    ),
    "a_timestamp": Kind(
        "timestamp(6) without time zone",
        "'2026-01-31 12:34:56.123456'",
        "'1969-12-31 23:59:59.999999'",
        ("int64", "io.debezium.time.MicroTimestamp"),
    ),
    "a_timestamptz": Kind(
        "timestamp(6) with time zone",
        "'2026-01-31 12:34:56.123456+00'",
        "'infinity'",
        ("string", "io.debezium.time.ZonedTimestamp"),
    ),
    "an_interval": Kind(
        "interval", "'1 year 2 mons 3 days 04:05:06.7'", "'-3 days'", ("string", "io.debezium.time.Interval")
    ),
    "a_bytea": Kind("bytea", r"'\x00ff'", "''", ("bytes", None)),
    "a_uuid": Kind(
        "uuid", "'9f1c1a36-9d2e-4a5f-8f66-0123456789ab'", "gen_random_uuid()", ("string", "io.debezium.data.Uuid")
    ),
    "a_json": Kind("json", """'{"a": [1, null, "x"]}'""", "'null'", ("string", "io.debezium.data.Json")),
    "a_jsonb": Kind("jsonb", """'{"a": [1, null, "x"]}'""", "'3'", ("string", "io.debezium.data.Json")),
    "a_tsvector": Kind("tsvector", "'cat:1 fat:2'", "'rat'", ("string", "io.debezium.data.Tsvector")),
    "a_mood": Kind("mood", "'happy'", "'sad'", ("string", "io.debezium.data.Enum")),
    "an_email": Kind("email", "'a@b.c'", "'x@y.z'", ("string", None)),
    "integers": Kind("integer[]", "'{1,NULL,3}'", "'{}'", ("array", None)),
    "texts": Kind("text[]", """'{a,"b c",NULL}'""", "'{}'", ("array", None)),
}


class KindsTable:
    """A table with a column of each common type."""

    columns = KINDS
    types = "CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN email AS text"

    def ddl(self, table: str) -> str:
        columns = "".join(f", {name} {kind.type}" for name, kind in KINDS.items())
        return f"CREATE TABLE {table} (id bigint PRIMARY KEY{columns})"

    def insert(self, table: str, start: int = 1) -> str:
        """Three rows: two of values, one of NULLs."""
        first = ", ".join(kind.first for kind in KINDS.values())
        second = ", ".join(kind.second for kind in KINDS.values())
        insert = f"INSERT INTO {table} VALUES"
        return f"{insert} ({start}, {first}), ({start + 1}, {second}); {insert} ({start + 2})"


@pytest.fixture(scope="session")
def kinds() -> KindsTable:
    return KindsTable()
