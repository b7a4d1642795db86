"""Capture without a log: `python -m benchmarks.capture_alone URL SLOT CHANGES` prints changes per second."""

from __future__ import annotations

import sys
import time

from benchmarks.null_log import NullRegistry, NullWriter
from cdc.capture.pipeline import Pipeline
from cdc.capture.publisher import Publisher
from cdc.core.events import ChangeEvent, Commit
from cdc.core.settings import SourceSettings
from cdc.sources.postgres.source import PostgresSource


def main(url: str, slot: str, changes: int) -> float:
    writer = NullWriter()
    pipeline = Pipeline(writer.append)
    publisher = Publisher(
        prefix="bench",
        partitions=4,
        state_topic="state",
        tables={},
        existing={},
        writer=writer,
        registry=NullRegistry(),
    )
    settings = SourceSettings(url=url, tables=("public.*",), slot=slot, publication="bench")
    with PostgresSource(settings) as source:
        began = time.monotonic()
        source.start(epoch=1)
        seen = 0
        while seen < changes:
            records = []
            for item in source.receive(5_000, 0.1):
                if isinstance(item, ChangeEvent):
                    records += publisher.records(item)
                    seen += 1
                elif isinstance(item, Commit):
                    pipeline.produce(records)
                    records = []
                    pipeline.end(publisher.transaction_records(item), item.end_lsn)
            pipeline.advance(writer.poll(0))
        return changes / (time.monotonic() - began)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
