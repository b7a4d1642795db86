"""Confluent's wire format: a zero byte, the schema's id in four bytes (big-endian), then the Avro bytes.

https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from cdc.core.errors import ProtocolViolationError

_MAGIC: Final = 0
HEADER_LENGTH: Final = 5


@lru_cache(maxsize=1024)
def header(schema_id: int) -> bytes:
    """What stands in front of Avro bytes of that schema."""
    return b"\x00" + schema_id.to_bytes(4, "big")


def frame(schema_id: int, payload: bytes) -> bytes:
    return header(schema_id) + payload


def unframe(data: bytes) -> tuple[int, int]:
    """The schema's id, and the offset at which the Avro bytes begin. ProtocolViolationError for anything else."""
    if len(data) < HEADER_LENGTH or data[0] != _MAGIC:
        raise ProtocolViolationError(
            f"{len(data)} bytes that do not start with a zero byte and a schema id: not Avro in Confluent's framing",
            mend="Read topics that hold Avro with a schema registry; this one may hold JSON.",
        )
    return int.from_bytes(data[1:HEADER_LENGTH], "big"), HEADER_LENGTH
