"""What `schema_changes` of a target lets its applier do to a table: the same for every dialect."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from cdc.core.errors import UnfollowedError
from cdc.core.settings import SchemaChanges
from cdc.core.tables import TableId
from consumers.plan.alterations import Alteration, DropColumn, is_additive


class Done(NamedTuple):
    """An alteration and the statements that it took; none if the target was so already."""

    alteration: Alteration
    statements: Sequence[str]


def is_left_alone(alteration: Alteration, policy: SchemaChanges) -> bool:
    """Under `add-only`, what went at the source stays at the target."""
    return policy == "add-only" and isinstance(alteration, DropColumn)


def is_allowed(alteration: Alteration, policy: SchemaChanges) -> bool:
    """Whether the policy does not leave an alteration to people that the target lacks."""
    return policy == "follow" or (policy == "add-only" and is_additive(alteration))


def require_allowed(table: TableId, done: Iterable[Done], policy: SchemaChanges) -> None:
    """UnfollowedError, with the statements, if the policy leaves what was done to people. The caller rolls back."""
    refused = [each for each in done if each.statements and not is_allowed(each.alteration, policy)]
    if refused:
        raise waits_for_people(table, [statement for each in refused for statement in each.statements], policy)


def may_drop(table: TableId, statement: str, policy: SchemaChanges) -> bool:
    """Whether to drop a table that is there, and was dropped at the source."""
    if policy == "stop":
        raise waits_for_people(table, [statement], policy)
    return policy == "follow"


def waits_for_people(table: TableId, statements: Sequence[str], policy: SchemaChanges) -> UnfollowedError:
    return UnfollowedError(
        f'table {table} was changed at the source, and schema_changes = "{policy}" leaves it to you to follow',
        mend=f"at the target: {'; '.join(statements)}; then start the applier again",
    )
