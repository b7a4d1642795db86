"""Which tables a session fills with rows of a first load: those that it found empty, or emptied itself.

Nothing that it copies can be there already, so the rows need no staging and no ON CONFLICT, which take twice as long as
COPY itself. If anything stands against them all the same (a row of somebody else's, a value that does not fit), they
are written as all others are, which also has the words for what is wrong; and so is what comes after them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from cdc.core.errors import CdcError, PassingError
from consumers.targets.postgresql.session import PostgresSession
from consumers.targets.postgresql.statements import TableStatements

# COPY takes no views, passes rules by, and refuses tables whose policies concern our role. And what ON CONFLICT is not
# allowed to do is to be said with the first row, not with the first that is changed.
_IS_PLAIN: Final = (
    "SELECT relkind IN ('r', 'p') AND NOT relhasrules AND NOT row_security_active(oid)"
    " AND has_table_privilege(oid, 'UPDATE') AND NOT EXISTS ("
    "SELECT FROM pg_attribute WHERE attrelid = c.oid AND attidentity = 'a' AND attname <> ALL (%s))"
    " FROM pg_class c WHERE oid = %s::regclass"
)


class Filling:
    """What it knows may be wrong once a transaction was rolled back. Then what it copies is refused, and no more."""

    def __init__(self, session: PostgresSession) -> None:
        self._session = session
        self._found: dict[str, bool] = {}

    def fill(self, table: TableStatements, lines: Iterator[bytes]) -> bool:
        """Copy these lines of a first load to the table itself, if it is one that is filled. Whether that was done."""
        if table.target not in self._found:
            self._found[table.target] = self._may_be_filled(table) and self._is_empty(table)
        return self._found[table.target] and table.is_copied_exactly and self._fill(table, lines)

    def emptied(self, table: TableStatements) -> None:
        """All its rows went in this session."""
        self._found[table.target] = self._may_be_filled(table)

    def forget(self, tables: Iterable[TableStatements]) -> None:
        """These are altered."""
        for table in tables:
            self._found.pop(table.target, None)

    def _fill(self, table: TableStatements, lines: Iterator[bytes]) -> bool:
        doing = f"writing table {table.table}"
        self._session.execute("SAVEPOINT cdc_fill", doing=doing)
        try:
            self._session.copy_in(table.fill(), lines, doing=doing, columns=())
        except PassingError:
            raise
        except CdcError:
            self._session.execute("ROLLBACK TO SAVEPOINT cdc_fill", doing=doing)
            self._found[table.target] = False
        self._session.execute("RELEASE SAVEPOINT cdc_fill", doing=doing)
        return self._found[table.target]

    def _may_be_filled(self, table: TableStatements) -> bool:
        """But for rows that are there."""
        key = [table.names[index] for index in table.key]
        return self._session.query(_IS_PLAIN, (key, table.target), doing=_looking_at(table)) == [(True,)]

    def _is_empty(self, table: TableStatements) -> bool:
        return not self._session.query(f"SELECT 1 FROM {table.rows} LIMIT 1", doing=_looking_at(table))


def _looking_at(table: TableStatements) -> str:
    return f"looking at table {table.table}"
