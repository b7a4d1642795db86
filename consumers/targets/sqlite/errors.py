"""SQLite's errors, translated once. Of its own messages, only those are kept that name tables and columns."""

from __future__ import annotations

import re
import sqlite3
from typing import Final

from cdc.core.errors import CdcError, ConstraintError, FidelityError, PassingError, TargetChangedError, TargetError

_PASSING: Final = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_MENDS: Final = {
    sqlite3.SQLITE_FULL: "make room on the target's disk",
    sqlite3.SQLITE_READONLY: "make the database file and its folder writable",
    sqlite3.SQLITE_CANTOPEN: "make the folder in the target's url, and let this user write to it",
    sqlite3.SQLITE_PERM: "let this user write to the database file",
    sqlite3.SQLITE_NOTADB: "point the target's url at a SQLite database, or at no file",
    sqlite3.SQLITE_CORRUPT: "restore the file, or remove it and rebuild the target",
    sqlite3.SQLITE_IOERR: "check the target's disk",
    sqlite3.SQLITE_CONSTRAINT: "drop the constraint at the target: the source decides which rows are right",
}
_CHANGED: Final = re.compile(r"no such (table|column)|table .* has no column|ON CONFLICT clause does not match")
_OF_ONE_ROW: Final = {sqlite3.SQLITE_CONSTRAINT_CHECK, sqlite3.SQLITE_CONSTRAINT_NOTNULL}
_PRIMARY: Final = 0xFF  # https://www.sqlite.org/rescode.html#extended_result_code_list


def translate(error: sqlite3.Error, *, doing: str) -> CdcError:  # noqa: PLR0911  # a table
    """The error to raise for `error`, met while `doing` something."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return TargetError(f"{doing}: {type(error).__name__}")
    primary = code & _PRIMARY
    what = f"{doing}: {error.sqlite_errorname}"
    if primary in _PASSING:
        return PassingError(f"{what}: another process holds the database")
    if primary == sqlite3.SQLITE_FULL:
        return PassingError(what, mend=_MENDS[primary])
    if primary == sqlite3.SQLITE_ERROR and _CHANGED.match(str(error)):
        mend = "somebody altered the target while we ran: start the applier again, and see what it says"
        return TargetChangedError(f"{what}: {error}", mend=mend)
    if primary == sqlite3.SQLITE_TOOBIG:
        return FidelityError(f"{what}: a value is longer than SQLite allows", mend="exclude the table")
    if primary == sqlite3.SQLITE_CONSTRAINT:
        return ConstraintError(f"{what}: {error}", mend=_MENDS[primary], by_others=code not in _OF_ONE_ROW)
    return TargetError(what, mend=_MENDS.get(primary))
