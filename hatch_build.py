"""The compiled build, an option: `CDC_COMPILED=1 pip install .` compiles the hot paths by mypyc, for which it needs a C
compiler and Python's headers.

Without that variable the wheel is pure Python, for every platform. With it, each module of COMPILED has its compiled
form beside its source, and Python imports that one. There is no second implementation: what is compiled is the source.
"""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

COMPILED: Final = (
    "cdc/core/build.py",  # tells which build it is
    # What capture does for each message, each change and each transaction.
    "cdc/pgoutput/decoder.py",
    "cdc/pgoutput/stream.py",
    "cdc/sources/postgres/assembler.py",
    "cdc/avro/binary.py",
    "cdc/avro/codec.py",
    "cdc/avro/source.py",
    "cdc/avro/transactions.py",
    "cdc/capture/publisher.py",
    "cdc/capture/pipeline.py",
    # What an applier does for each record.
    "cdc/avro/compiled.py",
    "cdc/avro/decoder.py",
    "cdc/avro/scanning.py",
    "cdc/avro/boundaries.py",
)
"""What profiles show most of, and no more: each was measured to save processor time. They depend on each other, and are
compiled together, so that what they call of one another are calls in C.

Left out are `cdc/avro/packers.py`: mypyc (2.4) fails at slices of bytes that end before they begin; and whatever is
made of dataclasses: mypyc makes those no faster.
"""

_OPTIONS: Final = ("--config-file=", "--ignore-missing-imports")  # types were checked before, with all that is imported


class CompiledModules(BuildHookInterface[Any]):
    """Adds the compiled modules to a wheel, if the environment asks for them."""

    def dependencies(self) -> list[str]:
        return ["mypy[mypyc]>=2.4,<3"] if _asked_for() else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if not _asked_for() or version == "editable":
            return
        self._folder = TemporaryDirectory(prefix="cdc-compiled-")  # the source's folder stays as it is
        folder = Path(self._folder.name)
        build_data["force_include"] |= {str(path): str(path.relative_to(folder / "lib")) for path in _compiled(folder)}
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if _asked_for() and version != "editable":
            self._folder.cleanup()


def _asked_for() -> bool:
    return os.environ.get("CDC_COMPILED", "0") not in {"", "0"}


def _compiled(folder: Path) -> list[Path]:
    """The files, under `folder / "lib"` where they stand in the wheel. Modules are named by paths from the current
    folder, which for a build is the project's.
    """
    # Only here: a pure build has neither.
    from mypyc.build import mypycify  # noqa: PLC0415
    from setuptools import Distribution  # noqa: PLC0415

    options = [*_OPTIONS, f"--cache-dir={folder / 'mypy'}"]
    extensions = mypycify([*options, *COMPILED], target_dir=str(folder / "c"), debug_level="0")
    command = Distribution({"name": "cdc", "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(folder / "lib"), str(folder / "temp")
    command.ensure_finalized()
    command.run()
    return [path for path in (folder / "lib").rglob("*") if path.is_file()]
