"""PostgreSQL: logical replication by pgoutput, and first loads under a slot's exported snapshot."""
