"""Sessions that end with a passing fault are begun again: the one retry policy of capture and apply."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import tenacity

from cdc.core.errors import CdcError, PassingError, SlotInUseError, TargetChangedError

_LONGEST_WAIT: Final = 15.0
_SETTLED: Final = 30.0  # a session that lasted so long starts the waits anew
_SLOT_PATIENCE: Final = 10.0  # a killed capture's walsender holds the slot until it notices


class Retries:
    """Runs sessions until one ends without a passing fault.

    Before the first success a fault that may pass is still told at once: at the start it is most often a mistake in the
    configuration. `established()` says that a session has got to work, `got_on()` that it got work done. A fault that
    comes again and again is told once, and its end is.
    """

    def __init__(self, stop: threading.Event, report: Callable[[str], None]) -> None:
        self._stop = stop
        self._report = report
        self._started = time.monotonic()
        self._session_started = self._started
        self._was_established = False
        self._is_established = False
        self._failures = 0
        self._told: set[str] = set()  # since the trouble began
        self._failed_at_work = False

    def established(self) -> None:
        self._was_established = self._is_established = True
        if not self._failed_at_work:
            self._tell_end()

    def got_on(self) -> None:
        """Cheap: called again and again."""
        if self._told:
            self._tell_end()

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
            self._is_established = False
            session()

    def _may_pass(self, error: BaseException) -> bool:
        if self._lasted() > _SETTLED:
            self._told.clear()
        if isinstance(error, SlotInUseError):
            return self._was_established or time.monotonic() - self._started < _SLOT_PATIENCE
        if isinstance(error, TargetChangedError):
            # The next session finds another target. If it does not, it is another's: a trigger's, a view's.
            return self._was_established and str(error) not in self._told
        return isinstance(error, PassingError) and self._was_established

    def _wait(self, _: tenacity.RetryCallState) -> float:
        self._failures = 1 if self._lasted() > _SETTLED else self._failures + 1
        return min(_LONGEST_WAIT, 0.2 * 2.0**self._failures)

    def _lasted(self) -> float:
        return time.monotonic() - self._session_started

    def _sleep(self, seconds: float) -> None:
        self._stop.wait(seconds)

    def _tell(self, state: tenacity.RetryCallState) -> None:
        error = None if state.outcome is None else state.outcome.exception()
        if error is None or state.next_action is None:
            return
        self._failed_at_work = self._is_established
        if str(error) not in self._told:
            self._told.add(str(error))
            mend = f" (mend: {error.mend})" if isinstance(error, CdcError) and error.mend else ""
            self._report(f"{error}; trying again in {state.next_action.sleep:.1f} s, and on until it works{mend}")

    def _tell_end(self) -> None:
        if self._told:
            self._told.clear()
            self._report("goes on")
