"""One connection to a PostgreSQL target: it holds the applier's lock, and does all its writing."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final

import psycopg2
from psycopg2.extensions import TRANSACTION_STATUS_IDLE, parse_dsn

from cdc.core.errors import AlreadyRunningError, ConfigError, TargetError
from consumers.targets.postgresql.copying import Chunks
from consumers.targets.postgresql.errors import is_broken, translate

_SETTINGS: Final = {
    # No standard_conforming_strings: psycopg2 quotes parameters by what that was when the connection was made.
    # Under these, PostgreSQL reads the canonical text of `cdc.core.types` exactly.
    "DateStyle": "ISO",
    "TimeZone": "UTC",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    "xmloption": "content",
    "array_nulls": "on",
    "quote_all_identifiers": "off",  # names of types are compared
    # A stopped applier must let its locks go; one that works may take as long as its batch needs.
    "idle_in_transaction_session_timeout": "60s",
    "statement_timeout": "0",
    # Between batches there may be nothing to say for long; who stands still is ended by a standby (see `silence`).
    "idle_session_timeout": "0",
    # Not for ever: who waits for long says so, and comes again.
    "lock_timeout": "30s",
    "default_transaction_isolation": "read committed",
    "synchronous_commit": "on",
    # Statements here are short and many: compiling one costs more than it gives.
    "jit": "off",
}
# A batch that takes longer than a role's or database's limit would be ended again and again, for ever.
_SETTINGS_SINCE_17: Final = {"transaction_timeout": "0"}
_17: Final = 170_000
OLDEST: Final = 14
_KEEPALIVE: Final = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",  # ms; keepalives are not sent while something sent is not acknowledged
}
_ALWAYS: Final = {"client_encoding": "UTF8"}  # a parameter, not a setting, for psycopg2 to know it
# The server may not have noticed yet that the applier before us, killed or cut off, is gone.
_LOCK_WAIT: Final = "2s"
_LOCK_TIMED_OUT: Final = "55P03"
_ALONE: Final = "looking whether an applier is alone"


class PostgresSession:
    """Statements go to the driver as they are: `%` is not special where no parameters are given."""

    def __init__(self, url: str, *, applier: str) -> None:
        self._applier = applier
        # libpq reads the parameters itself, so that all it knows (sslmode, several hosts, service) works.
        self._dsn: dict[str, Any] = {**_KEEPALIVE, **_parsed(url), **_ALWAYS, "application_name": f"cdc:{applier}"}
        self._connection: psycopg2.extensions.connection | None = None
        self._used_at = 0.0
        self._waits_shortly = False
        self._enclosed = False

    def connect(self) -> None:
        """PassingError if the server can't be reached now, TargetError if it refuses us."""
        try:
            self._connection = psycopg2.connect(**self._dsn)
        except psycopg2.Error as error:
            raise translate(error, doing="connecting to the target") from None
        try:
            require_supported(self._live().server_version)
        except TargetError:
            self.close()
            raise
        newer = _SETTINGS_SINCE_17 if self._live().server_version >= _17 else {}
        with self.transaction(doing="preparing the session"):
            for name, value in (_SETTINGS | newer).items():
                self.query("SELECT set_config(%s, %s, false)", (name, value), doing="preparing the session")

    def lock_applier(self, *, shared: bool = False) -> None:
        """Become the only applier of this name, for as long as the connection lives; or one of those that share it.
        AlreadyRunningError.
        """
        doing = "taking the applier's lock"
        with self.transaction(doing=doing):
            self.wait_shortly()
            self.query(f"SELECT pg_advisory_lock{'_shared' if shared else ''}(%s)", (self._number(),), doing=doing)

    def lock_alone(self) -> None:
        """Become the one who is alone among those that share, until `unlock_alone` or the connection's end.
        AlreadyRunningError if another is, or if one takes over partitions just now.
        """
        with self.transaction(doing=_ALONE):
            if self.query("SELECT pg_try_advisory_lock(%s)", (self._number("alone"),), doing=_ALONE) != [(True,)]:
                raise self._already_running()

    def unlock_alone(self) -> None:
        """No longer."""
        with self.transaction(doing=_ALONE):
            self.query("SELECT pg_advisory_unlock(%s)", (self._number("alone"),), doing=_ALONE)

    def require_nobody_alone(self) -> None:
        """AlreadyRunningError if somebody is; nobody becomes so until the transaction ends."""
        locked = self.query("SELECT pg_try_advisory_xact_lock_shared(%s)", (self._number("alone"),), doing=_ALONE)
        if locked != [(True,)]:
            raise self._already_running()

    def wait_shortly(self) -> None:
        """From here to the end of the transaction: AlreadyRunningError for a lock that is not to be had soon."""
        self.execute(f"SET LOCAL lock_timeout = '{_LOCK_WAIT}'", doing="waiting for other appliers")
        self._waits_shortly = True

    def _number(self, kind: str = "applier") -> int:
        return _lock_number(f"{kind}:{self._applier}")

    def _already_running(self) -> AlreadyRunningError:
        return AlreadyRunningError(
            f"another applier named {self._applier!r} works on this target",
            mend="stop it first; it is in pg_stat_activity as "
            f"application_name 'cdc:{self._applier}' (pg_terminate_backend ends a lost one)",
        )

    def keep_alive(self, every: float) -> None:
        """Say something to the server if nothing was said for `every` seconds."""
        if time.monotonic() - self._used_at < every:
            return
        doing = "keeping the session alive"
        if self._live().get_transaction_status() == TRANSACTION_STATUS_IDLE:
            with self.transaction(doing=doing):
                self.query("SELECT 1", doing=doing)
        else:
            self.query("SELECT 1", doing=doing)

    def lock_definitions(self) -> None:
        """Wait until no other applier creates tables here, until the transaction ends: IF NOT EXISTS alone races."""
        self.query("SELECT pg_advisory_xact_lock(%s)", (_lock_number("definitions"),), doing="waiting to create tables")

    @contextmanager
    def transaction(self, *, doing: str) -> Iterator[None]:
        """Commit at the end, roll back on any error. A connection lost during the commit is a PassingError: whether
        it happened is in the checkpoint. Within `enclosing` it is a part of that one.
        """
        if self._enclosed:
            yield
            return
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        self._waits_shortly = False
        try:
            self._live().commit()
        except psycopg2.Error as error:
            self._roll_back()
            raise self._translated(error, doing, ()) from None

    @contextmanager
    def enclosing(self, *, doing: str) -> Iterator[None]:
        """ONE transaction, of which all transactions within are parts."""
        with self.transaction(doing=doing):
            self._enclosed = True
            try:
                yield
            finally:
                self._enclosed = False

    def query(self, sql: str, parameters: Sequence[Any] | None = None, *, doing: str) -> list[tuple[Any, ...]]:
        """Run one statement; its rows, if it has any."""
        try:
            return self._run(sql, parameters)[1]
        except psycopg2.Error as error:
            raise self._translated(error, doing, ()) from None

    def execute(self, sql: str, parameters: Sequence[Any] | None = None, *, doing: str) -> int:
        """Run one statement; how many rows it wrote."""
        try:
            return self._run(sql, parameters)[0]
        except psycopg2.Error as error:
            raise self._translated(error, doing, ()) from None

    def copy_in(self, sql: str, chunks: Iterator[bytes], *, doing: str, columns: Sequence[str]) -> None:
        """COPY … FROM STDIN. `columns` are the names behind c0, c1, … for errors."""
        file = Chunks(chunks)
        self._used_at = time.monotonic()
        try:
            with self._live().cursor() as cursor:
                cursor.copy_expert(sql, file)
        except psycopg2.Error as error:
            raise file.failure or self._translated(error, doing, columns) from None

    def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(psycopg2.Error):
                connection.close()

    def _run(self, sql: str, parameters: Sequence[Any] | None) -> tuple[int, list[tuple[Any, ...]]]:
        self._used_at = time.monotonic()
        with self._live().cursor() as cursor:
            cursor.execute(sql, parameters)
            rows = cursor.fetchall() if cursor.description else []
            return cursor.rowcount, rows

    def _live(self) -> Any:
        if self._connection is None:
            raise psycopg2.InterfaceError("the connection is closed")
        return self._connection

    def _translated(self, error: psycopg2.Error, doing: str, columns: Sequence[str]) -> Exception:
        if error.pgcode == _LOCK_TIMED_OUT and self._waits_shortly:
            return self._already_running()
        translated = translate(error, doing=doing, columns=columns)
        if is_broken(error):
            self.close()
        return translated

    def _roll_back(self) -> None:
        self._waits_shortly = False
        if self._connection is not None:
            try:
                self._connection.rollback()
            except psycopg2.Error:
                self.close()


def require_supported(version: int) -> None:
    """TargetError for a server that is older than what is tested. `version` is 180001 of 18.1, 90624 of 9.6.24."""
    major, minor = divmod(version, 10_000)
    if major < OLDEST:
        raise TargetError(
            f"the target is PostgreSQL {major}.{minor if major >= 10 else minor // 100}",
            mend=f"PostgreSQL {OLDEST} or later is needed",
        )


def _parsed(url: str) -> dict[str, str]:
    scheme, _, rest = url.partition("://")
    try:
        return dict(parse_dsn(f"postgresql://{rest}" if scheme.startswith("postgres") else url))
    except psycopg2.Error:
        # libpq's message may quote the password.
        raise ConfigError(
            "a target's url is not a PostgreSQL connection URL", mend="postgresql://user:password@host:port/database"
        ) from None


def _lock_number(what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"cdc:{what}".encode()).digest()[:8], signed=True)
