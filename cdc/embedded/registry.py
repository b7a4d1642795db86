"""A real schema registry on the loopback: Apicurio Registry, spoken to through its Confluent-compatible API."""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from typing_extensions import override

from cdc.embedded.jars import fetched
from cdc.embedded.java import SMALL_JVM, JavaServer
from cdc.embedded.ports import LOOPBACK

_LOCK = Path(__file__).with_name("registry.lock")
_PATH = "/apis/ccompat/v7"


class EmbeddedRegistry(JavaServer):
    """A registry whose schemas stay in `directory`, used again by the next registry there."""

    def __init__(self, directory: Path, *, jvm_options: Sequence[str] = SMALL_JVM) -> None:
        super().__init__("Apicurio Registry", directory, jvm_options=jvm_options)

    @property
    def url(self) -> str:
        """What a Confluent client takes as `schema.registry.url`."""
        return f"http://{LOOPBACK}:{self.port}{_PATH}"

    @override
    def start(self) -> None:
        """Start, fetching the registry the first time; return when it answers."""
        installation = fetched(_LOCK, unpack=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        self._choose_port()
        options = [f"-D{name}={value}" for name, value in self._settings().items()]
        self._run([*options, "-jar", str(installation / "quarkus-run.jar")], self._answers)

    def _settings(self) -> dict[str, str]:
        return {
            "quarkus.http.host": LOOPBACK,
            "quarkus.http.port": str(self.port),
            # It would listen on all addresses, on one fixed port.
            "quarkus.management.host": LOOPBACK,
            "quarkus.management.port": "0",
            "quarkus.log.level": "WARN",
            "quarkus.http.access-log.enabled": "false",
            "apicurio.storage.sql.kind": "h2",
            # 0: a commit is on disk before it is answered.
            "apicurio.datasource.url": f"jdbc:h2:file:{self._directory.resolve() / 'schemas'};WRITE_DELAY=0",
            "apicurio.datasource.jdbc.initial-size": "2",
            "apicurio.datasource.jdbc.min-size": "2",
            "apicurio.datasource.jdbc.max-size": "10",
        }

    def _answers(self) -> bool:
        connection = HTTPConnection(LOOPBACK, self.port, timeout=5)
        try:
            connection.request("GET", f"{_PATH}/subjects")
            return connection.getresponse().status == 200
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
