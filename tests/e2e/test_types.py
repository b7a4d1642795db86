"""Every type, with values at its edges, arrives at every target: exactly, or with an error that says what can't."""

from __future__ import annotations

import math
import re
import sqlite3
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cache
from hashlib import md5
from itertools import count, zip_longest
from pathlib import Path

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from psycopg import sql
from replica import Replica
from target_databases import DuckDB, Flat, MariaDB
from type_cases import CASES, TypeCase
from type_values import values

from cdc.avro.names import schemas_topic
from cdc.core.errors import FidelityError, RecordTooLargeError, SourceError
from cdc.core.log import Log, TopicPartition
from cdc.core.runs import has_runs, one_by_one
from cdc.core.settings import LogSettings
from cdc.embedded import EmbeddedPostgres
from cdc.log.memory import MemoryLog
from cdc.log.open import open_log
from cdc.registry.decoding import Decoding
from cdc.registry.embedded import EmbeddedRegistry
from consumers.wiring import swap_session

Databases = Callable[..., str]
NEWEST = 18
VERSIONS = pytest.mark.parametrize("version", [15, 16, NEWEST])

# Under these, PostgreSQL's text says all of a value.
EXACT = (
    "-c DateStyle=ISO -c TimeZone=UTC -c IntervalStyle=iso_8601 -c bytea_output=hex -c extra_float_digits=1"
    " -c lc_monetary=C -c client_encoding=UTF8 -c xmloption=content -c search_path=public"
    " -c array_nulls=on -c quote_all_identifiers=off -c standard_conforming_strings=on"
)
# What an administrator may have set for everybody: nothing of it may show in what arrives.
ODD = {
    "DateStyle": "German, DMY",
    "TimeZone": "Asia/Kolkata",
    "IntervalStyle": "sql_standard",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "xmloption": "document",
    "search_path": "elsewhere",
    "array_nulls": "off",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "client_encoding": "LATIN1",
}
COLUMNS = ("v", "d", "a", "da", "c", "ca")
LARGEST = 100 << 20


class Database:
    """A PostgreSQL database, under the settings that make its text exact."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True, options=EXACT)

    def close(self) -> None:
        self._connection.close()

    def execute(self, *statements: str) -> None:
        """In one transaction."""
        self._connection.execute(";".join(statements).encode())

    def query(self, statement: str) -> list[tuple[object, ...]]:
        return self._connection.execute(statement.encode()).fetchall()

    def copied(self, query: str) -> list[bytes]:
        with self._connection.cursor().copy(f"COPY ({query}) TO STDOUT".encode()) as copy:
            return b"".join(copy).split(b"\n")[:-1]

    def takes(self, statement: str) -> bool:
        try:
            self.execute(statement)
        except psycopg.Error:
            return False
        return True

    def settings(self, settings: dict[str, str]) -> None:
        """For all sessions to come that don't choose otherwise."""
        (name,) = self.query("SELECT current_database()")[0]
        for key, value in settings.items():
            self.execute(
                f"ALTER DATABASE {name} SET {key} = {value if key in {'DateStyle', 'search_path'} else literal(value)}"
            )

    def make(self, case: TypeCase) -> bool:
        """Make the type and what is made of it. False if this server has no such type."""
        if case.extension and not self.takes(f"CREATE EXTENSION IF NOT EXISTS {case.extension}"):
            return False
        if case.setup:
            self.execute(case.setup)
        if not self.takes(f"SELECT {literal(case.values[0])}::{case.sql}"):
            return False
        self.execute(
            f"CREATE DOMAIN dom_{case.name} AS {case.sql}",
            f"CREATE TYPE comp_{case.name} AS (a {case.sql}, b {case.sql}[])",
        )
        return True


def literal(text: str) -> str:
    return sql.Literal(text).as_string()


@contextmanager
def databases(*urls: str) -> Iterator[list[Database]]:
    opened = [Database(url) for url in urls]
    try:
        yield opened
    finally:
        for each in opened:
            each.close()


class Site:
    """Tables of one type: `t_` with a key beside it; if it is not just modified, also `full_` without key, and `key_`
    with the type as key, if it can be.
    """

    def __init__(self, case: TypeCase, source: Database, version: int) -> None:
        self.case = case
        self._source = source
        self._values = case.values_in(version)
        name, type_ = case.name, case.sql
        source.execute(
            f"CREATE TABLE t_{name} (id integer PRIMARY KEY, v {type_}, d dom_{name}, a {type_}[], da dom_{name}[],"
            f" c comp_{name}, ca comp_{name}[])"
        )
        if not case.modified:
            source.execute(
                f"CREATE TABLE full_{name} (v {type_}, a {type_}[], c comp_{name})",
                f"ALTER TABLE full_{name} REPLICA IDENTITY FULL",
            )
        self.is_key = not case.modified and source.takes(f"CREATE TABLE key_{name} (k {type_} PRIMARY KEY, n integer)")

    @property
    def tables(self) -> list[str]:
        kinds = ["t", *([] if self.case.modified else ["full"]), *(["key"] if self.is_key else [])]
        return [f"{kind}_{self.case.name}" for kind in kinds]

    @property
    def columns(self) -> list[tuple[str, TypeCase | None]]:
        """Those of the first table, with the case of those that are not made of it."""
        return [(name, self.case if name in "vd" else None) for name in COLUMNS]

    def plain(self, name: str, text: object) -> object:
        """A value as it is compared: of several spellings one. `text` is PostgreSQL's or another database's."""
        if text is None or name not in "vdk":
            return text
        assert isinstance(text, str)
        match self.case.stored, self.case.sql:
            case _, "real" | "double precision":
                return repr(float(text))
            case "integer", "boolean":
                return text in {"t", "1"}
            case _, "money":
                return text.replace("$", "").replace(",", "")
            case _, sql_type if sql_type.startswith("time"):
                return re.sub(r"(\.\d*?)0+$", r"\1", text).removesuffix(".")
            case _:
                return text

    def insert(self, first: int) -> list[str]:
        """Statements that insert all values, from that id on."""
        name = self.case.name
        rows, bare, keys = [], [], []
        for index, value in enumerate(self._values):
            v, a, c = self._expressions(index)
            rows.append(
                f"({first + index}, {v}, {v}::dom_{name}, {a}, {a}::dom_{name}[], {c},"
                f" ARRAY[{c}, NULL, ROW(NULL, '{{}}')::comp_{name}])"
            )
            bare.append(f"({v}, {a}, {c})")
            keys.append(f"({literal(value)}::{self.case.sql}, {index})")
        statements = [f"INSERT INTO t_{name} VALUES {', '.join(rows)}"]
        if not self.case.modified:
            statements.append(f"INSERT INTO full_{name} VALUES {', '.join(bare)}")
        if self.is_key:
            statements += [f"INSERT INTO key_{name} VALUES {row} ON CONFLICT DO NOTHING" for row in keys]
        return statements

    def change(self) -> list[str]:
        """Statements that update and delete some rows, and insert all values again."""
        name, count = self.case.name, len(self._values)
        v, a, c = self._expressions(0)

        def some(which: str) -> str:
            return f"ctid = ANY (ARRAY(SELECT ctid FROM full_{name} {which}))"

        statements = [
            *self.insert(1000),
            (
                f"UPDATE t_{name} t SET v = s.v, d = s.d, a = s.a, da = s.da, c = s.c, ca = s.ca FROM t_{name} s"
                f" WHERE s.id = 1000 + (t.id - 999) % {count} AND t.id >= 1000 AND t.id % 3 = 0"
            ),
            f"UPDATE t_{name} SET v = NULL, a = NULL, c = NULL WHERE id % 5 = 4",
            f"DELETE FROM t_{name} WHERE id % 4 = 1",
        ]
        if not self.case.modified:
            statements += [
                f"UPDATE full_{name} SET v = {v}, a = {a}, c = {c} WHERE {some('OFFSET 1 LIMIT 2')}",
                f"DELETE FROM full_{name} WHERE {some(f'OFFSET 2 LIMIT {count // 2}')}",
            ]
        if self.is_key:
            statements += [
                f"DELETE FROM key_{name} WHERE n = 0",
                f"UPDATE key_{name} SET n = n + 1000",
                f"UPDATE key_{name} SET k = {v} WHERE n = (SELECT max(n) FROM key_{name})",
                f"DELETE FROM key_{name} WHERE n % 4 = 2",
            ]
        return statements

    def _expressions(self, index: int) -> tuple[str, str, str]:
        """A value, an array of it in one of all shapes, and a composite of both."""
        name, one, many = self.case.name, self.case.sql, f"{self.case.sql}[]"
        v, u = (f"{literal(self._values[i % len(self._values)])}::{one}" for i in (index, index + 1))
        array = (
            f"ARRAY[{v}, NULL, {u}]::{many}",
            f"ARRAY[[{v}, {u}], [NULL, {v}]]::{many}",
            f"('[0:1]=' || ARRAY[{v}, {u}]::{many}::text)::{many}",
            f"('[-1:0][2:3]=' || ARRAY[[{v}, {u}], [NULL, {v}]]::{many}::text)::{many}",
            f"'{{}}'::{many}",
            f"NULL::{many}",
        )[index % 6]
        return v, array, f"ROW({v}, ARRAY[{u}, NULL, {v}]::{many})::comp_{name}"


def differences(table: str, source: Database, target: Database) -> list[str]:
    """Where the rows differ, byte for byte."""
    wanted, found = (sorted(each.copied(f"SELECT * FROM {table}")) for each in (source, target))
    if wanted == found:
        return []
    missing, extra = [line for line in wanted if line not in found], [line for line in found if line not in wanted]
    return [f"{table}: {missing[:1]!r:.300} came as {extra[:1]!r:.300}"]


def column_types(database: Database, table: str) -> list[tuple[object, ...]]:
    return database.query(
        f"SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
        f" WHERE attrelid = '{table}'::regclass AND attnum > 0 ORDER BY attnum"
    )


def sqlite_differences(
    table: str, columns: Sequence[tuple[str, TypeCase | None]], source: Database, lite: sqlite3.Connection
) -> list[str]:
    """Where SQLite does not hold what `docs/types.md` says. What it should hold is made from PostgreSQL's own text."""
    names = [name for name, _ in columns]
    texts = ", ".join(f"CASE WHEN num_nulls({name}) = 0 THEN format('%s', {name}) END" for name in names)
    wanted = [
        (row[0], *(each for (_, case), text in zip(columns, row[1:], strict=True) for each in stored(case, text)))
        for row in source.query(f"SELECT id, {texts} FROM {table} ORDER BY id")
    ]
    held = ", ".join(f"typeof({name}), {name}" for name in names)
    found = lite.execute(f"SELECT id, {held} FROM {table} ORDER BY id").fetchall()
    if wanted == found:
        return []
    wrong = [(there, came) for there, came in zip_longest(wanted, found) if there != came]
    return [f"SQLite {table}: {wrong[0][0]!r:.400} came as {wrong[0][1]!r:.400}"]


def stored(case: TypeCase | None, text: object) -> tuple[str, object]:
    """What SQLite's typeof and the value should be, of PostgreSQL's text. `case` is None for arrays and composites."""
    if text is None:
        return "null", None
    assert isinstance(text, str)
    match case.stored if case else "text":
        case "integer":
            return "integer", {"t": 1, "f": 0}[text] if case and case.sql == "boolean" else int(text)
        case "real":
            return "real", float(text)
        case "blob":
            return "blob", bytes.fromhex(text.removeprefix(r"\x"))
        case _:
            return "text", text.replace("$", "").replace(",", "") if case and case.sql == "money" else text


# What MariaDB's and DuckDB's own types have no place for: NaN, infinities, years before 1 and after 9999.
ODD_NUMBERS = ("numeric_5_2", "numeric_scale_*")
ODD_TIMES = ("date", "timestamp", "timestamp_?", "timestamptz", "timestamptz_?")
ODD_FLOATS = ("float4", "float8", "float4_odd", "float8_odd")
# More than 768 characters.
LONG_KEYS = ("text", "varchar", "citext", "numeric*", "bytea", "varbit", "bit_quoted")


def as_text(*cases: str) -> tuple[str, ...]:
    return tuple(f"public.*_{case}.?" for case in cases)


def flat_differences(database: Flat, site: Site, source: Database) -> list[str]:
    """Where one without PostgreSQL's types does not hold what `docs/types.md` says."""
    wrong = []
    for table in site.tables:
        key = "id" if table.startswith("t_") else "k" if table.startswith("key_") else None
        if any(fnmatch(table, f"key_{case}") for case in LONG_KEYS) or (database.name == "duckdb" and key != "id"):
            continue
        names = [str(name) for name, _ in column_types(source, table)]
        texts = ", ".join(f"CASE WHEN num_nulls({name}) = 0 THEN format('%s', {name}) END" for name in names)
        wanted = [tuple(map(site.plain, names, row)) for row in source.query(f"SELECT {texts} FROM {table}")]
        found = [
            tuple(map(site.plain, names, map(shown, row)))
            for row in database.execute(f"SELECT {', '.join(names)} FROM {table}")
        ]
        missing = sorted((Counter(wanted) - Counter(found)).elements(), key=repr)
        extra = sorted((Counter(found) - Counter(wanted)).elements(), key=repr)
        if missing or extra:
            wrong.append(f"{database.name} {table}: {missing[:1]!r:.300} came as {extra[:1]!r:.300}")
    return wrong


def shown(value: object) -> str | None:
    match value:
        case None:
            return None
        case bytes():
            return rb"\x".decode() + value.hex()
        case bool():
            return "t" if value else "f"
        case _:
            return str(value)


@VERSIONS
def test_every_type_arrives_everywhere(
    version: int, new_database: Databases, unique_name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Loaded and streamed; as it is, in a domain, an array, a composite; beside a key, without one, and as the key. To
    a PostgreSQL that has the same types, to one that has none of them, and to SQLite; from the newest version also to
    MariaDB and DuckDB.
    """
    flat: list[Flat] = []
    if version == NEWEST:
        flat = [MariaDB(request.getfixturevalue("new_mariadb")()), DuckDB(tmp_path)]
    lite = tmp_path / "lite.db"
    with databases(*(new_database(version=version) for _ in range(3))) as (source, twin, bare):
        for database in (source, twin, bare):
            database.settings(ODD)
        cases = [case for case in CASES if source.make(case)]
        assert [case for case in CASES if twin.make(case)] == cases
        sites = [Site(case, source, version) for case in cases]
        for site in sites:
            source.execute(*site.insert(0))
        replica = Replica(
            source.url,
            {"twin": twin.url, "bare": bare.url, "lite": f"sqlite:///{lite}"} | {each.name: each.url for each in flat},
            name=unique_name,
            log_settings=LogSettings(prefix=unique_name, max_record_bytes=LARGEST),
            options={
                "bare": {"tables": ("*.t_*",)},
                "lite": {"as_text": ("public.t_*_odd.v", "public.t_*_odd.d", "*.full_*_odd.v", "*.key_*_odd.k")},
                "mariadb": {
                    "tables": ("public.*", *(f"!public.key_{case}" for case in LONG_KEYS)),
                    "as_text": as_text(*ODD_NUMBERS, *ODD_TIMES, *ODD_FLOATS),
                },
                "duckdb": {"tables": ("*.t_*",), "as_text": as_text(*ODD_NUMBERS, *ODD_TIMES)},
            },
        )
        with replica, closing(sqlite3.connect(lite)) as connection:
            replica.catch_up()
            for site in sites:
                source.execute(*site.change())
            replica.catch_up()
            wrong = []
            for site in sites:
                for table in site.tables:
                    wrong += differences(table, source, twin)
                    if column_types(source, table) != column_types(twin, table):
                        wrong.append(f"{table}: {column_types(source, table)} came as {column_types(twin, table)}")
                wrong += differences(site.tables[0], source, bare)
                wrong += sqlite_differences(site.tables[0], site.columns, source, connection)
                wrong += [found for each in flat for found in flat_differences(each, site, source)]
        print(wrong)
        assert wrong == []
        print(f"PostgreSQL {version}: {len(cases)} types of {len(CASES)}")


@pytest.mark.parametrize(("from_version", "to_version"), [(18, 15), (15, 18)])
def test_every_type_arrives_in_another_version(
    from_version: int, to_version: int, new_database: Databases, unique_name: str
) -> None:
    """As text, where the target has no such type."""
    with databases(new_database(version=from_version), new_database(version=to_version)) as (source, target):
        cases = [case for case in CASES if not case.modified and case.name != "xml" and source.make(case)]
        known = [case for case in cases if target.make(case)]
        sites = [Site(case, source, min(from_version, to_version)) for case in cases]
        for site in sites:
            source.execute(*site.insert(0))
        with Replica(source.url, {"copy": target.url}, name=unique_name, tables=["public.t_*"]) as replica:
            replica.catch_up()
            for site in sites:
                source.execute(*site.change())
            replica.catch_up()
        tables = [site.tables[0] for site in sites]
        assert [wrong for table in tables for wrong in differences(table, source, target)] == []
        for case, table in zip(cases, tables, strict=True):
            assert (column_types(source, table) == column_types(target, table)) == (case in known)


def test_a_default_of_every_type_reaches_older_rows(new_database: Databases, unique_name: str, tmp_path: Path) -> None:
    """ADD COLUMN … DEFAULT writes no row: what the catalog says of the default must be as exact."""
    lite = tmp_path / "lite.db"
    with databases(new_database(), new_database()) as (source, target):
        for database in (source, target):
            database.settings(ODD)
        cases = [case for case in CASES if not case.modified and source.make(case)]
        for case in cases:
            target.make(case)
            source.execute(
                f"CREATE TABLE t_{case.name} AS SELECT 1 AS id", f"ALTER TABLE t_{case.name} ADD PRIMARY KEY (id)"
            )
        replica = Replica(
            source.url,
            {"copy": target.url, "lite": f"sqlite:///{lite}"},
            name=unique_name,
            options={"lite": {"as_text": ("public.t_*_odd.v",)}},
        )
        with replica, closing(sqlite3.connect(lite)) as connection:
            replica.catch_up()
            for case in cases:
                value = f"{literal(case.values[-1])}::{case.sql}"
                source.execute(
                    f"ALTER TABLE t_{case.name} ADD COLUMN v {case.sql} DEFAULT {value},"
                    f" ADD COLUMN a {case.sql}[] DEFAULT ARRAY[{value}, NULL]::{case.sql}[]",
                    f"INSERT INTO t_{case.name} (id) VALUES (2)",
                )
            replica.catch_up()
            wrong = []
            for case in cases:
                wrong += differences(f"t_{case.name}", source, target)
                wrong += sqlite_differences(f"t_{case.name}", [("v", case), ("a", None)], source, connection)
        assert wrong == []


@VERSIONS
def test_rows_of_a_first_load_that_come_together_are_those_of_their_events(
    version: int, new_database: Databases, unique_name: str
) -> None:
    """An applier reads COPY's text where others read Avro: no type may be spelled in two ways."""
    with databases(new_database(version=version)) as (source,):
        source.settings(ODD)
        cases = [case for case in CASES if source.make(case)]
        sites = [Site(case, source, version) for case in cases]
        for site in sites:
            source.execute(*site.insert(0))
        log = MemoryLog()
        with Replica(source.url, {}, name=unique_name, tables=["public.*"], log=log) as replica:
            replica.capture()
        together = 0
        with (
            closing(log.reader("test")) as reader,
            closing(EmbeddedRegistry(log, None, schemas_topic(unique_name))) as registry,
        ):
            decoding = Decoding(registry)
            for topic in [topic for topic in reader.topics() if ".public." in topic]:
                reader.assign({TopicPartition(topic, 0): 0})
                alone = [event for event in decoding.events(reader.poll(10_000, 0)) if event is not None]
                reader.assign({TopicPartition(topic, 0): 0})
                runs = [event for event in decoding.events(reader.poll_runs(10_000, 0)) if event is not None]
                assert [event.change for event in one_by_one(runs)] == [event.change for event in alone], topic
                together += has_runs(runs)
                reader.unassign([TopicPartition(topic, 0)])
        assert together >= len(sites) // 2


def test_the_longest_numerics_arrive(new_database: Databases, unique_name: str) -> None:
    """Of 131,072 digits before the point, and 16,383 after it."""
    with databases(new_database(), new_database()) as (source, target):
        source.execute("CREATE TABLE numbers (id integer PRIMARY KEY, n numeric)")
        source.execute(
            "INSERT INTO numbers VALUES (1, '-9e131071'), (2, '1e-16383'), (3, repeat('12', 65536)::numeric)"
        )
        with Replica(source.url, {"copy": target.url}, name=unique_name) as replica:
            replica.catch_up()
        assert differences("numbers", source, target) == []


def test_what_the_environment_tells_libpq_changes_nothing(
    new_database: Databases, unique_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with databases(new_database(), new_database()) as (source, target):
        for variable, value in {"PGTZ": "Asia/Kolkata", "PGDATESTYLE": "German", "PGCLIENTENCODING": "LATIN1"}.items():
            monkeypatch.setenv(variable, value)
        source.execute(
            "CREATE TABLE größen (id integer PRIMARY KEY, at timestamptz, ü text)",
            "INSERT INTO größen VALUES (1, '2026-01-31 12:00:00 UTC', 'ü €')",
        )
        with Replica(source.url, {"copy": target.url}, name=unique_name) as replica:
            replica.catch_up()
            source.execute("INSERT INTO größen VALUES (2, '0044-03-15 12:00:00 UTC BC', '€')")
            replica.catch_up()
        assert differences("größen", source, target) == []


# Any table


class Typed:
    """Two databases with the same types, of one version."""

    def __init__(self, source: Database, target: Database, version: int) -> None:
        self.source = source
        self.target = target
        self.version = version
        self.cases = [case for case in CASES if source.make(case)]
        for case in self.cases:
            target.make(case)
        self.numbers = count(1)


@pytest.fixture(scope="module")
def typed(pg_server: Callable[[int], EmbeddedPostgres]) -> Iterator[Callable[[int], Typed]]:
    with ExitStack() as stack:

        @cache
        def of_version(version: int) -> Typed:
            server = pg_server(version)
            names = [f"typed_{uuid.uuid4().hex[:12]}" for _ in range(2)]
            for name in names:
                stack.callback(server.drop_database, name)
            opened = stack.enter_context(databases(*map(server.create_database, names)))
            return Typed(*opened, version)

        yield of_version


@dataclass(frozen=True)
class AnyColumn:
    """`form` is the type itself, or what is made of it."""

    case: TypeCase
    form: str

    @property
    def is_itself(self) -> bool:
        """A domain is what it is over, to whoever does not know it."""
        return self.form in {"plain", "domain"}

    @property
    def is_odd(self) -> bool:
        """Whether SQLite has no such floats."""
        return self.is_itself and self.case.name.endswith("_odd")

    @property
    def type(self) -> str:
        name, type_ = self.case.name, self.case.sql
        return {
            "plain": type_,
            "domain": f"dom_{name}",
            "array": f"{type_}[]",
            "domains": f"dom_{name}[]",
            "composite": f"comp_{name}",
            "composites": f"comp_{name}[]",
        }[self.form]

    def values(self, version: int) -> st.SearchStrategy[str]:
        """SQL expressions."""
        name, type_ = self.case.name, self.case.sql
        one = values(self.case, version).map(lambda text: f"{literal(text)}::{type_}")
        composites = st.builds(lambda a, b: f"ROW({a}, {b})::comp_{name}", one, arrays(one, type_))
        made = {
            "plain": one,
            "domain": one,
            "array": arrays(one, type_),
            "domains": arrays(one.map(lambda value: f"{value}::dom_{name}"), f"dom_{name}"),
            "composite": composites,
            "composites": arrays(composites, f"comp_{name}"),
        }[self.form]
        return st.one_of(st.just("NULL"), made, made, made)


def arrays(items: st.SearchStrategy[str], of: str) -> st.SearchStrategy[str]:
    """Of up to three dimensions, from any lower bound."""

    def shaped(lengths: list[int], bounds: list[int], cells: list[str]) -> str:
        nested = [f"{cell}::{of}" for cell in cells]
        for length in reversed(lengths[1:]):
            nested = [f"ARRAY[{', '.join(nested[i : i + length])}]" for i in range(0, len(nested), length)]
        whole = f"ARRAY[{', '.join(nested)}]::{of}[]"
        if all(bound == 1 for bound in bounds):
            return whole
        prefix = "".join(f"[{low}:{low + length - 1}]" for low, length in zip(bounds, lengths, strict=True))
        return f"('{prefix}=' || {whole}::text)::{of}[]"

    def of_lengths(lengths: list[int]) -> st.SearchStrategy[str]:
        size = math.prod(lengths)
        bounds = st.lists(st.sampled_from([1, 1, 0, -7, 100]), min_size=len(lengths), max_size=len(lengths))
        cells = st.lists(items | st.just("NULL"), min_size=size, max_size=size)
        return st.builds(shaped, st.just(lengths), bounds, cells)

    return st.just(f"'{{}}'::{of}[]") | st.lists(st.integers(1, 2), min_size=1, max_size=3).flatmap(of_lengths)


FORMS = ("plain", "plain", "domain", "array", "domains", "composite", "composites")


@VERSIONS
@settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # each example is slow: shrinking would take minutes
)
@given(data=st.data())
def test_any_table_arrives(
    version: int, typed: Callable[[int], Typed], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    site = typed(version)
    source, target = site.source, site.target
    number = next(site.numbers)
    table = f"any_{number}"
    any_column = st.builds(AnyColumn, st.sampled_from(site.cases), st.sampled_from(FORMS))
    columns = data.draw(st.lists(any_column, min_size=1, max_size=6))
    rows = st.tuples(*(column.values(version) for column in columns)).map(", ".join)
    keyed = data.draw(st.booleans())
    full = not keyed or data.draw(st.booleans())
    source.execute(
        f"CREATE TABLE {table} (id integer{' PRIMARY KEY' if keyed else ''}, {declarations(columns)})",
        f"ALTER TABLE {table} REPLICA IDENTITY {'FULL' if full else 'DEFAULT'}",
    )
    lite = tmp_path_factory.mktemp("lite") / "lite.db"
    changes = any_change(table, rows, len(columns))
    replica = Replica(
        source.url,
        {"copy": target.url, "lite": f"sqlite:///{lite}"},
        name=f"any_{version}_{number}",
        tables=[f"public.{table}"],
        options={"lite": {"as_text": [f"public.{table}.c{i}" for i, column in enumerate(columns) if column.is_odd]}},
    )
    try:
        source.execute(*(insertion(table, row) for row in data.draw(st.lists(rows, max_size=3))))
        with replica:
            replica.catch_up()
            for transaction in data.draw(st.lists(st.lists(changes, min_size=1, max_size=4), min_size=1, max_size=3)):
                source.execute(*transaction)
            source.execute(insertion(table, ", ".join(["NULL"] * len(columns))))  # a table comes with its first event
            replica.catch_up()
        assert differences(table, source, target) == []
        assert column_types(source, table) == column_types(target, table)
        held = [(f"c{i}", column.case if column.is_itself else None) for i, column in enumerate(columns)]
        with closing(sqlite3.connect(lite)) as connection:
            assert sqlite_differences(table, held, source, connection) == []
    finally:
        source.execute(f"DROP TABLE {table}")
        target.execute(f"DROP TABLE IF EXISTS {table}")


def declarations(columns: Sequence[AnyColumn]) -> str:
    return ", ".join(f"c{index} {column.type}" for index, column in enumerate(columns))


def insertion(table: str, row: str) -> str:
    return f"INSERT INTO {table} SELECT coalesce(max(id), 0) + 1, {row} FROM {table}"


def any_change(table: str, rows: st.SearchStrategy[str], columns: int) -> st.SearchStrategy[str]:
    ids = st.integers(1, 6)
    names = ", ".join(f"c{index}" for index in range(columns))
    return st.one_of(
        rows.map(lambda row: insertion(table, row)),
        st.builds(lambda row, i: f"UPDATE {table} SET ({names}) = ROW({row}) WHERE id = {i}", rows, ids),
        st.builds(lambda i: f"UPDATE {table} SET id = (SELECT max(id) + 1 FROM {table}) WHERE id = {i}", ids),
        st.builds(lambda i: f"DELETE FROM {table} WHERE id = {i}", ids),
    )


# A type that comes while the pipeline runs


def test_types_that_are_made_while_the_pipeline_runs(new_database: Databases, unique_name: str, tmp_path: Path) -> None:
    lite = tmp_path / "lite.db"
    with databases(*(new_database() for _ in range(3))) as (source, twin, bare):
        source.execute(
            f"CREATE PUBLICATION {unique_name} FOR ALL TABLES WITH (publish_via_partition_root)",
            "CREATE TABLE old (id integer PRIMARY KEY)",
        )
        targets = {"twin": twin.url, "bare": bare.url, "lite": f"sqlite:///{lite}"}
        with Replica(source.url, targets, name=unique_name) as replica:
            replica.catch_up()
            for database in (source, twin):
                database.execute(
                    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
                    "CREATE TYPE pair AS (n integer, t text)",
                    "CREATE DOMAIN amount AS numeric(10,2)",
                    "CREATE SCHEMA app",
                    "CREATE TYPE app.json AS (n integer, j json)",  # called like another
                )
            source.execute(
                "CREATE TABLE new (id integer PRIMARY KEY, m mood, ms mood[], p pair, a amount, j app.json)",
                """INSERT INTO new VALUES (1, 'sad', '{ok,NULL}', '(1,"a b")', 1.5, '(1,"{}")')""",
            )
            replica.catch_up()
            for database in (source, twin):
                database.execute("ALTER TYPE mood ADD VALUE 'very happy' AFTER 'ok'")
            source.execute("INSERT INTO new VALUES (2, 'very happy', ARRAY['very happy'::mood], NULL, NULL, NULL)")
            replica.catch_up()
        assert differences("new", source, twin) == []
        assert differences("new", source, bare) == []
        assert column_types(source, "new") == column_types(twin, "new")
        assert [type_ for _, type_ in column_types(bare, "new")] == [
            "integer", "text", "text[]", "text", "numeric(10,2)", "text",
        ]  # fmt: skip
        with closing(sqlite3.connect(lite)) as connection:
            assert connection.execute("SELECT * FROM new ORDER BY id").fetchall() == [
                (1, "sad", "{ok,NULL}", '(1,"a b")', "1.50", "(1,{})"),
                (2, "very happy", '{"very happy"}', None, None, None),
            ]


def test_a_label_that_the_target_lacks_is_an_error_that_says_so(new_database: Databases, unique_name: str) -> None:
    with databases(new_database(), new_database()) as (source, target):
        for database in (source, target):
            database.execute("CREATE TYPE mood AS ENUM ('sad')")
        source.execute("CREATE TABLE people (id integer PRIMARY KEY, m mood)", "INSERT INTO people VALUES (1, 'sad')")
        with Replica(source.url, {"copy": target.url}, name=unique_name) as replica:
            replica.catch_up()
            source.execute("ALTER TYPE mood ADD VALUE 'ok'")
            source.execute("INSERT INTO people VALUES (2, 'ok')")
            with pytest.raises(FidelityError, match=r"table public\.people, column m:") as raised:
                replica.catch_up()
            assert "ALTER TYPE mood ADD VALUE" in str(raised.value.mend)
            target.execute("ALTER TYPE mood ADD VALUE 'ok'")
            replica.reopen()
            replica.catch_up()
        assert differences("people", source, target) == []


# What a target has no place for


@pytest.mark.parametrize("value", ["NaN", "-0"])
def test_a_float_that_sqlite_has_not_stops_there_and_as_text_mends_it(
    value: str, new_database: Databases, unique_name: str, tmp_path: Path
) -> None:
    path = tmp_path / "lite.db"
    log_settings = LogSettings(url=f"sqlite:///{tmp_path}/log.db", prefix=unique_name)
    with (
        databases(new_database()) as (source,),
        closing(sqlite3.connect(path)) as lite,
        open_log(log_settings) as log,
    ):
        source.execute(
            "CREATE TABLE readings (id integer PRIMARY KEY, value real)", "INSERT INTO readings VALUES (1, 1)"
        )
        with Replica(
            source.url, {"lite": f"sqlite:///{path}"}, name=unique_name, log=log, log_settings=log_settings
        ) as replica:
            replica.catch_up()
            source.execute(f"INSERT INTO readings VALUES (2, 2), (3, '{value}')")
            replica.capture()
            with pytest.raises(FidelityError, match=r"table public\.readings, column value: .* real: ") as raised:
                replica.apply("lite")
            mend = str(raised.value.mend)
            assert "add 'public.readings.value' to the target's as_text" in mend
            assert "cdc rebuild" in mend
            assert "--leave-behind" in mend
            assert lite.execute("SELECT * FROM readings").fetchall() == [(1, 1.0)]
            replica.set_options("lite", as_text=("public.readings.value",))
            with swap_session(replica.settings, f"{unique_name}_lite", lambda _: None, leave_behind=True) as swap:
                assert swap.run(lambda: False)
        assert lite.execute("SELECT * FROM readings ORDER BY id").fetchall() == [(1, "1"), (2, "2"), (3, value)]


@pytest.fixture
def in_encoding(pg_server: Callable[[int], EmbeddedPostgres]) -> Iterator[Callable[[str], str]]:
    """`in_encoding("LATIN1")`: the URL of an empty database in that encoding."""
    server, made = pg_server(18), []

    def database(encoding: str) -> str:
        name = f"t_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(server.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0".encode())
        made.append(name)
        return server.url(name)

    yield database
    for name in made:
        server.drop_database(name)


def test_texts_of_another_encoding_arrive(
    in_encoding: Callable[[str], str], new_database: Databases, unique_name: str
) -> None:
    with databases(in_encoding("LATIN1"), new_database()) as (source, target):
        source.execute("CREATE TABLE größen (id integer PRIMARY KEY, ü text)", "INSERT INTO größen VALUES (1, 'äöü')")
        with Replica(source.url, {"copy": target.url}, name=unique_name) as replica:
            replica.catch_up()
            source.execute("INSERT INTO größen VALUES (2, 'éß¿')")
            replica.catch_up()
        assert differences("größen", source, target) == []


def test_schema_changes_with_names_in_another_encoding_are_followed(
    in_encoding: Callable[[str], str], new_database: Databases, unique_name: str
) -> None:
    with databases(in_encoding("LATIN1"), new_database()) as (source, target):
        source.execute("CREATE TABLE items (id integer PRIMARY KEY)")
        with Replica(source.url, {"copy": target.url}, name=unique_name) as replica:
            replica.catch_up()
            source.execute(
                "CREATE TABLE größen AS SELECT 1 AS id, 'äöü'::text AS ü", "ALTER TABLE größen ADD PRIMARY KEY (id)"
            )
            replica.catch_up()
        assert differences("größen", source, target) == []


def test_a_text_that_the_targets_encoding_has_not_is_an_error(
    in_encoding: Callable[[str], str], new_database: Databases, unique_name: str
) -> None:
    with databases(new_database(), in_encoding("LATIN1")) as (source, target):
        source.execute("CREATE TABLE prices (id integer PRIMARY KEY, t text)", "INSERT INTO prices VALUES (1, '10 €')")
        with (
            Replica(source.url, {"copy": target.url}, name=unique_name) as replica,
            pytest.raises(FidelityError, match=r"table public\.prices: untranslatable character") as raised,
        ):
            replica.catch_up()
        assert "ENCODING 'UTF8'" in str(raised.value.mend)
        assert target.query("SELECT * FROM prices") == []


def test_bytes_that_are_no_text_are_an_error(in_encoding: Callable[[str], str], unique_name: str) -> None:
    """A database in SQL_ASCII takes anything for text; PostgreSQL itself refuses to send it."""
    with databases(in_encoding("SQL_ASCII")) as (source,):
        source.execute("CREATE TABLE texts (id integer PRIMARY KEY, t text)")
        with Replica(source.url, {}, name=unique_name) as replica:
            replica.capture()
            source.execute(r"INSERT INTO texts VALUES (1, E'\xff')")
            for where in ("reading the replication stream", "reading public.texts"):
                with pytest.raises(SourceError, match=f"{where}: invalid byte sequence") as raised:
                    replica.capture()
                assert "convert_from" in str(raised.value.mend)
                replica.drop()
                replica.reopen(MemoryLog())  # the next is a first load


# Sizes

LARGE = 20_000_000


def at_url(url: str, prefix: str, limit: int) -> LogSettings:
    return LogSettings(url=url, prefix=prefix, max_record_bytes=limit)


@pytest.fixture(params=["local log", "Kafka"])
def log_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "Kafka":
        return f"kafka://{request.getfixturevalue('kafka')}"
    return f"sqlite:///{tmp_path / 'log.db'}"


def test_values_of_20_megabytes_arrive(log_url: str, new_database: Databases, unique_name: str, tmp_path: Path) -> None:
    lite = tmp_path / "lite.db"
    settings = at_url(log_url, unique_name, LARGE + 1000)
    text, data = "repeat(md5('t'), 625000)", "decode(repeat(md5('b'), 1250000), 'hex')"
    with databases(new_database(), new_database()) as (source, target):
        source.execute(
            "CREATE TABLE large (id integer PRIMARY KEY, t text STORAGE EXTERNAL, b bytea STORAGE EXTERNAL)",
            f"INSERT INTO large VALUES (1, {text}, '')",
        )
        targets = {"copy": target.url, "lite": f"sqlite:///{lite}"}
        with Replica(source.url, targets, name=unique_name, log=open_log(settings), log_settings=settings) as replica:
            replica.catch_up()
            source.execute(f"INSERT INTO large VALUES (2, '', {data})")
            replica.catch_up()
        digests = "SELECT id, length(t), md5(t), length(b), md5(b) FROM large ORDER BY id"
        wanted = source.query(digests)
        assert [row[1:4:2] for row in wanted] == [(LARGE, 0), (0, LARGE)]
        assert target.query(digests) == wanted
        with closing(sqlite3.connect(lite)) as connection:
            held = connection.execute("SELECT id, CAST(t AS BLOB), b FROM large ORDER BY id").fetchall()
        assert [(i, len(t), md5(t).hexdigest(), len(b), md5(b).hexdigest()) for i, t, b in held] == wanted


def test_a_value_above_the_limit_stops_capture_there(log_url: str, new_database: Databases, unique_name: str) -> None:
    settings = at_url(log_url, unique_name, 50_000)
    topic = f"{unique_name}.public.documents"
    insert = "INSERT INTO documents VALUES ({}, 'title', decode(repeat('ab', {}), 'hex'))"
    with databases(new_database(), new_database()) as (source, target):
        source.execute("CREATE TABLE documents (id integer PRIMARY KEY, title text, body bytea)", insert.format(1, 10))
        log = open_log(settings)
        with Replica(source.url, {"copy": target.url}, name=unique_name, log=log, log_settings=settings) as replica:
            replica.capture()
            source.execute(insert.format(2, 60_000))
            source.execute(insert.format(3, 10))
            with pytest.raises(RecordTooLargeError) as raised:
                replica.capture()
            said = str(raised.value)
            assert "table public.documents, column body" in said
            assert "60,000 of them" in said
            assert "[log] max_record_bytes (50,000)" in said
            assert "[log] max_record_bytes" in str(raised.value.mend)
            assert held(log, topic) == 1
            # With room for it, all goes on from there.
            settings = at_url(log_url, unique_name, 100_000)
            allow_larger_messages(settings, topic)
            replica.reopen(open_log(settings), settings)
            replica.catch_up()
            assert held(log, topic) == 3
        assert differences("documents", source, target) == []


def held(log: Log, topic: str) -> int:
    with closing(log.reader("test")) as reader:
        return reader.offsets(TopicPartition(topic, 0)).next


def allow_larger_messages(settings: LogSettings, topic: str) -> None:
    """What the error says to do, where the log is Kafka."""
    if settings.url.startswith("kafka"):
        servers = settings.url.partition("://")[2]
        entry = ConfigEntry("max.message.bytes", "110000", incremental_operation=AlterConfigOpType.SET)
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
        admin = AdminClient({"bootstrap.servers": servers})
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()
