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
    # The stream knows no policies: rows that one hides from us are an error, not rows that are not there.
    "row_security": "off",
    # What a role or a database has for its applications: a first load may take hours.
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",  # since PostgreSQL 17
}
_VALUES: Final = ", ".join(f"('{name}', '{value}')" for name, value in _SETTINGS.items())
SETTING_SQL: Final = (
    f"SELECT set_config(name, value, false) FROM (VALUES {_VALUES}) AS wanted(name, value)"
    " WHERE current_setting(name, true) IS NOT NULL"
)
"""A statement, not options of the connection: what libpq's environment says (PGTZ, PGDATESTYLE) comes after those."""
