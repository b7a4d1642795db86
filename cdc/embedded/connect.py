"""Kafka Connect as others run it: a standalone worker, Apicurio's Avro converter, Debezium's connectors."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple
from zipfile import ZipFile

from typing_extensions import override

from cdc.core.errors import CdcError
from cdc.embedded.jars import fetched
from cdc.embedded.java import LOG4J, SMALL_JVM, JavaServer
from cdc.embedded.ports import LOOPBACK

_HERE: Final = Path(__file__).parent
_PATIENCE_SECONDS: Final = 60.0
_SHOWN_CHARACTERS: Final = 4000
_CONVERTER: Final = "io.apicurio.registry.utils.converter.AvroConverter"


def converter_settings(registry: str) -> dict[str, str]:
    """With these Apicurio's converter reads and writes Confluent's wire format, ids of the registry's Confluent API."""
    return {
        "apicurio.registry.url": registry.replace("/apis/ccompat/v7", "/apis/registry/v2"),
        "apicurio.registry.id-handler": "io.apicurio.registry.serde.Legacy4ByteIdHandler",
        "apicurio.registry.use-id": "contentId",
        "apicurio.registry.headers.enabled": "false",
        "apicurio.registry.auto-register": "true",
    }


class Installation(NamedTuple):
    """Directories of jars."""

    connect: Path
    converter: Path
    debezium: Path

    def converter_jars(self) -> list[Path]:
        """Without Kafka's own, which the worker has, in another version."""
        jars = sorted(self.converter.iterdir())
        return [jar for jar in jars if not jar.name.startswith(("connect-", "kafka-clients-"))]


def installed() -> Installation:
    """Kafka Connect and its plugins, fetched the first time. CdcError if they can't be had."""
    return Installation(
        connect=fetched(_HERE / "connect.lock"),
        converter=fetched(_HERE / "converter.lock"),
        debezium=fetched(_HERE / "debezium.lock", unpack=True),
    )


class EmbeddedConnect(JavaServer):
    """A worker at this broker (bootstrap servers) and this registry (its Confluent URL). Connectors are added and
    removed; their offsets stay in `directory`. `settings` are the worker's.
    """

    def __init__(
        self,
        directory: Path,
        *,
        kafka: str,
        registry: str,
        settings: Mapping[str, str] | None = None,
        jvm_options: Sequence[str] = SMALL_JVM,
    ) -> None:
        super().__init__("Kafka Connect", directory, jvm_options=jvm_options)
        self._kafka = kafka
        self._registry = registry
        self._settings = dict(settings or {})
        self._connectors: dict[str, dict[str, str]] = {}

    @property
    def offsets(self) -> Path:
        """The file in which connectors' offsets are saved."""
        return self._directory / "offsets"

    @override
    def start(self) -> None:
        """Return when it runs the connectors that it had, if it was killed."""
        jars = installed()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._choose_port()
        logging = self._directory / "log4j2.properties"
        logging.write_text(LOG4J)
        worker = self._directory / "worker.properties"
        worker.write_text("".join(f"{key}={value}\n" for key, value in self._properties(jars).items()))
        self._run(
            [
                *(f"-Dlog4j2.configurationFile={logging}", "-cp", f"{jars.connect}/*"),
                *("org.apache.kafka.connect.cli.ConnectStandalone", str(worker)),
            ],
            lambda: self._ask("GET", "/connectors") is not None,
        )
        for name, settings in self._connectors.items():
            self.add(name, settings)

    def add(self, name: str, settings: Mapping[str, str]) -> None:
        """Return when the connector's tasks run."""
        self._connectors[name] = dict(settings)
        body = {"name": name, "config": {"name": name, **settings}}
        if self._ask("POST", "/connectors", json.dumps(body)) is None:
            raise CdcError(f"Kafka Connect refused {name}\n{self._said()}")
        self._await(lambda: self._runs(name), f"{name} does not run")

    def remove(self, name: str) -> None:
        """Return when its task has ended. Its offsets stay."""
        del self._connectors[name]
        self._ask("DELETE", f"/connectors/{name}")
        self._await(lambda: self._status(name) is None, f"{name} does not end")

    def require_running(self) -> None:
        """CdcError, with what a task says, if one failed."""
        for name in self._connectors:
            self._runs(name)

    def _runs(self, name: str) -> bool:
        status = self._status(name)
        if status is None:
            return False
        for task in status["tasks"]:
            if task["state"] == "FAILED":
                raise CdcError(f"{name} failed\n{task['trace']}")
        return bool(status["tasks"]) and all(task["state"] == "RUNNING" for task in status["tasks"])

    def _status(self, name: str) -> dict[str, Any] | None:
        status: dict[str, Any] | None = self._ask("GET", f"/connectors/{name}/status")
        return status

    def _ask(self, method: str, path: str, body: str | None = None) -> Any:
        """The answer, or None for a refusal."""
        connection = HTTPConnection(LOOPBACK, self._port, timeout=30)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
            return json.loads(said or "{}") if answer.status < 300 else None
        except (OSError, HTTPException):
            return None
        finally:
            connection.close()

    def _await(self, is_so: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_so():
            if time.monotonic() > deadline:
                raise CdcError(f"{otherwise}\n{self._said()}")
            time.sleep(0.05)  # between two looks at a server that tells no one when it changes

    def _said(self) -> str:
        return self.log.read_text(errors="replace")[-_SHOWN_CHARACTERS:]

    def _properties(self, jars: Installation) -> dict[str, str]:
        converter = {"": _CONVERTER} | {f".{name}": value for name, value in converter_settings(self._registry).items()}
        return {
            "bootstrap.servers": self._kafka,
            "listeners": f"http://{LOOPBACK}:{self._port}",
            "plugin.path": str(self._plugins(jars)),
            "plugin.discovery": "service_load",
            "offset.storage.file.filename": str(self.offsets),
            **{f"{part}.converter{name}": value for part in ("key", "value") for name, value in converter.items()},
            **self._settings,
        }

    def _plugins(self, jars: Installation) -> Path:
        plugins = self._directory / "plugins"
        if not plugins.exists():
            converter = plugins / "apicurio"
            converter.mkdir(parents=True)
            for jar in jars.converter_jars():
                (converter / jar.name).symlink_to(jar)
            with ZipFile(converter / "manifest.jar", "w") as manifest:  # what `connect-plugin-path sync-manifests` adds
                manifest.writestr("META-INF/services/org.apache.kafka.connect.storage.Converter", _CONVERTER)
            for plugin in jars.debezium.iterdir():
                (plugins / plugin.name).symlink_to(plugin)
        return plugins
