"""Consumers of a Kafka log: places are found in long partitions, and checkpoints are kept in a topic."""

from __future__ import annotations

from cdc.core.settings import LogSettings
from cdc.log.kafka import KafkaLog
from consumers.changes import Position
from consumers.changes.rehearsal import Rehearsal


def test_a_place_in_long_partitions_and_the_way_from_there(kafka: str, unique_name: str) -> None:
    settings = LogSettings(prefix=unique_name, url=f"kafka://{kafka}", partitions=2)
    shop = Rehearsal(KafkaLog(settings), settings=settings)
    orders = shop.table("public.orders", {"id": "bigint"}, key=["id"])
    with shop.transaction() as transaction:
        for number in range(5000):
            transaction.insert(orders, {"id": number})
    with shop.transaction() as transaction:
        for number in range(10):
            transaction.update(orders, {"id": number})

    with shop.consumer("all") as consumer:
        changes = [change for batch in consumer.batches(follow=False) for change in batch]
    assert len(changes) == 5011
    place = max(change.position for change in changes)

    def read(name: str, **options: object) -> list[tuple[str, int]]:
        with shop.consumer(name, **options) as consumer:
            batches = consumer.batches(follow=False)
            return sorted((str(each.operation), each.key["id"]) for batch in batches for each in batch if each.key)

    updates = [("update", number) for number in range(10)]
    assert read("placed", start=Position(*place[:2], 1)) == updates
    assert read("timed", start=max(change.commit_time for change in changes)) == updates
    assert read("latest", start="latest") == []
    with shop.transaction() as transaction:
        transaction.delete(orders, {"id": 7})
    for name in ("all", "placed", "timed", "latest"):
        assert read(name, start="latest") == [("delete", 7)]  # each goes on from its checkpoint
        assert read(name) == []
