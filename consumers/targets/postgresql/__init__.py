"""PostgreSQL as a target."""

from consumers.targets.postgresql.target import PostgresTarget

__all__ = ["PostgresTarget"]
