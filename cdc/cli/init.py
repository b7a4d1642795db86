"""`cdc init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cdc.cli.options import DEFAULT_CONFIG, ConfigOption
from cdc.core.config_template import TEMPLATE
from cdc.core.errors import ConfigError


def register(app: typer.Typer) -> None:
    app.command("init")(init)


def init(
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented cdc.toml."""
    path = Path(config)
    try:
        with path.open("w" if force else "x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except FileExistsError:
        raise ConfigError(f"{path} exists already", mend="`cdc init --force` overwrites it") from None
    except OSError as error:
        raise ConfigError(f"{path} can't be written: {error.strerror}") from None
    typer.echo(f"wrote {path}; next: edit it, then `cdc check`, then `cdc run`")
