"""Every target's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from target_databases import ByRole, Database, DuckDB, MariaDB, Sqlite
from target_steps import DATABASES

from consumers.targets.target import Target


@pytest.fixture(params=DATABASES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Database:
    kind, _, number = request.param.partition("-")
    match kind:
        case "sqlite":
            return Sqlite(tmp_path)
        case "duckdb":
            return DuckDB(tmp_path)
        case "mariadb":
            return MariaDB(request.getfixturevalue("new_mariadb")())
        case _:
            new_database: Callable[..., str] = request.getfixturevalue("new_database")
            return Database(new_database(version=int(number)))


@pytest.fixture
def target(database: Database) -> Iterator[Target]:
    with database.opened() as target:
        yield target


@pytest.fixture
def plain_role(database: Database, unique_name: str) -> Iterator[ByRole]:
    """The same PostgreSQL, as `role` comes to it: no superuser, and with what it is granted only."""
    database.execute(f"CREATE ROLE {unique_name} LOGIN; GRANT CREATE ON SCHEMA public TO {unique_name}")
    yield ByRole(database.url.replace("//postgres@", f"//{unique_name}@"), unique_name)
    database.execute(f"DROP OWNED BY {unique_name} CASCADE; DROP ROLE {unique_name}")
