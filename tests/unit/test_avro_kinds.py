"""Each kind's Avro form is Debezium's, and gives its canonical text back."""

import pytest

from cdc.avro.kinds import codec_of
from cdc.avro.kinds.codec import InexactError
from cdc.core.types import ColumnType, Kind


def type_of(kind, name="", **more):
    return ColumnType(kind=kind, name=name, **more)


INT = type_of(Kind.INT32, "integer")
TEXT = type_of(Kind.STRING, "text")
NUMERIC_5_2 = type_of(Kind.DECIMAL, "numeric(5,2)", precision=5, scale=2)
TIMESTAMPTZ = type_of(Kind.TIMESTAMPTZ, "timestamp with time zone")

EXACT = [
    (type_of(Kind.BOOLEAN), b"t", True),
    (type_of(Kind.BIT), b"0", False),
    (type_of(Kind.INT16), b"-32768", -32768),
    (type_of(Kind.INT64), b"9223372036854775807", 2**63 - 1),
    (type_of(Kind.FLOAT32), b"0.1", pytest.approx(0.1)),
    (type_of(Kind.FLOAT32), b"1e+06", 1e6),
    (type_of(Kind.FLOAT32), b"999999", 999999.0),
    (type_of(Kind.FLOAT32), b"1.6777216e+07", 16777216.0),
    # Shorter digits would lie just between two numbers, which PostgreSQL does not take (and Python does).
    (type_of(Kind.FLOAT32), b"1.03528336e+08", 103528336.0),
    (type_of(Kind.FLOAT64), b"1.2716021679470461e+17", 1.2716021679470461e17),
    (type_of(Kind.FLOAT64), b"2.9588413711957632e+16", 29588413711957632.0),
    (type_of(Kind.FLOAT32), b"1e-45", pytest.approx(1.401e-45, rel=1e-3)),
    (type_of(Kind.FLOAT32), b"3.4028235e+38", pytest.approx(3.4028235e38)),
    (type_of(Kind.FLOAT32), b"-0", 0.0),
    (type_of(Kind.FLOAT32), b"-Infinity", float("-inf")),
    (type_of(Kind.FLOAT64), b"1e+15", 1e15),
    (type_of(Kind.FLOAT64), b"-1.234567890123456e+15", -1234567890123456.0),
    (type_of(Kind.FLOAT64), b"123456789012345.67", 123456789012345.67),
    (type_of(Kind.FLOAT64), b"0.0001", 0.0001),
    (type_of(Kind.FLOAT64), b"1e-05", 1e-5),
    (NUMERIC_5_2, b"123.45", b"\x30\x39"),
    (NUMERIC_5_2, b"-1.28", b"\x80"),
    (NUMERIC_5_2, b"1.28", b"\x00\x80"),
    (type_of(Kind.DECIMAL, precision=3, scale=-2), b"12300", b"\x7b"),
    (type_of(Kind.DECIMAL, precision=3, scale=5), b"0.00012", b"\x0c"),
    (type_of(Kind.VARIABLE_DECIMAL), b"-0.050", {"scale": 3, "value": b"\xce"}),
    (type_of(Kind.MONEY), b"-1234.50", b"\xfe\x1d\xc6"),
    (TEXT, "héllo\t\\".encode(), "héllo\t\\".encode()),
    (type_of(Kind.BYTES), rb"\x0aff", b"\x0a\xff"),
    (type_of(Kind.DATE), b"2026-01-31", 20484),
    (type_of(Kind.DATE), b"1969-12-31", -1),
    (type_of(Kind.DATE), b"0044-03-15 BC", -735160),
    (type_of(Kind.DATE), b"4714-11-24 BC", -2440588),
    (type_of(Kind.DATE), b"5874897-12-31", 2145042905),
    (type_of(Kind.DATE), b"infinity", 2**31 - 1),
    (type_of(Kind.TIME), b"24:00:00", 86_400_000_000),
    (type_of(Kind.TIME), b"00:00:00.000001", 1),
    (type_of(Kind.TIMESTAMP), b"1970-01-02 00:00:00.5", 86_400_500_000),
    (type_of(Kind.TIMESTAMP), b"infinity", 2**63 - 1),
    (type_of(Kind.TIMESTAMP), b"-infinity", -(2**63)),
    (type_of(Kind.TIMESTAMP), b"0001-12-31 23:59:59 BC", -62135596801000000),
    (TIMESTAMPTZ, b"2026-01-31 12:34:56.789+00", b"2026-01-31T12:34:56.789000Z"),
    (TIMESTAMPTZ, b"12026-01-31 00:00:00+00", b"+12026-01-31T00:00:00.000000Z"),
    (TIMESTAMPTZ, b"0044-03-15 00:00:00+00 BC", b"-0043-03-15T00:00:00.000000Z"),
    (TIMESTAMPTZ, b"0001-12-31 23:59:59+00 BC", b"0000-12-31T23:59:59.000000Z"),
    (TIMESTAMPTZ, b"infinity", b"infinity"),
    (type_of(Kind.TIMESTAMPTZ, "timestamp(0) with time zone"), b"2026-01-31 12:34:56+00", b"2026-01-31T12:34:56Z"),
    (type_of(Kind.TIMESTAMPTZ, "timestamp(3) with time zone"), b"2026-01-31 12:34:56+00", b"2026-01-31T12:34:56.000Z"),
    (type_of(Kind.TIMETZ), b"12:34:56.789+00", b"12:34:56.789Z"),
    (type_of(Kind.INTERVAL), b"P1Y2M3DT4H5M6.7S", b"P1Y2M3DT4H5M6.7S"),
    (type_of(Kind.INTERVAL), b"PT0S", b"PT0S"),
    (type_of(Kind.INTERVAL), b"P-1Y2M", b"P-1Y2M"),
    (type_of(Kind.INTERVAL), b"PT-0.5S", b"PT-0.5S"),
    (type_of(Kind.UUID), b"9f1c1a36-0000-4000-8000-00000000000f", b"9f1c1a36-0000-4000-8000-00000000000f"),
    (type_of(Kind.HSTORE), b'"a"=>"1", "b\\""=>NULL', b'{"a":"1","b\\"":null}'),
    (type_of(Kind.HSTORE), b"", b"{}"),
    (type_of(Kind.BITS, length=10), b"0000000101", b"\x05\x00"),
    (type_of(Kind.BITS), b"0000000100000000", b"\x00\x01"),
    (type_of(Kind.ARRAY, element=INT), b"{1,NULL,3}", [1, None, 3]),
    (type_of(Kind.ARRAY, element=INT), b"{}", []),
    (
        type_of(Kind.ARRAY, element=TEXT),
        b'{a;,"","NULL",NULL,"b c","d\\"\\\\"}',
        [b"a;", b"", b"NULL", None, b"b c", b'd"\\'],
    ),
    (type_of(Kind.ARRAY, element=type_of(Kind.BYTES)), rb'{"\\x0aff"}', [b"\x0a\xff"]),
    (
        type_of(Kind.ARRAY, element=type_of(Kind.OTHER, "box")),
        b"{(1,1),(0,0);(2,2),(1,1)}",
        [b"(1,1),(0,0)", b"(2,2),(1,1)"],
    ),
    (type_of(Kind.VECTOR), b"[1,2.5,1e+06]", [1.0, 2.5, 1e6]),
    (type_of(Kind.HALFVEC), b"[0.099975586]", [pytest.approx(0.099975586)]),
]

INEXACT = [
    (NUMERIC_5_2, b"NaN", None),
    (NUMERIC_5_2, b"1.5", None),
    (type_of(Kind.VARIABLE_DECIMAL), b"-Infinity", None),
    (type_of(Kind.TIMESTAMP), b"294276-12-31 23:59:59.999999", None),
    (type_of(Kind.TIMETZ), b"12:34:56+02", b"10:34:56Z"),
    (type_of(Kind.TIMETZ), b"01:00:00+05:30", b"19:30:00Z"),
    (type_of(Kind.TIMETZ), b"24:00:00+00", b"00:00:00Z"),
    (type_of(Kind.BITS, length=10), b"101", b"\x05\x00"),
    (type_of(Kind.BITS), b"101", b"\x05"),
    (type_of(Kind.HSTORE), b'"a"=>"1", "a"=>"2"', b'{"a":"2"}'),
    (type_of(Kind.ARRAY, element=INT), b"{{1,2},{3,4}}", None),
    (type_of(Kind.ARRAY, element=INT), b"[0:1]={1,2}", None),
    (type_of(Kind.ARRAY, element=NUMERIC_5_2), b"{1.00,NaN}", [b"\x64", None]),
]

INVALID = [
    (type_of(Kind.BOOLEAN), b"true"),
    (INT, b"2147483648"),
    (INT, b" 1"),
    (INT, b"1_000"),
    (type_of(Kind.FLOAT32), b"1e39"),
    (type_of(Kind.FLOAT64), b"1_0"),
    (NUMERIC_5_2, b"12a.00"),
    (type_of(Kind.MONEY), "1.234,50 €".encode()),
    (TEXT, b"\xff"),
    (type_of(Kind.BYTES), b"0aff"),
    (type_of(Kind.BYTES), rb"\x0AFF"),
    (type_of(Kind.DATE), b"2026-02-29"),
    (type_of(Kind.DATE), b"31.01.2026"),
    (type_of(Kind.DATE), b"2026-W05-6"),
    (type_of(Kind.TIME), b"24:00:01"),
    (TIMESTAMPTZ, b"2026-01-31 12:34:56+02"),
    (type_of(Kind.INTERVAL), b"1 day"),
    (type_of(Kind.UUID), b"9F1C1A36-0000-4000-8000-00000000000F"),
    (type_of(Kind.HSTORE), b"a=>1"),
    (type_of(Kind.BITS, length=3), b"0101"),
    (type_of(Kind.BITS), b"012"),
    (type_of(Kind.ARRAY, element=INT), b"1,2"),
    (type_of(Kind.ARRAY, element=INT), b"{1,x}"),
    (type_of(Kind.ARRAY, element=INT), b"{1,}"),
    (type_of(Kind.VECTOR), b"1,2"),
]


@pytest.mark.parametrize(("column", "text", "datum"), EXACT)
def test_exact_values_have_debeziums_form_and_come_back(column, text, datum):
    codec = codec_of(column)
    encoded = codec.encode(text)
    assert encoded == datum
    assert codec.decode(encoded) == text


@pytest.mark.parametrize(("column", "text", "datum"), INEXACT)
def test_what_the_form_cant_restore_is_told(column, text, datum):
    with pytest.raises(InexactError) as inexact:
        codec_of(column).encode(text)
    assert inexact.value.datum == datum


@pytest.mark.parametrize(("column", "text"), INVALID)
def test_texts_of_no_such_kind_are_refused(column, text):
    with pytest.raises(ValueError):
        codec_of(column).encode(text)


def test_decimals_of_many_digits():
    # CPython refuses int(text) above 4,300 digits; PostgreSQL's numeric goes on to 147,455.
    for text in (b"9" * 1000, b"-" + b"1" * 20_000 + b"." + b"0" * 16_383):
        codec = codec_of(type_of(Kind.VARIABLE_DECIMAL))
        assert codec.decode(codec.encode(text)) == text


@pytest.mark.parametrize("amount", [b"$1,234.50", b"1,234.50", b"$1234.50"])
def test_money_loses_its_symbol(amount):
    codec = codec_of(type_of(Kind.MONEY))
    assert codec.decode(codec.encode(amount)) == b"1234.50"


@pytest.mark.parametrize(
    ("iso", "text"),
    [
        (b"2026-01-31T12:34:56+02:00", b"2026-01-31 10:34:56+00"),
        (b"2026-01-31T23:34Z", b"2026-01-31 23:34:00+00"),
        (b"2026-01-31T23:34:56.100000Z", b"2026-01-31 23:34:56.1+00"),
    ],
)
def test_other_ways_to_write_a_timestamp_in_iso_8601(iso, text):
    assert codec_of(TIMESTAMPTZ).decode(iso) == text


def test_a_scale_that_no_number_has_costs_no_memory():
    with pytest.raises(ValueError, match="scale"):
        codec_of(type_of(Kind.VARIABLE_DECIMAL)).decode({"scale": 2**31 - 1, "value": b"\x01"})
