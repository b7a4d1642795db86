"""Target tables in MySQL: named, created where they are missing, checked where they are there.

All of it goes over a session of its own: what defines a table commits whatever transaction is open.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from typing_extensions import override

from cdc.core.errors import TargetSchemaError
from cdc.core.tables import Column, TableId, TableSchema
from consumers.targets.mysql.catalog import ExistingTable, TargetColumn, find_table, folded
from consumers.targets.mysql.defining import Allowed
from consumers.targets.mysql.quoting import quoted, quoted_list
from consumers.targets.mysql.session import MysqlSession
from consumers.targets.mysql.types import RowCodec, declared_type, is_text, keeps_exactly, key_bytes
from consumers.targets.naming import flat_name
from consumers.targets.prepared import PreparedVersions
from consumers.targets.schema_check import MADE_ANEW, refuse_own_table, require_same_columns

_LONGEST_NAME: Final = 64


class PreparedTable(NamedTuple):
    """`written` are the indexes of the columns that the target does not generate itself; `compared_as_bytes` those of
    texts whose collation calls some equal that are not. `one_key`: there is no other unique key than the source's.
    """

    version: TableSchema
    name: str
    written: tuple[int, ...]
    compared_as_bytes: frozenset[int]
    one_key: bool
    codec: RowCodec


class PreparedTables(PreparedVersions[PreparedTable]):
    """See `PreparedVersions`; but what is made ready is committed at once, and stays."""

    def __init__(self, definer: MysqlSession, allowed: Allowed) -> None:
        super().__init__(definer)
        self._definer = definer
        self._allowed = allowed

    @override
    def prepare(self, version: TableSchema) -> PreparedTable:
        return self.prepare_within(version)

    @override
    def rolled_back(self) -> None:
        self.committed()

    @override
    def _made_ready(self, version: TableSchema) -> PreparedTable:
        doing = f"preparing table {version.id}"
        name = flat_name(version.id)
        _refuse_impossible(version, name)
        self._claim(version.id, name)
        table = find_table(self._definer, name, doing=doing)
        if table is None:
            statement = create_table(version, name, self._definer.server.collation)
            with self._allowed():
                self._definer.execute(statement, doing=f"creating table {version.id}")
            table = find_table(self._definer, name, doing=doing)
        if table is None:
            raise TargetSchemaError(f"target table {name} went away while it was being created")
        _require_fitting(version, name, table, self._definer.server.collation)
        columns = [table.columns[folded(column.name)] for column in version.columns]
        written = tuple(index for index, column in enumerate(columns) if not column.generated)
        inexact = frozenset(index for index, column in enumerate(columns) if not column.is_exact)
        codec = RowCodec(version, {index: column.declared for index, column in enumerate(columns)})
        return PreparedTable(version, name, written, inexact, len(table.unique_keys) == 1, codec)

    def _claim(self, table: TableId, name: str) -> None:
        """The name is this source table's from now on. TargetSchemaError if it is another's."""
        doing = f"preparing table {table}"
        claimed = claim_of(self._definer, name)
        self._definer.execute(
            "INSERT INTO cdc_table (name, source_schema, source_table) VALUES (%s, %s, %s)"
            " ON DUPLICATE KEY UPDATE name = name",
            (claimed, *table),
            doing=doing,
        )
        rows = self._definer.query(
            "SELECT source_schema, source_table FROM cdc_table WHERE name = %s", (claimed,), doing=doing
        )
        owner = TableId(*rows[0])
        if owner != table:
            raise TargetSchemaError(
                f"source tables {owner} and {table} would both be {name!r} at the target",
                mend="exclude one of them in the target's tables",
            )


def claim_of(session: MysqlSession, name: str) -> str:
    """The name under which a table is claimed: those that come out equal are one table to the server."""
    return name.lower() if session.server.folds_names else name


def create_table(version: TableSchema, name: str, collation: str) -> str:
    columns = [
        f"{quoted(column.name)} {full_declaration(version, column, collation)}{'' if column.nullable else ' NOT NULL'}"
        for column in version.columns
    ]
    if version.key:
        columns.append(f"PRIMARY KEY ({quoted_list(column.name for column in version.key_columns)})")
    return (
        f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({', '.join(columns)})"
        f" ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE {collation}"
    )


def full_declaration(version: TableSchema, column: Column, collation: str) -> str:
    """A column's type, with the collation if it has one."""
    declared = declaration(version, column)
    return f"{declared} CHARACTER SET utf8mb4 COLLATE {collation}" if is_text(declared) else declared


def declaration(version: TableSchema, column: Column) -> str:
    """A column's type: in the key, texts and bytes need a length."""
    key = version.key_columns
    return declared_type(column.type, key_bytes([each.type for each in key]) if column in key else None)


def _refuse_impossible(version: TableSchema, name: str) -> None:
    refuse_own_table(version, name.lower())
    names = [name, *(column.name for column in version.columns)]
    impossible = next((each for each in names if _is_impossible(each)), None)
    reason = None
    if not version.columns:
        reason = "it has no columns"
    elif impossible is not None:
        reason = f"{impossible!r} can't be a name here (64 characters at most, none beyond U+FFFF, no blank at the end)"
    elif len({folded(column.name) for column in version.columns}) < len(version.columns):
        reason = "case does not tell its columns apart here"
    if reason is not None:
        raise TargetSchemaError(
            f"table {version.id} can't be in MySQL: {reason}", mend="exclude it in the target's tables"
        )


def _is_impossible(name: str) -> bool:
    return len(name) > _LONGEST_NAME or name.endswith(" ") or any(letter > "\uffff" for letter in name)


def _require_fitting(version: TableSchema, name: str, table: ExistingTable, collation: str) -> None:
    optional = [folded for folded, column in table.columns.items() if column.optional]
    require_same_columns(version.id, (folded(column.name) for column in version.columns), table.columns, optional)
    key = frozenset(folded(column.name) for column in version.key_columns)
    alter = f"ALTER TABLE {quoted(name)}"
    if key and key not in table.unique_keys.values():
        names = quoted_list(column.name for column in version.key_columns)
        raise TargetSchemaError(
            f"target table {name!r} has no unique key on {', '.join(sorted(key))}",
            mend=f"{alter} {_key_as_needed(version, table, collation)}ADD UNIQUE ({names})",
        )
    for column in version.columns:
        _require_keeping(version, column, table.columns[folded(column.name)], collation, alter)
        _require_null(version, column, table, alter)
    if not table.tells_apart(key):
        raise TargetSchemaError(
            f"target table {name!r}: its key {', '.join(sorted(key))} has a collation to which keys that differ at the"
            " source may be one (by case, accents or blanks at the end)",
            mend=f"{alter} {_key_as_needed(version, table, collation).removesuffix(', ')}",
        )


def _key_as_needed(version: TableSchema, table: ExistingTable, collation: str) -> str:
    """Clauses that make the key's texts what a key can have."""
    return "".join(
        f"MODIFY {quoted(column.name)} {full_declaration(version, column, collation)} NOT NULL, "
        for column in version.key_columns
        if table.columns[folded(column.name)].declared.collation is not None
    )


def _require_keeping(version: TableSchema, column: Column, there: TargetColumn, collation: str, alter: str) -> None:
    if not there.generated and not keeps_exactly(column.type, there.declared):
        raise TargetSchemaError(
            f"target table {version.id}, column {column.name}: {there.full_type} would change values of the source's"
            f" {column.type.name} silently",
            mend=f"{alter} MODIFY {quoted(column.name)} {full_declaration(version, column, collation)}, or {MADE_ANEW}",
        )


def _require_null(version: TableSchema, column: Column, table: ExistingTable, alter: str) -> None:
    there = table.columns[folded(column.name)]
    if column.nullable and there.replaces_null and not there.generated:
        of_key = folded(column.name) in table.unique_keys.get("PRIMARY", ())
        raise TargetSchemaError(
            f"target table {version.id}, column {column.name}: {there.full_type} NOT NULL would take NULL, and silently"
            f" make {'the next number' if there.numbered else 'the time of writing'} of it",
            mend=f"{alter} {'DROP PRIMARY KEY, ' if of_key else ''}MODIFY {quoted(column.name)} {there.full_type} NULL",
        )
