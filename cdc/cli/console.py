"""What a long-running command shows: one living line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

from rich.console import Console
from rich.text import Text

_PLAIN_SECONDS: Final = 10.0
_TERMINAL_SECONDS: Final = 0.5


class Reporter:
    """Reports of one process, on standard error. `name` stands before each line. Brackets are no markup: texts name
    sections of the configuration.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)

    def __call__(self, text: str) -> None:
        """Something happened."""
        if self._console.is_terminal:
            self._console.print(Text.assemble((self._name, "bold"), f" {text}"))
        else:
            stamp = time.strftime("%Y-%m-%dT%H:%M:%S")
            print(f"{stamp} {self._name}: {text}", file=sys.stderr, flush=True)  # noqa: T201

    @contextmanager
    def live(self, line: Callable[[float], str]) -> Iterator[None]:
        """While the context lasts, show `line(seconds since the last look)` again and again."""
        done = threading.Event()
        show = self._live_line if self._console.is_terminal else self._plain_lines
        thread = threading.Thread(target=show, args=(line, done), daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _live_line(self, line: Callable[[float], str], done: threading.Event) -> None:
        with self._console.status(Text(f"{self._name}: starting")) as status:
            for seconds in _ticks(done, _TERMINAL_SECONDS):
                status.update(Text(f"{self._name}: {line(seconds)}"))

    def _plain_lines(self, line: Callable[[float], str], done: threading.Event) -> None:
        last = ""
        for seconds in _ticks(done, _PLAIN_SECONDS):
            text = line(seconds)
            if text != last:
                self(text)
            last = text


def _ticks(done: threading.Event, every: float) -> Iterator[float]:
    before = time.monotonic()
    while not done.wait(every):
        now = time.monotonic()
        yield now - before
        before = now


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that SIGINT or SIGTERM sets; a second SIGINT ends the process as usual."""
    stop = threading.Event()

    def handle(number: int, _: FrameType | None) -> None:
        stop.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Rate:
    """Events per second between two looks."""

    def __init__(self) -> None:
        self._seen = 0

    def per_second(self, count: int, seconds: float) -> float:
        delta, self._seen = count - self._seen, count
        return delta / seconds if seconds > 0 else 0.0
