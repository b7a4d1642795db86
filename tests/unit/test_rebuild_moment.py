"""What `cdc rebuild --until` takes."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from cdc.core.errors import ConfigError
from cdc.core.position import Position
from consumers.rebuild.moment import read_moment


def test_an_lsn_a_position_or_a_time() -> None:
    assert read_moment("16/B374D848") == Position(0, 0x16_B374D848, 0)
    assert read_moment("2:16/B374D848:3") == Position(2, 0x16_B374D848, 3)
    assert read_moment("2026-01-31T12:00:00Z") == datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize("text", ["earliest", "latest", "yesterday", "", "2026-01-31T12:00:00"])
def test_nothing_else(text: str) -> None:
    with pytest.raises(ConfigError, match="--until"):
        read_moment(text)
