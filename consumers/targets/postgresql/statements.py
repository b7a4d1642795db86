"""The SQL that works on one table, and on its staging table: pure text.

All rows go by COPY into a temporary staging table with the target's own types, `part` telling apart what they are for;
then one statement for each part does the work. Its columns are called c0, c1, …, so that no user's name meets ours.

PostgreSQL's widest tables leave no room for `part`: their staging table holds one part at a time, and keys have a
staging table of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cdc.core.tables import TableId
from consumers.targets.identifiers import quoted, quoted_list

_MOST_COLUMNS: Final = 1600  # of a table: https://www.postgresql.org/docs/current/limits.html
_PART: Final = "part integer NOT NULL"
# PostgreSQL drops one line feed at the start of what it writes, though not of what it reads: a value that begins with
# one when it comes had two, and has to have them here (xml_out_internal in xml.c).
_XML: Final = "xml"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableStatements:
    """`names` are the columns that events bring, in their order, and `types` theirs at the target; `key`, `written` and
    `verified` index into them. `written` leaves out what the target generates itself. `verified` are those whose type
    may change a value without a word: they are staged as text, so that `changed` can tell. `equal` has the operator by
    which values of a key's column are.
    """

    table: TableId
    partitioned: bool
    staging: str
    names: tuple[str, ...]
    key: tuple[int, ...]
    written: tuple[int, ...]
    types: tuple[str, ...]
    verified: tuple[int, ...]
    equal: Mapping[str, str]

    @property
    def target(self) -> str:
        return f"{quoted(self.table.schema)}.{quoted(self.table.name)}"

    @property
    def rows(self) -> str:
        """Where its own rows are looked for: those of tables that inherit it have events of their own."""
        return own_rows(self.table, partitioned=self.partitioned)

    @property
    def is_copied_exactly(self) -> bool:
        """Whether COPY to the table itself makes of each value what it is at the source."""
        return not self.verified and _XML not in self.types

    @property
    def widest(self) -> bool:
        """Whether rows are staged without `part`, after `clear`."""
        return len(self.names) >= _MOST_COLUMNS

    @property
    def stagings(self) -> tuple[str, ...]:
        """All its temporary tables."""
        return tuple(dict.fromkeys((self.staging, self._keys)))

    @property
    def _keys(self) -> str:
        """The staging table for keys alone."""
        return f"{self.staging}_keys" if self.widest else self.staging

    def create_staging(self) -> str:
        types = ("text" if index in self.verified else type_ for index, type_ in enumerate(self.types))
        columns = [f"c{index} {type_}" for index, type_ in enumerate(types)]
        if not self.widest:
            return _create_temporary(self.staging, [_PART, *columns])
        keys = [columns[index] for index in self.key]
        return f"{_create_temporary(self.staging, columns)}; {_create_temporary(self._keys, [_PART, *keys])}"

    def clear(self) -> str:
        return f"DELETE FROM pg_temp.{self.staging}"

    def copy(self, columns: Iterable[int]) -> str:
        names = [f"c{index}" for index in columns]
        return f"COPY pg_temp.{self.staging} ({', '.join(names if self.widest else ['part', *names])}) FROM STDIN"

    def fill(self) -> str:
        """COPY to the table itself. The columns of an identity take the source's values, as all do."""
        return f"COPY {self.target} ({quoted_list(self._name(index) for index in self.written)}) FROM STDIN"

    def copy_keys(self) -> str:
        return f"COPY pg_temp.{self._keys} ({', '.join(['part', *(f'c{index}' for index in self.key)])}) FROM STDIN"

    def changed(self, part: int, column: int) -> str:
        """How many values of a verified column the target would change."""
        return (
            f"SELECT count(*) FROM pg_temp.{self.staging} AS s"
            f" WHERE {self._of(part)} AND {self._value('s', column)}::text IS DISTINCT FROM s.c{column}"
        )

    def changed_key(self, part: int, column: int) -> str:
        """As `changed`, of keys."""
        return (
            f"SELECT count(*) FROM pg_temp.{self._keys} AS s"
            f" WHERE s.part = {part} AND {self._value('s', column)}::text IS DISTINCT FROM s.c{column}"
        )

    def insert(self, part: int) -> str:
        """OVERRIDING SYSTEM VALUE: an identity column takes the source's value, not one of its own. The table goes by a
        name of ours: one called `excluded` would be what EXCLUDED means, too.
        """
        names = f" ({quoted_list(self._name(index) for index in self.written)})" if self.written else ""
        values = ", ".join(self._values("s", self.written))
        return (
            f"INSERT INTO {self.target} AS cdc_row{names} OVERRIDING SYSTEM VALUE"
            f" SELECT {values} FROM pg_temp.{self.staging} AS s WHERE {self._of(part)}"
        )

    def upsert(self, part: int) -> str:
        others = [index for index in self.written if index not in self.key]
        sets = ", ".join(f"{quoted(self._name(index))} = EXCLUDED.{quoted(self._name(index))}" for index in others)
        action = f"DO UPDATE SET {sets}" if sets else "DO NOTHING"
        key = quoted_list(self._name(index) for index in self.key)
        return f"{self.insert(part)} ON CONFLICT ({key}) {action}"

    def delete(self, part: int) -> str:
        return (
            f"DELETE FROM {self.rows} AS t USING pg_temp.{self._keys} AS s"
            f" WHERE s.part = {part} AND {self._same_key('s')}"
        )

    def update(self, part: int, present: Iterable[int]) -> str:
        """Rows that are there get the `present` values. The key is set to itself where nothing else is: the row must be
        there all the same.
        """
        columns = [index for index in present if index in self.written and index not in self.key] or list(self.key[:1])
        return (
            f"UPDATE {self.rows} AS t SET {self._sets(columns)} FROM pg_temp.{self.staging} AS s"
            f" WHERE {self._of(part)} AND {self._same_key('s')}"
        )

    def move(self, part: int, old_part: int, present: Iterable[int]) -> str:
        """The row at the key that `copy_keys` staged as `old_part` gets the values staged as `part`, its key too."""
        columns = [index for index in present if index in self.written]
        return (
            f"UPDATE {self.rows} AS t SET {self._sets(columns)}"
            f" FROM pg_temp.{self.staging} AS s, pg_temp.{self._keys} AS o"
            f" WHERE {self._of(part)} AND o.part = {old_part} AND {self._same_key('o')}"
        )

    def remove(self, part: int) -> str:
        """One row for each that is staged: of equal rows, that many. Equal means the same text in every column, NULL
        the same as NULL: `=` would take 1.0 for 1.00, and json has none. A ctid is one within its partition (tableoid).
        """
        staged = f"ROW({', '.join(self._values('s', self.written))})::text"
        present = f"ROW({', '.join(f't.{quoted(self._name(index))}' for index in self.written)})::text"
        return (
            f"WITH wanted AS (SELECT {staged} AS whole, count(*) AS copies FROM pg_temp.{self.staging} AS s"
            f" WHERE {self._of(part)} GROUP BY 1),"
            " found AS (SELECT t.tableoid AS part_of, t.ctid AS place, w.copies,"
            " row_number() OVER (PARTITION BY w.whole) AS nth"
            f" FROM {self.rows} AS t JOIN wanted AS w ON w.whole = {present})"
            f" DELETE FROM {self.rows} AS t USING found AS f"
            " WHERE t.tableoid = f.part_of AND t.ctid = f.place AND f.nth <= f.copies"
        )

    def truncate(self) -> str:
        """All rows go, by DELETE.

        TRUNCATE waits for every reader and makes all others wait behind it, is seen at once by snapshots
        taken before it (they find an empty table, not the old rows), and fails where a foreign key refers to the table,
        even from an empty one. The price is that a huge table takes its time, and a vacuum.
        https://www.postgresql.org/docs/current/mvcc-caveats.html
        """
        return f"DELETE FROM {self.rows}"

    def _of(self, part: int) -> str:
        """Which staged rows `s` are meant."""
        return "true" if self.widest else f"s.part = {part}"

    def _name(self, index: int) -> str:
        return self.names[index]

    def _sets(self, columns: Iterable[int]) -> str:
        return ", ".join(f"{quoted(self._name(index))} = {self._value('s', index)}" for index in columns)

    def _same_key(self, staged: str) -> str:
        return " AND ".join(
            f"t.{quoted(self._name(index))} {self.equal[self._name(index)]} {self._value(staged, index)}"
            for index in self.key
        )

    def _values(self, alias: str, columns: Iterable[int]) -> list[str]:
        return [self._value(alias, index) for index in columns]

    def _value(self, alias: str, index: int) -> str:
        column = f"{alias}.c{index}" if alias else f"c{index}"
        if index in self.verified:
            return f"{column}::{self.types[index]}"
        if self.types[index] == _XML:
            text = f"{column}::text"
            return f"CASE WHEN starts_with({text}, E'\\n') THEN (E'\\n' || {text})::xml ELSE {column} END"
        return column


def own_rows(table: TableId, *, partitioned: bool) -> str:
    """A table as FROM, UPDATE and DELETE name it: with its partitions, without what else inherits it."""
    name = f"{quoted(table.schema)}.{quoted(table.name)}"
    return name if partitioned else f"ONLY {name}"


def _create_temporary(name: str, columns: Sequence[str]) -> str:
    return f"CREATE TEMPORARY TABLE {name} ({', '.join(columns)})"


def empty_staging(stagings: Iterable[str]) -> str:
    """Only those that were used: ON COMMIT DELETE ROWS would empty every one of the session at each commit, which takes
    about 0.5 ms for each.
    """
    return f"TRUNCATE {', '.join(f'pg_temp.{staging}' for staging in stagings)}"
