"""What writer, reader and topic making have in common: making a client, hearing its events, asking for metadata."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin._metadata import ClusterMetadata

from cdc.core.errors import CdcError, ConfigError, PassingError
from cdc.log.kafka.errors import CREDENTIALS, translate
from cdc.log.kafka.options import Options

_CONNECT_SECONDS: Final = 10.0
_TRY_SECONDS: Final = 1.0
HEARD_OF_SECONDS: Final = 3.0
"""How long a broker may take to hear of a topic that another one knows; a busy cluster's may."""
_DOWN: Final = KafkaError._ALL_BROKERS_DOWN  # noqa: SLF001 - librdkafka's own codes begin with an underscore

logger = logging.getLogger("cdc.log.kafka")
_Client = TypeVar("_Client")


class _MetadataClient(Protocol):
    def list_topics(self, topic: str | None = None, timeout: float = -1) -> ClusterMetadata: ...


class QuietLogger:
    """librdkafka's own log lines, all at level DEBUG: while a broker is away it writes one every 50 ms.

    What matters among them also arrives as an event.
    """

    def log(self, level: int, message: str, *details: object) -> None:
        del level  # librdkafka calls a refused connection an error
        logger.debug(message, *details)


class Events:
    """The errors that librdkafka tells by callback. Those that nothing mends are kept in `failure`."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.failure: CdcError | None = None
        self.down = False

    def __call__(self, error: KafkaError) -> None:
        if error.fatal() or error.code() in CREDENTIALS:
            self.fail(translate(error, self.servers, doing="working with the log"))
        elif error.code() == _DOWN and not self.down:
            self.down = True
            logger.warning("no broker of %s can be reached; trying again until one can", self.servers)
        else:
            logger.debug("%s: %s", error.name(), error.str())

    def fail(self, failure: CdcError) -> None:
        """Keep the first failure: later ones follow from it."""
        self.failure = self.failure or failure

    def raise_failure(self) -> None:
        if self.failure is not None:
            raise self.failure


def made(make: Callable[[], _Client]) -> _Client:
    """A client of librdkafka. ConfigError if it refuses an option."""
    try:
        return make()
    except (KafkaException, TypeError, ValueError) as error:
        reason = error.args[0].str() if isinstance(error, KafkaException) else str(error)
        raise ConfigError(
            f"librdkafka refuses an option: {reason}", mend="correct [log.options]; their names are librdkafka's"
        ) from None


def client_options(options: Options, events: Events) -> Options:
    return {**options, "error_cb": events, "logger": QuietLogger()}


def connect(client: _MetadataClient, serve: Callable[[], object], events: Events) -> dict[str, int]:
    """Wait for a broker and return its topics. `serve` lets callbacks run.

    PassingError if none answers in time; LogError as soon as the credentials turn out wrong.
    """
    deadline = time.monotonic() + _CONNECT_SECONDS
    while True:
        try:
            return _topics(client.list_topics(timeout=_TRY_SECONDS))
        except KafkaException as error:
            serve()
            events.raise_failure()
            if time.monotonic() > deadline:
                raise PassingError(
                    f"no broker of {events.servers} answers: {error.args[0].str()}",
                    mend="check [log] url, security.protocol in [log.options], and that the brokers run",
                ) from None


def topics_of(client: _MetadataClient, events: Events) -> dict[str, int]:
    """All topics with their number of partitions, asked of a broker."""
    try:
        return _topics(client.list_topics(timeout=_CONNECT_SECONDS))
    except KafkaException as error:
        raise translate(error.args[0], events.servers, doing="asking for the topics") from None


def _topics(metadata: ClusterMetadata) -> dict[str, int]:
    return {name: len(topic.partitions) for name, topic in metadata.topics.items() if topic.error is None}
