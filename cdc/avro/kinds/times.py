"""Dates and times: days and microseconds since 1970, or ISO 8601 where there is a time zone.

Any year has its day number, before Christ and beyond 9999 too. Infinities: in a timestamp the ends of long, as
Debezium has them since 3.7 (before, it had the numbers at which our timestamps end), the word in a timestamptz, and in
a date, where Debezium has none, the ends of int, which no date of PostgreSQL reaches.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from cdc.avro import binary
from cdc.avro.civil import day_number, days_of, text_of
from cdc.avro.kinds.codec import InexactError, ValueCodec

_INFINITY: Final = b"infinity"
_MINUS_INFINITY: Final = b"-infinity"
_DATE_INFINITY: Final = 2**31 - 1
_DATE_MINUS_INFINITY: Final = -(2**31)
_TIMESTAMP_INFINITY: Final = 2**63 - 1
_TIMESTAMP_MINUS_INFINITY: Final = -(2**63)
# PostgreSQL's JDBC driver's infinities: what Debezium up to 3.6 writes, and still does where it counts milliseconds.
_DRIVERS_INFINITY: Final = 9_223_372_036_825_200_000
_DRIVERS_MINUS_INFINITY: Final = -9_223_372_036_832_400_000

_DAY_US: Final = 86_400_000_000
_CLOCK: Final = rb"(\d\d):([0-5]\d):([0-5]\d)(?:\.(\d{0,5}[1-9]))?"
_TIME: Final = re.compile(_CLOCK)
_TIMETZ: Final = re.compile(rb"(" + _CLOCK + rb")([+-])(\d\d)(?::(\d\d))?(?::(\d\d))?")
_TIMESTAMPTZ: Final = re.compile(
    rb"(\d{4,6})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01]) ([01]\d|2[0-3]):([0-5]\d:[0-5]\d)(?:\.(\d{0,5}[1-9]))?\+00( BC)?"
)
_ISO_TIMESTAMP: Final = re.compile(
    r"([+-]?\d{4,6})-(\d\d)-(\d\d)T(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d:\d\d)"
)
# In UTC, in the years 1 to 9999, in microseconds at most; without the zeros at the end.
_USUAL_ISO_TIMESTAMP: Final = re.compile(
    rb"((?!0000)\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)(?:(?=\.\d{1,9}Z)(?:\.0+|(\.\d*[1-9])0*))?Z"
)
_SECONDS: Final = tuple(b"%02d" % second for second in range(60))
_MICROSECONDS: Final = b"0000-00-00T00:00:00.000000Z"  # the most usual of all, its digits being zeros
_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")
_ISO_TIME: Final = re.compile(rb"(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,9}))?(Z|[+-]\d\d(?::\d\d){0,2})")


def _encode_date(text: bytes) -> int:
    if text == _INFINITY:
        return _DATE_INFINITY
    if text == _MINUS_INFINITY:
        return _DATE_MINUS_INFINITY
    days = days_of(text)
    if days >= _DATE_INFINITY:
        raise ValueError("out of range")
    return days


@lru_cache(maxsize=10_000)
def _decode_date(days: int) -> bytes:
    if days == _DATE_INFINITY:
        return _INFINITY
    if days == _DATE_MINUS_INFINITY:
        return _MINUS_INFINITY
    return b"".join(text_of(days))


DATE: Final = ValueCodec(encode=_encode_date, decode=_decode_date, write=binary.long, stand_in=0)


def _clock_us(text: bytes) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a time of day")
    return _matched_us(match[1], match[2], match[3], match[4])


def _matched_us(hours: bytes, minutes: bytes, seconds: bytes, fraction: bytes | None) -> int:
    us = (int(hours) * 3600 + int(minutes) * 60 + int(seconds)) * 1_000_000
    if fraction is not None:
        us += int(fraction.ljust(6, b"0"))
    if us > _DAY_US:
        raise ValueError("not a time of day")
    return us


def _clock_text(us: int) -> bytes:
    seconds, fraction = divmod(us, 1_000_000)
    minutes, second = divmod(seconds, 60)
    text = b"%02d:%02d:%02d" % (minutes // 60, minutes % 60, second)
    return text + (b".%06d" % fraction).rstrip(b"0") if fraction else text


def _decode_time(us: int) -> bytes:
    if not 0 <= us <= _DAY_US:
        raise ValueError("not a time of day")
    return _clock_text(us)


TIME: Final = ValueCodec(encode=_clock_us, decode=_decode_time, write=binary.long, stand_in=0)


def _encode_timestamp(text: bytes) -> int:
    if text == _INFINITY:
        return _TIMESTAMP_INFINITY
    if text == _MINUS_INFINITY:
        return _TIMESTAMP_MINUS_INFINITY
    moment, era = (text[:-3], b" BC") if text.endswith(b" BC") else (text, b"")
    date, _, clock = moment.partition(b" ")
    time_us = _clock_us(clock)
    us = days_of(date + era) * _DAY_US + time_us
    # PostgreSQL counts from 2000, and so has timestamps (of the year 294247 or so) that a long counting from 1970
    # has not, or needs for the infinities.
    if time_us == _DAY_US or not _DRIVERS_MINUS_INFINITY < us < _DRIVERS_INFINITY:
        raise InexactError(None)
    return us


def _decode_timestamp(us: int) -> bytes:
    if us >= _DRIVERS_INFINITY:
        return _INFINITY
    if us <= _DRIVERS_MINUS_INFINITY:
        return _MINUS_INFINITY
    seconds, fraction = divmod(us, 1_000_000)
    minutes, second = divmod(seconds, 60)
    before, era = _before_seconds(minutes)
    moment = before + _SECONDS[second]
    if fraction:
        return moment + (b".%06d" % fraction).rstrip(b"0") + era
    return moment + era


@lru_cache(maxsize=10_000)
def _before_seconds(minutes: int) -> tuple[bytes, bytes]:
    """The date and time up to the seconds, and ` BC` or nothing. Moments come close to each other."""
    days, minute = divmod(minutes, 24 * 60)
    date, era = text_of(days)
    return b"%b %02d:%02d:" % (date, minute // 60, minute % 60), era


TIMESTAMP: Final = ValueCodec(encode=_encode_timestamp, decode=_decode_timestamp, write=binary.long, stand_in=2**63 - 2)


def timestamptz(precision: int) -> ValueCodec:
    """ISO 8601 in UTC, with exactly as many digits of a second as the type declares (6 if it declares none), as
    Debezium's `ZonedTimestamp.toIsoString(…, fractionalWidth)` does; declared 0, with as many as it takes.
    """

    def encode(text: bytes) -> bytes:
        if text in {_INFINITY, _MINUS_INFINITY}:
            return text
        match = _TIMESTAMPTZ.fullmatch(text)
        if match is None:
            raise ValueError("not a timestamp in UTC")
        year, month, day, hour, rest, fraction, era = match.groups(b"")
        digits = fraction.ljust(precision, b"0")
        point = b"." if digits else b""
        shown = _java_year(year, before_christ=bool(era)) if era or len(year) > 4 else year
        return b"%b-%b-%bT%b:%b%b%bZ" % (shown, month, day, hour, rest, point, digits)

    return ValueCodec(encode=encode, decode=_decode_timestamptz, write=binary.data, stand_in=b"1970-01-01T00:00:00Z")


def _java_year(year: bytes, *, before_christ: bool) -> bytes:
    """DateTimeFormatter.ISO_LOCAL_DATE: astronomical, with a sign where four digits are not enough."""
    n = 1 - int(year) if before_christ else int(year)
    if n > 9999:
        return b"+%d" % n
    return b"-%04d" % -n if n < 0 else b"%04d" % n


def _decode_timestamptz(datum: bytes) -> bytes:
    if datum.translate(_ZEROS) == _MICROSECONDS and not datum.startswith(b"0000"):
        part = datum[19:26].rstrip(b"0")
        return b"%b %b%b+00" % (datum[:10], datum[11:19], part if part != b"." else b"")
    usual = _USUAL_ISO_TIMESTAMP.fullmatch(datum)
    if usual is not None:
        return b"%b %b%b+00" % usual.groups(b"")
    if datum in {_INFINITY, _MINUS_INFINITY}:
        return datum
    match = _ISO_TIMESTAMP.fullmatch(datum.decode())
    if match is None:
        raise ValueError("not an ISO 8601 timestamp")
    year, month, day, clock, fraction, offset = match.groups("")
    if offset != "Z" or len(year) != 4 or year == "0000":
        return _in_utc(int(year), int(month), int(day), _full_clock(clock.encode(), fraction.encode()), offset)
    digits = fraction.rstrip("0")
    seconds = clock if len(clock) == 8 else f"{clock}:00"
    return f"{year}-{month}-{day} {seconds}{'.' if digits else ''}{digits}+00".encode()


def _full_clock(clock: bytes, fraction: bytes) -> bytes:
    digits = fraction[:6].rstrip(b"0")
    return (clock if len(clock) == 8 else clock + b":00") + (b"." + digits if digits else b"")


def _in_utc(year: int, month: int, day: int, clock: bytes, offset: str) -> bytes:
    us = day_number(year, month, day) * _DAY_US + _clock_us(clock)
    if offset != "Z":
        minutes = int(offset[1:3]) * 60 + int(offset[4:6])
        us -= (minutes if offset[0] == "+" else -minutes) * 60_000_000
    days, time_us = divmod(us, _DAY_US)
    date, era = text_of(days)
    return b"%b %b+00%b" % (date, _clock_text(time_us), era)


def _encode_timetz(text: bytes) -> bytes:
    match = _TIMETZ.fullmatch(text)
    if match is None:
        raise ValueError("not a time with a time zone")
    clock, hours, minutes, seconds, fraction, sign, *offset = match.groups()
    us = _matched_us(hours, minutes, seconds, fraction)
    east = sum(int(part) * unit for part, unit in zip(offset, (3600, 60, 1), strict=True) if part)
    if not east and us < _DAY_US and sign == b"+" and offset[1] is None:
        return clock + b"Z"
    utc = (us - (east if sign == b"+" else -east) * 1_000_000) % _DAY_US
    raise InexactError(_clock_text(utc) + b"Z")


def _decode_timetz(datum: bytes) -> bytes:
    match = _ISO_TIME.fullmatch(datum)
    if match is None:
        raise ValueError("not an ISO 8601 time")
    clock, fraction, offset = match.groups(b"")
    zone = b"+00" if offset == b"Z" else offset.removesuffix(b":00")
    return _full_clock(clock, fraction) + zone


TIMETZ: Final = ValueCodec(encode=_encode_timetz, decode=_decode_timetz, write=binary.data, stand_in=b"00:00:00Z")
