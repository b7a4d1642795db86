"""Logs: Kafka, SQLite for one machine, and one in memory for tests. The port is `cdc.core.log`."""
