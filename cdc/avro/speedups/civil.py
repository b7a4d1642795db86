"""Moments of the years 1 to 9999, between their texts and microseconds since 1970; of all others `cdc.avro.kinds.times`
and `cdc.avro.civil` know, which have no numbers of C.
"""

from __future__ import annotations

_SECONDS = len("2026-01-31 12:34:56")
_ZERO, _DASH, _SPACE, _COLON, _POINT = b"0- :."
_DAY_US = 86_400_000_000
_TO_1970 = 719_162  # days from 0001-01-01
_FROM_MARCH = 306  # days from 0000-03-01 to 0001-01-01
_ERA = 146_097  # days of 400 years
_FIRST_US = -_TO_1970 * _DAY_US
_END_US = 253_402_300_800_000_000  # 10000-01-01


def us_of(data: bytes, start: int, end: int) -> int | None:
    """Microseconds since 1970 of a text as `2026-01-31 12:34:56.789`; None if it is unusual, or none."""
    if not _is_shaped(data, start, end):
        return None
    century, of_century = _two_digits(data, start), _two_digits(data, start + 2)
    month, day = _two_digits(data, start + 5), _two_digits(data, start + 8)
    hour, minute, second = _two_digits(data, start + 11), _two_digits(data, start + 14), _two_digits(data, start + 17)
    if century < 0 or of_century < 0 or not (0 <= hour <= 23 and 0 <= minute <= 59 and 0 <= second <= 59):
        return None
    year = 100 * century + of_century
    if year < 1 or not 1 <= month <= 12 or not 1 <= day <= _days_of_month(year, month):
        return None
    fraction = _fraction_us(data, start + _SECONDS, end)
    if fraction < 0:
        return None
    return _days(year, month, day) * _DAY_US + (hour * 3600 + minute * 60 + second) * 1_000_000 + fraction


def _is_shaped(data: bytes, start: int, end: int) -> bool:
    size = end - start
    return (
        (size == _SECONDS or _SECONDS + 2 <= size <= _SECONDS + 7)
        and data[start + 4] == _DASH
        and data[start + 7] == _DASH
        and data[start + 10] == _SPACE
        and data[start + 13] == _COLON
        and data[start + 16] == _COLON
    )


def _two_digits(data: bytes, at: int) -> int:
    """-1 if they are none."""
    tens, ones = data[at] - _ZERO, data[at + 1] - _ZERO
    return 10 * tens + ones if 0 <= tens <= 9 and 0 <= ones <= 9 else -1


def _fraction_us(data: bytes, point: int, end: int) -> int:
    """Of a point and up to six digits, which don't end in a zero, or of nothing; -1 if it is neither."""
    if point == end:
        return 0
    if data[point] != _POINT or data[end - 1] == _ZERO:
        return -1
    us = 0
    at = point + 1
    while at < point + 7:
        us *= 10
        if at < end:
            digit = data[at] - _ZERO
            if digit < 0 or digit > 9:
                return -1
            us += digit
        at += 1
    return us


def _days_of_month(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in {4, 6, 9, 11} else 31


def _days(year: int, month: int, day: int) -> int:
    """Since 1970. The year begins in March, so that its last day is the one that may be missing."""
    if month <= 2:
        year -= 1
        month += 12
    days = (153 * (month - 3) + 2) // 5 + day - 1
    return 365 * year + year // 4 - year // 100 + year // 400 + days - _FROM_MARCH - _TO_1970


def text_of(us: int) -> bytes | None:
    """Of microseconds since 1970; None outside these years."""
    if us < _FIRST_US or us >= _END_US:
        return None
    us -= _FIRST_US
    seconds = us // 1_000_000
    fraction = us - seconds * 1_000_000
    days = seconds // 86_400
    second = seconds - days * 86_400
    days += _FROM_MARCH
    era = days // _ERA
    day = days - era * _ERA
    year = (day - day // 1460 + day // 36_524 - day // 146_096) // 365
    day -= 365 * year + year // 4 - year // 100
    month = (5 * day + 2) // 153
    day -= (153 * month + 2) // 5
    year += 400 * era
    if month >= 10:
        month -= 12
        year += 1
    month += 3
    hour = second // 3600
    minute = second // 60 % 60
    text = f"{year:04d}-{month:02d}-{day + 1:02d} {hour:02d}:{minute:02d}:{second % 60:02d}"
    if fraction:
        text += f".{fraction:06d}".rstrip("0")
    return text.encode("ascii")
