"""Consumers of a Kafka log: places are found in long partitions, and checkpoints are kept in a topic."""

from __future__ import annotations

import datetime as dt

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
