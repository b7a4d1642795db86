"""Kafka, through confluent-kafka (librdkafka)."""

from cdc.log.kafka.log import KafkaLog

__all__ = ["KafkaLog"]
