"""What the end-to-end tests of row shapes begin with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
from replication import Databases, Replication


@pytest.fixture
def new_replication(tmp_path: Path, new_database: Databases, unique_name: str) -> Iterator[Callable[..., Replication]]:
    """`new_replication(version=18)`: from a source of that version to a target of the newest."""
    with ExitStack() as made:

        def replication(*, version: int = 18) -> Replication:
            opened = Replication(tmp_path, new_database(version=version), new_database(), unique_name)
            made.enter_context(closing(opened.source))
            made.enter_context(closing(opened.target))
            return made.enter_context(opened)

        yield replication


@pytest.fixture
def replication(new_replication: Callable[..., Replication]) -> Replication:
    return new_replication()
