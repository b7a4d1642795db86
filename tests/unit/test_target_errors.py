"""Which errors of a target pass, and which don't, where no server here can be made to say it."""

from __future__ import annotations

import psycopg2
import pymysql
import pytest

from cdc.core.errors import PassingError, TargetError
from consumers.targets.mysql.errors import translate as of_mysql
from consumers.targets.postgresql.errors import translate as of_postgres

REFUSED = """\
connection to server at "localhost" (::1), port 5432 failed: Connection refused
\tIs the server running on that host and accepting TCP/IP connections?
connection to server at "localhost" (127.0.0.1), port 5432 failed: FATAL:  """


@pytest.mark.parametrize("said", ['password authentication failed for user "me"', 'database "shop" does not exist'])
def test_a_server_at_one_of_several_addresses_refuses_us(said: str) -> None:
    error = of_postgres(psycopg2.OperationalError(f"{REFUSED}{said}\n"), doing="connecting")
    assert isinstance(error, TargetError)
    assert (str(error), bool(error.mend)) == (f"connecting: {said}", True)


@pytest.mark.parametrize("said", ["the database system is starting up", "sorry, too many clients already"])
def test_a_server_at_one_of_several_addresses_takes_nobody_now(said: str) -> None:
    error = of_postgres(psycopg2.OperationalError(f"{REFUSED}{said}\n"), doing="connecting")
    assert (type(error), str(error)) == (PassingError, f"connecting: {said}")


@pytest.mark.parametrize("said", [REFUSED.rpartition("connection")[0], ""])
def test_no_server_answers(said: str) -> None:
    assert isinstance(of_postgres(psycopg2.OperationalError(said), doing="connecting"), PassingError)


def test_a_node_of_galera_that_is_not_ready() -> None:
    error = pymysql.OperationalError(1047, "WSREP has not yet prepared node for application use")
    assert isinstance(of_mysql(error, doing="writing"), PassingError)
