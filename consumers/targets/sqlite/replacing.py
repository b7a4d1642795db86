"""Replacing tables by others of the same shape: SQLite renames them, in one transaction.

With `legacy_alter_table` a rename leaves alone what names the table elsewhere: views and triggers of other tables then
mean the new one. Its own indexes and triggers go with the old table, and are made again from their text.
https://www.sqlite.org/pragma.html#pragma_legacy_alter_table
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from typing_extensions import override

from cdc.core.tables import TableId
from consumers.plan.checkpoint import Checkpoint
from consumers.targets.identifiers import quoted
from consumers.targets.naming import flat_name
from consumers.targets.replaceable import Replacement, Replacing
from consumers.targets.sqlite.catalog import columns_of, constraints_of
from consumers.targets.sqlite.checkpoints import Checkpoints
from consumers.targets.sqlite.session import SqliteSession

_SWAPPING: Final = "replacing the tables"


def tables_in(session: SqliteSession, area: str) -> list[TableId]:
    doing = "looking up tables"
    if not columns_of(session, "cdc_table", doing=doing):
        return []
    rows = session.query(
        "SELECT c.source_schema, c.source_table FROM cdc_table AS c JOIN sqlite_master AS m"
        " ON m.type = 'table' AND m.name = c.name COLLATE NOCASE"
        " WHERE c.source_schema = ?1 OR substr(c.source_schema, 1, length(?1) + 1) = ?1 || '~' ORDER BY 1, 2",
        (area,),
        doing=doing,
    )
    return [TableId(*row) for row in rows]


def features(session: SqliteSession, tables: Iterable[TableId]) -> dict[TableId, frozenset[str]]:
    doing = "looking at the tables"
    found: dict[TableId, frozenset[str]] = {}
    for table in tables:
        columns = columns_of(session, flat_name(table), doing=doing)
        if columns:
            found[table] = frozenset(
                f"column {quoted(column.name)} {column.declared}{' NOT NULL' if column.not_null else ''}"
                f"{' DEFAULT' if column.default is not None else ''}{' GENERATED' if column.generated else ''}"
                for column in columns
            ) | frozenset(constraints_of(session, flat_name(table), doing=doing))
    return found


def drop_tables(session: SqliteSession, area: str) -> int:
    tables = tables_in(session, area)
    doing = "dropping tables"
    for table in tables:
        session.execute(f"DROP TABLE {quoted(flat_name(table))}", doing=doing)
    session.execute(
        "DELETE FROM cdc_table WHERE source_schema = ?1 OR substr(source_schema, 1, length(?1) + 1) = ?1 || '~'",
        (area,),
        doing=doing,
    )
    return len(tables)


class SqliteReplacing(Replacing):
    """Within the session's transaction: nobody else writes to the file."""

    def __init__(self, session: SqliteSession, *, applier: str, live: str, checkpoint: Checkpoint) -> None:
        self._session = session
        self._applier = applier
        self._live_name = live
        self.live = checkpoint

    @override
    def replace(self, tables: Sequence[Replacement]) -> None:
        session = self._session
        session.query("PRAGMA legacy_alter_table = ON", doing=_SWAPPING)
        present = features(session, [table.live for table in tables])
        gone = [table for table in tables if table.live in present]
        again: list[str] = []
        for live, new, old in gone:
            again += self._attached(live) if new is not None else []
            self._rename(live, old)
        for live, new, _ in tables:
            if new is not None:
                self._rename(new, live)
        for statement in again:
            session.execute(statement, doing="making indexes and triggers again")
        Checkpoints(session, self._applier).hand_over(self._live_name)

    def _attached(self, table: TableId) -> list[str]:
        """Take indexes and triggers from the table; the statements that make them again."""
        rows = self._session.query(
            "SELECT type, name, sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND sql IS NOT NULL"
            " AND tbl_name = ? COLLATE NOCASE ORDER BY type, name",
            (flat_name(table),),
            doing=_SWAPPING,
        )
        for kind, name, _ in rows:
            self._session.execute(f"DROP {kind} {quoted(name)}", doing=_SWAPPING)
        return [sql for _, _, sql in rows]

    def _rename(self, table: TableId, to: TableId) -> None:
        doing, name, new_name = f"renaming table {table}", flat_name(table), flat_name(to)
        self._session.execute(f"ALTER TABLE {quoted(name)} RENAME TO {quoted(new_name)}", doing=doing)
        self._session.execute("DELETE FROM cdc_table WHERE name IN (?, ?)", (name, new_name), doing=doing)
        self._session.execute(
            "INSERT INTO cdc_table (name, source_schema, source_table) VALUES (?, ?, ?)",
            (new_name, *to),
            doing=doing,
        )
