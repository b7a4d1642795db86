"""An ordinary connection to the source: catalog queries and statements, through SQLAlchemy and psycopg2."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import psycopg2
import sqlalchemy
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from cdc.sources.postgres.errors import translate
from cdc.sources.postgres.settings import SETTING_SQL


class SourceDatabase:
    """One connection in autocommit mode; opened at the first use and again after it broke. One thread."""

    def __init__(self, url: str, *, application_name: str) -> None:
        self._engine = sqlalchemy.create_engine(
            "postgresql+psycopg2://",
            creator=lambda: _connected(url, application_name),
            isolation_level="AUTOCOMMIT",
            poolclass=NullPool,
        )
        self._connection: sqlalchemy.Connection | None = None

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
                self._connection = self._engine.connect()
            # psycopg2 reads % as a placeholder, because SQLAlchemy always hands it parameters, if empty ones.
            result = self._connection.exec_driver_sql(sql.replace("%", "%%"))
            return [tuple(row) for row in result] if result.returns_rows else []
        except DBAPIError as error:
            if error.connection_invalidated or _sqlstate(error) is None:
                self._close()
            raise translate(_message(error), _sqlstate(error), doing=doing) from None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _connected(url: str, application_name: str) -> Any:
    # libpq reads the URL itself, so that everything it knows (sslmode, several hosts, service) works.
    # The encoding is a parameter, not a setting, for psycopg2 to know it.
    connection = psycopg2.connect(url, application_name=application_name, connect_timeout=10, client_encoding="UTF8")
    with connection.cursor() as cursor:
        cursor.execute(SETTING_SQL)
    connection.commit()
    return connection


def _sqlstate(error: DBAPIError) -> str | None:
    return getattr(error.orig, "pgcode", None)


def _message(error: DBAPIError) -> str:
    primary = getattr(getattr(error.orig, "diag", None), "message_primary", None)
    text = str(primary or error.orig)
    return text.rpartition("FATAL:")[2] if "FATAL:" in text else text
