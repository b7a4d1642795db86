"""Canonical texts of every kind, for hypothesis."""

import string

from hypothesis import strategies as st

from cdc.core.types import ColumnType, Kind

digits = st.text(string.digits, min_size=1, max_size=3)
unicode_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12).map(str.encode)
dates = st.dates().map(lambda day: day.isoformat().encode())
times = st.times().map(
    lambda time: time.isoformat().rstrip("0").encode() if time.microsecond else time.isoformat().encode()
)
moments = st.builds(lambda day, time: day + b" " + time, dates, times)


def integers(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1).map(lambda n: b"%d" % n)


def scaled(precision, scale):
    def text(n):
        digits = f"{abs(n):0{scale + 1}d}"
        whole, fraction = digits[: len(digits) - scale], digits[len(digits) - scale :]
        return f"{'-' if n < 0 else ''}{whole}{'.' if scale else ''}{fraction}"

    limit = 10**precision - 1
    return st.integers(-limit, limit).map(lambda n: text(n).encode())


def quoted(text):
    return b'"' + text.replace(b"\\", b"\\\\").replace(b'"', b'\\"') + b'"'


hstores = st.dictionaries(unicode_text, st.none() | unicode_text, max_size=3).map(
    lambda pairs: b", ".join(quoted(k) + b"=>" + (b"NULL" if v is None else quoted(v)) for k, v in pairs.items())
)
arrays = st.lists(integers(32) | st.just(b"NULL"), max_size=4).map(lambda items: b"{" + b",".join(items) + b"}")
bit_strings = st.text("01", min_size=1, max_size=20).map(str.encode)
any_text = st.sampled_from([b"x", b"NULL", b"__debezium_unavailable_value"]) | unicode_text

T = ColumnType
KINDS = {
    Kind.BOOLEAN: (T(kind=Kind.BOOLEAN, name="boolean"), st.sampled_from([b"t", b"f"])),
    Kind.BIT: (T(kind=Kind.BIT, name="bit(1)"), st.sampled_from([b"1", b"0"])),
    Kind.INT16: (T(kind=Kind.INT16, name="smallint"), integers(16)),
    Kind.INT32: (T(kind=Kind.INT32, name="integer"), integers(32)),
    Kind.INT64: (T(kind=Kind.INT64, name="bigint"), integers(64)),
    Kind.FLOAT32: (
        T(kind=Kind.FLOAT32, name="real"),
        st.floats(width=32)
        .map(lambda x: f"{x:.9g}".encode())
        .map(lambda t: {b"nan": b"NaN", b"inf": b"Infinity", b"-inf": b"-Infinity"}.get(t, t)),
    ),
    Kind.FLOAT64: (
        T(kind=Kind.FLOAT64, name="double precision"),
        st.floats(allow_nan=False, allow_infinity=False).map(lambda x: repr(x).encode())
        | st.sampled_from([b"NaN", b"-Infinity"]),
    ),
    Kind.DECIMAL: (
        T(kind=Kind.DECIMAL, name="numeric(12,2)", precision=12, scale=2),
        scaled(12, 2) | st.just(b"NaN"),
    ),
    Kind.VARIABLE_DECIMAL: (
        T(kind=Kind.VARIABLE_DECIMAL, name="numeric"),
        st.integers(0, 1000).flatmap(lambda scale: scaled(30, scale))
        | st.sampled_from([b"NaN", b"Infinity", b"-Infinity"]),
    ),
    Kind.MONEY: (T(kind=Kind.MONEY, name="money"), scaled(15, 2)),
    Kind.STRING: (T(kind=Kind.STRING, name="character varying(10)", length=10), any_text),
    Kind.BYTES: (T(kind=Kind.BYTES, name="bytea"), st.binary(max_size=9).map(lambda b: rb"\x" + b.hex().encode())),
    Kind.DATE: (
        T(kind=Kind.DATE, name="date"),
        dates | st.sampled_from([b"infinity", b"-infinity", b"0044-03-15 BC", b"12026-01-31"]),
    ),
    Kind.TIME: (T(kind=Kind.TIME, name="time without time zone"), times | st.just(b"24:00:00")),
    Kind.TIMETZ: (
        T(kind=Kind.TIMETZ, name="time with time zone"),
        st.builds(lambda t, z: t + z, times, st.sampled_from([b"+00", b"+02", b"-05:30"])),
    ),
    Kind.TIMESTAMP: (
        T(kind=Kind.TIMESTAMP, name="timestamp(6) without time zone"),
        moments
        | st.sampled_from([b"infinity", b"-infinity", b"0044-03-15 00:00:00 BC", b"294276-12-31 23:59:59.999999"]),
    ),
    Kind.TIMESTAMPTZ: (
        T(kind=Kind.TIMESTAMPTZ, name="timestamp with time zone"),
        moments.map(lambda t: t + b"+00") | st.sampled_from([b"infinity", b"-infinity", b"0044-03-15 00:00:00+00 BC"]),
    ),
    Kind.INTERVAL: (
        T(kind=Kind.INTERVAL, name="interval"),
        st.builds(lambda a, b: f"P{a}Y-{b}M3DT4H5M6.7S".encode(), digits, digits),
    ),
    Kind.UUID: (T(kind=Kind.UUID, name="uuid"), st.uuids().map(lambda u: str(u).encode())),
    Kind.JSON: (T(kind=Kind.JSON, name="jsonb"), any_text),
    Kind.XML: (T(kind=Kind.XML, name="xml"), any_text),
    Kind.LTREE: (T(kind=Kind.LTREE, name="ltree"), any_text),
    Kind.ENUM: (T(kind=Kind.ENUM, name="public.mood"), any_text),
    Kind.HSTORE: (T(kind=Kind.HSTORE, name="hstore"), hstores),
    Kind.BITS: (T(kind=Kind.BITS, name="bit varying(20)", length=20), bit_strings),
    Kind.ARRAY: (
        T(kind=Kind.ARRAY, name="integer[]", element=T(kind=Kind.INT32, name="integer")),
        arrays | st.sampled_from([b"{{1,2},{3,4}}", b"[0:1]={1,2}"]),
    ),
    Kind.VECTOR: (T(kind=Kind.VECTOR, name="vector(3)"), st.just(b"[1,2.5,-0.001]")),
    Kind.HALFVEC: (T(kind=Kind.HALFVEC, name="halfvec(3)"), st.just(b"[1,2.5,1e+06]")),
    Kind.OTHER: (T(kind=Kind.OTHER, name="public.pair"), any_text),
}

TYPES = {
    **{kind: column for kind, (column, _) in KINDS.items()},
    "numeric(5,0)": T(kind=Kind.DECIMAL, name="numeric(5,0)", precision=5, scale=0),
    "numeric(5,-2)": T(kind=Kind.DECIMAL, name="numeric(5,-2)", precision=5, scale=-2),
    "timestamptz(0)": T(kind=Kind.TIMESTAMPTZ, name="timestamp(0) with time zone"),
    "timestamptz(3)": T(kind=Kind.TIMESTAMPTZ, name="timestamp(3) with time zone"),
}
# What is special to a kind, or none of its texts.
CORNERS = [
    b"", b" ", b"-", b"+1", b"1_0", b" 1", b"1 ", b"007", b"-0", b"00", b"0", b"-1", b"32768", b"-32769", b"2147483648",
    b"9223372036854775808", b"1.5", b".5", b"5.", b"-.5", b"-0.50", b"0.50", b"-0.00", b"01.00", b"1_0.00", b"1.0_",
    b"1.+5", b"1.-5", b"1. 5", b"1e3", b"NaN", b"nan", b"Infinity", b"-Infinity", b"infinity", b"-infinity", b"1.50",
    b"99999", b"12300", b"1e-05", b"1e+15", b"1e+300", b"0.1", b"-0.1", b"9007199254740993", b"1234567890123456.7",
    b"T", b"t", b"f", b"true", b"1", b"2026-01-31", b"2026-02-30", b"2026-1-31", b"10000-01-01", b"0044-03-15 BC",
    b"24:00:00", b"24:00:00.5", b"23:59:59.999999", b"12:34:56.7890", b"12:34:56.", b"12:34:56,5", b"12:34:5", b"12:34",
    b"12:34:60", b"12:34:61", b"24:00:01",
    b"12:34:56.1234567", b"2026-01-31 12:34:56", b"2026-01-31 12:34:56.5", b"2026-01-31 12:34:56.50",
    b"2026-01-31T12:34:56.5", b"2026-01-31 24:00:00", b"2026-01-31 12:34:56.", b"2026-01-31 12:34:56.1234567",
    b"2026-01-31 12:34:56 BC", b"2026-01-31 12:34:56.5 BC", b"12026-01-31 12:34:56", b"12026-01-31 12:34:56.5",
    b"294276-12-31 23:59:59.999999", b"2026-01-31 12:34:56+00", b"2026-01-31 12:34:56.5+00", b"infinity+00",
    b"2026-01-31 12:34:56.50+00", b"2026-01-31 12:34:56.+00", b"2026-01-31 12:34:56.123456+00",
    b"2026-01-31 12:34:56.1234567+00", b"2026-01-31 12:34:56+01", b"12026-01-31 12:34:56+00",
    b"0044-03-15 00:00:00+00 BC", b"2026-01-31 12:34:56.x+00", b"9f1c1a36-0000-4000-8000-00000000000a",
    b"9F1C1A36-0000-4000-8000-00000000000A",
    b"9f1c1a36000040008000000000000000", rb"\x0aff", rb"\x0AFF", rb"\x0", b"x", "é".encode(), b"\xff\xfe", b"x" * 2000,
    b"1" * 5000,
]  # fmt: skip
