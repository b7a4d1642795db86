"""Making topics, and what the brokers keep of them."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewTopic

from cdc.core.errors import PassingError
from cdc.core.log import Retention, TopicSpec
from cdc.core.settings import LogSettings
from cdc.log.kafka.client import Events, client_options, made, topics_of
from cdc.log.kafka.errors import translate
from cdc.log.kafka.options import Options, admin_options, topic_config
from cdc.log.limits import require_partitions

_TIMEOUT_SECONDS: Final = 30.0
_LOOK_SECONDS: Final = 0.05
_UNTOLD: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}


def create_topics(
    topics: Iterable[TopicSpec], options: Options, settings: LogSettings, events: Events
) -> dict[str, int]:
    """Make the topics that are missing, wait until the brokers know them, and return all topics with their number of
    partitions.
    """
    specs = list(topics)
    admin = made(lambda: AdminClient(client_options(admin_options(options), events)))
    existing = topics_of(admin, events)
    _check(specs, existing)
    missing = [spec for spec in specs if spec.name not in existing]
    if missing:
        _create(admin, missing, settings, events)
        existing = _await(admin, missing, events)
        _check(specs, existing)  # another process may have been faster
    return existing


def retention_of(topics: Collection[str], options: Options, events: Events) -> dict[str, Retention]:
    """As `LogReader.retention`. A role that may not describe configurations is told nothing."""
    if not topics:
        return {}
    admin = made(lambda: AdminClient(client_options(admin_options(options), events)))
    asked = admin.describe_configs(
        [ConfigResource(ConfigResource.Type.TOPIC, topic) for topic in topics], request_timeout=_TIMEOUT_SECONDS
    )
    found: dict[str, Retention] = {}
    for resource, answer in asked.items():
        try:
            config = answer.result()
        except KafkaException as error:
            if error.args[0].code() not in _UNTOLD:
                raise translate(error.args[0], events.servers, doing="asking what topics keep") from None
            continue
        policy, kept_ms = config["cleanup.policy"].value, int(config["retention.ms"].value)
        ms = kept_ms if kept_ms >= 0 and "delete" in policy else None
        found[resource.name] = Retention("compact" in policy, ms)
    return found


def _check(specs: Iterable[TopicSpec], existing: Mapping[str, int]) -> None:
    for spec in specs:
        require_partitions(spec, existing.get(spec.name, spec.partitions))


def _create(admin: AdminClient, missing: list[TopicSpec], settings: LogSettings, events: Events) -> None:
    new = [
        NewTopic(
            spec.name,
            spec.partitions,
            settings.replication_factor,
            config=topic_config(settings, compacted=spec.compacted),
        )
        for spec in missing
    ]
    for name, created in admin.create_topics(new, request_timeout=_TIMEOUT_SECONDS).items():
        _result(name, created, events)


def _result(name: str, created: Any, events: Events) -> None:
    try:
        created.result()
    except KafkaException as error:
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise translate(error.args[0], events.servers, doing=f"making topic {name}") from None


def _await(admin: AdminClient, missing: list[TopicSpec], events: Events) -> dict[str, int]:
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while True:
        existing = topics_of(admin, events)
        late = [spec.name for spec in missing if not existing.get(spec.name)]
        if not late:
            return existing
        if time.monotonic() > deadline:
            raise PassingError(f"topic {late[0]} was made, but Kafka at {events.servers} does not show it")
        time.sleep(_LOOK_SECONDS)
