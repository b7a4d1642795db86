"""Which build of cdc this is. This module belongs to those that `hatch_build.py` compiles, so it can tell by itself."""

from __future__ import annotations

from typing import Final

BUILD: Final = "pure" if __file__.endswith(".py") else "compiled"
