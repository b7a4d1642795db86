"""PostgreSQL's errors, translated once: what happened, what to do about it, and never a row's value.

The server's messages quote values (`invalid input syntax for type integer: "abc"`), and a trigger's message can be
anything, so the primary message is used only where the error class can't carry one; elsewhere the condition's name is.
SQLSTATEs: https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import psycopg2
from psycopg2 import errorcodes

from cdc.core.errors import CdcError, FidelityError, PassingError, TargetError

_PASSING: Final = (
    "08",  # connection exception
    "40",  # serialization failure, deadlock
    "57",  # operator intervention: shutdown, crash recovery, cancelled
    "25P03",  # idle_in_transaction_session_timeout
    "25P04",  # transaction_timeout
    "53200",  # out of memory
    "53300",  # too many connections
    "55006",  # object in use
    "55P03",  # lock timeout
)
_MENDS: Final = {
    "28P01": "correct the password in the target's url",
    "28": "allow this role, database and client address in the target's pg_hba.conf",
    "3D000": "create the database, or correct its name in the target's url",
    "42501": "grant the missing privilege to the role in the target's url",
    "25006": "point the target's url at a server that takes writes",
    "53100": "make room on the target's disk",
}
# Their messages name objects and settings only.
_SPEAKABLE: Final = ("08", "25", "28", "3D", "3F", "40", "42501", "42P01", "42P07", "53", "55", "57")
_SAID_AT_CONNECT: Final = {
    # libpq gives no SQLSTATE for a refused start-up packet, only the server's text.
    "password authentication failed": "28P01",
    "no password supplied": "28P01",
    "no pg_hba.conf entry": "28",
    "authentication failed": "28",
    "permission denied for database": "42501",
    "is not permitted to log in": "42501",
    "does not exist": "3D000",
}
# Of this only the type's name is used. In another language of the server it is not found, and a general mend given.
_UNKNOWN_LABEL: Final = re.compile(r'invalid input value for enum (.+?): "')
_NOT_IN_ENCODING: Final = {"22P05", "22021"}
_COPY_COLUMN: Final = re.compile(r", column c(\d+)")


def translate(error: psycopg2.Error, *, doing: str, columns: Sequence[str] = ()) -> CdcError:
    """The error to raise for `error`, met while `doing` something. `columns` are those of the table being written."""
    sqlstate = error.pgcode
    if sqlstate is None:
        return _connection_error(error, doing=doing)
    where = f"{doing}{_column(error, columns)}"
    what = f"{where}: {_said(error, sqlstate)}"
    if sqlstate.startswith(_PASSING):
        return PassingError(what)
    if sqlstate.startswith("22"):
        return FidelityError(what, mend=_mend_of_value(error, sqlstate))
    if sqlstate.startswith("23"):
        constraint = error.diag.constraint_name
        return TargetError(
            f"{what}{f', constraint {constraint}' if constraint else ''}",
            mend="drop the constraint at the target: the source decides which rows are right",
        )
    return TargetError(what, mend=_MENDS.get(sqlstate) or _MENDS.get(sqlstate[:2]))


def _mend_of_value(error: psycopg2.Error, sqlstate: str) -> str:
    if sqlstate in _NOT_IN_ENCODING:
        return "make the target database with ENCODING 'UTF8', which holds every text"
    enum = _UNKNOWN_LABEL.match(error.diag.message_primary or "")
    if enum is not None:
        return f"add the label that the source has: ALTER TYPE {enum[1]} ADD VALUE '…'"
    return "change the target column's type to the source's, or to text with the target's as_text"


def is_broken(error: psycopg2.Error) -> bool:
    """Whether the connection is of no more use."""
    return error.pgcode is None or error.pgcode.startswith(("08", "57P", "25P03", "25P04"))


def _connection_error(error: psycopg2.Error, *, doing: str) -> CdcError:
    said = _first_line(str(error))
    for sign, sqlstate in _SAID_AT_CONNECT.items():
        if sign in said:
            return TargetError(f"{doing}: {said}", mend=_MENDS[sqlstate])
    return PassingError(f"{doing}: {said}", mend="check host, port and network in the target's url, and that it runs")


def _said(error: psycopg2.Error, sqlstate: str) -> str:
    primary = error.diag.message_primary
    if primary and sqlstate.startswith(_SPEAKABLE):
        return f"{primary} (SQLSTATE {sqlstate})"
    try:
        condition = errorcodes.lookup(sqlstate).replace("_", " ").lower()
    except KeyError:
        return f"SQLSTATE {sqlstate}"
    return f"{condition} (SQLSTATE {sqlstate})"


def _column(error: psycopg2.Error, columns: Sequence[str]) -> str:
    """The column at fault, if it is known: named by the error, or by COPY (whose columns we call c0, c1, …)."""
    if error.diag.column_name:
        return f", column {error.diag.column_name}"
    found = _COPY_COLUMN.search(error.diag.context or "")
    if found is None or int(found[1]) >= len(columns):
        return ""
    return f", column {columns[int(found[1])]}"


def _first_line(message: str) -> str:
    lines = [line.strip() for line in message.strip().splitlines() if line.strip()]
    return lines[0].rpartition("FATAL:")[2].strip() if lines else "the connection was closed"
