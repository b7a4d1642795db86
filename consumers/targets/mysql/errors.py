"""MySQL's and MariaDB's errors, translated once: what happened, what to do about it, and never a row's value.

Their messages quote values (`Incorrect integer value: 'abc' for column …`), so of a message about a value only the
column's name is used. Numbers: https://mariadb.com/kb/en/mariadb-error-codes/,
https://dev.mysql.com/doc/mysql-errors/8.4/en/server-error-reference.html
"""

from __future__ import annotations

import re
from typing import Final

import pymysql
from pymysql.constants import CR, ER

from cdc.core.errors import (
    CdcError,
    ConstraintError,
    FidelityError,
    PassingError,
    TargetChangedError,
    TargetError,
    TargetSchemaError,
)

_LOST: Final = {
    CR.CR_CONNECTION_ERROR,
    CR.CR_CONN_HOST_ERROR,
    CR.CR_SERVER_GONE_ERROR,
    CR.CR_SERVER_LOST,
    ER.SERVER_SHUTDOWN,
    ER.NEW_ABORTING_CONNECTION,
    ER.NORMAL_SHUTDOWN,
    0,  # PyMySQL: the connection is closed
    1927,  # MariaDB: the connection was killed
    3169,  # MySQL: the session was killed
    4031,  # MySQL: the server disconnected who was idle
}
_PASSING: Final = _LOST | {
    ER.CON_COUNT_ERROR,
    ER.TOO_MANY_USER_CONNECTIONS,
    ER.USER_LIMIT_REACHED,
    ER.LOCK_WAIT_TIMEOUT,
    ER.LOCK_DEADLOCK,
    ER.QUERY_INTERRUPTED,
    ER.OUTOFMEMORY,
    ER.OUT_OF_RESOURCES,
    1047,  # Galera: the node is not ready, or was cut off from the others
    1412,  # the table's definition has changed: try the transaction again
    1969,  # MariaDB: max_statement_time
    # Read-only: a replica may be promoted, a setting changed back.
    ER.OPTION_PREVENTS_STATEMENT,
    1792,
    1836,
    # Full.
    ER.DISK_FULL,
    ER.RECORD_FILE_FULL,
    ER.ERROR_ON_WRITE,
}
# What the session found is not there any more, or not so.
_CHANGED: Final = {ER.NO_SUCH_TABLE, ER.BAD_FIELD_ERROR, ER.WRONG_VALUE_COUNT_ON_ROW, ER.NO_DEFAULT_FOR_FIELD}
_LOOK_AGAIN: Final = "somebody altered the target while we ran: start the applier again, and see what it says"
_UNLOCK: Final = "ALTER USER … ACCOUNT UNLOCK at the target"
_NO_ROOM: Final = "close sessions at the target, or raise its max_connections or the user's MAX_USER_CONNECTIONS"
# About one value; the message may quote it.
_VALUE: Final = {
    ER.WARN_DATA_OUT_OF_RANGE,
    ER.DATA_TOO_LONG,
    ER.TRUNCATED_WRONG_VALUE,
    ER.TRUNCATED_WRONG_VALUE_FOR_FIELD,
    ER.WARN_DATA_TRUNCATED,
    1690,
    1300,  # a text that is no utf8mb4
    1366,
    1367,  # a number that is none
}
_SIGNAL: Final = 1644  # what a trigger says: it can be anything
# About one row, whatever the others are.
_OF_ONE_ROW: Final = {
    ER.BAD_NULL_ERROR,
    3819,  # MySQL: a CHECK
    4025,  # MariaDB: a CHECK, also one of a column (JSON_VALID, …)
}
_CONSTRAINT: Final = _OF_ONE_ROW | {
    ER.DUP_ENTRY,
    _SIGNAL,
}
_DESIGN: Final = {
    ER.TOO_LONG_KEY: "its key is longer than InnoDB's 3,072 bytes",
    ER.CANT_CREATE_TABLE: "it has more columns than a table can have here, or what it refers to is not there",
    ER.TOO_MANY_KEY_PARTS: "its key has more columns than a key can have here",
    ER.TOO_BIG_ROWSIZE: "a row of it does not fit into a row here (65,535 bytes, and half a page of InnoDB)",
    ER.TOO_MANY_FIELDS: "it has more columns than a table can have here",
    ER.TOO_LONG_IDENT: "a name is longer than 64 characters",
    ER.WRONG_COLUMN_NAME: "a column's name can't be one here",
    ER.WRONG_TABLE_NAME: "its name can't be one here",
    ER.DUP_FIELDNAME: "two columns' names are one here: case does not tell them apart",
    3750: "it has no primary key, and the server demands one (sql_require_primary_key)",
}
_MENDS: Final = {
    ER.ACCESS_DENIED_ERROR: "correct user and password in the target's url",
    ER.DBACCESS_DENIED_ERROR: "grant the user of the target's url what it needs on the database",
    ER.TABLEACCESS_DENIED_ERROR: "grant the missing privilege to the user of the target's url",
    ER.COLUMNACCESS_DENIED_ERROR: "grant the missing privilege to the user of the target's url",
    ER.SPECIFIC_ACCESS_DENIED_ERROR: "grant the missing privilege to the user of the target's url",
    ER.HOST_NOT_PRIVILEGED: "allow this client's address at the target",
    1820: "give the user a new password",
    1862: "give the user a new password",
    3118: _UNLOCK,
    4151: _UNLOCK,  # MariaDB's
    ER.BAD_DB_ERROR: "create the database, or correct its name in the target's url",
    ER.OPTION_PREVENTS_STATEMENT: "point the target's url at a server that takes writes (this one is read-only)",
    1792: "point the target's url at a server that takes writes",
    1836: "point the target's url at a server that takes writes",
    # Rows are written without a look at foreign keys; to drop a table that one refers to is refused.
    ER.ROW_IS_REFERENCED: "drop the foreign keys that refer to it at the target",
    ER.ROW_IS_REFERENCED_2: "drop the foreign keys that refer to it at the target",
    3730: "drop the foreign keys that refer to it at the target",
    ER.DISK_FULL: "make room on the target's disk",
    ER.RECORD_FILE_FULL: "make room on the target's disk",
    ER.ERROR_ON_WRITE: "make room on the target's disk",
    ER.CON_COUNT_ERROR: _NO_ROOM,
    ER.TOO_MANY_USER_CONNECTIONS: _NO_ROOM,
    ER.USER_LIMIT_REACHED: _NO_ROOM,
    ER.LOCK_WAIT_TIMEOUT: "end the session that holds the lock: see SHOW PROCESSLIST at the target",
}
# Their messages name objects, users and settings only.
_SPEAKABLE: Final = _PASSING | _CHANGED | _MENDS.keys() | _DESIGN.keys() | {ER.TABLE_EXISTS_ERROR, ER.BAD_TABLE_ERROR}
_COLUMN: Final = re.compile(r"""[Cc]olumn (?:`[^`]*`\.)*['`]([^'`]+)['`]""")
_RULE: Final = re.compile(r"""(?:CONSTRAINT|constraint|for key) (?:`[^`]*`\.)*['`]([^'`]+)['`]""")


def number(error: pymysql.MySQLError) -> int:
    """0 where there is none."""
    return error.args[0] if error.args and isinstance(error.args[0], int) else 0


def is_broken(error: pymysql.MySQLError) -> bool:
    """Whether the connection is of no more use."""
    return isinstance(error, pymysql.InterfaceError) or number(error) in _LOST


def translate(error: pymysql.MySQLError, *, doing: str) -> CdcError:  # noqa: PLR0911  # a table
    """The error to raise for `error`, met while `doing` something."""
    code = number(error)
    said = str(error.args[1]).strip() if len(error.args) > 1 and code in _SPEAKABLE else type(error).__name__
    what = f"{doing}: {said} ({code})"
    if is_broken(error):
        mend = "check host, port and network in the target's url, and that it runs"
        return PassingError(what, mend=mend)
    if code in _PASSING:
        return PassingError(what, mend=_MENDS.get(code))
    if code in _CHANGED:
        return TargetChangedError(what, mend=_LOOK_AGAIN)
    if code == ER.SUBQUERY_NO_1_ROW:  # see `Statements.upserts`
        return TargetChangedError(
            f"{doing}: a row with another key is there for a unique key that the table has got meanwhile ({code})",
            mend=_LOOK_AGAIN,
        )
    if code == ER.NET_PACKET_TOO_LARGE:
        return FidelityError(
            f"{doing}: a row is larger than the target's max_allowed_packet", mend="raise it at the target (up to 1G)"
        )
    if code in _VALUE:
        return FidelityError(f"{doing}{_named(_COLUMN, error)}: {_condition(code)} ({code})", mend=_MEND_OF_VALUE)
    if code in _CONSTRAINT:
        where = "" if code == _SIGNAL else _named(_COLUMN if code == ER.BAD_NULL_ERROR else _RULE, error)
        return ConstraintError(
            f"{doing}{where}: {_REFUSALS.get(code, 'a constraint of the target refuses it')} ({code})",
            mend="drop the constraint or trigger at the target: the source decides which rows are right",
            by_others=code not in _OF_ONE_ROW,
        )
    if code in _DESIGN:
        return TargetSchemaError(
            f"{doing}: {_DESIGN[code]} ({code})",
            mend="make the table at the target by hand, or exclude it in the target's tables",
        )
    return TargetError(what, mend=_MENDS.get(code))


_REFUSALS: Final = {
    ER.BAD_NULL_ERROR: "the column takes no NULL",
    ER.DUP_ENTRY: "a unique key of the target has the value already",
    3819: "a CHECK of the target refuses it",
    4025: "a CHECK of the target refuses it",
    _SIGNAL: "a trigger of the target refuses it",
}
_MEND_OF_VALUE: Final = (
    "change the target column's type to one that holds the source's values, or hold it as text with as_text"
)


def _named(pattern: re.Pattern[str], error: pymysql.MySQLError) -> str:
    """The last one that the message names: before it there may be a value."""
    found = pattern.findall(str(error.args[1])) if len(error.args) > 1 else []
    return f", {'column' if pattern is _COLUMN else 'constraint'} {found[-1]}" if found else ""


def _condition(code: int) -> str:
    return {
        ER.DATA_TOO_LONG: "a value is longer than the column (a text that is of a key: 768 characters in all)",
        1300: "a text that utf8mb4 can't say",
    }.get(code, "it can't hold a value as it is")
