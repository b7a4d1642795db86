"""Real servers on the loopback, without Docker and without root: what `cdc demo`, the tests and the benchmarks run on."""

from cdc.embedded.kafka import EmbeddedKafka
from cdc.embedded.postgres import EmbeddedPostgres
from cdc.embedded.registry import EmbeddedRegistry

__all__ = ["EmbeddedKafka", "EmbeddedPostgres", "EmbeddedRegistry"]
