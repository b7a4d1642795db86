"""`cdc run`: capture and every target, each in a process of its own, on one machine."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from typing import Final

import typer

from cdc.cli.console import Reporter, stop_on_signals
from cdc.cli.options import DEFAULT_CONFIG, ConfigOption, load_settings
from cdc.core.errors import CdcError

_CAPTURE: Final = "capture"
_LOOK_SECONDS: Final = 0.2
_STOP_SECONDS: Final = 20.0


def register(app: typer.Typer) -> None:
    app.command("run")(run)


def run(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Capture (unless a connector does) and apply to every target, until Ctrl-C or SIGTERM.

    A target that fails leaves the others running; capture that fails stops all.
    """
    settings = load_settings(config)
    reporter = Reporter("run")
    with stop_on_signals() as stop:
        children = {} if settings.source is None else {_CAPTURE: _start(config, "capture")}
        children |= {f"apply {name}": _start(config, "apply", name) for name in settings.targets}
        try:
            failed = _watch(children, stop, reporter)
        finally:
            _stop(children)
    failed |= {name for name, child in children.items() if child.returncode not in {0, None}}
    if failed:
        raise CdcError(f"failed: {', '.join(sorted(failed))}", mend="see the errors above")


def _start(config: Path, *command: str) -> subprocess.Popen[bytes]:
    # A session of its own: Ctrl-C reaches this process only, which then stops the children in order.
    return subprocess.Popen([sys.executable, "-m", "cdc", *command, "--config", str(config)], start_new_session=True)


def _watch(children: dict[str, subprocess.Popen[bytes]], stop: threading.Event, reporter: Reporter) -> set[str]:
    """Until the stop is set, capture has ended, or no target is left. The names of those that failed."""
    failed: set[str] = set()
    while not stop.wait(_LOOK_SECONDS):
        for name, child in children.items():
            if child.poll() is not None and name not in failed:
                failed.add(name)
                reporter(f"{name} ended with exit code {child.returncode}")
        targets = children.keys() - {_CAPTURE}
        if _CAPTURE in failed or (targets and targets <= failed):
            break
    return failed


def _stop(children: dict[str, subprocess.Popen[bytes]]) -> None:
    for child in children.values():
        if child.poll() is None:
            child.terminate()
    for child in children.values():
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
