"""An ordinary connection to the source, for catalog queries and statements."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE

from cdc.sources.postgres.errors import translate
from cdc.sources.postgres.settings import SETTING_SQL


class SourceDatabase:
    """One connection in autocommit mode; opened at the first use and again after it broke. One thread."""

    def __init__(self, url: str, *, application_name: str) -> None:
        self._url = url
        self._application_name = application_name
        self._connection: psycopg2.extensions.connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def query(self, sql: str, *, doing: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any, as Python values."""
        try:
            if self._connection is None:
                self._connection = _connected(self._url, self._application_name)
            with self._connection.cursor() as cursor:
                cursor.execute(sql)
                # Not its truth: rows may have no column.
                return [] if cursor.description is None else cursor.fetchall()
        except psycopg2.Error as error:
            if self._connection is not None and _is_spent(self._connection, error):
                self._close()
            raise translate(_message(error), error.pgcode, doing=doing) from None

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _connected(url: str, application_name: str) -> psycopg2.extensions.connection:
    # libpq reads the URL itself, so that everything it knows (sslmode, several hosts, service) works.
    # The encoding is a parameter, not a setting, for psycopg2 to know it.
    connection = psycopg2.connect(url, application_name=application_name, connect_timeout=10, client_encoding="UTF8")
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(SETTING_SQL)
    except BaseException:
        connection.close()
        raise
    return connection


def _is_spent(connection: psycopg2.extensions.connection, error: psycopg2.Error) -> bool:
    """Whether it is of no more use: after a shutdown, say, it is broken, which psycopg2 may notice only later; after
    several statements of which one failed, their transaction is still there.
    """
    if error.pgcode is None or isinstance(error, psycopg2.OperationalError | psycopg2.InterfaceError):
        return True
    return connection.get_transaction_status() != TRANSACTION_STATUS_IDLE


def _message(error: psycopg2.Error) -> str:
    text = str(error.diag.message_primary or error)
    return text.rpartition("FATAL:")[2] if "FATAL:" in text else text
