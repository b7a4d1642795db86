"""Events and schemas of a Debezium connector, as its Avro converter writes them."""

import io
import json

import fastavro
import pytest

from cdc.avro.decoder import EventDecoder
from cdc.avro.framing import frame
from cdc.avro.tables import table_schema_from
from cdc.core.errors import ProtocolViolationError
from cdc.core.events import UNCHANGED, UNKNOWN_KEY, Create, Delete, KeyImage, Truncate, Update
from cdc.core.position import ORIGIN
from cdc.core.tables import TableId
from cdc.core.types import ColumnType, Kind


def optional(name, avro):
    return {"name": name, "type": ["null", avro], "default": None}


def named(primitive, connect_name, **parameters):
    said = {"connect.parameters": parameters} if parameters else {}
    return {"type": primitive, "connect.version": 1, **said, "connect.name": connect_name}


DECIMAL = {
    **named("bytes", "org.apache.kafka.connect.data.Decimal", scale="2", **{"connect.decimal.precision": "10"}),
    "scale": 2, "precision": 10, "logicalType": "decimal",
}  # fmt: skip
VARIABLE = {
    "type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.data",
    "fields": [{"name": "scale", "type": "int"}, {"name": "value", "type": "bytes"}],
    "connect.doc": "Variable scaled decimal", "connect.version": 1,
    "connect.name": "io.debezium.data.VariableScaleDecimal",
}  # fmt: skip
VARCHAR = {
    "type": "string",
    "connect.parameters": {"__debezium.source.column.type": "VARCHAR", "__debezium.source.column.length": "10"},
}
POINT = {
    "type": "record", "name": "Point", "namespace": "io.debezium.data.geometry",
    "fields": [
        {"name": "x", "type": "double"}, {"name": "y", "type": "double"},
        optional("wkb", "bytes"), optional("srid", "int"),
    ],
    "connect.version": 1, "connect.name": "io.debezium.data.geometry.Point",
}  # fmt: skip
FIELDS = [
    {"name": "id", "type": "int"},
    optional("total", DECIMAL),
    optional("any", VARIABLE),
    optional("any2", "io.debezium.data.VariableScaleDecimal"),
    optional("note", VARCHAR),
    optional("at", named("long", "io.debezium.time.MicroTimestamp")),
    optional("at_ms", named("long", "io.debezium.time.Timestamp")),
    optional("zoned", named("string", "io.debezium.time.ZonedTimestamp")),
    optional("small", {"type": "int", "connect.type": "int16"}),
    optional("bits", named("bytes", "io.debezium.data.Bits", length="12")),
    optional("data", "bytes"),
    optional("names", {"type": "array", "items": ["null", "string"]}),
    optional("span", named("long", "io.debezium.time.MicroDuration")),
    optional("doc", named("string", "io.debezium.data.Json")),
    optional("words", named("string", "io.debezium.data.Tsvector")),
    optional("place", POINT),
    optional("at_ns", named("long", "io.debezium.time.NanoTimestamp")),
    optional("ints", {"type": "array", "items": ["null", "int"]}),
    optional("longs", {"type": "array", "items": ["null", "long"]}),
    optional("days", {"type": "array", "items": ["null", named("int", "io.debezium.time.Date")]}),
    optional("uuids", {"type": "array", "items": ["null", named("string", "io.debezium.data.Uuid")]}),
]
SOURCE_FIELDS = [
    {"name": "version", "type": "string"},
    {"name": "connector", "type": "string"},
    {"name": "name", "type": "string"},
    {"name": "ts_ms", "type": "long"},
    {
        "name": "snapshot",
        "type": [
            {
                "type": "string",
                "connect.version": 1,
                "connect.default": "false",
                "connect.name": "io.debezium.data.Enum",
            },
            "null",
        ],
        "default": "false",
    },
    {"name": "db", "type": "string"},
    optional("sequence", "string"),
    {"name": "schema", "type": "string"},
    {"name": "table", "type": "string"},
    optional("txId", "long"),
    optional("lsn", "long"),
    optional("xmin", "long"),
]
BLOCK = {
    "type": "record", "name": "block", "namespace": "event",
    "fields": [
        {"name": "id", "type": "string"}, {"name": "total_order", "type": "long"},
        {"name": "data_collection_order", "type": "long"},
    ],
}  # fmt: skip


def envelope_schema(fields):
    return {
        "type": "record",
        "name": "Envelope",
        "namespace": "pg.public.orders",
        "fields": [
            optional(
                "before",
                {"type": "record", "name": "Value", "fields": fields, "connect.name": "pg.public.orders.Value"},
            ),
            optional("after", "Value"),
            {
                "name": "source",
                "type": {
                    "type": "record",
                    "name": "Source",
                    "namespace": "io.debezium.connector.postgresql",
                    "fields": SOURCE_FIELDS,
                },
            },
            optional("transaction", BLOCK),
            {"name": "op", "type": "string"},
            optional("ts_ms", "long"),
        ],
        "connect.version": 1,
        "connect.name": "pg.public.orders.Envelope",
    }


ENVELOPE = envelope_schema(FIELDS)
KEY = {"type": "record", "name": "Key", "namespace": "pg.public.orders", "fields": [{"name": "id", "type": "int"}]}
NULLS = dict.fromkeys([field["name"] for field in FIELDS])
SOURCE = {
    "version": "2.7.0", "connector": "postgresql", "name": "pg", "ts_ms": 1_700_000_000_123, "snapshot": "false",
    "db": "shop", "sequence": '["500","480"]', "schema": "public", "table": "orders", "txId": 9, "lsn": 480,
    "xmin": None,
}  # fmt: skip


def decode(op, before=None, after=None, *, block=None, source=SOURCE, key=None, said=()):
    stream = io.BytesIO()
    schema = json.loads(json.dumps(ENVELOPE).replace('"logicalType": "decimal"', '"x": 0'))
    event = {"before": before, "after": after, "source": source, "transaction": block, "op": op, "ts_ms": 5}
    fastavro.schemaless_writer(stream, schema, event)
    return EventDecoder(json.dumps(ENVELOPE), json.dumps(KEY)).decode(key, frame(1, stream.getvalue()), said)


def test_the_table_is_read_from_connects_names():
    table = table_schema_from(json.dumps(ENVELOPE), json.dumps(KEY))
    assert table.id == TableId("public", "orders")
    assert table.key == (0,)
    assert [column.nullable for column in table.columns] == [False] + [True] * (len(FIELDS) - 1)
    assert [column.type for column in table.columns] == [
        ColumnType(kind=Kind.INT32, name="integer"),
        ColumnType(kind=Kind.DECIMAL, name="numeric(10,2)", precision=10, scale=2),
        ColumnType(kind=Kind.VARIABLE_DECIMAL, name="numeric"),
        ColumnType(kind=Kind.VARIABLE_DECIMAL, name="numeric"),
        ColumnType(kind=Kind.STRING, name="character varying(10)", length=10),
        ColumnType(kind=Kind.TIMESTAMP, name="timestamp without time zone"),
        ColumnType(kind=Kind.TIMESTAMP, name="timestamp without time zone"),
        ColumnType(kind=Kind.TIMESTAMPTZ, name="timestamp with time zone"),
        ColumnType(kind=Kind.INT16, name="smallint"),
        ColumnType(kind=Kind.BITS, name="bit varying(12)", length=12),
        ColumnType(kind=Kind.BYTES, name="bytea"),
        ColumnType(kind=Kind.ARRAY, name="text[]", element=ColumnType(kind=Kind.STRING, name="text")),
        ColumnType(kind=Kind.INTERVAL, name="interval"),
        ColumnType(kind=Kind.JSON, name="jsonb"),
        ColumnType(kind=Kind.OTHER, name="tsvector"),
        ColumnType(kind=Kind.OTHER, name="point"),
        ColumnType(kind=Kind.TIMESTAMP, name="timestamp without time zone"),
        ColumnType(kind=Kind.ARRAY, name="integer[]", element=ColumnType(kind=Kind.INT32, name="integer")),
        ColumnType(kind=Kind.ARRAY, name="bigint[]", element=ColumnType(kind=Kind.INT64, name="bigint")),
        ColumnType(kind=Kind.ARRAY, name="date[]", element=ColumnType(kind=Kind.DATE, name="date")),
        ColumnType(kind=Kind.ARRAY, name="uuid[]", element=ColumnType(kind=Kind.UUID, name="uuid")),
    ]


def test_a_row_is_read_into_canonical_texts():
    after = {
        "id": 1, "total": b"\x04\xe2", "any": {"scale": 3, "value": b"\xce"}, "any2": None, "note": "hé",
        "at": 86_400_500_000, "at_ms": 1, "zoned": "2026-01-31T12:34:56.789000Z", "small": -1, "bits": b"\x05\x00",
        "data": b"\x01", "names": ["a", None], "span": 90_500_000, "doc": "{}", "words": "'rat'",
        "place": {"x": 1.5, "y": -2.0, "wkb": b"", "srid": None}, "at_ns": 1000,
        "ints": [1, None], "longs": [-1], "days": [1], "uuids": ["6d0a5a2b-8f2a-4d4b-9f55-0b7c7b1e4c11"],
    }  # fmt: skip
    block = {"id": "9:480", "total_order": 4, "data_collection_order": 2}
    event = decode("c", after=after, block=block)
    row = (
        b"1", b"12.50", b"-0.050", None, "hé".encode(), b"1970-01-02 00:00:00.5", b"1970-01-01 00:00:00.001",
        b"2026-01-31 12:34:56.789+00", b"-1", b"000000000101", rb"\x01", b"{a,NULL}", b"PT90.5S", b"{}", b"'rat'",
        b"(1.5,-2)", b"1970-01-01 00:00:00.000001", b"{1,NULL}", b"{-1}", b"{1970-01-02}",
        b"{6d0a5a2b-8f2a-4d4b-9f55-0b7c7b1e4c11}",
    )  # fmt: skip
    assert event.change == Create(row)
    assert event.position == (0, 500, 480)
    assert event.transaction.xid == 9
    assert event.transaction.commit_time_us == 1_700_000_000_123_000
    assert event.captured_us == 5000


def test_the_last_commit_and_the_events_lsn_order():
    assert decode("t").position == (0, 500, 480)
    assert decode("t").change == Truncate()
    # Nothing was committed since the connector began: the transaction's own place must do.
    assert decode("t", source={**SOURCE, "sequence": '[null,"480"]'}).position == (0, 480, 480)
    incremental = {**SOURCE, "snapshot": "incremental", "lsn": None, "txId": None}
    assert decode("r", after={**NULLS, "id": 1}, source=incremental).position == (0, 500, 480)


@pytest.mark.parametrize("mark", ["first", "first_in_data_collection", "true", "last_in_data_collection", "last"])
def test_rows_of_a_first_snapshot_come_before_everything(mark):
    source = {**SOURCE, "snapshot": mark, "sequence": '[null,"480"]'}
    event = decode("r", after={**NULLS, "id": 1}, source=source)
    assert event.position == ORIGIN
    assert event.lsn == 480


@pytest.mark.parametrize("sequence", [None, "null", "[]", '["500"]', "[null,null]", '["500",480]', "{}", '["x","480"]'])
def test_events_that_say_no_place_are_refused(sequence):
    with pytest.raises(ProtocolViolationError):
        decode("t", source={**SOURCE, "sequence": sequence})


@pytest.mark.parametrize(
    ("column", "infinity", "minus_infinity"),
    [
        ("at", 2**63 - 1, -(2**63)),
        ("at", 9_223_372_036_825_200_000, -9_223_372_036_832_400_000),  # up to Debezium 3.6
        ("at_ms", 9_223_372_036_825_200_000, -9_223_372_036_832_400_000),
        ("at_ns", 2**63 - 1, -(2**63)),
    ],
)
def test_infinities_of_each_unit(column, infinity, minus_infinity):
    for number, text in ((infinity, b"infinity"), (minus_infinity, b"-infinity")):
        after = decode("c", after={**NULLS, "id": 1, column: number}).change.after
        assert dict(zip(NULLS, after, strict=True))[column] == text


def test_the_placeholder_means_unchanged():
    text = "__debezium_unavailable_value"
    after = {**NULLS, "id": 1, "note": text, "data": text.encode(), "names": [text], "doc": text}
    arrays = {name: list(text.encode()) for name in ("ints", "longs", "days")}
    uuids = {"uuids": ["b68a35a7-17ad-35b3-af2a-ae46edb4545a"]}  # Java's UUID.nameUUIDFromBytes of it
    values = dict(zip(NULLS, decode("u", after=after | arrays | uuids).change.after, strict=True))
    unchanged = {name for name, value in values.items() if value is UNCHANGED}
    assert unchanged == {"note", "data", "names", "doc", "ints", "longs", "days", "uuids"}


def test_an_old_image_is_the_key():
    """What else it has may be made up: a connector fills columns that can't be NULL, whatever the replica identity."""
    row = {**NULLS, "id": 1, "small": 2}
    assert decode("d", before=row).change == Delete(KeyImage((b"1",)))
    assert decode("u", before=row, after={**NULLS, "id": 1}).change == Update(
        KeyImage((b"1",)), (b"1", *[None] * (len(NULLS) - 1))
    )


def test_a_delete_without_old_image_is_named_by_its_key():
    assert decode("d", key=frame(1, b"\x02")).change == Delete(KeyImage((b"1",)))
    with pytest.raises(ProtocolViolationError):
        decode("d")


def test_both_halves_of_a_changed_key_wait_for_each_other():
    row = {**NULLS, "id": 1, "note": "__debezium_unavailable_value"}
    delete = decode("d", before={**NULLS, "id": 1}, said=(("__debezium.newkey", b'{"id":2}'),))
    create = decode("c", after=row, said=(("__debezium.oldkey", b'{"id":1}'),))
    assert delete.change == Delete(KeyImage((b"1",)), UNKNOWN_KEY, awaits_create=True)
    assert create.change.moved_from == UNKNOWN_KEY
    assert UNCHANGED in create.change.after
    assert create.position == delete.position._replace(ordinal=delete.ordinal + 1)
    assert decode("d", before={**NULLS, "id": 1}).change == Delete(KeyImage((b"1",)))


def test_a_numeric_without_precision_has_none_whatever_length_is_told():
    told = {"connect.parameters": {"__debezium.source.column.type": "NUMERIC", "__debezium.source.column.length": "0"}}
    items = {"type": "array", "items": ["null", VARIABLE], **told}
    items["connect.parameters"] = {**told["connect.parameters"], "__debezium.source.column.type": "_NUMERIC"}
    fields = [
        optional("any", {**VARIABLE, **told}),
        optional("many", {**items, "items": ["null", VARIABLE["connect.name"]]}),
    ]
    table = table_schema_from(json.dumps(envelope_schema(fields)))
    assert [column.type.name for column in table.columns] == ["numeric", "numeric[]"]


def test_types_that_the_connector_does_not_know_are_their_text():
    known = {"type": "bytes", "connect.parameters": {"__debezium.source.column.type": "BYTEA"}}
    unknown = {"type": "bytes", "connect.parameters": {"__debezium.source.column.type": "PAIR"}}
    table = table_schema_from(json.dumps(envelope_schema([optional("known", known), optional("unknown", unknown)])))
    assert [column.type for column in table.columns] == [
        ColumnType(kind=Kind.BYTES, name="bytea"),
        ColumnType(kind=Kind.OTHER, name="pair"),
    ]


@pytest.mark.parametrize("scale", ["0", "4"])
def test_money_of_other_digits_than_two_is_a_number(scale):
    """`money.fraction.digits` at the connector: the same bytes mean another value then."""
    money = named("bytes", "org.apache.kafka.connect.data.Decimal", scale=scale)
    money["connect.parameters"]["__debezium.source.column.type"] = "MONEY"
    (column,) = table_schema_from(json.dumps(envelope_schema([optional("price", money)]))).columns
    assert (column.type.kind, column.type.scale) == (Kind.DECIMAL, int(scale))


@pytest.mark.parametrize(
    "avro",
    [
        ["null", {"type": "string", "connect.parameters": {"__debezium.source.column.type": "BYTEA"}}],
        ["null", "string", "int"],
        ["null", {"type": "map", "values": "string"}],
        ["null", named("string", "io.debezium.time.SomethingNew")],
    ],
)
def test_types_without_a_text_form_are_refused(avro):
    with pytest.raises(ProtocolViolationError):
        table_schema_from(json.dumps(envelope_schema([{"name": "id", "type": avro}])))
