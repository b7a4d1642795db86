"""The pure build and the compiled one are the same modules. `make test-compiled` tests the compiled one, here too."""

from __future__ import annotations

import ast
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cdc.core.build import BUILD

ROOT = Path(__file__).parents[2]
TESTED = os.environ.get("CDC_TESTED_BUILD", "pure")


def compiled_modules() -> list[str]:
    """As hatch_build.py lists them, which only a build can import."""
    for statement in ast.parse((ROOT / "hatch_build.py").read_text()).body:
        if isinstance(statement, ast.AnnAssign) and ast.unparse(statement.target) == "COMPILED":
            return list(ast.literal_eval(statement.value))
    raise AssertionError("hatch_build.py has no list of modules")


@pytest.mark.parametrize("path", compiled_modules())
def test_modules_are_of_the_build_that_is_tested(path):
    file = importlib.import_module(path.removesuffix(".py").replace("/", ".")).__file__
    assert file.endswith(".py") is (TESTED == "pure"), file
    assert (Path(file).parent == (ROOT / path).parent) is (TESTED == "pure"), file


def test_the_command_is_of_that_build_and_says_so():
    assert BUILD == TESTED
    said = subprocess.run(
        [sys.executable, "-m", "cdc", "--version"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert said.stdout == f"cdc 0.1.0 ({TESTED} Python)\n"
