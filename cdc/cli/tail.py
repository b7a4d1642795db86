"""`cdc tail`: events as they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdc.cli.console import stop_on_signals
from cdc.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, load_settings
from cdc.core.errors import ConfigError
from cdc.core.events import (
    UNCHANGED,
    Alter,
    ChangeEvent,
    Create,
    Delete,
    Drop,
    FullImage,
    LogicalMessage,
    OldImage,
    Read,
    Row,
    Truncate,
    Update,
)
from cdc.core.log import LogReader, TopicPartition
from cdc.core.patterns import TablePatterns
from cdc.core.tables import TableSchema

if TYPE_CHECKING:
    from cdc.core.state import LogState, TableState


def register(app: typer.Typer) -> None:
    app.command("tail")(tail)


def tail(
    tables: Annotated[list[str] | None, typer.Argument(help="Patterns like public.*; all tables if left out.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    from_start: Annotated[bool, typer.Option("--from-start", help="Begin with the oldest event in the log.")] = False,
    count: Annotated[int, typer.Option("--count", "-n", min=0, help="Stop after so many events (0: never).")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Print events as they come, until Ctrl-C. Row values are shown: they may be confidential.

    Logical messages are shown when no table is named.
    """
    # For this command alone: no other one should wait for it.
    from cdc.avro.messages import decode_message  # noqa: PLC0415
    from cdc.avro.names import message_topic  # noqa: PLC0415
    from cdc.log.contents import log_state  # noqa: PLC0415
    from cdc.log.open import open_log  # noqa: PLC0415
    from cdc.registry.decoding import Decoding  # noqa: PLC0415
    from cdc.wiring import open_registry  # noqa: PLC0415

    settings = load_settings(config)
    patterns = TablePatterns(tables or ["*.*"])
    with (
        stop_on_signals() as stop,
        open_log(settings.log) as log,
        closing(log.reader(f"{settings.log.prefix}-tail")) as reader,
        closing(open_registry(settings, log)) as registry,
    ):
        wanted = _tables(log_state(reader, settings.log), patterns)
        messages = message_topic(settings.log.prefix)
        partitions = [partition for table in wanted for partition in table.topic_partitions]
        if not tables and settings.log.written_by == "cdc" and messages in reader.topics():
            partitions.append(TopicPartition(messages, 0))
        _assign(reader, partitions, from_start=from_start)
        decoding = Decoding(registry)
        printed = 0
        while not stop.is_set() and not (count and printed >= count):
            for record in reader.poll(1000, 0.2):
                event: ChangeEvent | LogicalMessage | None
                if record.topic == messages and record.value is not None:
                    event = decode_message(record.value, registry.schema)
                else:
                    event = decoding.event(record)
                if event is not None and not (count and printed >= count):
                    typer.echo(json.dumps(as_object(event)) if as_json else as_line(event))
                    printed += 1


def _tables(state: LogState, patterns: TablePatterns) -> list[TableState]:
    wanted = [table for table in state.tables.values() if patterns.matches(table.table)]
    if not wanted:
        raise ConfigError("the log holds no such table", mend="start capture first, or correct the pattern")
    return wanted


def _assign(reader: LogReader, partitions: list[TopicPartition], *, from_start: bool) -> None:
    for partition in partitions:
        offsets = reader.offsets(partition)
        reader.assign({partition: offsets.first if from_start else offsets.next})


def as_object(event: ChangeEvent | LogicalMessage) -> dict[str, Any]:
    """The event for machines: values are canonical text, `{"unchanged": true}` stands for UNCHANGED. A message has
    `content_hex` in place of `content` if that is not UTF-8.
    """
    place = {
        "position": str(event.position),
        "transaction": event.transaction.id,
        "commit_time_us": event.transaction.commit_time_us,
    }
    if isinstance(event, LogicalMessage):
        return {"op": "m", **place, "prefix": event.prefix, **_content(event.content)}
    change = event.change
    said: dict[str, Any] = {"table": str(event.table.id), "op": _op(event), **place}
    match change:
        case Read(after) | Create(after):
            said["after"] = _row(event.table, after)
        case Update(before, after):
            said["before"] = None if before is None else _image(event.table, before)
            said["after"] = _row(event.table, after)
        case Delete(before):
            said["before"] = _image(event.table, before)
        case Truncate() | Alter() | Drop():
            pass
    return said


def as_line(event: ChangeEvent | LogicalMessage) -> str:
    """The event for people."""
    said = as_object(event)
    if isinstance(event, LogicalMessage):
        return f"{said['position']}  m  {said['prefix']}  {said.get('content', said.get('content_hex'))}"
    rows = [f"{part} {_spelled(said[part])}" for part in ("before", "after") if said.get(part) is not None]
    return f"{said['position']}  {said['op']}  {said['table']}  {'  '.join(rows)}".rstrip()


def _content(content: bytes) -> dict[str, str]:
    try:
        return {"content": content.decode()}
    except UnicodeDecodeError:
        return {"content_hex": content.hex()}


def _spelled(row: dict[str, Any]) -> str:
    return " ".join(f"{name}={'NULL' if value is None else value}" for name, value in row.items())


def _op(event: ChangeEvent) -> str:  # noqa: PLR0911  # a table
    match event.change:
        case Read():
            return "r"
        case Create():
            return "c"
        case Update():
            return "u"
        case Delete():
            return "d"
        case Truncate():
            return "t"
        case Alter():
            return "alter"
        case Drop():
            return "drop"


def _image(table: TableSchema, image: OldImage) -> dict[str, Any]:
    if isinstance(image, FullImage):
        return _row(table, image.row)
    return {column.name: value.decode() for column, value in zip(table.key_columns, image.key, strict=True)}


def _row(table: TableSchema, row: Row) -> dict[str, Any]:
    return dict(_values(table, row))


def _values(table: TableSchema, row: Row) -> Iterator[tuple[str, Any]]:
    for column, value in zip(table.columns, row, strict=True):
        if value is UNCHANGED:
            yield column.name, {"unchanged": True}
        else:
            yield column.name, None if value is None else value.decode()
