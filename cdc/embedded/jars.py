"""Java programs from Maven's central repository, fetched once, checked against a lock file, and kept.

A lock file has a line per artifact: its SHA-256 and its coordinates, `group:artifact:version[:packaging:classifier]`.
Comment lines `# root: group:artifact:version` say what it was resolved from by `python -m cdc.embedded.lock`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import tenacity
from typing_extensions import override

from cdc.core.errors import CdcError
from cdc.embedded.cache import cache_root, kept_directory

_DOWNLOADS_AT_ONCE = 8
_READ_TIMEOUT_SECONDS = 60


class Coordinates(NamedTuple):
    group: str
    artifact: str
    version: str
    packaging: str = "jar"
    classifier: str = ""

    @classmethod
    def parse(cls, text: str) -> Coordinates:
        return cls(*text.strip().split(":"))

    @override
    def __str__(self) -> str:
        short = f"{self.group}:{self.artifact}:{self.version}"
        return short if self.packaging == "jar" and not self.classifier else ":".join(self)


class LockedArtifact(NamedTuple):
    coordinates: Coordinates
    sha256: str


class ArtifactLock(NamedTuple):
    """`digest` names this very set of artifacts."""

    artifacts: tuple[LockedArtifact, ...]
    digest: str


# Before 3.11.4 there is none. What is unpacked is known to the byte all the same.
_FILTER: Final[dict[str, Any]] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}


def read_lock(path: Path) -> ArtifactLock:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    artifacts = tuple(_parse_line(line) for line in lines)
    return ArtifactLock(artifacts, hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12])


def fetched(lock_file: Path, *, unpack: bool = False) -> Path:
    """The directory that holds all artifacts of the lock file, fetching them if they aren't there yet; with `unpack`,
    what these archives contain.
    """
    lock = read_lock(lock_file)

    def fill(empty: Path) -> None:
        with TemporaryDirectory(dir=empty.parent) as scratch:
            for archive in download(lock.artifacts, Path(scratch)):
                if unpack:
                    shutil.unpack_archive(archive, empty, **_FILTER)
                else:
                    archive.rename(empty / archive.name)

    return kept_directory(cache_root(), f"{lock_file.stem}-{lock.digest}", fill)


def download(artifacts: tuple[LockedArtifact, ...], repository: Path) -> list[Path]:
    """Fetch the artifacts into this empty local repository. CdcError if one can't be had, or is not what was locked."""
    fetch = fetcher(repository)

    def fetch_checked(artifact: LockedArtifact) -> Path:
        path = fetch(artifact.coordinates)
        if sha256_of(path) != artifact.sha256:
            raise CdcError(f"{artifact.coordinates}: what was fetched is not what the lock file says")
        return path

    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        return list(pool.map(fetch_checked, artifacts))


def fetcher(repository: Path) -> Callable[[Coordinates], Path]:
    """A function that fetches one artifact into this local repository."""
    if importlib.util.find_spec("jgo") is None:
        raise CdcError("the Maven client jgo is not installed", mend="pip install 'cdc[embedded]'")
    from jgo.maven import MavenContext  # noqa: PLC0415 - an optional dependency
    from requests import RequestException  # noqa: PLC0415 - comes with it

    context = MavenContext(repo_cache=repository, local_repos=[], timeout=_READ_TIMEOUT_SECONDS)

    @tenacity.retry(
        retry=tenacity.retry_if_exception_type((RequestException, OSError)),
        stop=tenacity.stop_after_attempt(4),
        wait=tenacity.wait_exponential(),
        reraise=True,
    )
    def attempt(coordinates: Coordinates) -> Path:
        component = context.project(coordinates.group, coordinates.artifact).at_version(coordinates.version)
        artifact = component.artifact(coordinates.classifier, coordinates.packaging)
        try:
            return artifact.resolve()
        except BaseException:
            if artifact.cached_path is not None:  # half a file would pass for the whole at the next attempt
                artifact.cached_path.unlink(missing_ok=True)
            raise

    def fetch(coordinates: Coordinates) -> Path:
        try:
            return attempt(coordinates)
        except (RequestException, OSError, RuntimeError) as error:
            raise CdcError(
                f"could not fetch {coordinates} from Maven's central repository: {error}",
                mend="the first start needs network access; later ones use the cache",
            ) from error

    return fetch


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parse_line(line: str) -> LockedArtifact:
    digest, coordinates = line.split()
    return LockedArtifact(Coordinates.parse(coordinates), digest)
