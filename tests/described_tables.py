"""What a source says of tables whose columns are all of type text."""

from __future__ import annotations

from collections.abc import Sequence

from cdc.core.tables import TableId
from cdc.pgoutput import messages as wire
from cdc.sources.postgres.descriptions import ColumnDescription, TableDescription
from cdc.sources.postgres.types import PgType

_TEXT = PgType(
    oid=25, schema="pg_catalog", name="text", category="b", element=0, is_array=False, base=0, base_modifier=-1
)


def text_column(name: str, *, in_identity: bool) -> wire.RelationColumn:
    return wire.RelationColumn(name, _TEXT.oid, -1, in_identity)


def described(announced: wire.Relation, key: Sequence[str]) -> TableDescription:
    """What the catalog has of the table that a Relation message announces."""
    return TableDescription(
        oid=announced.oid,
        id=TableId(announced.schema, announced.name),
        identity=announced.identity,
        columns=tuple(
            ColumnDescription(
                number=at, name=column.name, type_oid=_TEXT.oid, type_modifier=-1, type_name="text", nullable=True
            )
            for at, column in enumerate(announced.columns, 1)
        ),
        key=tuple(key),
        types=(_TEXT,),
    )
