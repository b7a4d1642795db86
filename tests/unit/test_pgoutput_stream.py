"""The frames around pgoutput's messages, as literal bytes."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.core.errors import ProtocolViolationError
from cdc.pgoutput.stream import Frame, PrimaryKeepalive, XLogData, decode_frame, encode_status_update

NEW_YEAR_2024_US = 1_704_067_200_000_000
NEW_YEAR_2024 = b"\x00\x02\xb0\xd5\xd4\xe9\x40\x00"

XLOG_DATA_HEADER = (
    b"w"
    b"\x00\x00\x00\x16\xb3\x74\xd8\x48"  # start 16/B374D848
    b"\x00\x00\x00\x16\xb3\x74\xd8\x78" + NEW_YEAR_2024  # the server's end of WAL
)
KEEPALIVE = b"k\x00\x00\x00\x16\xb3\x74\xd8\x78" + NEW_YEAR_2024

LITERALS: dict[str, tuple[bytes, Frame]] = {
    "data": (XLOG_DATA_HEADER + b"B\x00", XLogData(0x16_B374D848, 0x16_B374D878, NEW_YEAR_2024_US, b"B\x00")),
    "data: empty": (XLOG_DATA_HEADER, XLogData(0x16_B374D848, 0x16_B374D878, NEW_YEAR_2024_US, b"")),
    "keepalive": (KEEPALIVE + b"\x00", PrimaryKeepalive(0x16_B374D878, NEW_YEAR_2024_US, reply_requested=False)),
    "keepalive: reply": (KEEPALIVE + b"\x01", PrimaryKeepalive(0x16_B374D878, NEW_YEAR_2024_US, reply_requested=True)),
}


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
@pytest.mark.parametrize(("data", "frame"), LITERALS.values(), ids=LITERALS.keys())
def test_literal_frame(data: bytes, frame: Frame, buffer: type) -> None:
    decoded = decode_frame(buffer(data))

    assert (type(decoded), decoded) == (type(frame), frame)


def test_payload_outlives_the_drivers_buffer() -> None:
    buffer = bytearray(XLOG_DATA_HEADER + b"payload")

    decoded = decode_frame(memoryview(buffer))
    buffer[:] = bytes(len(buffer))

    assert isinstance(decoded, XLogData)
    assert decoded.payload == b"payload"


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", "replication stream: byte 0: an empty frame"),
        (b"x", "replication stream: byte 0: an unknown kind of frame, 0x78"),
        (KEEPALIVE + b"\x02", "Primary keepalive: byte 17: neither 0 nor 1 but 2"),
        (KEEPALIVE + b"\x00\x00", "Primary keepalive: byte 18: the frame has 19 bytes, not 18"),
    ],
)
def test_violation_says_kind_and_offset(data: bytes, error: str) -> None:
    with pytest.raises(ProtocolViolationError, match=f"^{error}"):
        decode_frame(data)


@pytest.mark.parametrize("header", [XLOG_DATA_HEADER, KEEPALIVE + b"\x00"])
def test_truncated_anywhere_is_a_violation(header: bytes) -> None:
    for size in range(len(header)):
        with pytest.raises(ProtocolViolationError):
            decode_frame(header[:size])


def test_status_update() -> None:
    update = encode_status_update(
        written=0x16_B374D878, flushed=0x16_B374D848, applied=0x1_00000002, client_time_us=NEW_YEAR_2024_US
    )

    assert update == (
        b"r"
        b"\x00\x00\x00\x16\xb3\x74\xd8\x78"
        b"\x00\x00\x00\x16\xb3\x74\xd8\x48"
        b"\x00\x00\x00\x01\x00\x00\x00\x02" + NEW_YEAR_2024 + b"\x00"
    )


def test_status_update_asks_for_a_reply() -> None:
    update = encode_status_update(
        written=2**64 - 1, flushed=0, applied=0, client_time_us=NEW_YEAR_2024_US, reply_requested=True
    )

    assert update == b"r" + b"\xff" * 8 + bytes(16) + NEW_YEAR_2024 + b"\x01"


def test_status_update_refuses_what_is_no_lsn() -> None:
    with pytest.raises(struct.error):
        encode_status_update(written=-1, flushed=0, applied=0, client_time_us=0)


@settings(max_examples=500, deadline=None)
@given(st.builds(bytes.__add__, st.sampled_from([b"", b"w", b"k", XLOG_DATA_HEADER, KEEPALIVE]), st.binary()))
def test_arbitrary_bytes_are_a_frame_or_a_violation(data: bytes) -> None:
    try:
        frame = decode_frame(data)
    except ProtocolViolationError:
        return
    assert isinstance(frame, Frame)
