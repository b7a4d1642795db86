"""Lag as a reader of the target sees it: from the commit of a beat at the source to its being visible at the target."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable
from typing import Final

import psycopg2

from cdc.core.errors import CdcError

_BEAT_SECONDS: Final = 0.1
_LOOK_SECONDS: Final = 0.003


class Pulse:
    """Beats in a table of the source, watched for in the target at `target_url`."""

    def __init__(self, source_url: str, target_url: str) -> None:
        self._source_url = source_url
        self._target_url = target_url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._lags: list[float] = []
        self.beats = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def latest(self) -> float:
        """The newest lag in seconds; 0 before the first."""
        return self._lags[-1] if self._lags else 0.0

    def median(self) -> float:
        """The median lag in seconds. CdcError if no beat ever arrived."""
        if not self._lags:
            raise CdcError("no beat of the source was ever seen at the target")
        return statistics.median(self._lags)

    def _beat(self) -> None:
        source, target = psycopg2.connect(self._source_url), psycopg2.connect(self._target_url)
        source.autocommit = target.autocommit = True
        with source.cursor() as writing, target.cursor() as reading:
            number = 0
            while not self._stop.wait(_BEAT_SECONDS):
                number += 1
                writing.execute("INSERT INTO pulse VALUES (%s, %s)", (number, time.time_ns() // 1000))
                committed = time.monotonic()
                self.beats += 1
                self._watch(lambda n=number: self._visible(reading, n), committed)  # type: ignore[misc]
        source.close()
        target.close()

    def _watch(self, visible: Callable[[], bool], committed: float) -> None:
        while not self._stop.is_set():
            if visible():
                self._lags.append(time.monotonic() - committed)
                return
            time.sleep(_LOOK_SECONDS)

    @staticmethod
    def _visible(cursor: psycopg2.extensions.cursor, number: int) -> bool:
        cursor.execute("SELECT FROM pulse WHERE id = %s", (number,))
        return cursor.fetchone() is not None
