"""MySQL and MariaDB as targets."""

from consumers.targets.mysql.target import MysqlTarget

__all__ = ["MysqlTarget"]
