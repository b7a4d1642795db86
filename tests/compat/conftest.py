"""Kafka Connect as others run it: its standalone worker, Apicurio's Avro converter, Debezium's connectors."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest

from cdc.core.errors import CdcError
from cdc.core.log import LogReader, Offsets, StoredRecord, TopicPartition
from cdc.core.settings import LogSettings
from cdc.embedded.connect import EmbeddedConnect, Installation, converter_settings, installed
from cdc.embedded.jars import fetched
from cdc.embedded.java import find_java
from cdc.log.open import open_log

HERE = Path(__file__).parent
PATIENCE_SECONDS = 180.0
PROMPT = {
    "offset.flush.interval.ms": "2000",
    "consumer.metadata.max.age.ms": "500",  # a sink finds new topics that soon, instead of after 5 minutes
}
JVM = ("-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData")


@pytest.fixture(scope="session")
def installation() -> Installation:
    """Kafka Connect and its plugins, fetched the first time."""
    try:
        return installed()
    except CdcError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{error}: {error.mend}")


class Connect(EmbeddedConnect):
    def await_saved_offsets(self) -> None:
        """Return when it has just saved offsets, which it does again after 2 s."""
        before = self._saved_at()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._saved_at() == before:
            assert time.monotonic() < deadline, f"no offsets are saved\n{self.log.read_text()[-4000:]}"
            time.sleep(0.05)  # between two looks at a server that tells no one when it changes

    def _saved_at(self) -> int:
        return self.offsets.stat().st_mtime_ns if self.offsets.exists() else 0


@pytest.fixture(scope="session")
def connect(
    tmp_path_factory: pytest.TempPathFactory, installation: Installation, kafka: str, schema_registry_url: str
) -> Iterator[Connect]:
    """The session's worker. Use connectors of your own, and remove them."""
    directory = tmp_path_factory.mktemp("connect")
    with Connect(directory, kafka=kafka, registry=schema_registry_url, settings=PROMPT, jvm_options=JVM) as worker:
        yield worker


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
        (compiler,) = fetched(HERE / "compiler.lock").iterdir()
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
