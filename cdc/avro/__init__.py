"""Tables as Avro schemas, change events as Avro bytes, and back. Pure: bytes in, values out.

The form is Debezium's. What Debezium's form can't say exactly travels beside it in headers
(`cdc.exact`, `cdc.unchanged`), so that `decode(encode(event)) == event` for every event.
"""
