"""The log at `kafka://host:9092,host:9092`."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from typing_extensions import override

from cdc.core.log import Log
from cdc.core.settings import LogSettings
from cdc.log.kafka.membership import KafkaMembership
from cdc.log.kafka.options import bootstrap_servers, checked_options
from cdc.log.kafka.reader import KafkaReader
from cdc.log.kafka.writer import KafkaWriter


class KafkaLog(Log):
    """Topics of the brokers in `settings.url`; `settings.options` go to librdkafka as they are."""

    def __init__(self, settings: LogSettings) -> None:
        self._settings = settings
        self._options = {**checked_options(settings), "bootstrap.servers": bootstrap_servers(settings.url)}

    @override
    def writer(self, *, only: str | None = None) -> KafkaWriter:
        return KafkaWriter(self._options, self._settings)

    @override
    def reader(self, group: str) -> KafkaReader:
        return KafkaReader(self._options, group)

    @override
    def membership(self, group: str, session_timeout: float) -> KafkaMembership:
        return KafkaMembership(self._options, group, session_timeout)

    @override
    def __enter__(self) -> Self:
        return self

    @override
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Writers and readers are closed by those who opened them."""
