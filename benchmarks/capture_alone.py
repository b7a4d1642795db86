"""Capture without a log: `python -m benchmarks.capture_alone URL SLOT PUBLICATION CHANGES` prints the seconds taken."""

from __future__ import annotations

import sys
import time

from benchmarks.null_log import NullRegistry, NullWriter
from cdc.capture.pipeline import Pipeline
from cdc.capture.publisher import Publisher
from cdc.core.events import ChangeEvent, Commit
from cdc.core.log import Record
from cdc.core.settings import LogSettings, SourceSettings
from cdc.sources.postgres.source import PostgresSource


def main(url: str, slot: str, publication: str, changes: int) -> float:
    """Receive, decode, assemble, encode and confirm `changes` changes; all that capture does but writing the log."""
    writer = NullWriter()
    pipeline = Pipeline(writer.append)
    publisher = Publisher(
        settings=LogSettings(prefix="bench", partitions=4),
        state_topic="state",
        tables={},
        existing={},
        writer=writer,
        registry=NullRegistry(),
    )
    began = time.monotonic()
    with PostgresSource(SourceSettings(url=url, tables=("public.*",), slot=slot, publication=publication)) as source:
        source.start(epoch=1)
        seen = 0
        while seen < changes or not pipeline.idle:
            records: list[Record] = []
            for item in source.receive(5_000, 0.1):
                if isinstance(item, ChangeEvent):
                    records += publisher.records(item)
                    seen += 1
                elif isinstance(item, Commit):
                    pipeline.produce(records)
                    records = []
                    if item.event_counts:
                        pipeline.end(publisher.transaction_records(item), item.end_lsn)
            pipeline.produce(records)
            source.confirm(pipeline.advance(writer.poll(0)))
        return time.monotonic() - began


if __name__ == "__main__":
    sys.stdout.write(f"{main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))}\n")
