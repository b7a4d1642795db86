"""The ordinary connection to a source."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest

from cdc.core.errors import PassingError, SourceError
from cdc.sources.postgres.database import SourceDatabase

DOING = "trying"


@pytest.fixture
def url(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def database(url: str) -> Iterator[SourceDatabase]:
    with SourceDatabase(url, application_name="cdc test") as database:
        yield database


def test_rows_may_have_no_column(database: SourceDatabase) -> None:
    assert database.query("SELECT FROM generate_series(1, 2)", doing=DOING) == [(), ()]
    assert database.query("SELECT WHERE false", doing=DOING) == []
    assert database.query("CREATE TABLE public.item (id int)", doing=DOING) == []


def test_a_percent_sign_is_only_that(database: SourceDatabase) -> None:
    assert database.query("SELECT '100%s' LIKE '100\\%%'", doing=DOING) == [(True,)]


def test_it_goes_on_after_statements_of_which_one_failed(database: SourceDatabase) -> None:
    with pytest.raises(SourceError, match="division by zero"):
        database.query("BEGIN; SELECT 1 / 0; COMMIT", doing=DOING)
    assert database.query("SELECT 1", doing=DOING) == [(1,)]


def test_it_connects_again_after_its_connection_was_ended(url: str, database: SourceDatabase) -> None:
    ((pid,),) = database.query("SELECT pg_backend_pid()", doing=DOING)
    with psycopg.connect(url, autocommit=True) as other:
        other.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    with pytest.raises(PassingError):
        database.query("SELECT 1", doing=DOING)
    assert database.query("SELECT 1", doing=DOING) == [(1,)]
