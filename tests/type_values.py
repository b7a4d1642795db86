"""Strategies for values of the types of `type_cases`: texts that PostgreSQL casts to the type."""

from __future__ import annotations

import json
import math
from datetime import date, datetime

from hypothesis import strategies as st
from type_cases import TypeCase

SearchStrategy = st.SearchStrategy

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=40)
words = st.text("abcxyzäß_0", min_size=1, max_size=8)
bits = st.text("01", max_size=40)


def floats(width: int) -> SearchStrategy[str]:
    """Those that a REAL of SQLite holds too."""
    numbers = st.floats(width=width, allow_nan=False).filter(lambda x: x != 0 or math.copysign(1, x) > 0)  # type: ignore[arg-type]
    return numbers.map(repr)


def integers(low: int, high: int) -> SearchStrategy[str]:
    return st.integers(low, high).map(str)


def scaled(digits: int, scale: int) -> SearchStrategy[str]:
    return st.integers(-(10**digits) + 1, 10**digits - 1).map(lambda n: f"{n}e{-scale}")


def era(text: str, *, before_christ: bool) -> str:
    return f"{text} BC" if before_christ else text


def day(moment: date, shift: int) -> str:
    """In any year that PostgreSQL has dates and timestamps for; shifted by eras, so that leap days stay."""
    year = moment.year + 400 * shift
    return f"{year if year > 0 else 1 - year:04d}-{moment:%m-%d}"


def moments(zone: str) -> SearchStrategy[str]:
    def text(moment: datetime, shift: int) -> str:
        before_christ = moment.year + 400 * shift <= 0
        return era(f"{day(moment, shift)} {moment.time().isoformat()}{zone}", before_christ=before_christ)

    shifts = st.sampled_from([0, 0, 0, -11, -4, 1, 24, 500, 700])
    return st.builds(text, st.datetimes(datetime(401, 1, 1), datetime(4400, 1, 1)), shifts)  # noqa: DTZ001


clocks = st.times().map(lambda time: time.isoformat())
intervals = st.builds(
    lambda months, days, us: f"{months} mons {days} days {us} microseconds",
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-(2**31) + 1, 2**31 - 1),
    st.integers(-(10**18), 10**18),
)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
).map(json.dumps)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", r"\\").replace('"', r"\"") + '"'


hstores = st.dictionaries(texts, st.none() | texts, max_size=3).map(
    lambda pairs: ", ".join(f"{quoted(k)}=>{'NULL' if v is None else quoted(v)}" for k, v in pairs.items())
)
vectors = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=5).map(repr)
RANDOM: dict[str, SearchStrategy[str]] = {
    "int2": integers(-(2**15), 2**15 - 1),
    "int4": integers(-(2**31), 2**31 - 1),
    "int8": integers(-(2**63), 2**63 - 1),
    "oid": integers(0, 2**32 - 1),
    "float4": floats(32),
    "float8": floats(64),
    "numeric": st.integers(0, 300).flatmap(lambda scale: scaled(400, scale)),
    "numeric_5_2": scaled(5, 2),
    "numeric_1000": scaled(1000, 0),
    "numeric_1000_500": scaled(1000, 500),
    "numeric_scale_above": scaled(3, 5),
    "numeric_scale_below": scaled(3, -2),
    "money": st.integers(-(2**63), 2**63 - 1).map(
        lambda cents: f"{'-' * (cents < 0)}{abs(cents) // 100}.{abs(cents) % 100:02d}"
    ),
    "text": texts,
    "varchar": texts,
    "citext": texts,
    "varchar_5": texts.map(lambda text: text[:5]),
    "char_5": texts.map(lambda text: text[:5]),
    "bpchar": texts,
    "bytea": st.binary(max_size=60).map(lambda data: r"\x" + data.hex()),
    "date": st.builds(
        lambda of, shift: era(day(of, shift), before_christ=of.year + 400 * shift <= 0),
        st.dates(date(401, 1, 1), date(4400, 1, 1)),
        st.sampled_from([0, -11, -4, 1, 24, 14000]),
    ),
    "time": clocks,
    "timetz": st.builds(
        lambda clock, hours, minutes: f"{clock}{hours:+03d}:{minutes:02d}",
        clocks,
        st.integers(-15, 15),
        st.integers(0, 59),
    ),
    "timestamp": moments(""),
    "timestamptz": moments(" UTC"),
    "interval": intervals,
    "uuid": st.uuids().map(str),
    "json": jsons,
    "jsonb": jsons.filter(lambda text: r"\u0000" not in text),
    "hstore": hstores,
    "inet": st.ip_addresses().map(str),
    "bit_8": st.text("01", min_size=8, max_size=8),
    "bit_13": st.text("01", min_size=13, max_size=13),
    "bit_quoted": bits.filter(bool),
    "varbit": bits,
    "varbit_10": bits.map(lambda text: text[:10]),
    "tsvector": st.lists(words, max_size=4).map(" ".join),
    "pg_lsn": st.integers(0, 2**64 - 1).map(lambda n: f"{n >> 32:X}/{n & 0xFFFFFFFF:X}"),
    "int4range": st.builds(
        lambda low, size: f"[{low},{low + size})", st.integers(-(2**30), 2**30), st.integers(0, 2**30)
    ),
    "vector": vectors,
    "halfvec": vectors,
}


def values(case: TypeCase, version: int) -> SearchStrategy[str]:
    """Those at the edges, and others."""
    edges = st.sampled_from(case.values_in(version))
    return edges | RANDOM[case.name] if case.name in RANDOM else edges
