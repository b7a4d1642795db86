"""librdkafka's errors as ours. The broker's own text never quotes records."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError

from cdc.core.errors import CdcError, LogError, PassingError, RecordTooLargeError

CREDENTIALS: Final = frozenset(
    {
        KafkaError._AUTHENTICATION,  # noqa: SLF001 - librdkafka's own codes begin with an underscore
        KafkaError._SSL,  # noqa: SLF001
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.UNSUPPORTED_SASL_MECHANISM,
        KafkaError.ILLEGAL_SASL_STATE,
    }
)
GONE: Final = frozenset(
    {
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError.UNKNOWN_TOPIC_ID,
        KafkaError._UNKNOWN_TOPIC,  # noqa: SLF001
        KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
    }
)
LEADERLESS: Final = frozenset({KafkaError.LEADER_NOT_AVAILABLE, KafkaError.NOT_LEADER_FOR_PARTITION})
OUT_OF_RANGE: Final = frozenset(
    {
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
        KafkaError._LOG_TRUNCATION,  # noqa: SLF001
    }
)
PARTITION_END: Final = KafkaError._PARTITION_EOF  # noqa: SLF001
_DENIED: Final = frozenset(
    {
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.GROUP_AUTHORIZATION_FAILED,
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    }
)
_REFUSED: Final[dict[int, str]] = {
    KafkaError.INVALID_REPLICATION_FACTOR: "set [log] replication_factor to at most the number of brokers",
    KafkaError.INVALID_PARTITIONS: "correct [log] partitions",
    KafkaError.POLICY_VIOLATION: "ask the cluster's administrators for what its policy allows, or to make the topic",
    KafkaError.INVALID_CONFIG: "check [log] retention and max_record_bytes against the cluster's limits",
    KafkaError.INVALID_RECORD: "compacted topics take no records without a key: check the topic's cleanup.policy",
    KafkaError.TOPIC_EXCEPTION: "check the topic's name, [log] prefix",
    KafkaError.UNSUPPORTED_VERSION: "cdc needs Kafka 2.1 or newer",
}


def translate(error: KafkaError, servers: str, *, doing: str) -> CdcError:
    """The error to raise for what librdkafka said while `doing` something."""
    what = f"{doing} (Kafka at {servers}): {error.str()}"
    code = error.code()
    if code in CREDENTIALS:
        return LogError(what, mend="correct security.protocol, the sasl.* and the ssl.* options in [log.options]")
    if code in _DENIED:
        return LogError(what, mend="give the user in [log.options] access to the topics of [log] prefix, and to groups")
    if code in GONE:
        return LogError(what, mend="start capture first: it makes the topics; check [log] url and prefix")
    if code == KafkaError.MSG_SIZE_TOO_LARGE:
        return RecordTooLargeError(what, mend="raise the topic's max.message.bytes to [log] max_record_bytes or more")
    if code in _REFUSED:
        return LogError(what, mend=_REFUSED[code])
    return PassingError(what, mend="check [log] url, the network, and that the brokers run")
