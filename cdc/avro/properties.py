"""Names of the properties that say in a schema what Avro's types don't: Kafka Connect's, Debezium's and ours."""

from __future__ import annotations

from typing import Final

CONNECT_NAME: Final = "connect.name"
CONNECT_VERSION: Final = "connect.version"
CONNECT_TYPE: Final = "connect.type"
CONNECT_PARAMETERS: Final = "connect.parameters"
DECIMAL_PRECISION: Final = "connect.decimal.precision"

SOURCE_TYPE: Final = "__debezium.source.column.type"
SOURCE_LENGTH: Final = "__debezium.source.column.length"
SOURCE_SCALE: Final = "__debezium.source.column.scale"
SOURCE_NAME: Final = "__debezium.source.column.name"

# On the row's record.
OUR_TABLE: Final = "cdc.table"  # [schema, name]
OUR_KEY: Final = "cdc.key"  # the key's columns, in its order
OUR_IDENTITY: Final = "cdc.identity"  # ReplicaIdentity
# On each of its fields.
OUR_NAME: Final = "cdc.name"  # the column's own name
OUR_ID: Final = "cdc.id"  # the column's identity, where the source tells it
OUR_TYPE: Final = "cdc.type"  # ColumnType: kind, name, …

DECIMAL: Final = "org.apache.kafka.connect.data.Decimal"
VARIABLE_DECIMAL: Final = "io.debezium.data.VariableScaleDecimal"
BITS: Final = "io.debezium.data.Bits"
TSVECTOR: Final = "io.debezium.data.Tsvector"
SOURCE_RECORD: Final = "io.debezium.connector.postgresql.Source"
TRANSACTION_BLOCK: Final = "event.block"
