"""What a database of MySQL or MariaDB has: tables, columns, unique keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from cdc.core.errors import TargetSchemaError
from consumers.targets.mysql.session import EXACT_COLLATIONS, MysqlSession
from consumers.targets.mysql.types import DeclaredType

_MARK: Final = re.compile(r" ?cdc:([0-9a-f]{16})$")


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetColumn:
    """`full_type` is SQL (`decimal(10,2)`). `optional`: a new row need not bring a value for it. `numbered`: it is
    AUTO_INCREMENT.
    """

    name: str
    full_type: str
    declared: DeclaredType
    nullable: bool
    optional: bool
    numbered: bool
    generated: bool

    @property
    def is_exact(self) -> bool:
        """Whether it compares texts byte for byte."""
        collation = self.declared.collation
        return collation is None or collation in EXACT_COLLATIONS or collation.endswith("_nopad_bin")

    @property
    def replaces_null(self) -> bool:
        """Whether NULL would become the time that it is, or the next number."""
        return not self.nullable and (self.numbered or self.declared.data_type == "timestamp")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExistingTable:
    """`columns` and `unique_keys` are by folded names. `mark` is what `altered` left in the table's comment, `comment`
    the rest of it.
    """

    columns: Mapping[str, TargetColumn]
    unique_keys: Mapping[str, frozenset[str]]
    mark: str | None
    comment: str

    @property
    def has_primary_key(self) -> bool:
        return "PRIMARY" in self.unique_keys

    def tells_apart(self, key: frozenset[str]) -> bool:
        """Whether the key's texts are compared byte for byte: else two keys may be one here."""
        return all(self.columns[name].is_exact for name in key)


def folded(name: str) -> str:
    """Names of columns that come out equal are one to MySQL."""
    return name.lower()


def marked(comment: str, mark: str) -> str:
    """The table's comment, with the mark at its end. It changes in the ALTER TABLE that it tells of: the one thing that
    commits together with it.
    """
    return f"{comment} cdc:{mark}".strip()


def find_table(session: MysqlSession, name: str, *, doing: str) -> ExistingTable | None:
    """The table as it is now. TargetSchemaError if the name belongs to something else."""
    found = session.query(
        "SELECT table_type, table_comment FROM information_schema.tables"
        " WHERE table_schema = DATABASE() AND table_name = %s",
        (name,),
        doing=doing,
    )
    if not found:
        return None
    kind, comment = found[0]
    if kind not in {"BASE TABLE", "SYSTEM VERSIONED"}:
        raise TargetSchemaError(f"target {name} is not a table", mend="rename or drop it at the target")
    mark = _MARK.search(comment)
    return ExistingTable(
        columns=_columns(session, name, doing),
        unique_keys=_unique_keys(session, name, doing),
        mark=mark and mark[1],
        comment=_MARK.sub("", comment),
    )


def _columns(session: MysqlSession, name: str, doing: str) -> dict[str, TargetColumn]:
    rows = session.query(
        "SELECT column_name, column_type, data_type, collation_name, numeric_scale, datetime_precision,"
        " character_maximum_length, character_octet_length, is_nullable = 'YES', column_default IS NOT NULL,"
        " extra LIKE '%%auto_increment%%', COALESCE(generation_expression, '') <> ''"
        " FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = %s"
        " ORDER BY ordinal_position",
        (name,),
        doing=doing,
    )
    columns = {}
    for column, full_type, data_type, collation, *sizes, nullable, has_default, numbered, generated in rows:
        scale, fraction, characters, octets = (None if size is None else int(size) for size in sizes)
        columns[folded(column)] = TargetColumn(
            name=column,
            full_type=full_type,
            declared=DeclaredType(
                data_type=data_type.lower(),
                collation=collation,
                scale=scale,
                fraction=fraction,
                characters=characters,
                octets=octets,
            ),
            nullable=bool(nullable),
            optional=bool(nullable or has_default or numbered or generated),
            numbered=bool(numbered),
            generated=bool(generated),
        )
    return columns


def _unique_keys(session: MysqlSession, name: str, doing: str) -> dict[str, frozenset[str]]:
    """Those on whole columns; on expressions and prefixes they are no keys of ours, and stand as the empty set."""
    rows = session.query(
        "SELECT index_name, column_name, sub_part FROM information_schema.statistics"
        " WHERE table_schema = DATABASE() AND table_name = %s AND non_unique = 0",
        (name,),
        doing=doing,
    )
    indexes: dict[str, list[str | None]] = {}
    for index, column, prefix in rows:
        indexes.setdefault(index, []).append(None if column is None or prefix is not None else folded(column))
    return {
        index: frozenset() if None in columns else frozenset(column for column in columns if column)
        for index, columns in indexes.items()
    }
