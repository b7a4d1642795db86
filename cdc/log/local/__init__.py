"""The local log: topics in one SQLite file, for one machine. One process writes, any number read."""

from cdc.log.local.log import LocalLog

__all__ = ["LocalLog"]
