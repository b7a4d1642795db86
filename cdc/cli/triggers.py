"""`cdc triggers`."""

from __future__ import annotations

import typer

from cdc.cli.options import DEFAULT_CONFIG, ConfigOption, load_settings
from cdc.core.patterns import TablePatterns


def register(app: typer.Typer) -> None:
    app.command("triggers")(triggers)


def triggers(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print the SQL of the event triggers that tell of schema changes: for a superuser of the source to run."""
    from cdc.sources.postgres.ddl import creation_script  # noqa: PLC0415  # for this command alone

    settings = load_settings(config).captured()
    typer.echo(creation_script(settings.publication, TablePatterns(settings.tables)) + ";")
