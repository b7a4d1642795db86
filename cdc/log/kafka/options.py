"""Options for librdkafka: those we set, and which of them a user can't.

https://github.com/confluentinc/librdkafka/blob/master/CONFIGURATION.md
"""

from __future__ import annotations

from typing import Any, Final

from cdc.core.errors import ConfigError
from cdc.core.settings import LogSettings

Options = dict[str, Any]

# Idempotence alone leaves holes: event 1 timed out, event 2 was delivered, the resend put 1 after 2. So nothing ever
# times out, and what would leave a hole is fatal.
_NO_HOLES: Final[Options] = {
    "acks": "all",
    "enable.idempotence": True,
    "enable.gapless.guarantee": True,
    "message.timeout.ms": 0,
    "allow.auto.create.topics": False,  # a deleted topic must not come back with the broker's defaults
    "delivery.report.only.error": True,
}
_EXACT_PLACES: Final[Options] = {
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    "auto.offset.reset": "error",
    "enable.partition.eof": True,  # the last offsets may have no record for us: of transactions, say
}
_OTHER_NAMES: Final = {
    "bootstrap.servers",
    "metadata.broker.list",
    "request.required.acks",
    "delivery.timeout.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "message.max.bytes",
    "message.send.max.retries",
    "retries",
    "queuing.strategy",
    "transactional.id",
    "group.id",
    "auto.commit.enable",
    "log.queue",
}
_OURS: Final = frozenset(_NO_HOLES) | frozenset(_EXACT_PLACES) | _OTHER_NAMES

# What a user may choose otherwise. lz4 costs the least time of those that make rows much smaller.
_WRITING: Final[Options] = {
    "compression.type": "lz4",
    "linger.ms": 5,
    "queue.buffering.max.kbytes": 256 * 1024,
    "queue.buffering.max.messages": 500_000,
}
_READING: Final[Options] = {
    "fetch.wait.max.ms": 100,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 4 * 1024,
    "fetch.max.bytes": 1 << 20,  # before they are unpacked: of all partitions, and not counted in the queue until then
    "max.partition.fetch.bytes": 128 << 10,  # else a few partitions fill it, and those that are needed first come late
}
# log.connection.close: brokers close idle connections, which is no news.
_QUIET: Final[Options] = {"client.id": "cdc", "log.connection.close": False}

BATCH_OVERHEAD: Final = 1024  # of a single record's batch and request, generously
_KIB = 1024


def bootstrap_servers(url: str) -> str:
    """`host:9092,host:9092` of `kafka://host:9092,host:9092`."""
    servers = url.partition("://")[2].rstrip("/")
    if "@" in servers:
        raise ConfigError(
            "[log] url holds credentials, which Kafka takes as options",
            mend="write sasl.username, sasl.password, sasl.mechanism and security.protocol under [log.options]",
        )
    if not servers or "/" in servers or "?" in servers:
        raise ConfigError("[log] url does not name Kafka brokers", mend="write kafka://host:9092,host:9092")
    return servers


def checked_options(settings: LogSettings) -> Options:
    """The user's options. ConfigError for one that would break a promise."""
    refused = sorted(_OURS.intersection(settings.options))
    if refused:
        raise ConfigError(
            f"[log.options] {refused[0]} can't be set: cdc sets it, because its promises rest on it",
            mend=f"remove {refused[0]} from [log.options]",
        )
    return dict(settings.options)


def producer_options(options: Options, max_record_bytes: int) -> Options:
    limit = {"message.max.bytes": max_record_bytes + BATCH_OVERHEAD}
    return {**_QUIET, **_WRITING, **options, **_NO_HOLES, **limit}


def consumer_options(options: Options, group: str) -> Options:
    return {**_QUIET, **_READING, **options, **_EXACT_PLACES, "group.id": group}


def membership_options(options: Options, group: str, session_timeout: float) -> Options:
    """Of a member that is taken for gone after `session_timeout` seconds; brokers want 6 at least."""
    milliseconds = max(6_000, round(session_timeout * 1000))
    return {
        **consumer_options(options, group),
        "enable.partition.eof": False,  # it reads nothing
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": milliseconds,
        "heartbeat.interval.ms": milliseconds // 4,
        "max.poll.interval.ms": max(300_000, milliseconds),
    }


def admin_options(options: Options) -> Options:
    return {**_QUIET, **options}


def topic_config(settings: LogSettings, *, compacted: bool) -> dict[str, str]:
    """The configuration of a new topic."""
    config = {"max.message.bytes": str(max(settings.max_record_bytes, _KIB) + 2 * BATCH_OVERHEAD)}
    if settings.replication_factor >= 3:
        config["min.insync.replicas"] = "2"  # else what was acknowledged may stand on one broker only
    if compacted:
        return {**config, "cleanup.policy": "compact"}
    retention_ms = settings.retention_hours * 3_600_000 or -1
    return {**config, "cleanup.policy": "delete", "retention.ms": str(retention_ms), "retention.bytes": "-1"}
