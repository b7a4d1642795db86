"""One connection to a MySQL or MariaDB target, set up so that the server changes no value without an error."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

import pymysql
import sqlalchemy
from pymysql.constants import CLIENT
from sqlalchemy.exc import ArgumentError

from cdc.core.errors import AlreadyRunningError, CdcError, ConfigError, TargetError
from consumers.targets.mysql.errors import is_broken, translate

_MODES: Final = (
    # A value that does not fit is an error, never the nearest one.
    "STRICT_ALL_TABLES",
    "STRICT_TRANS_TABLES",
    "ERROR_FOR_DIVISION_BY_ZERO",
    "NO_ZERO_DATE",
    "NO_ZERO_IN_DATE",
    "NO_BACKSLASH_ESCAPES",  # in a text constant nothing but its quote is special
    "NO_AUTO_VALUE_ON_ZERO",  # 0 is 0, also in an AUTO_INCREMENT column
    "NO_ENGINE_SUBSTITUTION",
)
_SETTINGS: Final = (
    f"SET SESSION sql_mode = '{','.join(_MODES)}'",
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION foreign_key_checks = 0",  # within a batch rows come table by table
    "SET SESSION unique_checks = 1",
    "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED",  # no locks on gaps
)
_IDLE_SECONDS: Final = 60  # within a transaction: a stopped applier must let its locks go
# Exact: they tell case, accents and trailing blanks apart. MySQL's and MariaDB's other `_bin` ones pad with blanks.
EXACT_COLLATIONS: Final = ("utf8mb4_nopad_bin", "utf8mb4_0900_bin")
_OLDEST: Final = {"MariaDB": (10, 6), "MySQL": (8, 0, 17)}  # from these on an ALTER TABLE happens whole or not at all
_LOCK_WAIT_SECONDS: Final = 2  # the server may not have noticed yet that the applier before us is gone
# For whoever locks or alters a table: by itself the server lets rows wait a day for them.
_DDL_WAIT: Final = "SET SESSION lock_wait_timeout = 30"
_MEND_URL: Final = "mysql://user:password@host:3306/database"
_URL_OPTIONS: Final = {
    "unix_socket",
    "ssl_ca",
    "ssl_cert",
    "ssl_key",
    "ssl_verify_cert",
    "ssl_verify_identity",
    "ssl_disabled",
}


class Server(NamedTuple):
    """What a server is and allows. `collation` is the exact one. `max_packet` is in bytes. `folds_names`: case does not
    tell tables apart.
    """

    version: str
    collation: str
    max_packet: int
    folds_names: bool
    read_only: bool

    @property
    def is_mariadb(self) -> bool:
        return "MariaDB" in self.version


class MysqlSession:
    """Statements go to the driver as they are: `%` is not special where no parameters are given."""

    def __init__(self, url: str, *, applier: str) -> None:
        self._applier = applier
        self._arguments = _arguments(url)
        self._connection: pymysql.Connection[Any] | None = None
        self._server: Server | None = None

    @property
    def server(self) -> Server:
        assert self._server is not None, "not connected yet"
        return self._server

    def connect(self, *, for_definitions: bool = False) -> None:
        """PassingError if the server can't be reached now, TargetError if it refuses us. A session `for_definitions`
        commits each statement.
        """
        doing = "connecting to the target"
        try:
            self._connection = pymysql.connect(
                **self._arguments,
                charset="utf8mb4",
                autocommit=for_definitions,
                connect_timeout=10,
                client_flag=CLIENT.FOUND_ROWS | CLIENT.MULTI_STATEMENTS,
            )
        except pymysql.MySQLError as error:
            raise translate(error, doing=doing) from None
        try:
            self._server = self._look()
            for setting in (*_SETTINGS, f"SET NAMES utf8mb4 COLLATE {self._server.collation}"):
                self.execute(setting, doing="preparing the session")
            self._allow_idling(_IDLE_SECONDS, "preparing the session")
            self.execute(_DDL_WAIT, doing="preparing the session")
        except CdcError:
            self.close()
            raise

    def lock_applier(self) -> None:
        """Become the only applier of this name, for as long as the connection lives. AlreadyRunningError."""
        self.require_lock(self._applier, f"another applier named {self._applier!r} works on this target")

    def require_lock(self, name: str, otherwise: str) -> None:
        """As `lock`. AlreadyRunningError, which says `otherwise`, if it was not to be had."""
        if not self.lock(name):
            raise AlreadyRunningError(
                otherwise,
                mend=f"stop it first; SELECT IS_USED_LOCK('{self._lock_name(name)}') tells its connection, and KILL"
                " ends a lost one",
            )

    def lock(self, name: str) -> bool:
        """Whether the lock of this name was to be had soon: it is ours until `unlock`, or the connection's end."""
        parameters = (self._lock_name(name), _LOCK_WAIT_SECONDS)
        return self.query("SELECT GET_LOCK(%s, %s)", parameters, doing="taking the applier's lock") == [(1,)]

    def unlock(self, name: str) -> None:
        if self._connection is not None:
            self.query("SELECT RELEASE_LOCK(%s)", (self._lock_name(name),), doing="taking the applier's lock")

    @contextmanager
    def waiting(self, *, doing: str) -> Iterator[None]:
        """While another session works for this one's transaction, which may take long. PassingError if it was ended."""
        self._allow_idling(0, doing)
        try:
            yield
        finally:
            self._allow_idling(_IDLE_SECONDS, doing)

    @contextmanager
    def transaction(self, *, doing: str) -> Iterator[None]:
        """Commit at the end, roll back on any error. A connection lost during the commit is a PassingError: whether
        it happened is in the checkpoint.
        """
        self.execute("START TRANSACTION", doing=doing)
        try:
            yield
            self.execute("COMMIT", doing=doing)
        except BaseException:
            self._roll_back()
            raise

    def query(self, sql: str, parameters: Sequence[Any] | None = None, *, doing: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows."""
        try:
            with self._live().cursor() as cursor:
                cursor.execute(sql, parameters)
                return list(cursor.fetchall())
        except pymysql.MySQLError as error:
            raise self._translated(error, doing) from None

    def execute(self, sql: str, parameters: Sequence[Any] | None = None, *, doing: str) -> int:
        """Run one statement; how many rows it found."""
        try:
            with self._live().cursor() as cursor:
                return int(cursor.execute(sql, parameters))
        except pymysql.MySQLError as error:
            raise self._translated(error, doing) from None

    def run(self, statement: bytes, *, doing: str) -> list[int]:
        """Run one or several statements (`a; b`) in one trip; how many rows each found."""
        try:
            connection = self._live()
            found = [connection.query(statement)]
            result = connection._result  # type: ignore[attr-defined]  # noqa: SLF001  # there is no other way to ask
            while result.has_next:
                found.append(connection.next_result())
                result = connection._result  # type: ignore[attr-defined]  # noqa: SLF001
        except pymysql.MySQLError as error:
            raise self._translated(error, doing) from None
        return found

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None and connection.open:
            with suppress(pymysql.MySQLError):
                connection.close()

    def _look(self) -> Server:
        doing = "looking at the target's version"
        ((version, packet, folds, read_only),) = self.query(
            "SELECT VERSION(), @@max_allowed_packet, @@lower_case_table_names, @@read_only", doing=doing
        )
        require_supported(version)
        collations = self.query(
            "SELECT collation_name FROM information_schema.collations WHERE collation_name IN %s",
            (EXACT_COLLATIONS,),
            doing=doing,
        )
        if not collations:
            raise TargetError(f"the target ({version}) has none of the collations {', '.join(EXACT_COLLATIONS)}")
        return Server(version, collations[0][0], int(packet), bool(folds), bool(read_only))

    def _allow_idling(self, seconds: int, doing: str) -> None:
        """Within a transaction; 0 is without end. MySQL has no such setting, and never ends a transaction for it."""
        is_mariadb = self.server.is_mariadb
        self.execute(f"SET SESSION idle_transaction_timeout = {seconds}" if is_mariadb else "DO 0", doing=doing)

    def _live(self) -> pymysql.Connection[Any]:
        if self._connection is None:
            raise pymysql.InterfaceError(0, "the connection is closed")
        return self._connection

    def _translated(self, error: pymysql.MySQLError, doing: str) -> CdcError:
        translated = translate(error, doing=doing)
        if is_broken(error):
            self.close()
        return translated

    def _roll_back(self) -> None:
        if self._connection is not None:
            try:
                self._connection.rollback()
            except pymysql.MySQLError:
                self.close()

    def _lock_name(self, name: str) -> str:
        """Locks are the server's, not a database's; a name has 64 characters at most, and its case does not count."""
        which = f"{self._arguments['database']}\0{name}".encode()
        return f"cdc:{hashlib.sha256(which).hexdigest()[:40]}"


def require_supported(version: str) -> None:
    """TargetError for a server that is older than what is needed. `version` is what `VERSION()` says."""
    product = "MariaDB" if "MariaDB" in version else "MySQL"
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if numbers < _OLDEST[product]:
        oldest = ".".join(map(str, _OLDEST[product]))
        raise TargetError(f"the target is {product} {version}", mend=f"{product} {oldest} or later is needed")


def _arguments(url: str) -> dict[str, Any]:
    """For `pymysql.connect`. ConfigError."""
    try:
        parts = sqlalchemy.make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigError("a target's url is not a MySQL URL", mend=_MEND_URL) from None
    if not parts.database:
        raise ConfigError("a target's url names no database", mend=_MEND_URL)
    unknown = sorted(parts.query.keys() - _URL_OPTIONS)
    if unknown:
        raise ConfigError(
            f"a target's url has options that are not known: {', '.join(unknown)}",
            mend=f"known are {', '.join(sorted(_URL_OPTIONS))}",
        )
    truths = {"true": True, "false": False}
    options = {name: truths.get(str(value).lower(), value) for name, value in parts.query.items()}
    return {
        "host": parts.host or "localhost",
        "port": parts.port or 3306,
        "user": parts.username,
        "password": parts.password or "",
        "database": parts.database,
        **options,
    }
