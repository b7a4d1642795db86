"""Consumers of a Kafka log: places are found in long partitions, and checkpoints are kept in a topic."""

from __future__ import annotations

import datetime as dt

from confluent_kafka import Producer

from cdc.core.settings import LogSettings
from cdc.log.kafka import KafkaLog
from consumers.changes.rehearsal import Rehearsal


def test_a_place_in_long_partitions_and_the_way_from_there(kafka: str, unique_name: str) -> None:
    settings = LogSettings(prefix=unique_name, url=f"kafka://{kafka}")
    shop = Rehearsal(KafkaLog(settings), settings=settings)
    orders = shop.table("public.orders", {"id": "bigint"}, key=["id"])
    with shop.transaction() as transaction:
        for number in range(5000):
            transaction.insert(orders, {"id": number})
    moment = dt.datetime.now(dt.UTC)
    with shop.transaction() as transaction:
        transaction.update(orders, {"id": 7})

    def read() -> list[str]:
        with shop.consumer(start=moment) as consumer:
            return [str(change.operation) for batch in consumer.batches(follow=False) for change in batch]

    assert read() == ["update"]
    with shop.transaction() as transaction:
        transaction.delete(orders, {"id": 7})
    assert read() == ["delete"]  # from its checkpoint


def test_the_end_of_a_topic_into_which_somebody_wrote_by_transactions(kafka: str, unique_name: str) -> None:
    """As connectors that write exactly once do: the last offset of each partition is the broker's own."""
    settings = LogSettings(prefix=unique_name, url=f"kafka://{kafka}")
    shop = Rehearsal(KafkaLog(settings), settings=settings)
    orders = shop.table("public.orders", {"id": "bigint"}, key=["id"])
    with shop.transaction() as transaction:
        transaction.insert(orders, {"id": 1})
    producer = Producer({"bootstrap.servers": kafka, "transactional.id": unique_name})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce(f"{unique_name}.public.orders", value=b"taken back", partition=0)
    producer.flush(20)
    producer.abort_transaction(20)
    producer.close()

    with shop.consumer() as consumer:
        operations = [str(change.operation) for batch in consumer.batches(follow=False) for change in batch]
    assert operations.count("insert") == 1
