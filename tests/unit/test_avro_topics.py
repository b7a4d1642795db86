"""Names, framing, schemas, and the topics beside the tables': transactions and messages."""

import io
import json

import fastavro
import pytest
from avro_events import commits
from hypothesis import given
from hypothesis import strategies as st

import schemas
from cdc.avro import binary, civil, names
from cdc.avro.alterations import alteration_record, read_alteration
from cdc.avro.boundaries import EndScanner, is_begin
from cdc.avro.framing import frame, unframe
from cdc.avro.messages import MessageCodec, decode_message
from cdc.avro.schemas import envelope_schema, key_schema
from cdc.avro.transactions import (
    End,
    TransactionBegin,
    TransactionCodec,
    TransactionEnd,
    decode_boundary,
    decode_end,
)
from cdc.avro.typenames import debezium_name, sql_name
from cdc.core.errors import ConfigError, ProtocolViolationError
from cdc.core.events import Alter, ChangeEvent, Commit, LogicalMessage, Transaction
from cdc.core.tables import Column, TableId, TableSchema
from cdc.core.types import ColumnType, Kind

TRANSACTION = Transaction(epoch=2, commit_lsn=500, xid=9, commit_time_us=1_700_000_000_123_456, database="shop")
ORDERS = TableId("public", "orders")


def column(name, kind=Kind.INT32, sql="integer", *, nullable=True, **more):
    return Column(name=name, type=ColumnType(kind=kind, name=sql, **more), nullable=nullable)


# ---- names ----------------------------------------------------------------------------------------------------------


def test_topics_and_subjects():
    assert names.topic_name("shop", TableId("public", "my orders")) == "shop.public.my_orders"
    assert names.transaction_topic("shop") == "shop.transaction"
    assert names.message_topic("shop") == "shop.message"
    assert names.state_topic("shop") == "shop-cdc-state"
    assert names.schemas_topic("shop") == "shop-cdc-schemas"
    assert names.key_subject("t") == "t-key"
    assert names.value_subject("t") == "t-value"
    with pytest.raises(ConfigError, match="249"):
        names.topic_name("shop", TableId("public", "x" * 240))


def test_avro_names():
    assert names.avro_namespace("my-shop.public.1st.Größe") == "my_shop.public._1st.Gr__e"
    assert names.avro_name("") == "_"


def test_columns_of_one_field_name_are_numbered():
    columns = [column(name) for name in ("a b", "a_b", "a-b", "a_b_2", "ü", "ö", "1")]
    assert names.field_names(columns) == ("a_b_3", "a_b", "a_b_4", "a_b_2", "_", "__2", "_1")


def test_two_tables_of_one_topic_are_refused_by_name():
    split = [TableId("a.b", "c"), TableId("a", "b.c")]
    dashed = [TableId("a", "b-c"), TableId("a", "b_c")]  # two topics, but one Avro name
    for tables in (split, dashed):
        owners = {}
        names.claim_topic(owners, tables[0], names.topic_name("shop", tables[0]))
        names.claim_topic(owners, tables[0], names.topic_name("shop", tables[0]))
        with pytest.raises(ConfigError, match=f"{tables[0].quoted} and {tables[1].quoted}") as refused:
            names.claim_topic(owners, tables[1], names.topic_name("shop", tables[1]))
        assert (
            refused.value.mend
            == f"give one of them a topic of its own: [log.topics] '{tables[1].quoted}' = \"schema.another_name\""
        )
        names.claim_topic(owners, tables[1], names.topic_name("shop", tables[1], "a.another"))


@pytest.mark.parametrize(
    ("sql", "debezium", "length", "scale"),
    [
        ("character varying(10)", "VARCHAR", 10, None),
        ("numeric(12,2)", "NUMERIC", 12, 2),
        ("integer[]", "_INT4", None, None),
        ("timestamp with time zone", "TIMESTAMPTZ", None, None),
        ("text", "TEXT", None, None),
    ],
)
def test_type_names_as_debezium_has_them(sql, debezium, length, scale):
    assert debezium_name(sql) == debezium
    assert sql_name(debezium, length, scale) == sql


@pytest.mark.parametrize(
    ("sql", "debezium"),
    [
        ("public.mood", "MOOD"),
        ("public.mood[]", "_MOOD"),
        ("public.vector(3)", "VECTOR"),
        ('"my.own"."a ""b"""', 'A "B"'),
        ('"char"', "CHAR"),
    ],
)
def test_names_of_other_types_lose_schema_and_quotes(sql, debezium):
    assert debezium_name(sql) == debezium


# ---- framing and binary ---------------------------------------------------------------------------------------------


def test_frames():
    assert frame(258, b"x") == b"\x00\x00\x00\x01\x02x"
    assert unframe(frame(2**32 - 1, b"")) == (2**32 - 1, 5)


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x00", b"{}      ", b"\x01\x00\x00\x00\x01x"])
def test_other_bytes_are_no_frames(data):
    with pytest.raises(ProtocolViolationError):
        unframe(data)


def _fastavro(schema, datum):
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, {"type": schema} if isinstance(schema, str) else schema, datum)
    return stream.getvalue()


@given(
    st.integers(-(2**63), 2**63 - 1), st.binary(), st.floats(width=32, allow_nan=False), st.lists(st.integers(-9, 9))
)
def test_primitives_are_written_as_fastavro_writes_them(number, data, real, items):
    assert binary.long(number) == _fastavro("long", number)
    assert binary.data(data) == _fastavro("bytes", data)
    assert binary.float32(real) == _fastavro("float", real)
    assert binary.float64(real) == _fastavro("double", real)
    assert binary.array([binary.long(n) for n in items]) == _fastavro({"type": "array", "items": "long"}, items)


@given(st.integers(-2_440_588, 2_145_042_905))
def test_day_numbers_come_back_for_every_date_of_postgresql(days):
    assert civil.days_of(b"".join(civil.text_of(days))) == days
    assert civil.day_number(*civil.civil(days)) == days


# ---- schemas --------------------------------------------------------------------------------------------------------

TABLE = TableSchema(
    id=ORDERS,
    columns=(
        column("id", nullable=False),
        column("n", Kind.INT16, "smallint"),
        column("total", Kind.DECIMAL, "numeric(10,2)", precision=10, scale=2),
        column("big place", Kind.VARIABLE_DECIMAL, "numeric"),
        column("other", Kind.VARIABLE_DECIMAL, "numeric"),
        column("odd", Kind.DECIMAL, "numeric(3,-2)", precision=3, scale=-2),
        column("words", Kind.OTHER, "tsvector"),
    ),
    key=(0,),
)


def test_an_envelope_as_connects_converter_writes_it():
    schema = json.loads(envelope_schema(TABLE, "shop.public.orders"))
    assert (schema["namespace"], schema["name"]) == ("shop.public.orders", "Envelope")
    assert schema["connect.name"] == "shop.public.orders.Envelope"
    assert [field["name"] for field in schema["fields"]][:3] == ["before", "after", "source"]
    assert schema["fields"][1] == {"name": "after", "type": ["null", "shop.public.orders.Value"], "default": None}
    row = schema["fields"][0]["type"][1]
    assert row["connect.name"] == "shop.public.orders.Value"
    assert (row["cdc.table"], row["cdc.key"], row["cdc.identity"]) == (["public", "orders"], ["id"], "d")
    fields = {field["name"]: field for field in row["fields"]}
    assert fields["id"]["type"]["type"] == "int"
    assert "default" not in fields["id"]
    assert fields["n"]["type"][1]["connect.type"] == "int16"
    assert fields["total"]["default"] is None
    assert fields["total"]["type"][1] == {
        "type": "bytes",
        "scale": 2,
        "precision": 10,
        "connect.version": 1,
        "connect.parameters": {
            "scale": "2",
            "connect.decimal.precision": "10",
            "__debezium.source.column.type": "NUMERIC",
            "__debezium.source.column.length": "10",
            "__debezium.source.column.scale": "2",
            "__debezium.source.column.name": "total",
        },
        "connect.name": "org.apache.kafka.connect.data.Decimal",
        "logicalType": "decimal",
    }
    assert fields["big_place"]["cdc.name"] == "big place"
    assert fields["big_place"]["type"][1]["connect.name"] == "io.debezium.data.VariableScaleDecimal"
    assert fields["other"]["type"] == ["null", "io.debezium.data.VariableScaleDecimal"]
    assert "logicalType" not in fields["odd"]["type"][1]  # Avro's decimal has no negative scale
    assert fields["words"]["type"][1]["connect.name"] == "io.debezium.data.Tsvector"


def test_keys():
    schema = json.loads(key_schema(TABLE, "shop.public.orders"))
    assert schema["connect.name"] == "shop.public.orders.Key"
    assert schema["fields"] == [{"name": "id", "type": "int"}]
    assert key_schema(TableSchema(id=ORDERS, columns=TABLE.columns, key=()), "t") is None


@pytest.mark.parametrize("name", ["transaction_key", "transaction_value", "message_key", "message_value", "source"])
def test_the_fixed_schemas_stand_on_their_own(name):
    fastavro.parse_schema(schemas.load(name))


# ---- transactions and messages --------------------------------------------------------------------------------------


def test_transactions_come_back_with_counts_and_positions():
    codec = TransactionCodec("shop")
    texts = {5: codec.key_schema, 6: codec.value_schema}
    commit = Commit(TRANSACTION, end_lsn=510, last_ordinal=7, event_counts={ORDERS: 4, TableId("public", "items"): 2})
    begin, end = codec.encode(commit, key_id=5, value_id=6)
    assert codec.topic == "shop.transaction"
    about = {"id": "2:9:500", "epoch": 2, "commit_lsn": 500, "commit_time_ms": 1_700_000_000_123}
    assert decode_boundary(begin.value, texts.__getitem__) == TransactionBegin(**about)
    assert decode_end(end.value, texts.__getitem__) == TransactionEnd(
        **about, end_lsn=510, last_ordinal=7, event_count=6, event_counts={"public.orders": 4, "public.items": 2}
    )
    for record, status in ((begin, "BEGIN"), (end, "END")):
        value = fastavro.schemaless_reader(io.BytesIO(record.value[5:]), json.loads(codec.value_schema), None)
        assert value["status"] == status
        key = fastavro.schemaless_reader(io.BytesIO(record.key[5:]), json.loads(codec.key_schema), None)
        assert key == {"id": "2:9:500"}
    with pytest.raises(ProtocolViolationError, match="BEGIN"):
        decode_end(begin.value, texts.__getitem__)


def test_messages_are_counted_as_a_connector_counts_them():
    codec = TransactionCodec("shop")
    commit = Commit(TRANSACTION, end_lsn=510, last_ordinal=3, event_counts={ORDERS: 1}, messages=2)
    end = decode_end(
        codec.encode(commit, key_id=5, value_id=6)[1].value,
        {6: codec.value_schema}.__getitem__,
    )
    assert (end.event_count, end.event_counts) == (3, {"public.orders": 1, "LOGICAL_DECODING_MESSAGE": 2})


@given(st.lists(commits(), max_size=3))
def test_both_ways_of_reading_an_end_agree(made):
    codec, scanner = TransactionCodec("shop"), EndScanner()
    for commit in (*made, *made):
        begin, end = codec.encode(commit, key_id=5, value_id=6)
        assert scanner.end(end.value) == End.of(decode_end(end.value, lambda _: codec.value_schema))
        assert is_begin(begin.value)
        assert not is_begin(end.value)
        assert scanner.end(begin.value) is None
        assert scanner.end(end.value + b"x") is None
        assert scanner.end(end.value[:-1]) is None


def test_a_connectors_transactions_have_no_positions():
    codec = TransactionCodec("shop")
    value = {"status": "END", "id": "9:480", "event_count": 1, "data_collections": None, "ts_ms": 1}
    framed = frame(1, _fastavro(json.loads(codec.value_schema), value))
    with pytest.raises(ProtocolViolationError, match="positions"):
        decode_boundary(framed, lambda _: codec.value_schema)


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary(), st.integers(0, 9), st.integers(0, 4 * 10**15))
def test_messages_come_back(prefix, content, ordinal, captured_us):
    codec = MessageCodec("shop")
    message = LogicalMessage(TRANSACTION, prefix, content, ordinal, 499, captured_us, message_ordinal=3)
    encoded = codec.encode(message, key_id=1, value_id=2)
    assert decode_message(encoded.value, lambda _: codec.value_schema) == message
    value = fastavro.schemaless_reader(io.BytesIO(encoded.value[5:]), json.loads(codec.value_schema), None)
    assert (value["op"], value["message"]) == ("m", {"prefix": prefix, "content": content})
    assert value["transaction"] == {"id": "2:9:500", "total_order": ordinal, "data_collection_order": 3}
    key = fastavro.schemaless_reader(io.BytesIO(encoded.key[5:]), json.loads(codec.key_schema), None)
    assert key == {"prefix": prefix}


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_no_transaction_and_no_message(tail):
    transactions, messages = TransactionCodec("shop"), MessageCodec("shop")
    with pytest.raises(ProtocolViolationError):
        decode_boundary(frame(1, b"\xff" + tail), lambda _: transactions.value_schema)
    with pytest.raises(ProtocolViolationError):
        decode_message(frame(1, b"\xff" + tail), lambda _: messages.value_schema)


# ---- what became of a table -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("fill", [b"$1,234.50", b"1234.50"])
def test_what_old_rows_get_has_the_text_that_events_have(fill):
    """The source's catalog writes money with its sign, and a mask hashes texts."""
    before = TableSchema(id=ORDERS, columns=(column("id", nullable=False),), key=(0,))
    price, note = column("price", Kind.MONEY, "money"), column("note", Kind.STRING, "text")
    after = TableSchema(id=ORDERS, columns=(*before.columns, price, note), key=(0,))
    change = Alter(before=before, fills={"price": fill, "note": b"$1"}, note="{}")
    event = ChangeEvent(transaction=TRANSACTION, table=after, change=change, ordinal=1, table_ordinal=0)
    record = alteration_record(event, prefix="shop", topic_of=lambda table: names.topic_name("shop", table))
    found = read_alteration(record.value or b"").event.change
    assert isinstance(found, Alter)
    assert found.fills == {"price": b"1234.50", "note": b"$1"}
