"""Whether a log keeps what whole transactions are told by."""

from __future__ import annotations

from collections.abc import Callable, Collection

from cdc.core.errors import ConfigError
from cdc.core.log import LogReader


def require_kept(reader: LogReader, tables: Collection[str], transactions: str, report: Callable[[str], None]) -> None:
    """ConfigError if one of these topics is compacted; a report if a table's events go before their ENDs."""
    kept = reader.retention([*tables, transactions])
    compacted = sorted(topic for topic, retention in kept.items() if retention.compacted)
    if compacted:
        raise ConfigError(
            f"topic {compacted[0]!r} is compacted: whole transactions need all of its records",
            mend='set its cleanup.policy to "delete" (and load again if records are gone already:'
            ' `cdc capture --start-over`), or use consistency = "key"',
        )
    ends = kept[transactions].ms if transactions in kept else None
    for topic in sorted(kept):
        ms = kept[topic].ms
        if ms is not None and (ends is None or ms < ends):
            report(
                f"topic {topic!r} keeps its records for {ms} ms, and the transaction topic for"
                f" {'ever' if ends is None else f'{ends} ms'}: a target that is further behind than that stops"
            )
