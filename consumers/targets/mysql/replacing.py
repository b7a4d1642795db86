"""Replacing tables by others of the same shape: MySQL renames them all in one statement.

It happens whole or not at all (MySQL 8.0, MariaDB 10.6: https://mariadb.com/kb/en/atomic-ddl/), and no reader sees a
part of it; but it can't share a transaction with the checkpoint. So:

1. A session of its own holds the live applier's row of `cdc_applier`, while the last changes are replayed.
2. A transaction says in that row that the tables are being replaced, and claims their names. The live applier is out
   from here on, and does not come back as long as the row says so.
3. RENAME TABLE. An empty table, the mark, is renamed among the others.
4. A transaction hands the checkpoint over.

Whoever opens the target after a crash between 2 and 4 ends it: by 4 if the mark has its new name, else by taking
back 2. The session that renames has a lock, so that nobody does so while it, or what it left at the server, is at work.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from typing_extensions import override

from cdc.core.errors import PassingError
from cdc.core.failpoints import reached
from cdc.core.tables import TableId
from consumers.plan.beside import area
from consumers.plan.checkpoint import Checkpoint
from consumers.targets.mysql.checkpoints import Checkpoints
from consumers.targets.mysql.quoting import quoted
from consumers.targets.mysql.session import MysqlSession
from consumers.targets.mysql.tables import claim_of
from consumers.targets.naming import flat_name
from consumers.targets.replaceable import Replacement, Replacing

_SWAPPING: Final = "replacing the tables"
_LOOKING: Final = "looking at the tables"
_DROPPING: Final = "dropping tables"
# Others who want the tables wait behind us: not long. Whoever is stopped loses the lock with the session.
_SETTINGS: Final = ("SET SESSION lock_wait_timeout = 1", "SET SESSION wait_timeout = 60")

_OF_AREA: Final = "source_schema = %s OR LEFT(source_schema, CHAR_LENGTH(%s) + 1) = CONCAT(%s, '~')"
_COLUMNS: Final = """
SELECT table_name, CONCAT('column ', column_name, ' ', column_type, COALESCE(CONCAT(' ', collation_name), ''),
    IF(is_nullable = 'NO', ' NOT NULL', ''), IF(COALESCE(column_default, 'NULL') = 'NULL', '', ' DEFAULT'),
    IF(extra = '', '', CONCAT(' ', extra)))
FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name IN %s
"""
_UNIQUE: Final = """
SELECT table_name, CONCAT('unique (', GROUP_CONCAT(COALESCE(column_name, '') ORDER BY seq_in_index SEPARATOR ', '), ')')
FROM information_schema.statistics
WHERE non_unique = 0 AND index_name <> 'PRIMARY' AND table_schema = DATABASE() AND table_name IN %s
GROUP BY table_name, index_name
"""
_CHECKS: Final = """
SELECT table_name, CONCAT('check ', constraint_name) FROM information_schema.table_constraints
WHERE constraint_type = 'CHECK' AND table_schema = DATABASE() AND table_name IN %s
"""
_REFERENCES: Final = """
SELECT table_name, CONCAT('foreign key ', column_name, ' to ', referenced_table_name)
FROM information_schema.key_column_usage
WHERE referenced_table_name IS NOT NULL AND table_schema = DATABASE() AND table_name IN %s
"""
_REFERRED: Final = """
SELECT referenced_table_name, CONCAT('foreign key of ', table_name) FROM information_schema.key_column_usage
WHERE referenced_table_schema = DATABASE() AND referenced_table_name IN %s
"""
_TRIGGERS: Final = """
SELECT event_object_table, CONCAT('trigger ', LOWER(action_timing), ' ', LOWER(event_manipulation))
FROM information_schema.triggers WHERE event_object_schema = DATABASE() AND event_object_table IN %s
"""
_KINDS: Final = """
SELECT table_name, IF(table_type = 'BASE TABLE', 'partitions', LOWER(table_type)) FROM information_schema.tables
WHERE (table_type <> 'BASE TABLE' OR create_options LIKE '%%partitioned%%')
    AND table_schema = DATABASE() AND table_name IN %s
"""
_FEATURES: Final = (_COLUMNS, _UNIQUE, _CHECKS, _REFERENCES, _REFERRED, _TRIGGERS, _KINDS)
# A line of SHOW CREATE TABLE.
_INDEX: Final = re.compile(r"^  ((?:FULLTEXT |SPATIAL )?KEY `((?:[^`]|``)+)` .*?),?$", re.MULTILINE)


def tables_in(session: MysqlSession, area: str) -> list[TableId]:
    claims = session.query(
        f"SELECT name, source_schema, source_table FROM cdc_table WHERE {_OF_AREA}", (area, area, area), doing=_LOOKING
    )
    there = _present(session, [name for name, _, _ in claims])
    return sorted(TableId(*table) for name, *table in claims if name in there)


def features(session: MysqlSession, tables: Iterable[TableId]) -> dict[TableId, frozenset[str]]:
    named = {claim_of(session, flat_name(table)): table for table in tables}
    found: dict[TableId, set[str]] = {}
    for query in _FEATURES if named else ():
        for name, feature in session.query(query, (list(named),), doing=_LOOKING):
            table = named.get(claim_of(session, name))
            if table is not None:
                found.setdefault(table, set()).add(feature)
    return {table: frozenset(of) for table, of in found.items()}


def make_alike(definer: MysqlSession, tables: Sequence[Replacement]) -> None:
    """The live tables' indexes."""
    there = _present(definer, [claim_of(definer, flat_name(table.live)) for table in tables])
    for live, new, _ in tables:
        if new is not None and claim_of(definer, flat_name(live)) in there:
            doing = f"making table {new} like {live}"
            has = _indexes(definer, new, doing)
            clauses = [f"ADD {text}" for name, text in _indexes(definer, live, doing).items() if name not in has]
            if clauses:
                definer.execute(f"ALTER TABLE {quoted(flat_name(new))} {', '.join(clauses)}", doing=doing)


def discard(definer: MysqlSession, area: str) -> int:
    """Drop the area's tables and forget its checkpoint. How many tables."""
    checkpoints = Checkpoints(definer, area)
    with definer.transaction(doing=_DROPPING):
        checkpoints.begin_dropping()
    return _end_dropping(definer, area)


def settle(definer: MysqlSession, applier: str) -> None:
    """End what was begun before a crash for this applier, or by a rebuild in place of it. PassingError while that
    rebuild is at work.
    """
    if Checkpoints(definer, applier).is_dropping():
        _end_dropping(definer, applier)
    live = applier.partition("~")[0]
    if not Checkpoints(definer, live).is_replacing():
        return
    if not definer.lock(_lock(live)):
        raise PassingError(f"a rebuild is replacing the tables of {live!r}")
    try:
        _end(definer, live)
    finally:
        definer.unlock(_lock(live))


class MysqlReplacing(Replacing):
    """`holder` has the live applier's row locked in an open transaction."""

    def __init__(self, holder: MysqlSession, definer: MysqlSession, *, live: str, checkpoint: Checkpoint) -> None:
        self._holder = holder
        self._definer = definer
        self._live_name = live
        self.live = checkpoint

    @override
    def replace(self, tables: Sequence[Replacement]) -> None:
        """Not part of a transaction: it happens whole, or not at all."""
        definer = self._definer
        for setting in _SETTINGS:
            definer.execute(setting, doing=_SWAPPING)
        if not definer.lock(_lock(self._live_name)):
            raise PassingError(f"somebody else is replacing the tables of {self._live_name!r}")
        there = _present(definer, [claim_of(definer, flat_name(table.live)) for table in tables])
        gone = [table for table in tables if claim_of(definer, flat_name(table.live)) in there]
        mark, marked = _marks(self._live_name)
        pairs = [(flat_name(table.live), flat_name(table.old)) for table in gone]
        pairs += [(flat_name(table.new), flat_name(table.live)) for table in tables if table.new is not None]
        renames = ", ".join(f"{quoted(old)} TO {quoted(new)}" for old, new in [*pairs, (mark, marked)])
        definer.execute(f"DROP TABLE IF EXISTS {quoted(mark)}, {quoted(marked)}", doing=_SWAPPING)
        self._announce(tables, gone)
        reached("rebuild.3-announced")
        try:
            definer.execute(f"CREATE TABLE {quoted(mark)} (nothing INT) ENGINE = InnoDB", doing=_SWAPPING)
            definer.execute(f"RENAME TABLE {renames}", doing="waiting for readers of the tables")
            reached("rebuild.3-renamed")
        finally:
            _end(definer, self._live_name)

    def _announce(self, tables: Sequence[Replacement], gone: Sequence[Replacement]) -> None:
        """Names are claimed before they are given: so nobody else comes in between."""
        for name in (*(table.old for table in gone), *(table.live for table in tables if table.new is not None)):
            self._holder.execute(
                "INSERT INTO cdc_table (name, source_schema, source_table) VALUES (%s, %s, %s) ON DUPLICATE KEY UPDATE"
                " source_schema = VALUES(source_schema), source_table = VALUES(source_table)",
                (claim_of(self._holder, flat_name(name)), *name),
                doing=_SWAPPING,
            )
        Checkpoints(self._holder, self._live_name).begin_replacing()
        self._holder.execute("COMMIT", doing=_SWAPPING)


def _end(definer: MysqlSession, live: str) -> None:
    """By what the tables are called now. The caller has the lock."""
    marks, checkpoints = _marks(live), Checkpoints(definer, live)
    with definer.transaction(doing=_SWAPPING):
        if not checkpoints.is_replacing():
            return
        if _present(definer, [claim_of(definer, marks[1])]):
            Checkpoints(definer, area(live, "new")).hand_over(live)
            _forget_claims(definer, area(live, "new"))
        else:
            checkpoints.end_replacing()
    definer.execute(f"DROP TABLE IF EXISTS {', '.join(map(quoted, marks))}", doing=_SWAPPING)


def _end_dropping(definer: MysqlSession, area: str) -> int:
    tables = tables_in(definer, area)
    for table in tables:
        definer.execute(f"DROP TABLE IF EXISTS {quoted(flat_name(table))}", doing=_DROPPING)
    with definer.transaction(doing=_DROPPING):
        _forget_claims(definer, area)
        Checkpoints(definer, area).forget()
    return len(tables)


def _forget_claims(session: MysqlSession, area: str) -> None:
    session.execute(f"DELETE FROM cdc_table WHERE {_OF_AREA}", (area, area, area), doing=_SWAPPING)


def _marks(live: str) -> tuple[str, str]:
    """The mark's name before and after: names of no table, for a table's has something after the point."""
    return f"{area(live, 'new')}.", f"{area(live, 'old')}."


def _lock(live: str) -> str:
    return f"{live}~replacing"


def _present(session: MysqlSession, names: Sequence[str]) -> set[str]:
    """Of these, as they are claimed, the names of tables."""
    if not names:
        return set()
    rows = session.query(
        "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE() AND table_name IN %s",
        (list(names),),
        doing=_LOOKING,
    )
    return {claim_of(session, name) for (name,) in rows}.intersection(names)


def _indexes(session: MysqlSession, table: TableId, doing: str) -> dict[str, str]:
    """By their names, how those that are not unique are made."""
    ((_, text),) = session.query(f"SHOW CREATE TABLE {quoted(flat_name(table))}", doing=doing)
    return {name: clause for clause, name in _INDEX.findall(text)}
