"""`cdc teardown`."""

from __future__ import annotations

from typing import Annotated

import typer

from cdc.cli.options import DEFAULT_CONFIG, ConfigOption, load_settings


def register(app: typer.Typer) -> None:
    app.command("teardown")(teardown)


def teardown(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Remove what capture made at the source: its replication slot, event triggers and publication."""
    from cdc.sources.postgres.teardown import teardown_source  # noqa: PLC0415  # for this command alone

    settings = load_settings(config).captured()
    slot, publication = settings.slot, settings.publication
    question = f"Drop replication slot {slot!r}, event triggers and publication {publication!r} at the source?"
    if not yes and not typer.confirm(question):
        typer.echo("nothing was dropped")
        return
    for line in teardown_source(settings):
        typer.echo(line)
