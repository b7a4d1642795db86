"""What PostgreSQL targets have that others have not."""

from __future__ import annotations

import pytest
from target_databases import Database
from target_steps import upserted

pytestmark = pytest.mark.parametrize("database", ["postgresql-15", "postgresql-18"], indirect=True)

# -- settings of the session -----------------------------------------------------------------------------------------


def test_limits_of_the_database_do_not_end_a_large_transaction(database: Database) -> None:
    """transaction_timeout is PostgreSQL 17's."""
    limits = ["idle_session_timeout", "statement_timeout", "transaction_timeout"]
    known = database.execute(f"SELECT name FROM pg_settings WHERE name = ANY (ARRAY{limits})")
    ((name,),) = database.execute("SELECT current_database()")
    for (limit,) in known:
        database.execute(f"ALTER DATABASE {name} SET {limit} = '10min'")
    found = " || ' ' || ".join(f"current_setting('{limit}')" for (limit,) in known)
    database.execute(f"CREATE TABLE orders (id text PRIMARY KEY, a text, b text, under text DEFAULT {found})")
    with database.opened() as target:
        upserted(target, (b"1", b"x", b"y"))
    assert database.execute("SELECT under FROM orders") == [(" ".join("0" for _ in known),)]
