"""Removing what capture made at the source."""

from __future__ import annotations

from collections.abc import Iterator

from cdc.core.settings import SourceSettings
from cdc.sources.postgres.database import SourceDatabase
from cdc.sources.postgres.ddl import drop_triggers
from cdc.sources.postgres.quoting import quote_identifier, quote_literal


def teardown_source(settings: SourceSettings) -> Iterator[str]:
    """Drop slot, event triggers and publication, and say what became of each. SlotInUseError while a capture runs."""
    with SourceDatabase(settings.url, application_name="cdc teardown") as database:
        slot = quote_literal(settings.slot)
        there = database.query(
            f"SELECT FROM pg_replication_slots WHERE slot_name = {slot}", doing="looking at the replication slot"
        )
        if there:
            database.query(f"SELECT pg_drop_replication_slot({slot})", doing=f"dropping slot {settings.slot!r}")
        yield f"replication slot {settings.slot!r}: {'dropped' if there else 'there was none'}"
        published = database.query(
            f"SELECT FROM pg_publication WHERE pubname = {quote_literal(settings.publication)}",
            doing="looking at the publication",
        )
        if published:
            database.query(
                f"DROP PUBLICATION {quote_identifier(settings.publication)}",
                doing=f"dropping publication {settings.publication!r}",
            )
        yield f"publication {settings.publication!r}: {'dropped' if published else 'there was none'}"
        dropped = drop_triggers(database.query, settings.publication)  # last: not every role may
        yield f"event triggers: {'dropped' if dropped else 'there were none'}"
