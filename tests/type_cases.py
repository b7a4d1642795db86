"""Every type that a column can have, with values at its edges. Values are SQL expressions, or texts to be cast."""

from __future__ import annotations

import json
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class TypeCase:
    """`name` goes into the names of tables, `sql` is how the type is declared. `values` are texts that PostgreSQL casts
    to it; `newer` those that only versions from the given one on know. `extension` must be there first; `setup` makes
    the type. `stored` says what SQLite has: integer, real, blob or text. `modified` is what differs from another case
    by its modifier only.
    """

    name: str
    sql: str
    values: tuple[str, ...]
    newer: dict[int, tuple[str, ...]] = field(default_factory=dict)
    extension: str | None = None
    setup: str = ""
    stored: str = "text"
    modified: bool = False

    def values_in(self, version: int) -> tuple[str, ...]:
        more = [values for since, values in sorted(self.newer.items()) if version >= since]
        return (*self.values, *(value for values in more for value in values))


def case(name: str, sql: str, *values: str, **more: object) -> TypeCase:
    return TypeCase(name=name, sql=sql, values=values, **more)  # type: ignore[arg-type]


NINES = "9" * 1000
LONG_DIGITS = "123456789" * 111 + "1"
CONTROLS = "".join(map(chr, range(1, 32))) + "\x7f\x80\x85\xa0"
TEXTS = (
    "",
    " ",
    "NULL",
    "null",
    r"\N",
    r"\.",
    "\\",
    "\t",
    "\r\n",
    CONTROLS,
    "{}",
    "{a,b}",
    '"',
    "'",
    ",",
    "()",
    "-0",
    "1.0",
    "1e3",
    "0x10",
    "NaN",
    "__debezium_unavailable_value",
    "Größe 漢字 🦜 e\u0301 \u202e\ufeff\ufffd\uffff\U0010ffff",
    "x" * 10_000,
)
DATES = (
    "infinity",
    "-infinity",
    "4714-11-24 BC",
    "4713-01-01 BC",
    "0044-03-15 BC",
    "0001-12-31 BC",
    "0001-01-01",
    "1582-10-10",
    "1969-12-31",
    "1970-01-01",
    "2000-02-29",
    "9999-12-31",
    "10000-01-01",
)
CLOCKS = ("00:00:00", "24:00:00", "23:59:59.999999", "23:59:60", "12:34:56.7", "12:34:56.000001", "00:00:00.5")
ZONES = ("+00", "+02", "-03:30", "+15:59:59", "-15:59:59")
MOMENTS = (
    *DATES[:2],
    "4714-11-24 00:00:00 BC",
    "4713-12-31 23:59:59.999999 BC",
    "0001-12-31 23:59:59.999999 BC",
    "0001-01-01 00:00:00",
    "1969-12-31 23:59:59.999999",
    "1970-01-01 00:00:00",
    "2016-12-31 23:59:60",
    "2026-03-29 02:30:00",
    "9999-12-31 23:59:59.999999",
    "10000-01-01 00:00:00.1",
    "294247-01-10 04:00:54.775806",
    "294247-01-10 04:00:54.775808",
    "294276-12-31 23:59:59",
)
IN_UTC = tuple(f"{moment} UTC" if moment[0].isdigit() else moment for moment in MOMENTS)
INTERVALS = (
    "0",
    "1 year 2 mons 3 days 04:05:06.789",
    "-1 year -2 mons +3 days -04:05:06.789",
    "1 mon -1 day",
    "-00:00:00.000001",
    "00:00:59.999999",
    "178000000 years",
    "-178000000 years",
    "2147483647 days",
    "-2147483647 days",
    "2562047787:59:59.999999",
    "-2562047787:59:59.999999",
    "P1Y2M3DT4H5M6.7S",
    "1-2 3 4:05:06.7",
    "@ 1 year 2 mons -3 days 4 hours 5 mins 6 secs ago",
)
JSONS = (
    "null",
    "{}",
    "[]",
    '""',
    "-0",
    "-0.0",
    "1.0",
    "1.10",
    "1e400",
    "12345678901234567890.12345678901234567890",
    '{"b": 1, "a": 2, "a": 3, "b": null}',
    ' { "a" :\t[1 ,\n2] } ',
    json.dumps({"k": 'Größe 🦜 "\\\n'}),
    r'"\ud83e\udd9c \u0001"',
)
MOOD = """'sad', 'ok', 'very happy', 's,a"d', 'NULL', '(', 'Größe', 'x\\y', '""" + "l" * 63 + "'"

CASES = (
    case("boolean", "boolean", "t", "f", stored="integer"),
    case("int2", "smallint", "0", "-1", "32767", "-32768", stored="integer"),
    case("int4", "integer", "0", "-1", "2147483647", "-2147483648", stored="integer"),
    case("int8", "bigint", "0", "-1", "9223372036854775807", "-9223372036854775808", stored="integer"),
    case("oid", "oid", "0", "2147483648", "4294967295", stored="integer"),
    case("xid", "xid", "0", "4294967295"),
    case("cid", "cid", "0", "4294967295"),
    case("xid8", "xid8", "0", "18446744073709551615"),
    case("tid", "tid", "(0,0)", "(4294967295,65535)"),
    case(
        "float4", "real", "0", "1", "0.1", "-0.3", "1e-45", "1.1754944e-38", "3.4028235e38", "999999", "1e6",
        "16777216", "1.03528336e8", "8388608.5", "1e-5", "0.0001", "Infinity", "-Infinity", stored="real",
    ),
    case("float4_odd", "real", "NaN", "-0"),
    case(
        "float8", "double precision", "0", "1", "0.1", "0.30000000000000004", "5e-324", "2.2250738585072014e-308",
        "1.7976931348623157e308", "1e15", "1e16", "123456789012345.67", "9007199254740993", "1.2716021679470461e17",
        "1e22", "1e23", "-9223372036854775808", "1e-5", "Infinity", "-Infinity", stored="real",
    ),
    case("float8_odd", "double precision", "NaN", "-0"),
    case(
        "numeric", "numeric", "0", "0.0", "0.000", "-0.0", "1", "1.10", "-1e-20", "1e20", NINES,
        f"-{NINES}.{LONG_DIGITS}", "1e-1000", "9e1000", "NaN", "Infinity", "-Infinity",
    ),
    case("numeric_5_2", "numeric(5,2)", "0", "999.99", "-999.99", "0.01", "1.005", "NaN"),
    case("numeric_1000", "numeric(1000)", "0", NINES, f"-{NINES}", "NaN"),
    case("numeric_1000_500", "numeric(1000,500)", "0", f"-{NINES[:500]}.{NINES[:500]}", "NaN"),
    case("numeric_scale_above", "numeric(3,5)", "0", "0.00999", "-0.00001", "NaN"),
    case("numeric_scale_below", "numeric(3,-2)", "0", "99900", "-100", "149", "NaN"),
    case("numeric_scale_lowest", "numeric(2,-1000)", "0", "99e1000", "-1e1000", "NaN"),
    case("money", "money", "0", "0.01", "-0.01", "1234567.89", "92233720368547758.07", "-92233720368547758.08"),
    case("text", "text", *TEXTS),
    case("varchar", "varchar", *TEXTS),
    case("varchar_5", "varchar(5)", "", "     ", "abcde", "漢字🦜é\t", "NULL"),
    case("char_5", "char(5)", "", "a", "a  ", "  a", "abcde", "漢字🦜é"),
    case("char_1", "char", "", "a", "🦜"),
    case("bpchar", "bpchar", "", "a", "a   ", "   "),
    case("one_char", '"char"', "", "a", "\\", " "),
    case("name", "name", "", "a", "x" * 63, "Größe"),
    case("refcursor", "refcursor", "", "a"),
    case("citext", "citext", *TEXTS, "ABC", "abc", extension="citext"),
    case(
        "bytea", "bytea", r"\x", r"\x00", "\\x" + bytes(range(256)).hex(), "\\x" + bytes(range(256)).hex() * 40,
        "\\x" + b"__debezium_unavailable_value".hex(), stored="blob",
    ),
    case("date", "date", *DATES, "5874897-12-31"),
    case("time", "time", *CLOCKS),
    *(case(f"time_{p}", f"time({p})", *CLOCKS, modified=True) for p in range(7)),
    case("timetz", "timetz", *(clock + zone for clock in CLOCKS for zone in ZONES)),
    *(case(f"timetz_{p}", f"timetz({p})", *(clock + "-03:30" for clock in CLOCKS), modified=True) for p in range(7)),
    case("timestamp", "timestamp", *MOMENTS, "294276-12-31 23:59:59.999999"),
    *(case(f"timestamp_{p}", f"timestamp({p})", *MOMENTS, modified=True) for p in range(7)),
    case("timestamptz", "timestamptz", *IN_UTC),
    *(
        case(f"timestamptz_{p}", f"timestamptz({p})", *IN_UTC, modified=True)
        for p in range(7)
    ),
    case("interval", "interval", *INTERVALS, "2562047788:00:54.775807",
         "PT-2562047788H-54.775808S", "P-2147483648D", "P-178956970Y-8M",
         newer={17: ("infinity", "-infinity")}),
    *(case(f"interval_{p}", f"interval({p})", *INTERVALS, newer={17: ("infinity",)}, modified=True) for p in range(7)),
    *(
        case(f"interval_{fields.replace(' ', '_').replace('(', '').replace(')', '')}", f"interval {fields}", *INTERVALS,
             modified=True)
        for fields in ("year", "year to month", "day", "day to hour", "hour to minute", "second", "day to second(3)")
    ),
    case("uuid", "uuid", "00000000-0000-0000-0000-000000000000", "9F1C1A36-0000-4000-8000-00000000000F"),
    case("json", "json", *JSONS, r'"\u0000"'),
    case("jsonb", "jsonb", *JSONS),
    case("jsonpath", "jsonpath", "$", '$."a b"[*] ? (@ > 1.0)', "strict $.k"),
    case("xml", "xml", "", "a &amp; b", '<?xml version="1.0"?><a b="1">Größe 🦜</a>',
         "<a/><b/>", "<![CDATA[x]]>"),
    case(
        "enum", "mood", "sad", "very happy", 's,a"d', "NULL", "(", "Größe", r"x\y", "l" * 63,
        setup=f"CREATE TYPE mood AS ENUM ({MOOD})",
    ),
    case(
        "hstore", "hstore", "", '"a"=>"1"', '"a"=>NULL, "NULL"=>"NULL"', r'"q\"\\"=>"Größe, 🦜"', '""=>""',
        '"a"=>"\t\n{}"', extension="hstore",
    ),
    case("ltree", "ltree", "", "a", "Top.Science.Astronomy", extension="ltree"),
    case("lquery", "lquery", "*.a{1,2}.!b|c", extension="ltree"),
    case("ltxtquery", "ltxtquery", "a & !b@*", extension="ltree"),
    case("inet", "inet", "0.0.0.0", "255.255.255.255/32", "10.1.2.3/8", "::", "::ffff:1.2.3.4/96", "2001:db8::1/64"),
    case("cidr", "cidr", "0.0.0.0/0", "10.0.0.0/8", "192.168.1.1/32", "::/0", "2001:db8::/32"),
    case("macaddr", "macaddr", "00:00:00:00:00:00", "FF-FF-FF-FF-FF-FF"),
    case("macaddr8", "macaddr8", "08:00:2b:01:02:03:04:05", "08:00:2b:01:02:03"),
    case("bit_1", "bit(1)", "0", "1"),
    case("bit", "bit", "0", "1"),
    case("bit_8", "bit(8)", "00000000", "10000001", "11111111"),
    case("bit_13", "bit(13)", "0000000000001", "1000000000000", "1111111111111"),
    case("bit_quoted", '"bit"', "0", "1", "101", "0" * 100),
    case("varbit", "varbit", "", "0", "1", "0000000", "10000001", "1" * 1000),
    case("varbit_10", "varbit(10)", "", "0", "1", "0000000000", "1111111111"),
    case("tsvector", "tsvector", "", "'a':1A,2B 'b c':3", "'Größe' 'it''s' 'x\\\\y'"),
    case("tsquery", "tsquery", "", "'a' & !'b' | 'c':*A", "'it''s' <2> 'b'"),
    case("pg_lsn", "pg_lsn", "0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF"),
    case("pg_snapshot", "pg_snapshot", "10:20:10,14,15"),
    case("txid_snapshot", "txid_snapshot", "10:20:10,14,15"),
    case("int2vector", "int2vector", "", "1 -2 3"),
    case("oidvector", "oidvector", "", "1 2 4294967295"),
    case("regtype", "regtype", "integer", "timestamp with time zone", "-"),
    case("regclass", "regclass", "pg_class", "-"),
    case("regproc", "regproc", "now", "-"),
    case("aclitem", "aclitem", "=r/postgres", "postgres=arwdDxt/postgres"),
    case("int4range", "int4range", "empty", "[1,10)", "(,5)", "[5,)", "(,)", "[-2147483648,2147483647)"),
    case("int8range", "int8range", "empty", "[1,10)", "(,)"),
    case("numrange", "numrange", "empty", "(1.10,2.00]", "[-Infinity,Infinity]", "[1e100,)", "[NaN,NaN]"),
    case("tsrange", "tsrange", "empty", "[0044-03-15 BC,10000-01-01)", "(-infinity,infinity)",
         "[2026-01-01 00:00:00.5,]"),
    case("tstzrange", "tstzrange", "empty", "[0044-03-15 00:00:00 UTC BC,10000-01-01 UTC)", "[2026-01-01 UTC,)"),
    case("daterange", "daterange", "empty", "[0044-03-15 BC,10000-01-01)", "[-infinity,infinity]"),
    case(
        "textrange", "textrange", "empty", "(,)", '["a,b","c\\"d\\\\")', '["",Größe]',
        setup="CREATE TYPE textrange AS RANGE (subtype = text)",
    ),
    case("int4multirange", "int4multirange", "{}", "{[1,3),[5,)}"),
    case("nummultirange", "nummultirange", "{}", "{[1.0,3.10),[5,)}"),
    case("tstzmultirange", "tstzmultirange", "{}", "{[2026-01-01 UTC,2026-02-01 UTC)}"),
    case("tsmultirange", "tsmultirange", "{[2026-01-01,2026-02-01 00:00:00.000001)}"),
    case("datemultirange", "datemultirange", "{[2026-01-01,2026-02-01)}"),
    case("int8multirange", "int8multirange", "{[1,3)}"),
    case("point", "point", "(0,-0)", "(1.5,-2e300)", "(NaN,Infinity)", "(0.1,0.30000000000000004)"),
    case("line", "line", "{1,2,3}", "{-0.1,1e-300,0}"),
    case("lseg", "lseg", "[(0,0),(1,1)]", "[(NaN,0),(-Infinity,0.1)]"),
    case("box", "box", "(1,1),(0,0)", "(2.5,3),(-1e300,-0.1)"),
    case("path", "path", "((0,0),(1,1))", "[(0,0),(1,1.5),(NaN,2)]"),
    case("polygon", "polygon", "((0,0),(1,1),(1,0))", "((0.1,-0))"),
    case("circle", "circle", "<(0,0),0>", "<(1.5,-2),1e300>"),
    case(
        "composite", "pair", '(1,a,2026-01-01,"{1,NULL}","1 year",$1.50,"2026-01-01 00:00:00+00",1.10,"\\\\x00ff")',
        '(,"",infinity,,,,infinity,NaN,)', '(-1,"a,\\"b\\" (c)\\\\",,{},"-1 mon",,,,)',
        setup="CREATE TYPE pair AS (n integer, t text, d date, a integer[], i interval, m money, z timestamptz,"
        " x numeric, b bytea)",
    ),
    case(
        "nested", "nested", '("(1,a)",)', '(,"{""(2,\\\\""b c\\\\"")""}")',
        setup="CREATE TYPE inner_pair AS (n integer, t text);"
        " CREATE TYPE nested AS (p inner_pair, ps inner_pair[])",
    ),
    case("vector", "vector", "[1,2.5,-0.001]", "[-0,1e-45,3.4028235e38]", extension="vector"),
    case("vector_3", "vector(3)", "[1,2.5,-0.001]", "[0.1,1e6,16777216]", extension="vector"),
    case("halfvec", "halfvec", "[1,2.5,-0.1]", "[65504,6e-8]", extension="vector"),
    case("halfvec_2", "halfvec(2)", "[1,0.33]", extension="vector"),
    case("sparsevec", "sparsevec", "{1:1.5,3:-0.1}/5", "{}/3", extension="vector"),
    case("cube", "cube", "(1,2.5),(3,-0.1)", extension="cube"),
    case("seg", "seg", "1.5 .. 2.50", "~1", extension="seg"),
    case("isbn", "isbn", "978-0-393-04002-9", extension="isn"),
)  # fmt: skip
"""Case `domain` and the like are made of each: see `test_types`."""
