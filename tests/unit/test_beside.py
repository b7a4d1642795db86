"""Names of tables beside the live ones."""

from __future__ import annotations

import pytest

from cdc.core.errors import ConfigError
from cdc.core.tables import TableId
from consumers.plan.beside import area, beside, live_name


@pytest.mark.parametrize(
    ("live", "there"),
    [
        (TableId("public", "t"), TableId("shop~new", "t")),
        (TableId("other", "t"), TableId("shop~new~other", "t")),
        (TableId("a~b", 'x.y "z"'), TableId("shop~new~a~b", 'x.y "z"')),
    ],
)
def test_a_name_beside_leads_back_to_the_live_one(live: TableId, there: TableId) -> None:
    assert beside(area("shop", "new"), live) == there
    assert live_name(area("shop", "new"), there) == live


def test_a_name_that_postgresql_would_cut_is_refused() -> None:
    beside(area("shop", "new"), TableId("ä" * 27, "t"))
    with pytest.raises(ConfigError, match="longer than 63 bytes"):
        beside(area("shop", "new"), TableId("ä" * 28, "t"))
