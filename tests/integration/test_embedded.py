"""The embedded servers start, answer, stop, and keep their data when they are killed."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pymysql
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient

from cdc.core.errors import CdcError
from cdc.embedded import EmbeddedKafka, EmbeddedMariaDB, EmbeddedPostgres, EmbeddedRegistry, binaries, jars, java
from cdc.embedded.account import Account
from cdc.embedded.binaries import find_binaries
from cdc.embedded.cache import kept_directory
from cdc.embedded.ports import accepts_connections

VERSIONS = (15, 16, 18)


def query(url: str, statement: str) -> object:
    with psycopg.connect(url, autocommit=True) as connection:
        row = connection.execute(statement).fetchone()
        assert row is not None
        return row[0]


def execute(url: str, statement: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement)


def listening_addresses(pid: int) -> set[str]:
    connections = psutil.Process(pid).net_connections("tcp")
    return {found.laddr.ip.removeprefix("::ffff:") for found in connections if found.status == psutil.CONN_LISTEN}


# PostgreSQL


@pytest.mark.parametrize("version", VERSIONS)
def test_postgres_keeps_what_was_committed_when_killed_and_restarted(version, own_postgres):
    server = own_postgres(version=version, synchronous_commit="on")
    execute(server.url(), "CREATE TABLE kept AS SELECT 7 AS number")
    port, backends = server.port, psutil.Process(server._process.pid).children()
    assert query(server.url(), "SHOW server_version_num").startswith(str(version))
    assert query(server.url(), "SHOW wal_level") == "logical"

    server.kill()

    assert not server.running
    assert not accepts_connections(port)
    assert [b for b in backends if b.is_running() and b.status() != psutil.STATUS_ZOMBIE] == []
    server.start()
    assert server.port == port
    assert query(server.url(), "SELECT number FROM kept") == 7
    server.restart()
    assert query(server.url(), "SELECT number FROM kept") == 7
    server.stop()
    assert not accepts_connections(port)


def test_the_next_server_in_a_directory_takes_over_its_cluster(tmp_path):
    with EmbeddedPostgres(tmp_path) as server:
        execute(server.url(), "CREATE TABLE kept AS SELECT 7 AS number")
        execute(server.url(), "ALTER SYSTEM SET work_mem = '5MB'")
        assert query(server.url(), "SHOW fsync") == "on"
    with EmbeddedPostgres(tmp_path, settings={"work_mem": "6MB", "fsync": "off"}) as server:
        assert query(server.url(), "SELECT number FROM kept") == 7
        assert query(server.url(), "SHOW work_mem") == "5MB"
        assert query(server.url(), "SHOW fsync") == "off"


def test_no_permissions_change_above_the_data_directory(tmp_path):
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    with EmbeddedPostgres(closed / "server") as server:
        assert query(server.url(), "SELECT 1") == 1
    assert closed.stat().st_mode & 0o777 == 0o700
    assert server.data_directory.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("version", VERSIONS)
def test_a_created_user_must_give_the_password(version, pg_server, unique_name):
    server = pg_server(version)
    url = server.create_user(unique_name, "p@ss:w/rd", "LOGIN REPLICATION")
    assert query(url, "SELECT current_user") == unique_name
    for replication in ("", "?replication=database"):
        wrong = server.url(user=unique_name, password="wrong") + replication
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(wrong)
        psycopg.connect(url + replication).close()


@pytest.mark.parametrize("version", VERSIONS)
def test_programs_of_that_version_run(version, pg_server):
    said = subprocess.run(
        [pg_server(version).bin("pg_recvlogical"), "--version"], capture_output=True, text=True, check=True
    )
    assert re.search(rf"\(PostgreSQL\) {version}\.", said.stdout)


def test_a_version_that_is_not_there_says_how_to_get_it():
    with pytest.raises(CdcError, match="PostgreSQL 9 is not installed") as raised:
        find_binaries(9)
    assert "postgresql-9" in raised.value.mend


def test_a_refused_setting_shows_the_servers_own_words(tmp_path):
    server = EmbeddedPostgres(tmp_path, settings={"no_such_setting": "1"})
    with pytest.raises(CdcError, match='unrecognized configuration parameter "no_such_setting"'):
        server.start()
    assert not server.running


def test_a_database_is_dropped_with_all_that_holds_on_to_it(pg_server, unique_name):
    server = pg_server(18)
    url = server.create_database(unique_name)
    with psycopg.connect(url, autocommit=True) as open_connection:
        open_connection.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [unique_name])
        execute(url, f"BEGIN; CREATE TABLE half_done (); PREPARE TRANSACTION '{unique_name}'")
        server.drop_database(unique_name)
    assert query(server.url(), f"SELECT count(*) FROM pg_database WHERE datname = '{unique_name}'") == 0
    assert query(server.url(), f"SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{unique_name}'") == 0


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")

AS_ORDINARY_USER = """
import os, pwd, sys, psycopg
import cdc.embedded.crash  # while it can be read: Python may lie in the home of root
from pathlib import Path
from cdc.embedded.account import Account
from cdc.embedded.binaries import binaries_for
from cdc.embedded.postgres import EmbeddedPostgres

nobody = pwd.getpwnam("nobody")
versions = (15, 16, 18)
for version in versions:
    binaries_for(version, Account(nobody.pw_uid, nobody.pw_gid))
os.setgroups([])
os.setgid(nobody.pw_gid)
os.setuid(nobody.pw_uid)

for version in versions:
    with EmbeddedPostgres(Path(sys.argv[1]) / str(version), version=version) as server:
        with psycopg.connect(server.url()) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 1")
        server.kill()
        server.start()
        with psycopg.connect(server.url()) as connection:
            print(version, *connection.execute("SELECT count(*) FROM kept").fetchone())
"""


@pytest.fixture
def nobodys_directory() -> Iterator[Path]:
    nobody = pwd.getpwnam("nobody")
    with tempfile.TemporaryDirectory() as directory:
        os.chown(directory, nobody.pw_uid, nobody.pw_gid)
        yield Path(directory)


@as_root
def test_postgres_runs_for_an_ordinary_user(nobodys_directory):
    done = subprocess.run(
        [sys.executable, "-c", AS_ORDINARY_USER, str(nobodys_directory)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["15 1", "16 1", "18 1"], done.stderr


@as_root
def test_binaries_out_of_reach_are_copied(tmp_path, nobodys_directory, monkeypatch):
    nobody = Account(*nobodys_directory.stat()[4:6])
    closed = tmp_path / "pginstall18"
    shutil.copytree(find_binaries(18).parent, closed)
    tmp_path.chmod(0o700)
    monkeypatch.setattr(binaries, "find_binaries", lambda _: closed / "bin")
    monkeypatch.setattr(binaries, "_SHARED_CACHE", nobodys_directory / "cache")
    monkeypatch.setenv("CDC_CACHE", str(tmp_path / "cache"))

    copied = binaries.binaries_for.__wrapped__(18, nobody)

    assert nobodys_directory in copied.parents
    said = subprocess.run(
        [copied / "postgres", "--version"],
        user=nobody.uid,
        group=nobody.gid,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "PostgreSQL) 18." in said.stdout


# Servers and the process that started them

DIES_WITHOUT_STOPPING_IT = """
import os, signal, sys, threading
from pathlib import Path
from cdc.embedded.postgres import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
starter = threading.Thread(target=server.start)  # it must not end with the thread that started it
starter.start()
starter.join()
print(server._process.pid, server.port, flush=True)
sys.stdin.read()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_server_stops_when_its_process_is_killed(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", DIES_WITHOUT_STOPPING_IT, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    pid, port = map(int, owner.stdout.readline().split())
    server = psutil.Process(pid)
    assert accepts_connections(port)

    owner.communicate()

    assert owner.returncode == -signal.SIGKILL
    wait_until_ended(server)
    assert not accepts_connections(port)


def wait_until_ended(server: psutil.Process) -> None:
    """It is not our child: where nobody reaps orphans it stays as a zombie."""
    for _ in range(1000):
        if not server.is_running() or server.status() == psutil.STATUS_ZOMBIE:
            return
        threading.Event().wait(0.01)
    pytest.fail("still running")


# MariaDB


def test_mariadb_keeps_what_was_committed_when_killed_and_restarted(own_mariadb: Callable[..., EmbeddedMariaDB]):
    server = own_mariadb(innodb_flush_log_at_trx_commit="1")
    url = server.create_database("kept")
    assert url == f"mysql://root@127.0.0.1:{server.port}/kept?ssl_disabled=true"
    server.execute("CREATE TABLE kept.t AS SELECT 7 AS number", "CREATE USER other IDENTIFIED BY 'secret'")
    assert listening_addresses(server._process.pid) == {"127.0.0.1"}
    if os.geteuid() == 0:
        assert psutil.Process(server._process.pid).uids().real != 0
    server.kill()
    assert not server.running
    server.start()
    with pymysql.connect(host="127.0.0.1", port=server.port, user="root") as session, session.cursor() as cursor:
        cursor.execute("SELECT number FROM kept.t")
        assert cursor.fetchall() == ((7,),)
    with pytest.raises(pymysql.err.OperationalError, match="Access denied"):
        pymysql.connect(host="127.0.0.1", port=server.port, user="other", password="wrong")


def test_a_refused_option_of_mariadb_shows_the_servers_own_words(tmp_path):
    refused = EmbeddedMariaDB(tmp_path, settings={"no-such-option": "1"})
    with pytest.raises(CdcError, match="no-such-option"), refused:
        pytest.fail("started")


# Kafka


def produce(server: EmbeddedKafka, topic: str, value: bytes) -> None:
    delivered: list[object] = []
    producer = Producer({"bootstrap.servers": server.bootstrap_servers})
    producer.produce(topic, value, on_delivery=lambda error, _: delivered.append(error))
    producer.flush(30)
    assert delivered == [None]


def values(server: EmbeddedKafka, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": server.bootstrap_servers, "group.id": "test"})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        messages = consumer.consume(count, timeout=30)
        assert all(message.error() is None for message in messages)
        return [message.value() for message in messages]
    finally:
        consumer.close()


def create_topic(server: EmbeddedKafka, topic: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.bootstrap_servers})
    admin.create_topics([NewTopic(topic, num_partitions=1, replication_factor=1)])[topic].result(30)


def test_kafka_keeps_what_was_acknowledged_when_killed_and_restarted(own_kafka: Callable[..., EmbeddedKafka]):
    server = own_kafka()
    address = server.bootstrap_servers
    assert listening_addresses(server.pid) == {"127.0.0.1"}
    create_topic(server, "kept")
    produce(server, "kept", b"before")

    server.kill()

    assert not server.running
    assert not accepts_connections(server.port)
    server.start()
    assert server.bootstrap_servers == address
    produce(server, "kept", b"after the crash")
    server.restart()
    produce(server, "kept", b"after the stop")
    assert values(server, "kept", 3) == [b"before", b"after the crash", b"after the stop"]
    server.stop()
    assert not accepts_connections(server.port)


def test_kafka_creates_no_topic_by_itself(kafka, unique_name):
    admin = AdminClient({"bootstrap.servers": kafka})
    assert admin.list_topics(unique_name, timeout=10).topics[unique_name].error is not None
    assert unique_name not in admin.list_topics(timeout=10).topics


def test_kafkas_error_is_in_ours(tmp_path):
    server = EmbeddedKafka(tmp_path, settings={"node.id": "-5"})
    with pytest.raises(CdcError, match=r"node\.id"):
        server.start()
    assert not server.running


# Schema registry


def test_registry_keeps_schemas_when_killed_and_restarted(own_registry: Callable[[], EmbeddedRegistry]):
    server = own_registry()
    assert listening_addresses(server.pid) == {"127.0.0.1"}
    schema = Schema('{"type":"record","name":"kept","fields":[{"name":"a","type":"int"}]}', "AVRO")
    with SchemaRegistryClient({"url": server.url}) as client:
        schema_id = client.register_schema("kept-value", schema)

    for end in (server.kill, server.stop):
        end()
        assert not accepts_connections(server.port)
        server.start()
        with SchemaRegistryClient({"url": server.url}) as client:
            assert client.get_schema(schema_id).schema_str == schema.schema_str
            assert client.get_latest_version("kept-value").schema_id == schema_id


# What is fetched and kept


def test_a_kept_directory_is_there_whole_or_not_at_all(tmp_path):
    def fill_half(empty: Path) -> None:
        (empty / "half").touch()
        raise CdcError("the network went away")

    with pytest.raises(CdcError, match="went away"):
        kept_directory(tmp_path, "thing", fill_half)
    assert not (tmp_path / "thing").exists()

    kept = kept_directory(tmp_path, "thing", lambda empty: (empty / "whole").touch())
    assert [path.name for path in kept.iterdir()] == ["whole"]
    assert kept_directory(tmp_path, "thing", fill_half) == kept


def test_a_kept_directory_is_made_by_one_of_many(tmp_path):
    makers: list[int] = []
    together = threading.Barrier(4)

    def ask() -> None:
        together.wait()
        kept_directory(tmp_path, "thing", lambda _: makers.append(1))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert makers == [1]


def test_an_artifact_that_is_not_the_locked_one_is_refused(tmp_path, monkeypatch):
    forged = tmp_path / "forged.jar"
    forged.write_bytes(b"not what was locked")
    monkeypatch.setattr(jars, "fetcher", lambda _: lambda _: forged)
    artifact = jars.LockedArtifact(jars.Coordinates("org.example", "thing", "1"), "0" * 64)
    with pytest.raises(CdcError, match=r"org\.example:thing:1: what was fetched is not what the lock file says"):
        jars.download((artifact,), tmp_path)


def test_java_is_the_wheels_own():
    said = subprocess.run([java.find_java(), "--version"], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("openjdk 21.")
