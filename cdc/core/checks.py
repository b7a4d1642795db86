"""One line of a preflight report."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What was looked at and found; `mend` is the statement or setting that makes it right.

    `ok` False stops capture or apply; a warning is `ok` with a `mend`.
    """

    name: str
    ok: bool
    found: str
    mend: str | None = None
