"""Target tables in SQLite: named, created where they are missing, checked where they are there."""

from __future__ import annotations

from typing import Final, NamedTuple

from typing_extensions import override

from cdc.core.errors import TargetSchemaError
from cdc.core.tables import Column, TableId, TableSchema
from consumers.targets.identifiers import quoted, quoted_list
from consumers.targets.naming import flat_name
from consumers.targets.prepared import PreparedVersions
from consumers.targets.schema_check import MADE_ANEW, refuse_own_table, require_same_columns
from consumers.targets.sqlite.catalog import TargetColumn, columns_of, folded, silent_conflicts
from consumers.targets.sqlite.session import SqliteSession
from consumers.targets.sqlite.types import RowCodec, declared_type, keeps_exactly

_ROW_IDS: Final = ("rowid", "_rowid_", "oid")


class PreparedTable(NamedTuple):
    """`written` are the indexes of the columns that the target does not generate itself."""

    version: TableSchema
    name: str
    written: tuple[int, ...]
    codec: RowCodec


class PreparedTables(PreparedVersions[PreparedTable]):
    """See `PreparedVersions`."""

    def __init__(self, session: SqliteSession) -> None:
        super().__init__(session)
        self._session = session

    @override
    def _made_ready(self, version: TableSchema) -> PreparedTable:
        name = flat_name(version.id)
        _refuse_impossible(version, name)
        self._claim(version.id, name)
        columns = self._columns(version.id, name)
        if not columns:
            self._session.execute(_create_table(version, name), doing=f"creating table {version.id}")
            columns = self._columns(version.id, name)
        self._require_fitting(version, name, columns)
        generated = {folded(column.name) for column in columns if column.generated}
        written = tuple(i for i, column in enumerate(version.columns) if folded(column.name) not in generated)
        return PreparedTable(version, name, written, RowCodec(version))

    def _claim(self, table: TableId, name: str) -> None:
        """The name is this source table's from now on. TargetSchemaError if it is another's."""
        doing = f"preparing table {table}"
        self._session.execute(
            "INSERT INTO cdc_table (name, source_schema, source_table) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (name, *table),
            doing=doing,
        )
        rows = self._session.query(
            "SELECT source_schema, source_table FROM cdc_table WHERE name = ?", (name,), doing=doing
        )
        owner = TableId(*rows[0])
        if owner != table:
            raise TargetSchemaError(
                f"source tables {owner} and {table} would both be {name!r} in SQLite",
                mend="exclude one of them in the target's tables",
            )

    def _columns(self, table: TableId, name: str) -> list[TargetColumn]:
        return columns_of(self._session, name, doing=f"looking up table {table}")

    def _require_fitting(self, version: TableSchema, name: str, columns: list[TargetColumn]) -> None:
        by_name = {folded(column.name): column for column in columns}
        optional = [folded(column.name) for column in columns if column.optional]
        require_same_columns(version.id, (folded(column.name) for column in version.columns), by_name, optional)
        key = frozenset(folded(column.name) for column in version.key_columns)
        if key and key not in self._unique_keys(version.id, name, columns):
            names = ", ".join(map(compared, version.key_columns))
            raise TargetSchemaError(
                f"target table {name!r} has no unique key on {', '.join(sorted(key))} (one that compares byte by byte)",
                mend=f"CREATE UNIQUE INDEX {quoted(f'{name}_key')} ON {quoted(name)} ({names})",
            )
        for column in version.columns:
            there = by_name[folded(column.name)]
            if not there.generated and not keeps_exactly(column.type, there.declared):
                raise TargetSchemaError(
                    f"target table {name!r}, column {column.name}: declared {there.declared or 'without type'}, it"
                    f" would change values of the source's {column.type.name} silently",
                    mend=f"declare it {declared_type(column.type)}, or {MADE_ANEW}",
                )
        _require_null(version, name, columns)
        silent = silent_conflicts(self._session, name, doing=f"looking up table {version.id}")
        if silent is not None:
            raise TargetSchemaError(
                f"target table {name!r} has {silent}: rows would go, or get other values, silently",
                mend=f"make it without that, or {MADE_ANEW}",
            )

    def _unique_keys(self, table: TableId, name: str, columns: list[TargetColumn]) -> set[frozenset[str]]:
        rows = self._session.query(
            "SELECT l.name, lower(x.name), x.coll FROM pragma_index_list(?) AS l JOIN pragma_index_xinfo(l.name) AS x"
            ' WHERE l."unique" AND NOT l.partial AND x.key',
            (name,),
            doing=f"looking up table {table}",
        )
        indexes: dict[str, set[str | None]] = {}
        for index, column, collation in rows:
            # None is no column's name, so such an index is no key of ours.
            indexes.setdefault(index, set()).add(column if collation == "BINARY" else None)
        keys = {frozenset(c for c in index if c) for index in indexes.values() if None not in index}
        number = _row_number(columns)  # it has no index
        return keys if number is None else keys | {frozenset({number})}


def _row_number(columns: list[TargetColumn]) -> str | None:
    """The INTEGER PRIMARY KEY, which is the row's own number (https://www.sqlite.org/lang_createtable.html#rowid)."""
    primary = [column for column in columns if column.key_place]
    is_number = len(primary) == 1 and primary[0].declared.upper() == "INTEGER"
    return folded(primary[0].name) if is_number else None


def _require_null(version: TableSchema, name: str, columns: list[TargetColumn]) -> None:
    number = _row_number(columns)
    for index, column in enumerate(version.columns):
        if column.nullable and index not in version.key and folded(column.name) == number:
            raise TargetSchemaError(
                f"target table {name!r}, column {column.name}: INTEGER PRIMARY KEY would take NULL, and silently make"
                " the next number of it",
                mend=f"declare it INTEGER, without PRIMARY KEY, or {MADE_ANEW}",
            )


def compared(column: Column) -> str:
    """The column, as its values are to be compared with the source's: a text byte by byte, whatever collation it has at
    the target. An index serves for that if its own collation is BINARY, which is what ours have.
    """
    name = quoted(column.name)
    # Not for what is no text: an INTEGER PRIMARY KEY is found in ON CONFLICT only by its bare name.
    return f"{name} COLLATE BINARY" if declared_type(column.type) == "TEXT" else name


def row_id(version: TableSchema) -> str:
    """A name for the row's number that no column has taken."""
    taken = {folded(column.name) for column in version.columns}
    for name in _ROW_IDS:
        if name not in taken:
            return name
    raise TargetSchemaError(
        f"table {version.id} has no key, and columns called rowid, _rowid_ and oid: SQLite can't tell its rows apart",
        mend="add a primary key at the source, or exclude the table in the target's tables",
    )


def _refuse_impossible(version: TableSchema, name: str) -> None:
    refuse_own_table(version, folded(name))
    if folded(name).startswith("sqlite_"):
        raise TargetSchemaError(
            f"table {version.id}: SQLite keeps names with sqlite_ to itself", mend="exclude it in the target's tables"
        )
    names = [folded(column.name) for column in version.columns]
    if not names or len(set(names)) < len(names):
        reason = "it has no columns" if not names else "SQLite does not tell its columns apart by case"
        raise TargetSchemaError(
            f"table {version.id} can't be in SQLite: {reason}", mend="exclude it in the target's tables"
        )


def _create_table(version: TableSchema, name: str) -> str:
    columns = [
        f"{quoted(column.name)} {declared_type(column.type)}{'' if column.nullable else ' NOT NULL'}"
        for column in version.columns
    ]
    if version.key:
        columns.append(f"PRIMARY KEY ({quoted_list(column.name for column in version.key_columns)})")
    return f"CREATE TABLE {quoted(name)} ({', '.join(columns)})"
