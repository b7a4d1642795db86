"""`make bench`: changes per second beside PostgreSQL's own logical replication, from one run on the same data."""
