"""murmur2 as Kafka's Java client has it, by the vectors of its own UtilsTest.testMurmur2."""

import pytest

from cdc.log.partitioner import partition_of

_INT_MAX = 2**31 - 1


@pytest.mark.parametrize(
    ("key", "java_hash"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_partition_is_javas_positive_hash_modulo_partitions(key, java_hash):
    positive = java_hash & 0x7FFFFFFF  # Utils.toPositive

    assert partition_of(key, _INT_MAX) == positive  # the whole hash
    assert [partition_of(key, count) for count in (2, 3, 7, 12, 1000)] == [
        positive % count for count in (2, 3, 7, 12, 1000)
    ]


def test_one_partition_takes_every_key():
    assert {partition_of(key, 1) for key in (b"", b"21", b"foobar")} == {0}


def test_an_empty_key_has_a_partition():
    assert 0 <= partition_of(b"", 7) < 7
