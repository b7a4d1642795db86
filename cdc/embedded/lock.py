"""`python -m cdc.embedded.lock FILE.lock`: resolve a lock file's roots again, and write what they need and its hashes."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from jgo.maven import MavenContext

from cdc.embedded.jars import Coordinates, fetcher, sha256_of

_ROOT = "# root: "


def write_lock(path: Path) -> None:
    roots = [line.removeprefix(_ROOT) for line in path.read_text().splitlines() if line.startswith(_ROOT)]
    with TemporaryDirectory() as scratch:
        repository = Path(scratch)
        needed = sorted(set(_resolve([Coordinates.parse(root) for root in roots], repository)))
        fetch = fetcher(repository)
        lines = [f"{_ROOT}{root}" for root in roots]
        lines += [f"{sha256_of(fetch(coordinates))} {coordinates}" for coordinates in needed]
    path.write_text("\n".join(lines) + "\n")


def _resolve(roots: Iterable[Coordinates], repository: Path) -> Iterator[Coordinates]:
    """The roots, and for jars all they need at run time. Archives hold what they need."""
    yield from (root for root in roots if root.packaging != "jar")
    jars = [root for root in roots if root.packaging == "jar"]
    if jars:
        context = MavenContext(repo_cache=repository, local_repos=[], timeout=60)
        dependencies = [context.create_dependency(str(jar)) for jar in jars]
        for found in context.resolver.resolve(dependencies):
            for needed in found:
                yield Coordinates(needed.groupId, needed.artifactId, needed.version, needed.type, needed.classifier)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_lock(Path(argument))
