"""Capture into a log that throws away: `python -m benchmarks.capture_alone CONFIG CHANGES` prints the seconds taken.

What the log of the configuration holds tells where to begin, as it tells `cdc capture`; it stays as it is.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.null_log import NullRegistry, NullWriter
from cdc.capture.capture import Capture
from cdc.cli.garbage import collect_rarely
from cdc.cli.options import load_settings
from cdc.log.open import open_log
from cdc.sources.postgres.source import PostgresSource
from cdc.wiring import open_registry


def main(config: Path, changes: int) -> float:
    """Receive, decode, assemble, encode and confirm `changes` changes; all that capture does but writing the log."""
    settings = load_settings(config)
    captured = settings.captured()
    collect_rarely()  # as `cdc capture` does
    began = time.monotonic()
    with ExitStack() as resources:
        source = resources.enter_context(PostgresSource(captured))
        log = resources.enter_context(open_log(settings.log))
        reader = resources.enter_context(closing(log.reader("bench")))
        registry = resources.enter_context(closing(open_registry(settings, log)))
        capture = Capture(
            source=source,
            writer=NullWriter(),
            reader=reader,
            registry=NullRegistry(registry),
            settings=settings.log,
            slot=captured.slot,
        )
        capture.start()
        while capture.progress.events < changes:
            capture.step()
        capture.finish()
        if capture.progress.events != changes:
            raise SystemExit(f"{capture.progress.events} events of {changes} changes")
    return time.monotonic() - began


if __name__ == "__main__":
    sys.stdout.write(f"{main(Path(sys.argv[1]), int(sys.argv[2]))}\n")
