"""PostgreSQL's errors as a target, translated once.

Messages may quote row values, so only the SQLSTATE's meaning and the names of table, column and constraint are told.
https://www.postgresql.org/docs/current/errcodes-appendix.html
"""

from __future__ import annotations

import re
from typing import Final

import psycopg2
from sqlalchemy.exc import DBAPIError

from cdc.core.errors import CdcError, FidelityError, PassingError, TargetError

_PASSING: Final = ("08", "40", "53300", "55P03", "57", "58")
_VALUE: Final = "22"
_QUOTED: Final = re.compile(r'"[^"]*"|\'[^\']*\'')
_MENDS: Final = {
    "28P01": "correct the password in the target's url",
    "28000": "allow this role, database and client address in the target's pg_hba.conf",
    "3D000": "create the database, or correct its name in the target's url",
    "42501": "grant the role in the target's url CREATE on the schema, and its tables",
    "25006": "the target is read-only: name its primary in the target's url",
    "53100": "the target's disk is full",
    "23503": "drop the foreign key at the target, or make it DEFERRABLE INITIALLY DEFERRED",
    "23505": "drop the unique constraint at the target, or remove what stands in its way",
}


def translate(error: DBAPIError | psycopg2.Error, *, doing: str) -> CdcError:
    """The error to raise for what the driver said while `doing` something."""
    origin = error.orig if isinstance(error, DBAPIError) else error
    sqlstate = getattr(origin, "pgcode", None)
    if sqlstate is None:
        return _connection_error(str(origin), doing)
    diagnostics = getattr(origin, "diag", None)
    names = [
        f"{part} {name}"
        for part in ("table", "column", "constraint")
        if (name := getattr(diagnostics, f"{part}_name", None))
    ]
    said = _QUOTED.sub("…", str(getattr(diagnostics, "message_primary", None) or "failed"))
    what = f"target PostgreSQL, {doing}: {said} (SQLSTATE {sqlstate}{''.join(f', {name}' for name in names)})"
    if sqlstate.startswith(_PASSING):
        return PassingError(what)
    if sqlstate.startswith(_VALUE):
        return FidelityError(what, mend="give the target's column the source's type, or leave the table out")
    return TargetError(what, mend=_MENDS.get(sqlstate))


def _connection_error(text: str, doing: str) -> CdcError:
    said = next((line.strip() for line in text.splitlines() if line.strip()), "the connection was closed")
    what = f"target PostgreSQL, {doing}: {said.rpartition('FATAL:')[2].strip()}"
    for sign, sqlstate in (
        ("password authentication failed", "28P01"),
        ("no password supplied", "28P01"),
        ("no pg_hba.conf entry", "28000"),
        ("does not exist", "3D000"),
    ):
        if sign in said:
            return TargetError(what, mend=_MENDS[sqlstate])
    return PassingError(what, mend="check host, port and network in the target's url, and that PostgreSQL runs")
