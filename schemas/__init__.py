"""The fixed Avro schemas of the wire format, one file each."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any, Final

_FILES: Final = {
    "io.debezium.connector.postgresql.Source": "source",
    "event.block": "transaction_block",
}


def load(name: str) -> dict[str, Any]:
    """The schema in `<name>.avsc`, complete: the records of other files that it names are put in where they stand
    first, as Avro wants it.
    """
    return complete(_read(name))


def complete(schema: dict[str, Any]) -> dict[str, Any]:
    """A copy in which the first mention of each record of this package is the record itself."""
    completed: dict[str, Any] = _complete(schema, set())
    return completed


def _complete(part: Any, defined: set[str]) -> Any:
    match part:
        case str() if part in _FILES and part not in defined:
            defined.add(part)
            return _read(_FILES[part])
        case dict():
            # Only these hold schemas; a name elsewhere is just a name.
            return {
                key: _complete(value, defined) if key in {"type", "fields", "items"} else value
                for key, value in part.items()
            }
        case list():
            return [_complete(item, defined) for item in part]
        case _:
            return part


def _read(name: str) -> dict[str, Any]:
    text = resources.files(__name__).joinpath(f"{name}.avsc").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
