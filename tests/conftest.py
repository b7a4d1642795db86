"""Real servers for the tests: each started when the first test asks for it, and shared by all of the session."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from functools import cache
from pathlib import Path
from typing import TypeVar

import hypothesis
import pytest

from cdc.core.errors import CdcError
from cdc.embedded import EmbeddedKafka, EmbeddedMariaDB, EmbeddedPostgres, EmbeddedRegistry

TEST_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "200",
    "max_wal_senders": "50",
    "max_replication_slots": "50",
    "max_prepared_transactions": "20",
    "shared_buffers": "64MB",
}

MARIADB_SETTINGS = {
    "innodb-flush-log-at-trx-commit": "0",
    "innodb-buffer-pool-size": "64M",
    "innodb-log-file-size": "32M",
    "performance-schema": "OFF",
    "key-buffer-size": "1M",
}

# On a busy machine an example may take any time. All else is as it was chosen (hypothesis does so itself in CI).
hypothesis.settings.register_profile("any machine", hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("any machine")

PostgresServers = Callable[[int], EmbeddedPostgres]
Databases = Callable[..., str]
Server = TypeVar("Server")


def _running(stack: ExitStack, server: AbstractContextManager[Server]) -> Server:
    """Start it. Without a part that it needs, the test is skipped; where all must be there (CI), it fails."""
    try:
        return stack.enter_context(server)
    except CdcError as error:
        if error.mend is None or os.environ.get("CI") == "true":
            raise
        pytest.skip(f"{error}: {error.mend}")


@pytest.fixture(scope="session")
def pg_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServers]:
    """`pg_server(18)`: the session's PostgreSQL of that version. Don't stop it: others use it."""
    with ExitStack() as stack:

        @cache
        def server(version: int) -> EmbeddedPostgres:
            directory = tmp_path_factory.mktemp(f"postgres-{version}")
            return _running(stack, EmbeddedPostgres(directory, version=version, settings=TEST_SETTINGS))

        yield server


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Bootstrap servers of the session's broker. Use topic prefixes of your own."""
    with ExitStack() as stack:
        yield _running(stack, EmbeddedKafka(tmp_path_factory.mktemp("kafka"))).bootstrap_servers


@pytest.fixture(scope="session")
def schema_registry_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The session's registry. Use subjects of your own."""
    with ExitStack() as stack:
        yield _running(stack, EmbeddedRegistry(tmp_path_factory.mktemp("registry"))).url


@pytest.fixture
def unique_name() -> str:
    """A name for a prefix, a slot, a subject: no other test of the session has it."""
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def new_database(pg_server: PostgresServers) -> Iterator[Databases]:
    """`new_database()`, `new_database(version=15)`: the URL of an empty database, dropped after the test with its
    replication slots.
    """
    made: list[tuple[EmbeddedPostgres, str]] = []

    def database(*, version: int = 18) -> str:
        server = pg_server(version)
        name = f"t_{uuid.uuid4().hex[:12]}"
        made.append((server, name))
        return server.create_database(name)

    yield database
    for server, name in made:
        server.drop_database(name)


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMariaDB]:
    """The session's MariaDB. Don't stop it, nor change what others meet: use databases and users of your own."""
    with ExitStack() as stack:
        yield _running(stack, EmbeddedMariaDB(tmp_path_factory.mktemp("mariadb"), settings=MARIADB_SETTINGS))


@pytest.fixture
def new_mariadb(mariadb: EmbeddedMariaDB) -> Iterator[Callable[[], str]]:
    """`new_mariadb()`: the URL of an empty MariaDB database, dropped after the test."""
    made: list[str] = []

    def database() -> str:
        made.append(f"t_{uuid.uuid4().hex[:12]}")
        return mariadb.create_database(made[-1])

    yield database
    for name in made:
        mariadb.drop_database(name)


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[Callable[..., EmbeddedPostgres]]:
    """`own_postgres(version=18, **settings)`: a server of the test's own, to stop, kill and restart."""
    with ExitStack() as stack:

        def server(*, version: int = 18, **settings: str) -> EmbeddedPostgres:
            directory = tmp_path / f"postgres-{uuid.uuid4().hex[:6]}"
            return _running(stack, EmbeddedPostgres(directory, version=version, settings=TEST_SETTINGS | settings))

        yield server


@pytest.fixture
def own_mariadb(tmp_path: Path) -> Iterator[Callable[..., EmbeddedMariaDB]]:
    """`own_mariadb(**settings)`: a server of the test's own, to stop, kill and restart. `_` stands for `-`."""
    with ExitStack() as stack:

        def server(**settings: str) -> EmbeddedMariaDB:
            named = {name.replace("_", "-"): value for name, value in settings.items()}
            directory = tmp_path / f"mariadb-{uuid.uuid4().hex[:6]}"
            return _running(stack, EmbeddedMariaDB(directory, settings=MARIADB_SETTINGS | named))

        yield server


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[Callable[..., EmbeddedKafka]]:
    """`own_kafka(**settings)`: a broker of the test's own, to stop, kill and restart. `_` stands for `.`."""
    with ExitStack() as stack:

        def server(**settings: str) -> EmbeddedKafka:
            named = {name.replace("_", "."): value for name, value in settings.items()}
            return _running(stack, EmbeddedKafka(tmp_path / f"kafka-{uuid.uuid4().hex[:6]}", settings=named))

        yield server


@pytest.fixture
def own_registry(tmp_path: Path) -> Iterator[Callable[[], EmbeddedRegistry]]:
    """A registry of the test's own, to stop, kill and restart."""
    with ExitStack() as stack:
        yield lambda: _running(stack, EmbeddedRegistry(tmp_path / f"registry-{uuid.uuid4().hex[:6]}"))
