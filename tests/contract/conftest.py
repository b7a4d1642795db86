"""Every target's database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from target_databases import Database, DuckDB, MariaDB, Sqlite
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
