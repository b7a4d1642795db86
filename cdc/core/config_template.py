"""What `cdc init` writes: every key, with its default."""

TEMPLATE = """\
# Configuration of cdc. ${NAME} is taken from the environment; # marks defaults and examples.

[source]
url = "postgresql://cdc:${CDC_SOURCE_PASSWORD}@localhost:5432/shop"
tables = ["public.*"]            # globs over schema.table; "*.*" is all, "!public.audit_*" leaves out
# capture = "logical"            # logical replication (pgoutput)
# slot = "cdc"                   # the replication slot; made if it is missing
# publication = "cdc"            # made if it is missing

[log]
# url = "sqlite:///cdc-log.db"   # the default, for one machine; or "kafka://broker1:9092,broker2:9092"
prefix = "shop"                  # topics are called <prefix>.<schema>.<table>
# written_by = "cdc"             # or "debezium": a connector with this topic.prefix; then without [source]
# partitions = 1                 # of each new table topic
# replication_factor = 1         # Kafka: copies of each new topic
# retention = "forever"          # of events: "7d", "12h" (Kafka: of new topics); who stays away longer is loaded again
# max_record_bytes = 1048576     # above it capture stops with an error that names table and column
# topics = { 'public."a b"' = "public.a_b_2" }     # where two tables' topics would have the same name
# options = { "security.protocol" = "SASL_SSL" }   # Kafka: librdkafka's own settings

[registry]
# url = "http://localhost:8081"  # Confluent-compatible; without it, the registry is embedded in the log
# options = { "basic.auth.user.info" = "user:secret" }   # confluent-kafka's SchemaRegistryClient's own settings

[targets.warehouse]
url = "postgresql://cdc:${CDC_TARGET_PASSWORD}@localhost:5432/warehouse"   # or "sqlite:///replica.db"
# tables = ["*.*"]               # which of the captured tables
# start = "earliest"             # without a checkpoint: or "latest", an LSN, a position, a time "2026-01-31T12:00:00Z"
# rename = { "public.*" = "shop.*" }               # what tables are called there
# exclude_columns = []           # columns to leave out, like "public.users.notes"
# mask = { "public.users.email" = "hash" }         # or "null", or a text to stand there
# mask_key = "${CDC_MASK_KEY}"   # what hashes are made with; at least 16 characters
# as_text = []                   # columns to hold as text, like "public.t.c": where a target's type can't hold a value
# consistency = "transaction"    # whole source transactions; or "key" (a connector's: only that): each key's in order
# schema_changes = "follow"      # or "add-only": what goes at the source stays; or "stop" at each, with the statements
# on_error = "stop"              # or "dead-letter": what the target refuses waits, with what depends on it: `cdc dlq`
# batch_events = 10000           # events in one target transaction, at most
# session_timeout = 30           # seconds; an applier silent for so long counts as gone: a standby takes over
"""
