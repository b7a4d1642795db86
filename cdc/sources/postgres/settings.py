"""The settings of every session at the source: values, and names of types, have the same text in all of them."""

from __future__ import annotations

from typing import Final

_SETTINGS: Final = {
    # Under these, PostgreSQL's text form is the canonical text of `cdc.core.types`.
    "DateStyle": "ISO",
    "TimeZone": "UTC",
    "IntervalStyle": "iso_8601",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "lc_monetary": "C",
    # Names of users' types, and of what a regclass and the like names, come with their schema.
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
}
SETTING_SQL: Final = "SELECT " + ", ".join(
    f"set_config('{name}', '{value}', false)" for name, value in _SETTINGS.items()
)
"""A statement, not options of the connection: what libpq's environment says (PGTZ, PGDATESTYLE) comes after those."""
