"""Servers that are too old are refused by name. There is none to run here, so their versions are made up."""

from __future__ import annotations

import pytest

from cdc.core.errors import TargetError
from consumers.targets.mysql.session import require_supported as require_mysql
from consumers.targets.postgresql.session import require_supported as require_postgres


@pytest.mark.parametrize(("version", "name"), [(130022, "13.22"), (90624, "9.6"), (80002, "8.0")])
def test_an_old_postgresql(version: int, name: str) -> None:
    with pytest.raises(TargetError, match=f"PostgreSQL {name}") as raised:
        require_postgres(version)
    assert "14 or later" in str(raised.value.mend)


@pytest.mark.parametrize("version", [140000, 180001])
def test_a_postgresql_that_will_do(version: int) -> None:
    require_postgres(version)


@pytest.mark.parametrize(
    ("version", "oldest"),
    [("5.7.44-log", "MySQL 8.0.17"), ("8.0.11-TiDB-v7.5.0", "MySQL 8.0.17"), ("10.5.28-MariaDB", "MariaDB 10.6")],
)
def test_an_old_mysql(version: str, oldest: str) -> None:
    with pytest.raises(TargetError, match=version) as raised:
        require_mysql(version)
    assert oldest in str(raised.value.mend)


@pytest.mark.parametrize("version", ["8.0.17", "8.4.3", "9.1.0", "10.6.0-MariaDB", "11.4.2-MariaDB-ubu2404"])
def test_a_mysql_that_will_do(version: str) -> None:
    require_mysql(version)
