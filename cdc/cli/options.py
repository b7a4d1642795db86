"""What several commands take, and how they read the configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cdc.core.config import parse_settings
from cdc.core.errors import ConfigError
from cdc.core.settings import Settings

ConfigOption = Annotated[
    Path, typer.Option("--config", "-c", envvar="CDC_CONFIG", help="The configuration file.", show_default=True)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DEFAULT_CONFIG = Path("cdc.toml")


def load_settings(path: Path) -> Settings:
    """ConfigError, with file and line, for anything wrong in it."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist", mend="`cdc init` writes one; or name it with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} can't be read: {error}") from None
    return parse_settings(text, os.environ, name=str(path))
