"""PostgreSQL as a target: COPY into temporary tables, then one statement for each table and kind of change."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import psycopg2
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool
from typing_extensions import override

from cdc.core.checks import Check
from cdc.core.errors import AlreadyRunningError, GapError, PassingError, TargetSchemaError
from cdc.core.events import UNCHANGED, Row, Value
from cdc.core.failpoints import reached
from cdc.core.log import TopicPartition
from cdc.core.settings import TargetSettings
from cdc.core.tables import Column, TableId, TableSchema
from consumers.plan.checkpoint import Checkpoint, PartitionProgress
from consumers.plan.steps import MoveRow, Step, TruncateTable, WriteRows
from consumers.targets import checkpoints
from consumers.targets.copy_text import copy_lines
from consumers.targets.postgresql_errors import translate
from consumers.targets.postgresql_types import fallback
from consumers.targets.target import Target

# Canonical text is PostgreSQL's under these settings. A stopped applier must let its locks go.
_SESSION: Final = (
    "-c DateStyle=ISO -c TimeZone=UTC -c IntervalStyle=postgres -c lc_monetary=C -c client_encoding=UTF8"
    " -c idle_in_transaction_session_timeout=60000 -c standard_conforming_strings=on"
)
_SYNTAX_ERROR: Final = "42601"
_LOCK_CLASS: Final = 0x636463  # "cdc"


class PostgresTarget(Target):
    """The database at `settings.url`, under the checkpoint called `settings.name`."""

    def __init__(self, settings: TargetSettings) -> None:
        self._name = settings.name
        url = _libpq_url(settings.url)
        self._engine = sa.create_engine(
            "postgresql+psycopg2://",
            creator=lambda: psycopg2.connect(
                url, application_name=f"cdc:{settings.name}"[:63], connect_timeout=10, options=_SESSION
            ),
            poolclass=NullPool,
        )
        self._connection: sa.Connection | None = None
        self._version = 0
        self._prepared: dict[TableId, tuple[TableSchema, _Writer]] = {}

    @override
    def open(self) -> Checkpoint:
        with _translated("connecting"):
            self._connection = self._engine.connect()
        with _translated("opening the checkpoint"), self._connection.begin():
            self._lock()
            checkpoints.create(self._connection, self._name)
            checkpoint = checkpoints.read(self._connection, self._name)
        self._version = checkpoint.version
        return checkpoint

    @override
    def read_checkpoint(self) -> Checkpoint:
        with _translated("reading the checkpoint"), self._engine.connect() as connection:
            return checkpoints.read(connection, self._name)

    @override
    def checks(self) -> Iterator[Check]:
        name = f"target {self._name}"
        with _translated("checking"), self._engine.connect() as connection:
            may_create, read_only, version = connection.exec_driver_sql(
                "SELECT has_schema_privilege(current_schema(), 'CREATE'), pg_is_in_recovery(),"
                " current_setting('server_version')"
            ).one()
        yield Check(name=name, ok=True, found=f"PostgreSQL {version} answers")
        if read_only:
            yield Check(
                name=name, ok=False, found="is a read-only standby", mend="name its primary in the target's url"
            )
        if not may_create:
            yield Check(
                name=name,
                ok=False,
                found="its role may not create tables in its schema",
                mend="GRANT CREATE ON SCHEMA public TO <the role in the target's url>",
            )

    @override
    def prepare(self, table: TableSchema) -> None:
        known = self._prepared.get(table.id)
        if known is not None and (known[0] is table or known[0] == table):
            return
        connection = self._open
        with _translated(f"preparing table {table.id}"), connection.begin():
            existing = _columns(connection, table.id)
            if existing is None:
                _create(connection, table)
            else:
                _require_same_columns(table, existing)
                _require_unique_key(connection, table)
        self._prepared[table.id] = (table, _Writer(table))

    @override
    def apply(
        self, steps: Sequence[Step], progress: Mapping[TopicPartition, PartitionProgress], *, log_id: str
    ) -> None:
        connection = self._open
        with _translated("applying"), connection.begin():
            checkpoints.take(connection, self._name, self._version, log_id=log_id)
            reached("apply.1-fenced")
            cursor = connection.connection.cursor()
            for step in steps:
                self._run(cursor, step)
            reached("apply.2-written")
            checkpoints.write(connection, self._name, progress)
            reached("apply.3-checkpointed")
        reached("apply.4-committed")
        self._version += 1

    @override
    def close(self) -> None:
        self._prepared = {}
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.invalidate()  # whatever state it is in, the server rolls back and lets the lock go
            connection.close()

    @property
    def _open(self) -> sa.Connection:
        if self._connection is None:
            raise PassingError("the target is not open")
        return self._connection

    def _run(self, cursor: Any, step: Step) -> None:
        self.prepare_again(step.table)
        writer = self._prepared[step.table.id][1]
        with _translated(f"writing table {step.table.id}"):
            match step:
                case WriteRows():
                    writer.write(cursor, step)
                case TruncateTable():
                    writer.truncate(cursor)
                case MoveRow():
                    writer.move(cursor, step)

    def prepare_again(self, table: TableSchema) -> None:
        """Several versions of a table may stand in one batch: switch to this one's statements."""
        known = self._prepared.get(table.id)
        if known is None or known[0] != table:
            self._prepared[table.id] = (table, _Writer(table))

    def _lock(self) -> None:
        """A lock of the session that writes: whoever loses the connection loses the lock with it."""
        number = zlib.crc32(self._name.encode()) - (1 << 31)
        got = self._open.exec_driver_sql(f"SELECT pg_try_advisory_lock({_LOCK_CLASS}, {number})").scalar_one()
        if not got:
            raise AlreadyRunningError(
                f"another applier of target {self._name!r} is at work on this database",
                mend="stop it first; for a second copy, give it a target name and database of its own",
            )


class _Writer:
    """The statements of one table version."""

    def __init__(self, table: TableSchema) -> None:
        self._table = table
        self._name = _quoted_table(table.id)
        self._columns = [column.name for column in table.columns]
        self._key = [column.name for column in table.key_columns]
        self._key_set = frozenset(table.key)

    def write(self, cursor: Any, step: WriteRows) -> None:
        if step.deletes:
            staged = self._stage(cursor, self._key, step.deletes)
            cursor.execute(f"DELETE FROM {self._name} AS t USING {staged} AS s WHERE {_equal('t', 's', self._key)}")
        if step.upserts:
            self._upsert(cursor, step.upserts)
        for columns, rows in _by_present_columns(step.partials).items():
            self._update(cursor, columns, rows)
        if step.removed:
            self._remove(cursor, step.removed)
        if step.added:
            self._copy(cursor, self._name, self._columns, step.added)

    def truncate(self, cursor: Any) -> None:
        # DELETE, not TRUNCATE: readers keep their view, foreign keys at the target are respected, triggers fire.
        cursor.execute(f"DELETE FROM {self._name}")

    def move(self, cursor: Any, step: MoveRow) -> None:
        present = [index for index, value in enumerate(step.row) if value is not UNCHANGED]
        old = [f"old {name}" for name in range(len(self._key))]
        types = ", ".join(
            [f"t.{_quoted(name)} AS {_quoted(old[at])}" for at, name in enumerate(self._key)]
            + [f"t.{_quoted(self._columns[index])}" for index in present]
        )
        cursor.execute(f"CREATE TEMPORARY TABLE cdc_move ON COMMIT DROP AS SELECT {types} FROM {self._name} t LIMIT 0")
        names = old + [self._columns[index] for index in present]
        self._copy(cursor, "cdc_move", names, [(*step.old_key, *(step.row[index] for index in present))])
        same = " AND ".join(f"t.{_quoted(name)} = s.{_quoted(old[at])}" for at, name in enumerate(self._key))
        assigned = ", ".join(f"{_quoted(self._columns[i])} = s.{_quoted(self._columns[i])}" for i in present)
        cursor.execute(f"UPDATE {self._name} AS t SET {assigned} FROM cdc_move AS s WHERE {same}")
        moved = cursor.rowcount
        cursor.execute("DROP TABLE cdc_move")
        self._require(moved, 1, "moved")

    def _upsert(self, cursor: Any, rows: Sequence[Row]) -> None:
        staged = self._stage(cursor, self._columns, rows)
        columns = ", ".join(map(_quoted, self._columns))
        others = [name for name in self._columns if name not in self._key]
        action = (
            "DO UPDATE SET " + ", ".join(f"{_quoted(name)} = excluded.{_quoted(name)}" for name in others)
            if others
            else "DO NOTHING"
        )
        cursor.execute(
            f"INSERT INTO {self._name} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {staged}"
            f" ON CONFLICT ({', '.join(map(_quoted, self._key))}) {action}"
        )

    def _update(self, cursor: Any, present: tuple[int, ...], rows: Sequence[Sequence[Value]]) -> None:
        columns = [self._columns[index] for index in present]
        staged = self._stage(cursor, columns, rows)
        changed = [name for name in columns if name not in self._key] or self._key
        assigned = ", ".join(f"{_quoted(name)} = s.{_quoted(name)}" for name in changed)
        cursor.execute(
            f"UPDATE {self._name} AS t SET {assigned} FROM {staged} AS s WHERE {_equal('t', 's', self._key)}"
        )
        self._require(cursor.rowcount, len(rows), "updated in part")

    def _remove(self, cursor: Any, rows: Sequence[Row]) -> None:
        """Remove one copy for each of `rows`. Rows are told apart by their text, which is exact for -0 and 1.00 too."""
        staged = self._stage(cursor, self._columns, rows)
        text = f"ROW({', '.join(map(_quoted, self._columns))})::text"
        copy = f"row_number() OVER (PARTITION BY {text}) AS copy"
        cursor.execute(
            f"DELETE FROM {self._name} WHERE ctid = ANY (ARRAY("
            f"SELECT t.place FROM (SELECT ctid AS place, {text} AS said, {copy} FROM {self._name}) AS t"
            f" JOIN (SELECT {text} AS said, {copy} FROM {staged}) AS s ON t.said = s.said AND t.copy = s.copy))"
        )
        self._require(cursor.rowcount, len(rows), "removed")

    def _stage(self, cursor: Any, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> str:
        """A temporary table with these columns, of the target's types, that holds the rows."""
        listed = ", ".join(map(_quoted, columns))
        cursor.execute("DROP TABLE IF EXISTS pg_temp.cdc_stage")
        cursor.execute(f"CREATE TEMPORARY TABLE cdc_stage ON COMMIT DROP AS SELECT {listed} FROM {self._name} LIMIT 0")
        self._copy(cursor, "pg_temp.cdc_stage", columns, rows)
        return "pg_temp.cdc_stage"

    def _copy(self, cursor: Any, table: str, columns: Sequence[str], rows: Sequence[Sequence[Value]]) -> None:
        if not columns:
            for _ in rows:
                cursor.execute(f"INSERT INTO {table} DEFAULT VALUES")
            return
        listed = ", ".join(map(_quoted, columns))
        cursor.copy_expert(f"COPY {table} ({listed}) FROM STDIN", io.BytesIO(copy_lines(rows)))

    def _require(self, count: int, expected: int, what: str) -> None:
        if count != expected:
            raise GapError(
                f"table {self._table.id}: {expected} row(s) had to be {what}, {count} were there to be: the target was"
                " changed by something else, or lacks events",
                mend="`cdc capture --start-over` loads all tables again",
            )


def _by_present_columns(rows: Sequence[Row]) -> dict[tuple[int, ...], list[tuple[Value, ...]]]:
    """Partial rows grouped by which columns they have, without the values that they lack."""
    groups: dict[tuple[int, ...], list[tuple[Value, ...]]] = {}
    for row in rows:
        present = tuple(index for index, value in enumerate(row) if value is not UNCHANGED)
        groups.setdefault(present, []).append(tuple(row[index] for index in present))
    return groups


def _columns(connection: sa.Connection, table: TableId) -> list[str] | None:
    """The columns of the table in the target; None if there is no such table."""
    rows = connection.execute(
        sa.text(
            "SELECT a.attname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_attribute a"
            " ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped"
            " WHERE n.nspname = :schema AND c.relname = :name ORDER BY a.attnum"
        ),
        {"schema": table.schema, "name": table.name},
    ).all()
    return [name for (name,) in rows if name is not None] if rows else None


def _create(connection: sa.Connection, table: TableSchema) -> None:
    # psycopg2 reads % as a placeholder, because SQLAlchemy always hands it parameters, if empty ones.
    connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {_quoted(table.id.schema)}".replace("%", "%%"))
    parts = [_declared(connection, column) for column in table.columns]
    if table.key:
        parts.append(f"PRIMARY KEY ({', '.join(_quoted(column.name) for column in table.key_columns)})")
    statement = f"CREATE TABLE IF NOT EXISTS {_quoted_table(table.id)} ({', '.join(parts)})"
    connection.exec_driver_sql(statement.replace("%", "%%"))


def _declared(connection: sa.Connection, column: Column) -> str:
    """The column as the source declares it, where the target knows that type."""
    declared = column.type.name if _knows(connection, column.type.name) else fallback(column.type)
    return f"{_quoted(column.name)} {declared}{'' if column.nullable else ' NOT NULL'}"


_TYPE_NAME: Final = re.compile(
    r"""(?:(?:[A-Za-z_]\w*|"(?:[^"]|"")+")\.)?(?:[A-Za-z_][\w ]*|"(?:[^"]|"")+")"""  # public.mood
    r"(?:\( ?-?\d+(?: ?, ?-?\d+)* ?\))?"  # (10,2)
    r"(?: with(?:out)? time zone)?(?:\[\])*"
)


def _knows(connection: sa.Connection, name: str) -> bool:
    """Whether the target knows a type of that name. It came from a topic, and will stand in a statement as it is."""
    if not _TYPE_NAME.fullmatch(name):
        return False
    try:
        with connection.begin_nested():
            return connection.execute(sa.text("SELECT to_regtype(:name)::text"), {"name": name}).scalar() is not None
    except DBAPIError as error:
        if getattr(error.orig, "pgcode", None) == _SYNTAX_ERROR:  # before PostgreSQL 16 an error, not NULL
            return False
        raise


def _require_same_columns(table: TableSchema, existing: Sequence[str]) -> None:
    expected = {column.name for column in table.columns}
    missing, extra = sorted(expected - set(existing)), sorted(set(existing) - expected)
    if missing or extra:
        differences = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"also has {', '.join(extra)}"] * bool(extra)
        raise TargetSchemaError(
            f"table {table.id} of the target {' and '.join(differences)}",
            mend="rename or drop the target's table, so that it is made anew; or give it the source's columns",
        )


def _require_unique_key(connection: sa.Connection, table: TableSchema) -> None:
    """ON CONFLICT needs a unique index over exactly the key."""
    if not table.key:
        return
    rows = connection.execute(
        sa.text(
            "SELECT array_agg(a.attname::text) FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid"
            " AND a.attnum = ANY (i.indkey[0:i.indnkeyatts - 1]) WHERE i.indrelid = to_regclass(:name)"
            " AND i.indisunique AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL GROUP BY i.indexrelid"
        ),
        {"name": _quoted_table(table.id)},
    )
    key = {column.name for column in table.key_columns}
    if not any(set(names) == key for (names,) in rows):
        listed = ", ".join(_quoted(column.name) for column in table.key_columns)
        raise TargetSchemaError(
            f"table {table.id} of the target has no unique index over its key ({', '.join(sorted(key))})",
            mend=f"ALTER TABLE {_quoted_table(table.id)} ADD PRIMARY KEY ({listed})",
        )


def _equal(left: str, right: str, columns: Sequence[str]) -> str:
    return " AND ".join(f"{left}.{_quoted(name)} = {right}.{_quoted(name)}" for name in columns)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _quoted_table(table: TableId) -> str:
    return f"{_quoted(table.schema)}.{_quoted(table.name)}"


def _libpq_url(url: str) -> str:
    return url.replace("postgresql+psycopg2://", "postgresql://", 1)


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (DBAPIError, psycopg2.Error) as error:
        raise translate(error, doing=doing) from None
