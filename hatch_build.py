"""Compiles cdc/avro/speedups into a wheel, if that is asked for: HATCH_BUILD_HOOK_ENABLE_CUSTOM=true pip install .

Otherwise, and in an editable install, it stays Python.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_PACKAGE = "cdc.avro.speedups"
_FLAGS = ["-fwrapv", "-g0"]  # numbers that overflow do it as CPython's own do; no debugger's tables
# Indexes are never negative there; that they are within bounds is checked all the same. What is divided is positive.
_DIRECTIVES = {"language_level": 3, "annotation_typing": False, "wraparound": False, "cdivision": True}


class CompileSpeedups(BuildHookInterface):
    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        folder = Path(_PACKAGE.replace(".", "/"))
        self._made = TemporaryDirectory()
        for extension in _compiled(Path(self.root, folder), Path(self._made.name)):
            build_data["force_include"][str(extension)] = str(folder / extension.name)
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002
        if version != "editable":
            self._made.cleanup()


def _compiled(package: Path, into: Path) -> list[Path]:
    # Needed by nobody who does not compile.
    from Cython.Build import cythonize  # noqa: PLC0415
    from setuptools import Distribution, Extension  # noqa: PLC0415

    modules = [path for path in sorted(package.glob("*.py")) if path.stem != "__init__"]
    extensions = cythonize(
        [Extension(f"{_PACKAGE}.{path.stem}", [str(path)], extra_compile_args=_FLAGS) for path in modules],
        compiler_directives=_DIRECTIVES,
        build_dir=str(into / "c"),
        quiet=True,
    )
    command = Distribution({"ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(into / "lib"), str(into / "objects")
    command.ensure_finalized()
    command.run()
    return [Path(command.get_ext_fullpath(extension.name)) for extension in extensions]
