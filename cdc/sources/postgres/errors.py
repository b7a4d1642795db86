"""PostgreSQL's errors, translated once: what happened, and the statement or setting that mends it.

Messages never carry row values: only the primary message of connection and command errors, which quote none.
SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

from cdc.core.errors import CdcError, PassingError, SlotInUseError, SourceError

_MENDS: dict[str, str] = {
    "28P01": "correct the password in [source] url",
    "28000": "allow this role, database and client address in pg_hba.conf",
    "3D000": "correct the database's name in [source] url",
    "42501": "grant the missing privilege to the role in [source] url",
    "53300": "raise max_wal_senders (or max_connections) and restart PostgreSQL, or stop another replica",
    "53400": "raise max_replication_slots and restart PostgreSQL, or drop an unused slot "
    "(SELECT slot_name, active FROM pg_replication_slots)",
    # Only an SQL_ASCII database lets such text in.
    "22021": "correct the text at the source, where it is not UTF-8: convert_from(column::bytea, '<its encoding>')",
    "42P01": "check the names in [source] tables",
}
_HIDDEN_ROWS = "row-level security"  # in the message of a 42501
_SEE_ALL = "ALTER ROLE <the role in [source] url> BYPASSRLS: a load needs all rows, as the stream has all changes"
_PASSING_CLASSES = ("08", "57", "40", "58")  # connection, operator intervention, rollback, system
_OBJECT_IN_USE = "55006"
_LOCK_TIMEOUT = "55P03"


class LockTimeoutError(PassingError):
    """Others have what we wanted to lock, for longer than we were to wait."""


def translate(message: str, sqlstate: str | None, *, doing: str) -> CdcError:
    """The error to raise for what PostgreSQL said while `doing` something.

    No SQLSTATE means that the connection failed or broke.
    """
    said = _first_line(message)
    if sqlstate == _OBJECT_IN_USE:
        return SlotInUseError(
            f"{doing}: {said}", mend="stop the other capture on this slot, or give this one its own [source] slot"
        )
    if sqlstate is None:
        return _connection_error(said, doing=doing)
    if sqlstate == _LOCK_TIMEOUT:
        return LockTimeoutError(f"{doing}: {said}")
    if sqlstate.startswith(_PASSING_CLASSES):
        return PassingError(f"{doing}: {said}")
    mend = _SEE_ALL if _HIDDEN_ROWS in said else _MENDS.get(sqlstate)
    return SourceError(f"{doing}: {said} (SQLSTATE {sqlstate})", mend=mend)


def _connection_error(said: str, *, doing: str) -> CdcError:
    # libpq gives no SQLSTATE for a refused start-up packet, only the server's text.
    for sign, sqlstate in (
        ("password authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("no pg_hba.conf entry", "28000"),
        ("must be superuser or replication role", "42501"),
        ("permission denied to start WAL sender", "42501"),
        ("does not exist", "3D000"),
        ("exceeds max_wal_senders", "53300"),
    ):
        if sign in said:
            return SourceError(f"{doing}: {said}", mend=_role_mend(said) or _MENDS[sqlstate])
    return PassingError(
        f"{doing}: {said}", mend="check host, port and network in [source] url, and that PostgreSQL runs"
    )


def _role_mend(said: str) -> str | None:
    if "WAL sender" in said or "replication role" in said:
        return "ALTER ROLE <the role in [source] url> REPLICATION"
    return None


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[0].removeprefix("ERROR:").removeprefix("FATAL:").strip() if lines else "the connection was closed"
