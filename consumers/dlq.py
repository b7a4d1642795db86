"""`cdc dlq`: what became dead letters, and what is to become of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

from cdc.core.errors import AlreadyRunningError
from cdc.core.patterns import TablePatterns
from cdc.core.position import Position
from cdc.core.settings import Settings
from cdc.log.open import open_log
from cdc.registry.decoding import Decoding
from cdc.wiring import open_registry
from consumers.apply.letters import DeadLetters
from consumers.apply.retry import Chosen, Retried, Retry
from consumers.plan.as_text import AsText
from consumers.plan.letters import Letter
from consumers.plan.mapping import EventMapping
from consumers.targets.open import open_target
from consumers.targets.target import Target
from consumers.wiring import dead_letters, target_settings


@dataclass(frozen=True, slots=True)
class Listed:
    """A letter, and why it is one; `error` is empty for what only waits behind another."""

    letter: Letter
    error: str
    mend: str

    def as_object(self) -> dict[str, Any]:
        topic, partition, offset = self.letter.place
        return {
            "position": str(self.letter.position),
            "table": str(self.letter.table),
            "topic": topic,
            "partition": partition,
            "offset": offset,
            "error": self.error or None,
            "mend": self.mend or None,
            "waits": not self.error,
        }


class Dropped(NamedTuple):
    letters: int
    left: int


def chosen(text: str | None) -> Chosen:
    """Letters at a position, or of tables like a pattern; all for None. ConfigError for what is neither."""
    if text is None:
        return lambda _: True
    try:
        position = Position.parse(text)
    except ValueError:
        patterns = TablePatterns([text])
        return lambda letter: any(patterns.matches(scope.table) for scope in letter.scopes)
    return lambda letter: letter.position == position


def listed(settings: Settings, name: str) -> Iterator[Listed]:
    """All letters, in an order in which they can be retried. The applier may run."""
    with ExitStack() as resources:
        target = resources.enter_context(closing(open_target(target_settings(settings, name))))
        letters = resources.enter_context(dead_letters(settings, name, target))
        index = {letter.place: letter for letter in letters.read_index()}
        for stored in letters.stored() if index else ():
            letter = index.pop(stored.place, None)
            if letter is not None:
                yield Listed(letter, stored.error, stored.mend)
        for letter in sorted(index.values(), key=lambda letter: letter.position):
            yield Listed(letter, "its record is not in the log any more", "cdc dlq drop")


def retry(settings: Settings, name: str, which: Chosen) -> Retried:
    """Apply those that the target takes now. AlreadyRunningError while the applier runs."""
    settings_of = target_settings(settings, name)
    with _opened(settings, name) as (target, letters, log_id):
        if log_id is None:
            return Retried()
        with open_log(settings.log) as log, closing(open_registry(settings, log)) as registry:
            return Retry(
                letters=letters,
                target=target,
                decoding=Decoding(registry, seen=AsText(settings_of.as_text).seen),
                mapping=EventMapping(settings_of),
                prefix=settings.log.prefix,
                is_ours=TablePatterns(settings_of.tables).matches,
                log_id=log_id,
            ).run(which)


def drop(settings: Settings, name: str, which: Chosen, confirm: Callable[[int], bool]) -> Dropped:
    """Give letters up for ever, if `confirm(how many)`. AlreadyRunningError while the applier runs."""
    with _opened(settings, name) as (target, letters, log_id):
        index = letters.read_index()
        places = [letter.place for letter in index if which(letter)]
        if log_id is None or not places or not confirm(len(places)):
            return Dropped(0, len(index))
        with target.transaction(log_id=log_id) as transaction:
            letters.release(transaction, places)
            transaction.advance({})
        letters.bury(places)
        return Dropped(len(places), len(index) - len(places))


@contextmanager
def _opened(settings: Settings, name: str) -> Iterator[tuple[Target, DeadLetters, str | None]]:
    with ExitStack() as resources:
        target = resources.enter_context(closing(open_target(target_settings(settings, name))))
        letters = resources.enter_context(dead_letters(settings, name, target))
        try:
            checkpoint = target.open()
        except AlreadyRunningError:
            raise AlreadyRunningError(
                f"the applier of target {name!r} is running, and only one may write there",
                mend=f"stop it, give the command again, and start it: cdc apply {name}",
            ) from None
        letters.open()
        yield target, letters, checkpoint.log_id
