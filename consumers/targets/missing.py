"""What becomes of changes whose rows are not there: the same for every dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from cdc.core.errors import GapError
from cdc.core.settings import TargetSettings
from cdc.core.tables import TableId


class MissingRows:
    """A change of a row that is not there is a gap; unless the target began late in the log (`start`), and may never
    have had the row. Then the change is left out, and counted.
    """

    def __init__(self, settings: TargetSettings) -> None:
        self._may_miss = settings.start != "earliest"
        self._pending: Counter[TableId] = Counter()
        self._left_out: Counter[TableId] = Counter()

    @property
    def left_out(self) -> Mapping[TableId, int]:
        """How many were left out in transactions that were committed."""
        return self._left_out

    def require(self, done: int, wanted: int, table: TableId, what: str) -> None:
        """GapError if less was done than was wanted, and that is one."""
        if done == wanted:
            return
        if done > wanted or not self._may_miss:
            raise GapError(
                f"target table {table}: {wanted - done} of {wanted} rows {what} are not there",
                mend="something else wrote to this table, or its events are incomplete: rebuild the target",
            )
        self._pending[table] += wanted - done

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """What is counted within is not, after an error."""
        before = self._pending.copy()
        try:
            yield
        except BaseException:
            self._pending = before
            raise

    def committed(self) -> None:
        self._left_out += self._pending
        self._pending.clear()

    def rolled_back(self) -> None:
        self._pending.clear()
