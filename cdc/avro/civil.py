"""Dates as day numbers since 1970-01-01, for every year that PostgreSQL knows (4714 BC to 5874897).

Proleptic Gregorian, as PostgreSQL and java.time have it; years before 1 are astronomical (1 BC is 0). Python's
`datetime` does the years 1 to 9999; the arithmetic for the others is Howard Hinnant's
(https://howardhinnant.github.io/date_algorithms.html).
"""

from __future__ import annotations

import datetime as dt
import re
from typing import Final

_UNIX_EPOCH: Final = dt.date(1970, 1, 1).toordinal()
_LAST_ORDINAL: Final = dt.date.max.toordinal()
_DAYS_OF_ERA: Final = 146_097  # 400 years
_FROM_0000_03_01: Final = 719_468
_MONTH_LENGTHS: Final = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_DATE: Final = re.compile(rb"(\d{4,7})-(\d\d)-(\d\d)( BC)?")


def days_of(text: bytes) -> int:
    """The day number of `2026-01-31`, `12026-01-31` or `0044-03-15 BC`. ValueError if it is no date."""
    if len(text) == 10 and text[4] == text[7] == 0x2D:
        return dt.date.fromisoformat(text.decode("ascii")).toordinal() - _UNIX_EPOCH
    match = _DATE.fullmatch(text)
    if match is None or (text[0] == 0x30 and len(match[1]) > 4):
        raise ValueError("not a date")
    year = int(match[1])
    return day_number(1 - year if match[4] else year, int(match[2]), int(match[3]))


def text_of(days: int) -> tuple[bytes, bytes]:
    """The date, and ` BC` or nothing, which PostgreSQL writes after a time."""
    ordinal = days + _UNIX_EPOCH
    if 0 < ordinal <= _LAST_ORDINAL:
        return dt.date.fromordinal(ordinal).isoformat().encode(), b""
    year, month, day = civil(days)
    shown, era = (year, b"") if year > 0 else (1 - year, b" BC")
    return b"%04d-%02d-%02d" % (shown, month, day), era


def day_number(year: int, month: int, day: int) -> int:
    if not (1 <= month <= 12 and 1 <= day <= _MONTH_LENGTHS[month - 1]):
        raise ValueError("not a date")
    shifted = year - (month <= 2)
    era, year_of_era = divmod(shifted, 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    days = era * _DAYS_OF_ERA + day_of_era - _FROM_0000_03_01
    if civil(days) != (year, month, day):
        raise ValueError("not a date")  # 29 February of a year that has none
    return days


def civil(days: int) -> tuple[int, int, int]:
    era, day_of_era = divmod(days + _FROM_0000_03_01, _DAYS_OF_ERA)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted_month = (5 * day_of_year + 2) // 153
    month = shifted_month + 3 if shifted_month < 10 else shifted_month - 9
    day = day_of_year - (153 * shifted_month + 2) // 5 + 1
    return era * 400 + year_of_era + (month <= 2), month, day
