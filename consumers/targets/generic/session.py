"""One connection to a target through SQLAlchemy, and its errors, translated once.

All that is known of an error is its class (PEP 249). Its message may quote values, so it is never shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    InterfaceError,
    NoSuchModuleError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    SQLAlchemyError,
)
from sqlalchemy.pool import NullPool
from sqlalchemy.schema import DDLElement
from sqlalchemy.sql.base import Executable

from cdc.core.errors import (
    CdcError,
    ConfigError,
    ConstraintError,
    FidelityError,
    PassingError,
    TargetChangedError,
    TargetError,
)

_PROBE: Final = "cdc_probe"


class GenericSession:
    """The connection is opened by `connect`. Everything runs in transactions."""

    def __init__(self, url: str) -> None:
        try:
            self._engine = sa.create_engine(url, poolclass=NullPool)
        except (ArgumentError, NoSuchModuleError, ValueError):
            raise ConfigError("a target's url is of no dialect that SQLAlchemy knows") from None
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"a target's url needs the module {error.name}", mend=f"install {error.name} beside cdc"
            ) from None
        self._connection: sa.Connection | None = None

    @property
    def dialect(self) -> str:
        return self._engine.dialect.name

    @property
    def inserts_many_rows(self) -> bool:
        """Whether one INSERT takes several rows."""
        return self._engine.dialect.supports_multivalues_insert

    def connect(self) -> None:
        """PassingError if the database can't be reached now."""
        with _translating("connecting to the target"):
            self._connection = self._engine.connect()

    @contextmanager
    def transaction(self, *, doing: str) -> Iterator[None]:
        """Commit at the end, roll back on any error."""
        live = self._live()
        try:
            yield
            with _translating(doing):
                live.commit()
        except BaseException:
            with suppress(SQLAlchemyError):
                live.rollback()
            raise

    def roll_back(self, *, doing: str) -> None:
        """What the open transaction did; it goes on as a new one."""
        with _translating(doing):
            self._live().rollback()

    def query(self, statement: Executable, *, doing: str) -> Sequence[Sequence[Any]]:
        with _translating(doing):
            return self._live().execute(statement).fetchall()

    def execute(self, statement: Executable, parameters: Mapping[str, Any] | None = None, *, doing: str) -> int:
        """Run one statement; how many rows it found."""
        with _translating(doing):
            return self._live().execute(statement, parameters).rowcount

    def execute_many(self, statement: Executable, rows: Sequence[Mapping[str, Any]], *, doing: str) -> None:
        if rows:
            with _translating(doing):
                self._live().execute(statement, list(rows))

    def define(self, statement: DDLElement, *, doing: str) -> None:
        with _translating(doing):
            self._live().execute(statement)

    def has_table(self, name: str, *, doing: str) -> bool:
        with _translating(doing):
            return sa.inspect(self._live()).has_table(name)

    def defines_in_transactions(self) -> bool:
        """Whether CREATE TABLE can be rolled back. It is tried."""
        doing = "looking at how the target makes tables"
        table = sa.Table(_PROBE, sa.MetaData(), sa.Column("one", sa.Integer))
        with suppress(_RolledBackError), self.transaction(doing=doing):
            self.define(sa.schema.CreateTable(table), doing=doing)
            raise _RolledBackError
        with self.transaction(doing=doing):
            stayed = self.has_table(_PROBE, doing=doing)
            if stayed:
                self.define(sa.schema.DropTable(table), doing=doing)
        return not stayed

    def answer(self, expression: sa.ColumnElement[Any]) -> Any:
        """What the database makes of an expression; the error itself, if it refuses: beside any open transaction."""
        with _translating("connecting to the target"), self._engine.connect() as beside:
            try:
                return beside.execute(sa.select(expression)).scalar()
            except SQLAlchemyError as error:
                return error

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(SQLAlchemyError):
                connection.close()

    def _live(self) -> sa.Connection:
        if self._connection is None:
            raise PassingError("the connection to the target is closed")
        return self._connection


class _RolledBackError(Exception):
    """Ends a transaction that was to be rolled back."""


@contextmanager
def _translating(doing: str) -> Iterator[None]:
    try:
        yield
    except SQLAlchemyError as error:
        raise _translated(error, doing) from None


def _translated(error: SQLAlchemyError, doing: str) -> CdcError:
    said = type(error.orig if isinstance(error, DBAPIError) else error).__name__
    what = f"{doing}: {said}"
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return PassingError(what)
    match error:
        case OperationalError() | InterfaceError():
            # Among them what does not pass, a full disk: no driver tells which it is.
            return PassingError(what, mend="see that the target runs, can be reached, and has room")
        case IntegrityError():
            mend = "drop the constraint at the target: the source decides which rows are right"
            return ConstraintError(what, mend=mend, by_others=True)  # it may be so: the class does not say
        case DataError() | NotSupportedError():
            return FidelityError(what, mend="hold the table's columns as text with the target's as_text")
        case ProgrammingError():
            # A table that somebody altered, most often.
            mend = "start the applier again, and see what it says of the tables at the target"
            return TargetChangedError(what, mend=mend)
        case _:
            return TargetError(what)
