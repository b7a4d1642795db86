"""The command `cdc`."""

from __future__ import annotations

import sys
from importlib.metadata import entry_points
from typing import Annotated

import typer

import cdc
from cdc.cli import capture, demo, init, run, tail, teardown, triggers
from cdc.core.errors import CdcError

app = typer.Typer(
    name="cdc",
    help="Near-real-time replication between databases.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from cdc.avro.speedups import COMPILED  # noqa: PLC0415  # nothing else here needs it

        typer.echo(f"cdc {cdc.__version__}{' (compiled)' if COMPILED else ''}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """What holds for all commands."""


for module in (init, capture, run, tail, triggers, teardown, demo):
    module.register(app)
for extension in entry_points(group="cdc.commands"):
    extension.load()(app)


def main() -> None:
    """Run the command line; a user's mistake ends in two lines, never in a stack trace."""
    try:
        app()
    except CdcError as error:
        print(f"error: {error}", file=sys.stderr)  # noqa: T201 - the command's own output
        if error.mend:
            print(f"  mend: {error.mend}", file=sys.stderr)  # noqa: T201
        sys.exit(error.exit_code)
