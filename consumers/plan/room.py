"""How much an inbox holds of a partition before it is crowded, so that memory stays bounded with rows of any size."""

from __future__ import annotations

from typing import Final, NamedTuple

MOST_BYTES: Final = 6 << 20  # of values as the log has them, in all partitions together
_LEAST_BYTES: Final = 320 << 10  # of one partition, however many there are


class Room(NamedTuple):
    """For `events` of each partition, and `size` bytes of all together."""

    events: int
    size: int = MOST_BYTES

    def is_full(self, events: int, size: int, partitions: int) -> bool:
        """For one of so many partitions. Not with a single event: the halves of a moved row are taken together."""
        return events >= self.events or (events > 1 and size >= max(_LEAST_BYTES, self.size // partitions))
