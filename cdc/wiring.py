"""The one place of the capture side where ports meet adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from cdc.avro.names import schemas_topic
from cdc.core.log import Log, LogWriter
from cdc.core.registry import SchemaRegistry
from cdc.core.settings import Settings
from cdc.log.open import open_log
from cdc.registry.embedded import EmbeddedRegistry

if TYPE_CHECKING:
    from cdc.capture.capture import Capture


def open_registry(settings: Settings, log: Log, writer: LogWriter | None = None) -> SchemaRegistry:
    """The registry that `[registry]` names; only one with a `writer` can register in an embedded one."""
    if settings.registry.url is None:
        return EmbeddedRegistry(log, writer, schemas_topic(settings.log.prefix))
    # Its client takes as long to import as all the rest: only for those who have such a registry.
    from cdc.registry.confluent import ConfluentRegistry  # noqa: PLC0415

    return ConfluentRegistry(settings.registry)


@contextmanager
def capture_session(settings: Settings, report: Callable[[str], None]) -> Iterator[Capture]:
    """A capture with everything it needs open: source, log, registry."""
    # Who applies opens a registry with this module, and should not wait for the source's drivers to be imported.
    from cdc.capture.capture import Capture  # noqa: PLC0415
    from cdc.sources.postgres.source import PostgresSource  # noqa: PLC0415

    captured = settings.captured()
    with ExitStack() as resources:
        source = resources.enter_context(PostgresSource(captured, report=report))
        log = resources.enter_context(open_log(settings.log))
        writer = resources.enter_context(closing(log.writer()))
        reader = resources.enter_context(closing(log.reader(f"{settings.log.prefix}-capture")))
        registry = resources.enter_context(closing(open_registry(settings, log, writer)))
        yield Capture(
            source=source,
            writer=writer,
            reader=reader,
            registry=registry,
            settings=settings.log,
            slot=captured.slot,
            report=report,
        )
