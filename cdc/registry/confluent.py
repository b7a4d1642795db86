"""Confluent's REST registry (Confluent, Apicurio, Karapace, Redpanda), through confluent-kafka's client."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import tenacity
from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError
from typing_extensions import override

from cdc.core.errors import CdcError, ConfigError, PassingError, RegistryError, SchemaRefusedError, UnknownSchemaError
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import RegistrySettings
from cdc.core.urls import redact

_Answer = TypeVar("_Answer")
_PATIENCE: Final[dict[str, object]] = {"timeout": 10.0, "max.retries": 1, "retries.wait.ms": 200}
_NUMBERS: Final = frozenset({"timeout", "max.retries", "retries.wait.ms", "retries.max.wait.ms", "cache.capacity"})
_CONFLICT: Final = 409
_INVALID: Final = 422
_NOT_FOUND: Final = 404
_SERVER: Final = 500
_BUSY: Final = (408, 429)  # a timeout, too many requests
_HEARD_OF_SECONDS: Final = 3.0  # one of several registries may not have heard of a new schema yet
_ASK_AGAIN_SECONDS: Final = 0.2
_DENIED: Final = (401, 403)


class ConfluentRegistry(SchemaRegistry):
    """The registry at `settings.url`; `settings.options` go to the client as they are."""

    def __init__(self, settings: RegistrySettings) -> None:
        if settings.url is None:
            raise ConfigError("[registry] url is missing")
        self._shown = redact(settings.url)
        if not settings.url.startswith(("http://", "https://")):
            raise ConfigError(f"[registry] url {self._shown} is not one of HTTP", mend="write http://host:8081")
        try:
            self._client = SchemaRegistryClient({"url": settings.url, **_PATIENCE, **_typed(settings.options)})
        except (ValueError, TypeError, OSError) as error:
            raise ConfigError(f"[registry] {self._shown}: {error}", mend="correct [registry.options]") from None
        self._schemas: dict[int, str] = {}

    @override
    def register(self, subject: str, schema: str) -> int:
        try:
            return int(self._client.register_schema(subject, Schema(schema, "AVRO")))
        except SchemaRegistryError as error:
            raise self._translated(error, f"registering subject {subject!r}", subject=subject) from None
        except Exception as error:  # noqa: BLE001 - which HTTP client's errors they are is confluent-kafka's choice
            raise self._failed(error) from None

    @override
    def schema(self, schema_id: int) -> str:
        known = self._schemas.get(schema_id)
        if known is None:
            known = self._schemas[schema_id] = self._fetch(schema_id)
        return known

    def check(self) -> None:
        """Ask the registry anything. PassingError if it does not answer."""
        try:
            self._client.get_subjects()
        except SchemaRegistryError as error:
            raise self._translated(error, "listing subjects") from None
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error) from None

    @override
    def close(self) -> None:
        self._client.close()

    def _fetch(self, schema_id: int) -> str:
        try:
            text = _heard_of(lambda: self._client.get_schema(schema_id)).schema_str
        except SchemaRegistryError as error:
            raise self._translated(error, f"looking up schema id {schema_id}") from None
        except Exception as error:  # noqa: BLE001 - as above
            raise self._failed(error) from None
        if text is None:
            raise UnknownSchemaError(f"schema id {schema_id} has no text at {self._shown}")
        return text

    def _translated(self, error: SchemaRegistryError, doing: str, *, subject: str | None = None) -> CdcError:
        status = int(error.http_status_code)
        what = f"{doing} at {self._shown}: {error.error_message}"
        if subject is not None and status in {_CONFLICT, _INVALID}:
            return SchemaRefusedError(
                f"the registry refuses the schema of subject {subject!r}: {error.error_message}",
                mend=f"set the compatibility of subject {subject!r} to NONE, or undo the change at the source",
            )
        if status == _NOT_FOUND and subject is None:
            return UnknownSchemaError(what, mend="check [registry] url: the events were written with another registry")
        if status in _DENIED:
            return RegistryError(what, mend="check the user and password in [registry] url or [registry.options]")
        if status >= _SERVER or status < 0 or status in _BUSY:
            return PassingError(what, mend="check that the registry runs and that its store is reachable")
        return RegistryError(what, mend="check [registry] url")

    def _failed(self, error: Exception) -> CdcError:
        """For what is no answer of a registry."""
        if isinstance(error, (ValueError, TypeError, KeyError, AttributeError)):
            return RegistryError(
                f"what answers at {self._shown} is no schema registry ({type(error).__name__})",
                mend="check [registry] url; with Apicurio it ends in /apis/ccompat/v7",
            )
        return PassingError(
            f"the registry at {self._shown} can't be reached ({type(error).__name__})",
            mend="check [registry] url, and that the registry runs",
        )


def _heard_of(ask: Callable[[], _Answer]) -> _Answer:
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(
            lambda error: isinstance(error, SchemaRegistryError) and error.http_status_code == _NOT_FOUND
        ),
        wait=tenacity.wait_fixed(_ASK_AGAIN_SECONDS),
        stop=tenacity.stop_after_delay(_HEARD_OF_SECONDS),
        reraise=True,
    )(ask)


def _typed(options: dict[str, str]) -> dict[str, object]:
    """The options as the client takes them. ValueError if a number is none."""
    return {name: float(text) if name in _NUMBERS else text for name, text in options.items()}
