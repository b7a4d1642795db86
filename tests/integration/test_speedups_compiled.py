"""cdc with its loops compiled, as a wheel that users build has them: the tests of those, and whole pipelines."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILER = (sysconfig.get_config_var("CC") or "cc").split()[0]
HEADERS = Path(sysconfig.get_path("include"), "Python.h")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the wheel has, and the tests."""
    if (shutil.which(COMPILER) is None or not HEADERS.exists()) and os.environ.get("CI") != "true":
        pytest.skip(f"needs {COMPILER} and {HEADERS}: Debian's gcc and python3-dev")
    folder = tmp_path_factory.mktemp("installed")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)],
        cwd=ROOT,
        env=os.environ | {"HATCH_BUILD_HOOK_ENABLE_CUSTOM": "true"},
        check=True,
    )
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def run(installed: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_build_needs_nothing_but_what_it_names() -> None:
    """pip builds where nothing else is installed."""
    tree = ast.parse((ROOT / "hatch_build.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    parts = {name.partition(".")[0] for name in imported} - sys.stdlib_module_names
    assert parts <= {"hatchling", "Cython", "setuptools"}


def test_they_are_compiled(installed: Path) -> None:
    assert run(installed, "-m", "cdc", "--version").endswith(" (compiled)\n")


@pytest.mark.parametrize(
    "tests",
    [
        ["unit/test_speedups.py"],
        ["unit/test_avro_events.py"],
        ["unit/test_usual_changes.py"],
        ["unit/test_plan_scanned.py"],
        ["e2e/test_types.py", "-k", "arrives and 18 and not megabytes"],
        ["e2e/test_row_shapes.py"],
    ],
    ids=lambda tests: tests[0],
)
def test_tests_pass(installed: Path, tests: list[str]) -> None:
    said = run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{tests[0]}", *tests[1:])
    assert " passed" in said
    assert " failed" not in said
