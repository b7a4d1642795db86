"""The demo: a shop is replicated into PostgreSQL and SQLite while people use it and an applier is killed."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psycopg2
from rich.console import Console

from cdc.core.errors import CdcError
from cdc.demo.compare import differences, postgres_table, sqlite_table
from cdc.demo.processes import Processes
from cdc.demo.pulse import Pulse
from cdc.demo.shop import ROWS, TABLES, Shoppers, create_shop
from cdc.embedded.kafka import EmbeddedKafka
from cdc.embedded.postgres import EmbeddedPostgres

_LOAD_SECONDS: Final = 120
_CATCH_UP_SECONDS: Final = 60
_LOOK_SECONDS: Final = 0.25

_CONFIG: Final = """\
[source]
url = "{source}"
tables = ["public.*"]

[log]
url = "{log}"
prefix = "shop"
partitions = {partitions}

[targets.warehouse]
url = "{warehouse}"

[targets.reporting]
url = "sqlite:///{reporting}"
"""


@dataclass(frozen=True, slots=True)
class _Places:
    source: str
    warehouse: str
    reporting: Path


def run_demo(*, through_kafka: bool, seconds: int, keep: Path | None) -> int:
    """Run it all; 0 if source and targets are equal at the end, else 1."""
    console = Console(highlight=False, soft_wrap=True)
    try:
        with _folder(keep) as folder:
            return _demo(folder, console, through_kafka=through_kafka, seconds=seconds)
    except CdcError as error:
        console.print(f"{error}\n{error.mend or ''}".rstrip(), markup=False)
        console.print("demo: FAILED")
        return 1


def _demo(folder: Path, console: Console, *, through_kafka: bool, seconds: int) -> int:
    with ExitStack() as servers:
        console.print("starting PostgreSQL 18 as source and as target" + (", and Kafka" if through_kafka else ""))
        source = servers.enter_context(EmbeddedPostgres(folder / "source", version=18))
        warehouse = servers.enter_context(EmbeddedPostgres(folder / "warehouse", version=18))
        log = f"sqlite:///{folder / 'log.db'}"
        if through_kafka:
            log = f"kafka://{servers.enter_context(EmbeddedKafka(folder / 'kafka')).bootstrap_servers}"
        places = _Places(source.url(), warehouse.url(), folder / "reporting.db")
        console.print(f"creating the shop: {ROWS:,} rows")
        create_shop(places.source)
        config = folder / "cdc.toml"
        config.write_text(
            _CONFIG.format(
                source=places.source,
                log=log,
                partitions=4 if through_kafka else 1,
                warehouse=places.warehouse,
                reporting=places.reporting,
            )
        )
        with Processes(config) as processes:
            return _replicate(places, processes, console, seconds)


def _replicate(places: _Places, processes: Processes, console: Console, seconds: int) -> int:
    processes.start("capture", "capture")
    processes.start("apply-warehouse", "apply", "warehouse")
    processes.start("apply-reporting", "apply", "reporting")
    began = time.monotonic()
    found = _await_equal(places, processes, _LOAD_SECONDS)
    if found:
        return _failed(console, ["after the first load:", *found])
    console.print(f"first load: {ROWS:,} rows are in both targets, {time.monotonic() - began:.1f} s after the start")

    shoppers, pulse = Shoppers(places.source), Pulse(places.source, places.warehouse)
    shoppers.start()
    pulse.start()
    began = time.monotonic()
    _show_live(processes, shoppers, pulse, console, seconds)
    shoppers.stop()
    pulse.stop()
    lasted = time.monotonic() - began
    changes = shoppers.changes + pulse.beats
    console.print("the shop is closed; waiting for the targets, then comparing every row")
    found = _await_equal(places, processes, _CATCH_UP_SECONDS)
    if found:
        return _failed(console, found)
    caught_up = time.monotonic() - began
    rows = sum(len(postgres_table(places.source, table)) for table in TABLES)
    console.print(f"equal in all {len(TABLES)} tables, {caught_up - lasted:.1f} s after the last change")
    console.print(
        f"demo: ok, {rows:,} rows, {changes:,} changes, {changes / caught_up:,.0f} changes/s,"
        f" median lag {pulse.median() * 1000:.0f} ms"
    )
    return 0


def _show_live(processes: Processes, shoppers: Shoppers, pulse: Pulse, console: Console, seconds: int) -> None:
    """Rates and lag, each second; kill an applier at a third of the time, start it again a second later."""
    began = before_at = time.monotonic()
    before = 0
    show = _live_line(console)
    kill_at = max(1, seconds // 3)
    for second in range(1, seconds + 1):
        time.sleep(max(0.0, began + second - time.monotonic()))
        if second == kill_at:
            processes.kill("apply-warehouse")
            console.print("kill -9 of the warehouse's applier")
        else:
            if second == kill_at + 1:
                processes.start("apply-warehouse", "apply", "warehouse")
                console.print("its applier is started again")
            processes.require_running()
        now, now_at = shoppers.changes, time.monotonic()
        show(
            f"{second:3} s  {now:9,} changes  {(now - before) / (now_at - before_at):8,.0f}/s  lag {pulse.latest:.3f} s"
        )
        before, before_at = now, now_at


def _live_line(console: Console) -> Callable[[str], None]:
    """On a terminal one line that is written over; elsewhere one in five is printed."""
    if console.is_terminal:
        return lambda text: console.print(text, end="\r")
    lines = iter(range(1_000_000))
    return lambda text: console.print(text) if next(lines) % 5 == 4 else None


def _await_equal(places: _Places, processes: Processes, most_seconds: float) -> list[str]:
    """Compare again and again until all is equal. What still differs after `most_seconds`."""
    deadline = time.monotonic() + most_seconds
    while True:
        processes.require_running()
        found = _compare(places) if _counts_equal(places) or time.monotonic() > deadline else ["the row counts differ"]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(_LOOK_SECONDS)


def _counts_equal(places: _Places) -> bool:
    """Cheap to ask: whether it is worth looking at every row."""
    try:
        return all(
            _count(places.source, table) == _count(places.warehouse, table) for table in TABLES if table != "pulse"
        )
    except psycopg2.errors.UndefinedTable:
        return False


def _count(url: str, table: str) -> int:
    connection = psycopg2.connect(url)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(f'SELECT count(*) FROM "{table}"')
            return int(cursor.fetchone()[0])  # type: ignore[index]
    finally:
        connection.close()


def _compare(places: _Places) -> list[str]:
    found: list[str] = []
    for table in TABLES:
        expected = postgres_table(places.source, table)
        try:
            warehouse = postgres_table(places.warehouse, table)
        except psycopg2.errors.UndefinedTable:
            warehouse = {}
        found += [f"warehouse: {line}" for line in differences(table, expected, warehouse)]
        reporting = sqlite_table(places.reporting, table, places.source)
        found += [f"reporting: {line}" for line in differences(table, expected, reporting)]
    return found


def _failed(console: Console, found: list[str]) -> int:
    for line in found:
        console.print(line, markup=False)
    console.print("demo: FAILED")
    return 1


@contextmanager
def _folder(keep: Path | None) -> Iterator[Path]:
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep.absolute()
        return
    folder = Path(tempfile.mkdtemp(prefix="cdc-demo-"))
    folder.chmod(0o755)  # PostgreSQL may run as another user, and has to reach its folder in here
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
