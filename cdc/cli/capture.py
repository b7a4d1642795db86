"""`cdc capture`."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Annotated

import typer

from cdc.cli.console import Rate, Reporter, stop_on_signals
from cdc.cli.garbage import collect_rarely
from cdc.cli.options import DEFAULT_CONFIG, ConfigOption, load_settings
from cdc.core.position import format_lsn
from cdc.core.settings import Settings

if TYPE_CHECKING:
    from cdc.capture.capture import Capture


def register(app: typer.Typer) -> None:
    app.command("capture")(capture)


def capture(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    start_over: Annotated[
        bool,
        typer.Option("--start-over", help="Drop the slot, make a new one and load all tables again (after a gap)."),
    ] = False,
) -> None:
    """Read the source's changes into the log."""
    settings = load_settings(config)
    reporter = Reporter("capture")
    with stop_on_signals() as stop:
        run_capture(settings, stop, reporter, start_over=start_over)
    reporter("stopped")


def run_capture(settings: Settings, stop: threading.Event, reporter: Reporter, *, start_over: bool) -> None:
    """Capture until `stop`, through passing faults."""
    # Imported here, as all that a single command needs: no other one should wait for it.
    from cdc.retries import Retries  # noqa: PLC0415
    from cdc.wiring import capture_session  # noqa: PLC0415

    collect_rarely()
    retries = Retries(stop, reporter)
    over = [start_over]

    def session() -> None:
        with capture_session(settings, reporter) as capture, reporter.live(_Line(capture)):
            capture.run(stop.is_set, start_over=over.pop() if over else False, streaming=retries.established)

    retries.run(session)


class _Line:
    """What the living line says of a capture."""

    def __init__(self, capture: Capture) -> None:
        self._progress = capture.progress
        self._rate = Rate()

    def __call__(self, seconds: float) -> str:
        progress = self._progress
        rate = self._rate.per_second(progress.events, seconds)
        lag = "" if not progress.commit_time_us else f", newest commit {_age(progress.commit_time_us)} ago"
        return f"{progress.events:,} events, {rate:,.0f}/s, confirmed {format_lsn(progress.confirmed_lsn)}{lag}"


def _age(time_us: int) -> str:
    return f"{max(0.0, time.time() - time_us / 1e6):.1f} s"
