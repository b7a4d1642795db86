"""Sessions that end with a passing fault are begun again: the one retry policy of capture and apply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import tenacity

from cdc.core.errors import PassingError, SlotInUseError

_LONGEST_WAIT: Final = 15.0
_SETTLED: Final = 30.0  # a session that lasted so long starts the waits anew
_SLOT_PATIENCE: Final = 10.0  # a killed capture's walsender holds the slot until it notices


class Retries:
    """Runs sessions until one ends without a passing fault.

    Before the first success a fault that may pass is still told at once: at the start it is most often a mistake in the
    configuration. `established()` says that a session has got to work.
    """

    def __init__(self, stop: threading.Event, report: Callable[[str], None]) -> None:
        self._stop = stop
        self._report = report
        self._started = time.monotonic()
        self._session_started = self._started
        self._was_established = False
        self._failures = 0

    def established(self) -> None:
        self._was_established = True

    def run(self, session: Callable[[], None]) -> None:
        """Run `session` again and again until it returns, fails for good, or the stop is set."""
        tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_pass),
            wait=self._wait,
            sleep=self._sleep,
            before_sleep=self._tell,
            reraise=True,
        )(self._once, session)

    def _once(self, session: Callable[[], None]) -> None:
        if not self._stop.is_set():
            self._session_started = time.monotonic()
            session()

    def _may_pass(self, error: BaseException) -> bool:
        if isinstance(error, SlotInUseError):
            return self._was_established or time.monotonic() - self._started < _SLOT_PATIENCE
        return isinstance(error, PassingError) and self._was_established

    def _wait(self, _: tenacity.RetryCallState) -> float:
        lasted = time.monotonic() - self._session_started
        self._failures = 1 if lasted > _SETTLED else self._failures + 1
        return min(_LONGEST_WAIT, 0.2 * 2.0**self._failures)

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        if state.outcome is not None and state.next_action is not None:
            self._report(f"{state.outcome.exception()}; trying again in {state.next_action.sleep:.1f} s")
