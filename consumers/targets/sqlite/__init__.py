"""SQLite as a target."""

from consumers.targets.sqlite.target import SqliteTarget

__all__ = ["SqliteTarget"]
