"""The apply side's commands, and those that look at both sides.

Each imports itself what it alone needs: no other one, nor `--help`, should wait for that.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cdc.cli.console import Rate, Reporter, stop_on_signals
from cdc.cli.garbage import collect, collect_rarely
from cdc.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, load_settings

if TYPE_CHECKING:
    from consumers.apply.saving import Progress as ApplyProgress
    from consumers.plan.beside import Area
    from consumers.rebuild.replay import Progress
    from consumers.status import Status

TargetArgument = Annotated[str, typer.Argument(help="Its name in the configuration.")]


def register(app: typer.Typer) -> None:
    app.command("apply")(apply)
    app.command("check")(check)
    app.command("rebuild")(rebuild)
    app.command("status")(status)
    letters = typer.Typer(help="Dead letters: what a target refused, and what waits behind it.", no_args_is_help=True)
    letters.command("list")(list_letters)
    letters.command("retry")(retry_letters)
    letters.command("drop")(drop_letters)
    app.add_typer(letters, name="dlq")


def apply(
    target: TargetArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    wait: Annotated[
        bool, typer.Option(help="Stand by while another applier of this target is at work, and take over from it.")
    ] = True,
    shared: Annotated[
        bool,
        typer.Option("--shared", help='Share the partitions with others started so (consistency = "key", Kafka).'),
    ] = False,
) -> None:
    """Apply the log's events to one target."""
    from cdc.retries import Retries  # noqa: PLC0415
    from consumers.wiring import apply_session, shared_session, target_settings  # noqa: PLC0415

    settings = load_settings(config)
    target_settings(settings, target)
    reporter = Reporter(f"apply {target}")
    collect_rarely()
    with stop_on_signals() as stop:
        retries = Retries(stop, reporter)

        def session() -> None:
            collect()
            opened = (
                shared_session(settings, target, reporter)
                if shared
                else apply_session(settings, target, reporter, standby=wait)
            )
            with opened as applying, reporter.live(_Line(applying.progress)):
                applying.run(stop.is_set, applying=retries.established, got_on=retries.got_on)

        retries.run(session)
    reporter("stopped")


def rebuild(
    target: TargetArgument,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    until: Annotated[
        str | None, typer.Option(help="An LSN, a position or a time: a copy as of then; the live tables stay.")
    ] = None,
    leave_behind: Annotated[
        bool, typer.Option("--leave-behind", help="Also if the new tables lack what people made at the live ones.")
    ] = False,
    drop_old: Annotated[bool, typer.Option("--drop-old", help="Drop the tables that were replaced.")] = False,
    drop_new: Annotated[bool, typer.Option("--drop-new", help="Drop what an unfinished rebuild has made.")] = False,
    drop_until: Annotated[bool, typer.Option("--drop-until", help="Drop the copy that --until made.")] = False,
) -> None:
    """Replay the log into fresh tables beside the live ones, and replace those when they have caught up."""
    from cdc.retries import Retries  # noqa: PLC0415
    from consumers.plan.beside import area  # noqa: PLC0415
    from consumers.rebuild.moment import read_moment  # noqa: PLC0415
    from consumers.wiring import copy_session, discard, swap_session, target_settings  # noqa: PLC0415

    settings = load_settings(config)
    target_settings(settings, target)
    wanted: list[tuple[bool, Area]] = [(drop_old, "old"), (drop_new, "new"), (drop_until, "until")]
    kinds = [kind for is_wanted, kind in wanted if is_wanted]
    if kinds:
        for kind in kinds:
            typer.echo(f"dropped {discard(settings, target, kind)} tables of {area(target, kind)}")
        return
    moment = None if until is None else read_moment(until)
    reporter = Reporter(f"rebuild {target}")
    finished = False
    collect_rarely()
    with stop_on_signals() as stop:
        retries = Retries(stop, reporter)

        def session() -> None:
            nonlocal finished
            collect()
            opened = (
                swap_session(settings, target, reporter, leave_behind=leave_behind)
                if moment is None
                else copy_session(settings, target, moment, reporter)
            )
            with opened as work, reporter.live(_RebuildLine(work.progress)):
                finished = work.run(stop.is_set, replaying=retries.established)

        retries.run(session)
    if not finished:
        reporter("stopped: the same command goes on from here")
    elif moment is None:
        reporter(f"done: the old tables are in {area(target, 'old')}; --drop-old drops them")
    else:
        reporter(f"done: the copy is in {area(target, 'until')}; --drop-until drops it")


class _RebuildLine:
    """What the living line says of a rebuild."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._rate = Rate()

    def __call__(self, seconds: float) -> str:
        done = self._progress
        rate = self._rate.per_second(done.records, seconds)
        share = 100 * done.records // done.of if done.of else 100
        return f"{done.doing}: {done.records:,} of {done.of:,} records ({share} %), {rate:,.0f}/s"


class _Line:
    """What the living line says of an applier."""

    def __init__(self, progress: ApplyProgress) -> None:
        self._progress = progress
        self._rate = Rate()

    def __call__(self, seconds: float) -> str:
        progress = self._progress
        rate = self._rate.per_second(progress.events, seconds)
        letters = f", {progress.dead_letters:,} dead letters" if progress.dead_letters else ""
        left_out = f", {progress.left_out:,} left out" if progress.left_out else ""
        return f"{progress.events:,} events, {rate:,.0f}/s, last lag {progress.lag_us / 1e6:.2f} s{left_out}{letters}"


def check(config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """Look at source, log, registry and targets, and say what is wrong and what mends it."""
    from consumers.preflight import all_checks  # noqa: PLC0415

    settings = load_settings(config)
    found = list(all_checks(settings))
    if as_json:
        typer.echo(
            json.dumps([{"name": c.name, "ok": c.ok, "found": c.found, "mend": c.mend} for c in found], indent=2)
        )
    else:
        for line in found:
            typer.echo(f"{'ok   ' if line.ok else 'WRONG'}  {line.name}: {line.found}")
            if line.mend:
                typer.echo(f"       {'mend' if not line.ok else 'note'}: {line.mend}")
    if not all(line.ok for line in found):
        raise typer.Exit(1)


_WHICH = "A position as `list` shows it, or tables (public.*)"


def list_letters(target: TargetArgument, config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """Show a target's dead letters, in the order in which they can be retried."""
    from consumers import dlq  # noqa: PLC0415

    letters = dlq.listed(load_settings(config), target)
    if as_json:
        typer.echo(json.dumps([letter.as_object() for letter in letters], indent=2))
        return
    count = 0
    for count, letter in enumerate(letters, 1):  # noqa: B007
        typer.echo(f"{letter.letter.position}  {letter.letter.table}  {letter.error or 'waits behind another'}")
        if letter.mend:
            typer.echo(f"  mend: {letter.mend}")
    typer.echo(f"{count} dead letters")


def retry_letters(
    target: TargetArgument,
    which: Annotated[str | None, typer.Argument(help=f"{_WHICH}; all if left out.")] = None,
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    as_json: JsonOption = False,
) -> None:
    """Apply dead letters, after their cause was mended. The target's applier must be stopped."""
    from consumers import dlq  # noqa: PLC0415

    found = dlq.retry(load_settings(config), target, dlq.chosen(which))
    if as_json:
        refused = [{"position": str(letter.position), "error": str(error)} for letter, error in found.refused]
        typer.echo(json.dumps({"applied": found.done, "waiting": found.waiting, "refused": refused}, indent=2))
    else:
        for letter, error in found.refused:
            typer.echo(f"{letter.position}  {letter.table}  {error}")
        typer.echo(f"applied {found.done}, refused again {len(found.refused)}, waiting {found.waiting}")
    if found.refused:
        raise typer.Exit(1)


def drop_letters(
    target: TargetArgument,
    which: Annotated[str, typer.Argument(help=f"{_WHICH}; *.* is all.")],
    config: ConfigOption = DEFAULT_CONFIG,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
) -> None:
    """Give dead letters up for ever: the target stays without them. Its applier must be stopped."""
    from consumers import dlq  # noqa: PLC0415

    found = dlq.drop(
        load_settings(config),
        target,
        dlq.chosen(which),
        lambda count: yes or typer.confirm(f"drop {count} dead letters of target {target}?"),
    )
    typer.echo(f"dropped {found.letters}, {found.left} are left")


def status(config: ConfigOption = DEFAULT_CONFIG, *, as_json: JsonOption = False) -> None:
    """Show how far source, log and targets are."""
    from consumers.status import read_status  # noqa: PLC0415

    found = read_status(load_settings(config))
    if as_json:
        typer.echo(json.dumps(found.as_object(), indent=2))
    else:
        _print_status(found)


def _print_status(found: Status) -> None:
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    console = Console(soft_wrap=True, highlight=False)
    for part in ("source", "log"):
        for name, value in found.as_object()[part].items():
            console.print(f"{part}: {name.replace('_', ' ')}: {value}", markup=False)
    table = Table(
        "target", "behind (records)", "events/s", "version", "checkpoint", "applied through", "dead letters", "note"
    )
    columns = (
        "records_behind",
        "events_per_second",
        "version",
        "position",
        "applied_to",
        "dead_letters",
        "error",
    )
    for name, target in found.as_object()["targets"].items():
        values = [target[key] for key in columns]
        shown = ["" if each is None else f"{each:,}" if isinstance(each, int) else str(each) for each in values]
        table.add_row(name, *map(Text, shown))  # no markup: errors name sections of the configuration, like [log]
    console.print(table)
