"""The fixed Avro schemas of the wire format."""
