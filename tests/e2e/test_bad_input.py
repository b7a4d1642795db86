"""What users get wrong ends in `error: what` and `mend: how`, the right exit code, and no traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import psycopg
import pytest

from cdc.cli.options import load_settings
from cdc.core.log import Record, TopicSpec
from cdc.core.settings import LogSettings
from cdc.embedded import EmbeddedPostgres
from cdc.log.open import open_log
from cdc.sources.postgres.connection import ReplicationConnection
from consumers.targets.open import open_target

PATIENCE_SECONDS = 180.0
NOWHERE = "127.0.0.1:1"  # tcpmux: nothing listens there
PASSWORD = "n0t-for-anybodys-eyes"


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str


class Site:
    """A folder with a configuration, and the real command run there."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.name = name
        self.log = f"sqlite:///{folder / 'log.db'}"
        self.source = ""
        self.target = f"sqlite:///{folder / 'replica.db'}"

    @property
    def config(self) -> Path:
        return self.folder / "cdc.toml"

    def configure(self, *, tables: str = "public.*", log: str = "", registry: str = "", more: str = "") -> None:
        lines = [
            *("[source]", f'url = "{self.source}"', f'tables = ["{tables}"]', f'slot = "{self.name}"'),
            *(f'publication = "{self.name}"', "[log]", f'url = "{log or self.log}"', f'prefix = "{self.name}"', more),
            *(["[registry]", f'url = "{registry}"'] if registry else []),
            *("[targets.replica]", f'url = "{self.target}"'),
        ]
        self.config.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "cdc", *arguments]

    def cdc(self, *arguments: str) -> Ended:
        done = subprocess.run(
            self.command(*arguments),
            cwd=self.folder,
            env=_environment(),
            capture_output=True,
            text=True,
            timeout=PATIENCE_SECONDS,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextmanager
    def capturing(self, *arguments: str) -> Iterator[None]:
        """A capture that streams for as long as the context lasts."""
        process = subprocess.Popen(
            self.command("capture", *arguments),
            cwd=self.folder,
            env=_environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            try:
                said = []
                for line in process.stderr:
                    said.append(line)
                    if line.endswith("capture: streaming\n"):
                        break
                else:
                    pytest.fail(f"capture ended: {said}")
                yield
            finally:
                process.terminate()
                process.stderr.read()
        assert process.returncode == 0

    def capture_once(self, *arguments: str) -> None:
        with self.capturing(*arguments):
            pass

    def refused(self, *arguments: str, what: str, mend: str, code: int = 1) -> Ended:
        """The command must end with this error, and say so in two lines and nothing else of its own."""
        ended = self.cdc(*arguments)
        assert "Traceback" not in ended.stderr, ended.stderr
        errors = re.findall(r"^error: (.+)$", ended.stderr, re.MULTILINE)
        mends = re.findall(r"^  mend: (.+)$", ended.stderr, re.MULTILINE)
        assert len(errors) == 1, ended
        assert re.search(what, errors[0]), errors
        assert len(mends) == 1, ended
        assert re.search(mend, mends[0]), mends
        assert ended.stderr.endswith(f"error: {errors[0]}\n  mend: {mends[0]}\n"), ended.stderr
        assert ended.code == code
        assert PASSWORD not in ended.stderr + ended.stdout
        return ended

    def check(self) -> dict[str, dict[str, str | bool | None]]:
        ended = self.cdc("check", "--json")
        assert "Traceback" not in ended.stderr, ended.stderr
        found = json.loads(ended.stdout)
        assert ended.code == (0 if all(line["ok"] for line in found) else 1)
        return {line["name"]: line for line in found}


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("CDC_", "COVERAGE_CONFIG"))}


def execute(url: str, *statements: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement)


@pytest.fixture
def bare(tmp_path: Path, unique_name: str) -> Site:
    """A site whose source is not there."""
    site = Site(tmp_path, unique_name)
    site.source = f"postgresql://cdc:{PASSWORD}@{NOWHERE}/shop"
    return site


@pytest.fixture
def site(bare: Site, new_database: Callable[..., str]) -> Site:
    """A site whose source has one table."""
    bare.source = new_database()
    execute(bare.source, "CREATE TABLE items (id int PRIMARY KEY, body text)", "INSERT INTO items VALUES (1, 'a')")
    bare.configure()
    return bare


class TestConfiguration:
    @pytest.mark.parametrize("command", [("capture",), ("apply", "replica"), ("check",)])
    def test_no_file(self, bare: Site, command: tuple[str, ...]) -> None:
        bare.refused(*command, what=r"cdc\.toml does not exist", mend="cdc init", code=2)

    def test_unknown_key(self, bare: Site) -> None:
        bare.configure(more='partition = 3 # not "partitions"')
        bare.refused("capture", what=r"cdc\.toml:9: .*partition", mend="cdc init", code=2)

    def test_wrong_type(self, bare: Site) -> None:
        bare.configure(more='partitions = "three"')
        bare.refused("capture", what=r"cdc\.toml:9: .*partitions", mend=".", code=2)

    def test_unset_variable(self, bare: Site) -> None:
        bare.source = "postgresql://cdc:${CDC_NO_SUCH_VARIABLE}@db/shop"
        bare.configure()
        bare.refused("capture", what=r"cdc\.toml:2: .*CDC_NO_SUCH_VARIABLE", mend=".", code=2)

    def test_unknown_target(self, bare: Site) -> None:
        bare.configure()
        bare.refused("apply", "warehouse", what="no target 'warehouse'", mend="replica", code=2)


class TestUnreachable:
    def test_source(self, bare: Site) -> None:
        bare.configure()
        bare.refused("capture", what=r"connecting to the source|checking the source", mend="host, port")
        assert not bare.check()["source"]["ok"]

    def test_broker(self, site: Site) -> None:
        site.configure(log=f"kafka://{NOWHERE}")
        site.refused("capture", what=re.escape(NOWHERE), mend=r"\[log\] url")

    def test_registry(self, site: Site) -> None:
        site.configure(registry=f"http://{NOWHERE}")
        site.refused("capture", what=r"registry", mend=r"\[registry\] url")
        found = site.check()
        assert found["source tables"]["ok"]
        assert not found["registry"]["ok"]

    def test_target(self, site: Site) -> None:
        site.target = f"postgresql://cdc:{PASSWORD}@{NOWHERE}/warehouse"
        site.configure()
        site.refused("apply", "replica", what="connect", mend="target|url|host")
        assert not site.check()["target replica"]["ok"]


class TestSource:
    def test_wal_level(self, bare: Site, own_postgres: Callable[..., EmbeddedPostgres]) -> None:
        bare.source = own_postgres(wal_level="replica").url()
        bare.configure(tables="*.*")
        bare.refused("capture", what="wal_level is replica", mend="ALTER SYSTEM SET wal_level = logical")
        assert not bare.check()["source wal_level"]["ok"]

    def test_slots_and_walsenders(self, bare: Site, own_postgres: Callable[..., EmbeddedPostgres]) -> None:
        server = own_postgres(max_replication_slots="1", max_wal_senders="1")
        bare.source = server.url()
        bare.configure()
        execute(
            bare.source,
            "CREATE TABLE items (id int PRIMARY KEY)",
            "SELECT pg_create_physical_replication_slot('taken')",
        )
        bare.refused("capture", what="1 of 1 slots", mend="max_replication_slots")

        execute(bare.source, "SELECT pg_drop_replication_slot('taken')")
        with psycopg.connect(bare.source, autocommit=True, replication="database"):
            bare.refused("capture", what="WAL senders: 1 of 1", mend="max_wal_senders")
        bare.capture_once()

    def test_role_without_replication(
        self, site: Site, pg_server: Callable[[int], EmbeddedPostgres], unique_name: str
    ) -> None:
        server = pg_server(18)
        server.create_user(unique_name, PASSWORD)
        database = site.source.rpartition("/")[2]
        site.source = server.url(database, unique_name, PASSWORD)
        site.configure()
        site.refused("capture", what=f"{unique_name} may not replicate", mend=f'ALTER ROLE "{unique_name}" REPLICATION')

        site.source = server.url(database, unique_name, "wrong")
        site.configure()
        site.refused("capture", what="password authentication failed", mend="password")

    def test_role_that_lacks_rights(
        self, site: Site, pg_server: Callable[[int], EmbeddedPostgres], unique_name: str
    ) -> None:
        """What `cdc check` says mends it is all that is missing."""
        server, admin, database = pg_server(18), site.source, site.source.rpartition("/")[2]
        server.create_user(unique_name, PASSWORD, "LOGIN REPLICATION")
        execute(admin, "CREATE SCHEMA far", "CREATE TABLE far.away (id int PRIMARY KEY)")
        execute(admin, f"GRANT SELECT (id) ON items TO {unique_name}")  # too little to lock it
        site.source = server.url(database, unique_name, PASSWORD)
        site.configure(tables="*.*")
        found = site.check()
        assert found["source rights"]["found"] == f"role {unique_name} may not read far.away and 1 more of the tables"
        assert not found["source publication"]["ok"]
        for name in ("source rights", "source publication"):
            execute(admin, str(found[name]["mend"]))
        assert all(line["ok"] for line in site.check().values())
        site.capture_once()
        execute(admin, f"DROP OWNED BY {unique_name}")

    def test_policies_that_hide_rows(
        self, site: Site, pg_server: Callable[[int], EmbeddedPostgres], unique_name: str
    ) -> None:
        """The stream has their changes: a load without them would look complete."""
        server, admin, database = pg_server(18), site.source, site.source.rpartition("/")[2]
        server.create_user(unique_name, PASSWORD, "LOGIN REPLICATION")
        execute(
            admin,
            "ALTER TABLE items ENABLE ROW LEVEL SECURITY",
            f"GRANT SELECT ON items TO {unique_name}",
            f"CREATE PUBLICATION {site.name} FOR TABLE items WITH (publish_via_partition_root = true)",
        )
        site.source = server.url(database, unique_name, PASSWORD)
        site.configure()
        found = site.check()["source row-level security"]
        assert found["found"] == f"policies hide rows of public.items from role {unique_name}"
        site.refused("capture", what="row-level security", mend="BYPASSRLS")
        execute(admin, str(found["mend"]))
        assert "source row-level security" not in site.check()
        site.capture_once()
        execute(admin, f"DROP OWNED BY {unique_name}")

    def test_the_owner_of_tables_that_may_not_make_a_publication(
        self, site: Site, pg_server: Callable[[int], EmbeddedPostgres], unique_name: str
    ) -> None:
        server, admin, database = pg_server(18), site.source, site.source.rpartition("/")[2]
        server.create_user(unique_name, PASSWORD, "LOGIN REPLICATION")
        execute(admin, f"ALTER TABLE items OWNER TO {unique_name}")
        site.source = server.url(database, unique_name, PASSWORD)
        site.configure()
        found = site.check()["source publication"]
        assert "may not make it in database" in str(found["found"])
        execute(admin, str(found["mend"]))
        assert site.check()["source publication"]["ok"]
        site.capture_once()
        execute(admin, f"REASSIGN OWNED BY {unique_name} TO CURRENT_USER", f"DROP OWNED BY {unique_name}")

    def test_teardown_by_a_role_that_is_no_superuser(
        self, site: Site, pg_server: Callable[[int], EmbeddedPostgres], unique_name: str
    ) -> None:
        """Its rights are those that the README gives it; a superuser ran what `cdc triggers` prints."""
        server, admin, database = pg_server(18), site.source, site.source.rpartition("/")[2]
        server.create_user(unique_name, PASSWORD, "LOGIN REPLICATION")
        owner = f"{unique_name}_shop"
        execute(
            admin,
            f"CREATE ROLE {owner}",
            f"ALTER TABLE items OWNER TO {owner}",
            f"GRANT {owner} TO {unique_name}",
            f'GRANT CREATE ON DATABASE "{database}" TO {unique_name}',
            site.cdc("triggers").stdout,
        )
        site.source = server.url(database, unique_name, PASSWORD)
        site.configure()
        site.capture_once()

        refused = site.refused("teardown", "--yes", what="only a superuser may drop", mend="as superuser: DROP EVENT")
        execute(admin, refused.stderr.rpartition("as superuser: ")[2])
        assert site.cdc("teardown", "--yes").code == 0
        with psycopg.connect(admin) as connection:
            left = "SELECT slot_name FROM pg_replication_slots WHERE slot_name = %s UNION ALL SELECT pubname"
            left += " FROM pg_publication UNION ALL SELECT evtname FROM pg_event_trigger UNION ALL SELECT proname"
            left += " FROM pg_proc WHERE pronamespace = to_regnamespace('cdc')"
            assert connection.execute(left, [site.name]).fetchall() == []
        execute(admin, f"DROP OWNED BY {unique_name}", f"REASSIGN OWNED BY {owner} TO CURRENT_USER")
        execute(admin, f"DROP ROLE {owner}")

    def test_pattern_that_names_no_table(self, site: Site) -> None:
        site.configure(tables="public.itmes")
        site.refused("capture", what=r"public\.itmes", mend="pattern", code=2)
        assert not site.check()["source tables"]["ok"]

    def test_no_such_database(self, site: Site) -> None:
        site.source += "_not"
        site.configure()
        site.refused("capture", what="does not exist", mend="database")

    def test_table_without_key(self, site: Site) -> None:
        execute(site.source, "CREATE TABLE plain (a int)")
        found = site.check()["table public.plain"]
        assert found["ok"]
        assert "REPLICA IDENTITY FULL" in str(found["mend"])

        execute(site.source, "ALTER TABLE plain REPLICA IDENTITY FULL")
        assert site.check()["table public.plain"]["mend"] is None
        with site.capturing():
            execute(site.source, "INSERT INTO plain VALUES (1), (1)", "UPDATE plain SET a = 2", "DELETE FROM plain")
            ended = site.cdc("tail", "public.plain", "--from-start", "--count", "6")
        assert ended.code == 0
        assert len(ended.stdout.splitlines()) == 6


class TestSlot:
    def test_one_that_the_log_knows_nothing_of(self, site: Site) -> None:
        execute(site.source, f"SELECT pg_create_logical_replication_slot('{site.name}', 'pgoutput')")
        site.refused("capture", what=f"'{site.name}' exists, but this log knows nothing", mend="cdc teardown")
        assert site.cdc("teardown", "--yes").code == 0
        site.capture_once()

    def test_one_of_another_plugin(self, site: Site) -> None:
        execute(site.source, f"SELECT pg_create_physical_replication_slot('{site.name}')")
        try:
            site.refused("capture", what=f"'{site.name}' belongs to physical replication", mend="slot")
        finally:
            execute(site.source, f"SELECT pg_drop_replication_slot('{site.name}')")

    def test_a_deleted_log_and_a_target_of_another_log(self, site: Site) -> None:
        site.capture_once()
        self._fill_target(site)
        for path in site.folder.glob("log.db*"):
            path.unlink()
        site.refused("capture", what="knows nothing", mend="cdc teardown|log")

        site.capture_once("--start-over")
        site.refused("apply", "replica", what="belongs to another log", mend=r"\[log\] url and prefix")

    def test_a_missing_slot(self, site: Site) -> None:
        site.capture_once()
        execute(site.source, f"SELECT pg_drop_replication_slot('{site.name}')")
        site.refused("capture", what=f"'{site.name}' is missing .* may be lost", mend="--start-over")
        site.capture_once("--start-over")

    def test_two_captures_on_one_log(self, site: Site) -> None:
        with site.capturing():
            site.refused("capture", what=r"log\.db is written by process \d+", mend="stop it")

    def test_two_readers_of_one_slot(self, site: Site) -> None:
        site.capture_once()
        with ReplicationConnection(site.source, application_name="another reader") as other:
            other.start_stream(
                f"START_REPLICATION SLOT {site.name} LOGICAL 0/0 (proto_version '1', publication_names '{site.name}')",
                doing="reading the slot",
            )
            site.refused("capture", what=f"{site.name}.*is active", mend="stop the other capture")

    @staticmethod
    def _fill_target(site: Site) -> None:
        process = subprocess.Popen(
            site.command("apply", "replica"), cwd=site.folder, env=_environment(), stderr=subprocess.DEVNULL
        )
        with process:
            settings = load_settings(site.config).targets["replica"]
            checkpoint = None
            while checkpoint is None or checkpoint.log_id is None:
                assert process.poll() is None
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.1)
                with closing(open_target(settings)) as target:
                    checkpoint = target.read_checkpoint()
            process.terminate()


class TestLog:
    def test_a_topic_of_other_partitions(self, site: Site) -> None:
        _create_topic(LogSettings(url=site.log), f"{site.name}.public.items", 3)
        site.refused("capture", what=rf"{site.name}\.public\.items.* 3 ", mend="partitions|prefix")

    def test_a_kafka_topic_of_other_partitions(self, site: Site, kafka: str) -> None:
        _create_topic(LogSettings(url=f"kafka://{kafka}"), f"{site.name}.public.items", 3)
        site.configure(log=f"kafka://{kafka}")
        site.refused("capture", what=rf"{site.name}\.public\.items.* 3 ", mend="partitions|prefix")

    def test_a_schema_that_the_registry_refuses(self, site: Site, schema_registry_url: str) -> None:
        subject = f"{site.name}.public.items-value"
        other = {"type": "record", "name": "Envelope", "fields": [{"name": "nothing_of_ours", "type": "int"}]}
        _send(f"{schema_registry_url}/subjects/{subject}/versions", "POST", {"schema": json.dumps(other)})
        _send(f"{schema_registry_url}/config/{subject}", "PUT", {"compatibility": "BACKWARD"})
        site.configure(registry=schema_registry_url)
        site.refused("capture", what=subject, mend="compatib")

    def test_an_event_of_an_unknown_schema(self, site: Site) -> None:
        site.capture_once()
        topic = f"{site.name}.public.items"
        with open_log(LogSettings(url=site.log)) as log, closing(log.writer()) as writer:
            ticket = writer.append([Record(topic, 0, b"k", b"\x00\x00\x0f\x42\x40rest")])
            while writer.poll(1.0) < ticket:
                pass
        site.refused("apply", "replica", what=rf"{topic}', partition 0, offset 1: .*1000000", mend=r"\[registry\] url")


class TestTarget:
    def test_a_table_with_other_columns(self, site: Site, new_database: Callable[..., str]) -> None:
        site.target = new_database()
        execute(site.target, "CREATE TABLE items (id int PRIMARY KEY, something_else text)")
        site.configure()
        site.capture_once()
        site.refused("apply", "replica", what=r"public\.items.*(body|something_else)", mend="drop|ALTER|give|rename")

    @pytest.mark.parametrize("kind", ["postgresql", "sqlite"])
    def test_two_appliers(self, site: Site, kind: str, new_database: Callable[..., str]) -> None:
        if kind == "postgresql":
            site.target = new_database()
        site.configure()
        site.capture_once()
        with closing(open_target(load_settings(site.config).targets["replica"])) as first:
            first.open()
            site.refused("apply", "replica", "--no-wait", what="another applier.*'replica'", mend="stop it")


def _create_topic(settings: LogSettings, name: str, partitions: int) -> None:
    with open_log(settings) as log, closing(log.writer()) as writer:
        writer.create_topics([TopicSpec(name, partitions)])


def _send(url: str, method: str, body: object) -> None:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/vnd.schemaregistry.v1+json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=20) as response:
        response.read()
