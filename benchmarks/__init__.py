"""`make bench`: changes per second beside PostgreSQL's own tools, from one run on the same data."""
