"""Paths name what is measured: `drain/local/tpcb` is a backlog drained through the local log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from typing import Final

HEADINGS: Final[Mapping[str, str]] = {
    "capture": "Capture alone",
    "drain": "Backlog, end to end",
    "debezium": "Backlog through Kafka, beside Debezium",
    "latency": "Latency",
    "snapshot": "First load",
    "resources": "Processor, memory, bytes",
    "startup": "Start-up",
    "targets": "Targets",
}
"""The first part of a path, and what it is called; in the document's order."""


def group(path: str) -> str:
    return path.partition("/")[0]


def is_under(path: str, patterns: Iterable[str]) -> bool:
    """A pattern matches a path or one that it begins: `capture`, `drain/*/tpcb`."""
    return any(fnmatch(path, pattern) or fnmatch(path, f"{pattern}/*") for pattern in patterns)
