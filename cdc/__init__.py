"""Near-real-time replication between databases."""

__version__ = "0.1.0"
