"""`python -m cdc.embedded.lock FILE.lock`: resolve its roots again, write what they need and the hashes."""

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
        fetch = fetcher(repository)
        lines = [f"{_ROOT}{root}" for root in roots]
        for coordinates in sorted(_nearest(map(Coordinates.parse, roots), repository)):
            lines.append(f"{sha256_of(fetch(coordinates))} {coordinates}")  # noqa: PERF401 - reads better
    path.write_text("\n".join(lines) + "\n")


def _nearest(roots: Iterable[Coordinates], repository: Path) -> Iterable[Coordinates]:
    """One version of each artifact: the one that the first root to need it wants.

    Each root is resolved on its own: the versions that one manages must not bend the others'.
    """
    chosen: dict[Coordinates, Coordinates] = {}
    for root in roots:
        for needed in _needed(root, repository):
            chosen.setdefault(needed._replace(version=""), needed)
    return chosen.values()


def _needed(root: Coordinates, repository: Path) -> Iterator[Coordinates]:
    """The root, and if it is a jar all it needs at run time. An archive holds what it needs."""
    yield root
    if root.packaging == "jar":
        context = MavenContext(repo_cache=repository, local_repos=[], timeout=60)
        _, transitive = context.resolver.resolve([context.create_dependency(str(root))])
        for needed in transitive:
            yield Coordinates(needed.groupId, needed.artifactId, needed.version, needed.type, needed.classifier)


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        write_lock(Path(argument))
