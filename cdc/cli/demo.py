"""`cdc demo`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class DemoLog(StrEnum):
    SQLITE = "sqlite"
    KAFKA = "kafka"


def register(app: typer.Typer) -> None:
    app.command("demo")(demo)


def demo(
    *,
    log: Annotated[DemoLog, typer.Option("--log", help="The log to go through.")] = DemoLog.SQLITE,
    seconds: Annotated[int, typer.Option("--seconds", min=5, help="How long the live workload runs.")] = 20,
    keep: Annotated[Path | None, typer.Option("--keep", help="Keep everything in this folder.")] = None,
) -> None:
    """Replicate a small shop on embedded servers, kill an applier in the middle, and compare every row."""
    from cdc.demo.demo import run_demo  # noqa: PLC0415 - the embedded servers are an optional part

    raise typer.Exit(run_demo(through_kafka=log is DemoLog.KAFKA, seconds=seconds, keep=keep))
