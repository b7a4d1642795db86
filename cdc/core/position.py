"""The place of an event in the order in which its source committed."""

from __future__ import annotations

import re
from typing import NamedTuple, Self

from typing_extensions import override

_LSN = re.compile(r"([0-9A-Fa-f]{1,8})/([0-9A-Fa-f]{1,8})")


class Position(NamedTuple):
    """A totally ordered place in the stream of everything that this log has ever captured.

    `epoch` counts the sources that this log has had, from 1; `commit_lsn` is the transaction's; `ordinal` is the
    event's number in its transaction, from 1, counted before any filter, so that a resend gives the same numbers.
    """

    epoch: int
    commit_lsn: int
    ordinal: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `str()` writes. Raises ValueError."""
        epoch, lsn, ordinal = text.split(":")
        return cls(int(epoch), parse_lsn(lsn), int(ordinal))

    @override
    def __str__(self) -> str:
        return f"{self.epoch}:{format_lsn(self.commit_lsn)}:{self.ordinal}"


ORIGIN = Position(0, 0, 0)
"""Before every event."""


def format_lsn(lsn: int) -> str:
    """PostgreSQL's text form: `16/B374D848`."""
    return f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}"


def parse_lsn(text: str) -> int:
    """Read PostgreSQL's text form. Raises ValueError."""
    match = _LSN.fullmatch(text)
    if match is None:
        raise ValueError(f"not an LSN: {text!r}")
    return (int(match[1], 16) << 32) | int(match[2], 16)
