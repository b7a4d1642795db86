"""Real servers on the loopback, without Docker and without root: for `cdc demo`, tests and benchmarks."""

from cdc.embedded.connect import EmbeddedConnect
from cdc.embedded.kafka import EmbeddedKafka
from cdc.embedded.mariadb import EmbeddedMariaDB
from cdc.embedded.postgres import EmbeddedPostgres
from cdc.embedded.registry import EmbeddedRegistry

__all__ = ["EmbeddedConnect", "EmbeddedKafka", "EmbeddedMariaDB", "EmbeddedPostgres", "EmbeddedRegistry"]
