"""`cdc.toml` as settings, and every way it can be wrong, with the line that says so.

In the bad documents the wrong line is the one marked with `# HERE`.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import re
import tomllib
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cdc.core.config import parse_settings
from cdc.core.config_template import TEMPLATE
from cdc.core.errors import ConfigError
from cdc.core.position import Position
from cdc.core.settings import LogSettings, RegistrySettings, Settings, SourceSettings, TargetSettings
from cdc.core.toml.lines import Path, key_lines
from cdc.core.toml.variables import expand
from cdc.core.urls import percent_encode, redact

CONNECTORS = """\
[log]
written_by = "debezium"
[registry]
url = "http://r:8081"
"""
SOURCE = """\
[source]
url = "postgresql://cdc@db/shop"
tables = ["public.*"]
"""
SECRET = "p@ss/w:rd#1%"


def error_of(text: str, **environ: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        parse_settings(text, environ)
    return caught.value


# What is said


def test_defaults() -> None:
    assert parse_settings(SOURCE, {}) == Settings(
        source=SourceSettings(url="postgresql://cdc@db/shop", tables=("public.*",), slot="cdc", publication="cdc"),
        log=LogSettings(url="sqlite:///cdc-log.db"),
        registry=RegistrySettings(url=None),
        targets={},
    )


def test_every_key() -> None:
    text = """
        [source]
        url = "postgres://cdc@db1,db2:5433/shop?sslmode=verify-full"
        capture = "logical"
        tables = ["public.*", "!public.audit_*"]
        slot = "shop_1"
        publication = "Shop"
        [log]
        url = "kafka://b1:9092,b2:9092"
        prefix = "shop.v1"
        partitions = 4
        replication_factor = 3
        retention = "7d"
        max_record_bytes = 2_000_000
        [log.topics]
        public.orders = "public.sales"
        '"a.b"."c d"' = "a.b.c-d"
        [log.options]
        "sasl.username" = "cdc"
        security.protocol = "SASL_SSL"
        socket.timeout.ms = 1000
        enable.ssl.certificate.verification = true
        [registry]
        url = "https://registry:8081"
        options = { "basic.auth.user.info" = "me:pw" }
        [targets.ware-house_1]
        url = "mysql://cdc@dw/shop"
        tables = ["public.orders"]
        consistency = "key"
        batch_events = 5
        as_text = ["public.*.value"]
        start = "latest"
        exclude_columns = ["public.*.notes"]
        mask_key = "sixteen letters!"
        [targets.ware-house_1.rename]
        "public.*" = "shop.*"
        [targets.ware-house_1.mask]
        public.users.email = "hash"
        "public.*.phone" = "null"
    """

    assert parse_settings(text, {}) == Settings(
        source=SourceSettings(
            url="postgres://cdc@db1,db2:5433/shop?sslmode=verify-full",
            tables=("public.*", "!public.audit_*"),
            slot="shop_1",
            publication="Shop",
        ),
        log=LogSettings(
            url="kafka://b1:9092,b2:9092",
            prefix="shop.v1",
            partitions=4,
            replication_factor=3,
            retention_hours=7 * 24,
            max_record_bytes=2_000_000,
            topics={"public.orders": "public.sales", '"a.b"."c d"': "a.b.c-d"},
            options={
                "sasl.username": "cdc",
                "security.protocol": "SASL_SSL",
                "socket.timeout.ms": "1000",
                "enable.ssl.certificate.verification": "true",
            },
        ),
        registry=RegistrySettings(url="https://registry:8081", options={"basic.auth.user.info": "me:pw"}),
        targets={
            "ware-house_1": TargetSettings(
                name="ware-house_1",
                url="mysql://cdc@dw/shop",
                tables=("public.orders",),
                consistency="key",
                batch_events=5,
                as_text=("public.*.value",),
                start="latest",
                rename={"public.*": "shop.*"},
                exclude_columns=("public.*.notes",),
                mask={"public.users.email": "hash", "public.*.phone": "null"},
                mask_key="sixteen letters!",
            )
        },
    )


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("7d", 168), ("forever", 0)])
def test_retention(text: str, hours: int) -> None:
    assert parse_settings(f'{SOURCE}[log]\nretention = "{text}"', {}).log.retention_hours == hours


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ('"earliest"', "earliest"),
        ('"16/B374D848"', Position(0, 0x16B374D848, 0)),
        ('"2:16/B374D848:7"', Position(2, 0x16B374D848, 7)),
        ('"2026-01-31T12:00:00+01:00"', dt.datetime(2026, 1, 31, 11, tzinfo=dt.UTC)),
        ("2026-01-31T11:00:00Z", dt.datetime(2026, 1, 31, 11, tzinfo=dt.UTC)),
    ],
)
def test_start(text: str, start: object) -> None:
    assert parse_settings(f'{SOURCE}[targets.a]\nurl = "x://y"\nstart = {text}', {}).targets["a"].start == start


@pytest.mark.parametrize(
    "url", ["postgresql:///shop", "postgresql:///shop?host=/run/postgresql", "postgresql://%2Frun/d"]
)
def test_a_source_on_a_socket(url: str) -> None:
    assert parse_settings(f'[source]\nurl = "{url}"\ntables = ["*.*"]', {}).source.url == url


def test_windows_line_ends_and_byte_order_mark() -> None:
    assert parse_settings("\ufeff" + SOURCE.replace("\n", "\r\n"), {}) == parse_settings(SOURCE, {})


# The template of `cdc init`

TEMPLATE_VARIABLES = dict.fromkeys(re.findall(r"\$\{(\w+)\}", TEMPLATE), "secret of 16 letters")


def test_template_is_a_configuration() -> None:
    assert parse_settings(TEMPLATE, TEMPLATE_VARIABLES).targets


def test_template_shows_every_key_and_the_defaults() -> None:
    """With every comment taken away that stands before a key, it says the same but for examples without a default."""
    whole = re.sub(r"^# (?=[a-z_]+ = )", "", TEMPLATE, flags=re.MULTILINE)
    template, shown = (parse_settings(text, TEMPLATE_VARIABLES) for text in (TEMPLATE, whole))
    ours = dataclasses.replace(shown.log, options={}, topics={})

    bare = {"rename": {}, "mask": {}, "mask_key": None}
    targets = {name: dataclasses.replace(target, **bare) for name, target in shown.targets.items()}

    assert (shown.source, ours, targets) == (template.source, template.log, template.targets)
    assert shown.registry.url is not None
    document = tomllib.loads(whole)
    for table, settings in [
        (document["source"], shown.source),
        (document["log"], shown.log),
        (document["registry"], shown.registry),
        (next(iter(document["targets"].values())), next(iter(shown.targets.values()))),
    ]:
        assert {each.name for each in dataclasses.fields(settings)} - {"name"} == {
            {"retention": "retention_hours"}.get(key, key) for key in table
        }


# Variables


def test_variables_in_any_value() -> None:
    text = """
        [source]
        url = "${DATABASE_URL}"
        tables = ["${SCHEMA}.*"]
        [log]
        prefix = "${A}-${B}"
        partitions = "${PARTITIONS}"
        options = { "sasl.password" = "$${A}$${${A}$A" }
    """
    environ = {"DATABASE_URL": "postgresql://u:p%40@h/d", "SCHEMA": "shop", "A": "${B}", "B": "x", "PARTITIONS": "12"}

    settings = parse_settings(text, environ | {"A": "y"})

    assert settings.source.url == "postgresql://u:p%40@h/d"  # a whole URL is taken as it is
    assert settings.source.tables == ("shop.*",)
    assert (settings.log.prefix, settings.log.partitions) == ("y-x", 12)
    assert settings.log.options == {"sasl.password": "${A}${y$A"}


def test_a_variables_value_is_not_expanded_again() -> None:
    assert expand("${A}", {"A": "${B}$${B}", "B": "x"}) == "${B}$${B}"


@given(st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=["Cs"]), min_size=1))
def test_a_password_in_a_url_is_the_variables_value_whatever_is_in_it(password: str) -> None:
    parts = urlsplit(expand("postgresql://cdc:${P}@db:5432/${D}", {"P": password, "D": "a/b"}))

    assert (parts.hostname, parts.port, parts.path) == ("db", 5432, "/a/b")
    assert parts.password == percent_encode(password)


def test_one_variable_may_hold_user_and_password() -> None:
    assert expand("postgresql://${WHO}@db/x", {"WHO": "me:p@ss"}) == "postgresql://me:p%40ss@db/x"


def test_unset_variable_names_variable_key_and_line() -> None:
    error = error_of('[source]\nurl = "postgresql://db/x"\ntables = [\n "a.*",\n "${NOT_SET}.*",\n]')

    assert str(error).startswith("cdc.toml:5: [source] tables: the environment variable NOT_SET is not set")


def test_a_log_that_a_connector_writes_has_no_source() -> None:
    settings = parse_settings('[log]\nwritten_by = "debezium"\n[registry]\nurl = "http://r:8081"', {})

    assert (settings.source, settings.log.written_by) == (None, "debezium")
    with pytest.raises(ConfigError, match="a Debezium connector captures"):
        settings.captured()


@pytest.mark.parametrize("text", ["${", "${}", "${A-B}", "${1}", "${A:-default}", "${A"])
def test_a_malformed_variable(text: str) -> None:
    with pytest.raises(ConfigError, match="not followed by a variable's name"):
        expand(text, {"A": "x", "B": "x"})


def test_a_password_with_a_line_break_is_refused() -> None:
    error = error_of(f'{SOURCE}[targets.t]\nurl = "postgresql://u:${{P}}@h/d"', P=f"{SECRET}\n")

    assert "cdc.toml:5: [targets.t] url: the environment variable P holds a line break" in str(error)
    assert SECRET not in str(error)


# What is wrong, and where

BAD_LINES: dict[str, tuple[str, str]] = {
    "unknown table": (f"{SOURCE}\n[sources] # HERE\n", "unknown key 'sources' (did you mean 'source'?)"),
    "unknown table of targets": (f'{SOURCE}\n[target.a] # HERE\nurl = "x://y"', "did you mean 'targets'?"),
    "unknown key at the top": (f"x = 1 # HERE\n{SOURCE}", "unknown key 'x' (known are log, registry, source, targets)"),
    "unknown key": (f'{SOURCE}\ntabels = ["*.*"] # HERE', "unknown key 'tabels' in [source] (did you mean 'tables'?)"),
    "unknown key, quoted": (f'{SOURCE}\n"tab.les" = 1 # HERE', "unknown key 'tab.les' in [source]"),
    "unknown key of a target": (f'{SOURCE}[targets.a]\nurl = "x://y"\nprefix = "" # HERE', "unknown key 'prefix'"),
    "no source": ("[log] # HERE", "[source] is missing"),
    "a source of a connector": (
        '[log]\nwritten_by = "debezium"\n[source] # HERE\n[registry]\nurl = "http://r:8081"',
        "[source] is the connector's, not ours (leave it out)",
    ),
    "a connector without a registry": (
        '[log]\nwritten_by = "debezium" # HERE',
        "[registry] url is missing: the connector's schemas are in a registry (write http://host:8081",
    ),
    "written by whom": (f'{SOURCE}\n[log]\nwritten_by = "nobody" # HERE', "[log] written_by: is not allowed"),
    "source is no table": ("source = 1 # HERE", "source is not a table"),
    "source without url": ('\n[source] # HERE\ntables = ["*.*"]', "[source] url is missing"),
    "source without tables": ('\n[source] # HERE\nurl = "postgresql://h"', "[source] tables is missing"),
    "target without url": (f"{SOURCE}\n[targets.a] # HERE", "[targets.a] url is missing"),
    "targets without a name": (f'{SOURCE}\n[targets]\nurl = "x://y" # HERE', "targets.url is not a table"),
    "targets is no table": (f"targets = 1 # HERE\n{SOURCE}", "targets is not a table (write [targets.NAME])"),
    "target's name": (f'{SOURCE}\n[targets."a b"] # HERE\nurl = "x://y"', "'a b' is no name for a target"),
    "target is the source": (
        f'{SOURCE}\n[targets.a]\nurl = "postgres://cdc@db/shop" # HERE',
        "[targets.a] url: is the source",
    ),
    "transactions of a connector": (
        f'{CONNECTORS}[targets]\na = {{ url = "x://y", consistency = "transaction" }} # HERE',
        "[targets.a] consistency: a connector's topics don't say which transactions are whole (write \"key\")",
    ),
    "retention of two kinds": (f'{SOURCE}\n[log]\nretention = "1d12h" # HERE', "retention: is no retention"),
    "retention of nothing": (f'{SOURCE}\n[log]\nretention = "0d" # HERE', "retention: is no retention"),
    "retention as a number": (f"{SOURCE}\n[log]\nretention = 7 # HERE", "retention: is no retention"),
    "no partition": (f"{SOURCE}\n[log]\npartitions = 0 # HERE", "partitions: is out of range (from 1 to"),
    "no replica": (f"{SOURCE}\n[log]\nreplication_factor = -1 # HERE", "replication_factor: is out of range"),
    "huge record": (f"{SOURCE}\n[log]\nmax_record_bytes = 1_000_000_001 # HERE", "max_record_bytes: is out of range"),
    "boolean number": (f"{SOURCE}\n[log]\npartitions = true # HERE", "should be a whole number, not a boolean"),
    "fraction": (f"{SOURCE}\n[log]\npartitions = 1.5 # HERE", "should be a whole number, not a number"),
    "number in words": (f'{SOURCE}\n[log]\npartitions = "four" # HERE', "should be a whole number, not a text"),
    "as_text": (
        f'{SOURCE}\n[targets.a]\nurl = "x://y"\nas_text = ["public.t"] # HERE',
        "as_text: the pattern 'public.t'",
    ),
    "start": (f'{SOURCE}\n[targets.a]\nurl = "x://y"\nstart = "newest" # HERE', "start: is no place in a log"),
    "start at a time of nowhere": (
        f'{SOURCE}\n[targets.a]\nurl = "x://y"\nstart = 2026-01-31T12:00:00 # HERE',
        "start: is no place in a log",
    ),
    "rename": (
        f'{SOURCE}\n[targets.a]\nurl = "x://y"\n[targets.a.rename]\n"public.a" = "shop.*" # HERE',
        "'shop.*' has not as many * as 'public.a'",
    ),
    "mask": (
        f'{SOURCE}\n[targets.a]\nurl = "x://y"\n[targets.a.mask]\n"public.a" = "null" # HERE',
        "mask: the pattern 'public.a' names no column",
    ),
    "no mask_key": (
        f'{SOURCE}\n[targets.a]\nurl = "x://y"\nmask = {{ "public.a.b" = "hash" }} # HERE',
        "mask_key is missing",
    ),
    "mask_key": (f'{SOURCE}\n[targets.a]\nurl = "x://y"\nmask_key = "short" # HERE', "mask_key: is too short"),
    "empty batch": (f'{SOURCE}\n[targets.a]\nurl = "x://y"\nbatch_events = 0 # HERE', "batch_events: is out of range"),
    "prefix": (f'{SOURCE}\n[log]\nprefix = "a b" # HERE', "[log] prefix: is not allowed (up to 100 letters"),
    "empty prefix": (f'{SOURCE}\n[log]\nprefix = "" # HERE', "[log] prefix: should be text, not empty"),
    "log's url": (f'{SOURCE}\n[log]\nurl = "cdc-log.db" # HERE', "[log] url: this is not a URL"),
    "log's file": (f'{SOURCE}\n[log]\nurl = "sqlite://cdc-log.db" # HERE', "[log] url: the URL names no file"),
    "log's port": (f'{SOURCE}\n[log]\nurl = "kafka://b:9092,c:kafka" # HERE', "[log] url: the URL has a port"),
    "option": (f"{SOURCE}\n[log.options]\na.b = 1\na.c = [1] # HERE", "c should be a text, a number or a boolean"),
    "option given twice": (f'{SOURCE}\n[log.options]\n"a.b" = 1\na.b = 2 # HERE', "options: a.b is given twice"),
    "options are no table": (f"{SOURCE}\n[registry]\noptions = 1 # HERE", "options: should be a table, not a number"),
    "topic without schema": (f'{SOURCE}\n[log.topics]\n"public.a" = "message" # HERE', "is no topic's name (write"),
    "topic of no pattern": (f'{SOURCE}\n[log.topics]\n"a" = "public.a" # HERE', "the pattern 'a' names no schema"),
    "registry's scheme": (f'{SOURCE}\n[registry]\nurl = "kafka://r" # HERE', "the URL starts with kafka://"),
    "registry's host": (f'{SOURCE}\n[registry]\nurl = "http:///x" # HERE', "the URL names no host"),
}
BAD_SOURCE_LINES = {
    "source's scheme": ('url = "mysql://h/d"', "the URL starts with mysql:// (It has to start with postgresql://"),
    "source's driver": ('url = "postgresql+psycopg2://h/d"', "the URL starts with postgresql+psycopg2://"),
    "source's url is a number": ("url = 1", "url: should be text, not a number"),
    "source's url is a date": ("url = 2026-01-31", "url: should be text, not a date or time"),
    "source's url is empty": ('url = ""', "url: should be text, not empty"),
    "source's url is a DSN": ('url = "host=h password=x"', "this is not a URL"),
    "source's port": ('url = "postgresql://h:x/d"', "a port that is not a number from 1 to 65535"),
    "source's port is high": ('url = "postgresql://h:65536/d"', "a port that is not a number from 1 to 65535"),
    "source's password": ('url = "postgresql://u:p@ss@h/d"', "malformed before or in the host (Percent-encode"),
    "source's parameter": ('url = "postgresql://h/d?password=5%"', "a % that encodes nothing"),
    "trigger capture": ('capture = "trigger"', "trigger capture is not available in this version"),
    "capture": ('capture = "logicl"', 'capture: is not allowed (write "logical")'),
    "capture is a list": ('capture = ["logical"]', "capture: should be text, not a list"),
    "slot": ('slot = "Cdc"', "slot: is not allowed (up to 63 of a-z, 0-9 and _)"),
    "long slot": (f'slot = "{"a" * 64}"', "slot: is not allowed"),
    "long publication": (f'publication = "{"é" * 32}"', "publication: is no name for PostgreSQL"),
    "tables is a text": ('tables = "*.*"', "tables: should be a list of patterns, not a text"),
    "tables is empty": ("tables = []", "tables: no pattern says which tables"),
    "tables exclude only": ('tables = ["!a.*"]', "tables: the patterns exclude tables, but include none"),
    "pattern": ('tables = ["orders"]', "names no schema (Write 'public.orders'"),
    "pattern is a number": ("tables = [1]", "tables: should be text, not a number"),
    "pattern twice": ('tables = ["a.*", "b.*", "a.*"]', "the pattern 'a.*' stands there twice"),
    "empty pattern": ('tables = [""]', "tables: should be text, not empty"),
}
for _name, (_line, _what) in BAD_SOURCE_LINES.items():
    _others = {"url": 'url = "postgresql://h/d"', "tables": 'tables = ["*.*"]'}
    _others.pop(_line.partition(" ")[0], None)
    BAD_LINES[_name] = ("\n".join(["# " * 3, "[source]", *_others.values(), "", f"{_line} # HERE"]), _what)


@pytest.mark.parametrize(("text", "what"), BAD_LINES.values(), ids=BAD_LINES.keys())
def test_bad_line(text: str, what: str) -> None:
    line = next(number for number, each in enumerate(text.split("\n"), 1) if "# HERE" in each)

    error = error_of(text)

    assert str(error).startswith(f"cdc.toml:{line}: ")
    assert what in str(error)
    assert "\n" not in str(error)
    assert error.mend
    assert error.exit_code == 2


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("[source]\nurl = postgresql://h", "cdc.toml:2: not TOML: "),
        ('[source]\nurl = "a', "cdc.toml:2: not TOML: "),
        ("[source]\n[source]", "cdc.toml:2: not TOML: "),
        ("[source]\nurl = 'a'\nurl = 'b'", "cdc.toml:3: not TOML: "),
        ("[source", "cdc.toml:1: not TOML: "),
        (f"x = {'1' * 5000}", "cdc.toml: not TOML: "),
        (f"x = {'[' * 100_000}", "cdc.toml: not TOML that can be read: nested too deeply"),
    ],
)
def test_not_toml(text: str, where: str) -> None:
    assert str(error_of(text)).startswith(where)


def test_a_wrong_pattern_in_a_long_list_has_its_own_line() -> None:
    text = '[source]\nurl = "postgresql://h/d"\ntables = [ # [ "no"\n  "a.*", """b.*""",\n\n  "orders",\n]'

    assert str(error_of(text)).startswith("cdc.toml:6: [source] tables: the pattern 'orders' names no schema")


def test_all_problems_are_reported_in_the_order_of_lines() -> None:
    text = '[targets.a]\n[log]\npartitions = 0\nprefx = "x"\n[source]\nurl = "x://y"\n'

    places = [line.split(" ", 1)[0] for line in str(error_of(text)).split("\n")]

    assert places == ["cdc.toml:1:", "cdc.toml:3:", "cdc.toml:4:", "cdc.toml:5:", "cdc.toml:6:"]


def test_the_name_of_the_file_is_in_the_error() -> None:
    with pytest.raises(ConfigError, match=r"^conf/shop\.toml:1: \[source\] is missing"):
        parse_settings("", {}, name="conf/shop.toml")


# Secrets

LEAKS = [
    'url = "postgresql://u:SECRET@h:x/d"',
    'url = "postgresql://u:p@SECRET@h/d"',
    'url = "mysql://u:SECRET@h/d"',
    'url = "SECRET"',
    'url = "${SECRET_VARIABLE}"',
    'url = "postgresql://u@${SECRET_VARIABLE}:x/d"',
    'slot = "${SECRET_VARIABLE}"',
    'capture = "${SECRET_VARIABLE}"',
    'publication = "${SECRET_VARIABLE}\\t"',
]


@pytest.mark.parametrize("line", LEAKS)
def test_errors_show_no_secret(line: str) -> None:
    error = error_of(f"[source]\n{line}", SECRET_VARIABLE="SECRET!")

    assert "SECRET" not in f"{error} {error.mend}".replace("SECRET_VARIABLE", "")


def test_settings_show_no_secret() -> None:
    text = SOURCE.replace("cdc@", "cdc:${P}@") + (
        '[log]\nurl = "kafka://b"\noptions = { "sasl.password" = "${P}" }\n'
        '[registry]\nurl = "http://u:${P}@r"\noptions.x = "${P}"\n[targets.t]\nurl = "x://u:${P}@h"\n'
        'mask_key = "${P}${P}${P}"'
    )
    settings = parse_settings(text, {"P": "SECRET"})

    assert settings.log.options == {"sasl.password": "SECRET"}
    assert "SECRET" not in f"{settings!r} {settings}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:pw@h:5432/d", "postgresql://u:***@h:5432/d"),
        ("postgresql://u:p@w/:@h/d", "postgresql://u:***@h/d"),
        ("postgresql://us@er:pw@h/d", "postgresql://us@er:***@h/d"),
        ("postgresql://u@h:5432/d?sslmode=require", "postgresql://u@h:5432/d?sslmode=require"),
        ("postgresql://h/d?user=u&password=pw&sslmode=require", "postgresql://h/d?user=u&password=***&sslmode=require"),
        ("postgresql://h/d?sslPassword=pw", "postgresql://h/d?sslPassword=***"),
        ("kafka://b1:9092,b2:9092", "kafka://b1:9092,b2:9092"),
        ("sqlite:///cdc-log.db", "sqlite:///cdc-log.db"),
        ("host=h password=pw user=u", "host=h password=*** user=u"),
        ("host=h password = 'p w' user=u", "host=h password=*** user=u"),
    ],
)
def test_redact(url: str, shown: str) -> None:
    assert redact(url) == shown


# Lines of keys: documents are made with a marker in every value, so that the line of each is known

KEYS = st.one_of(
    st.from_regex(r"[A-Za-z0-9_-]{1,3}", fullmatch=True),
    st.text(st.characters(min_codepoint=0x20, exclude_characters="\x7f", exclude_categories=["Cs"]), max_size=3),
    st.sampled_from(["a.b", "a]", "#", "=", '"', "'", "[x]", "\\", "{"]),
)
NOISE = st.sampled_from(["", "x", "[a]", "# no", "a = 1", "]", "}", ",", "'", "=", '\\"', "\n", "\n[a]\nb = 1\n", "é"])


@st.composite
def toml_values(draw: st.DrawFn, marks: list[str], depth: int = 0) -> str:  # noqa: PLR0911 - one for each kind
    mark = f"m{len(marks)}m"
    marks.append(mark)
    text = "".join(draw(st.lists(NOISE, max_size=4)))
    flat = text.replace("\n", "")
    match draw(st.integers(0, 6 if depth < 3 else 4)):
        case 0:
            return f'"{mark}{flat}"'
        case 1:
            return f"'{mark}{flat.replace(chr(39), '')}'"
        case 2:
            return f'"""{mark}{text}{draw(st.sampled_from(["", chr(34), chr(34) * 2]))}"""'
        case 3:
            plain = text.replace("'", "")
            return f"'''{mark}{plain}{draw(st.sampled_from(['', chr(39), chr(39) * 2]))}'''"
        case 4:
            return f'"{mark}"' if draw(st.booleans()) else f'"""{mark}\\\n   \n  x"""'
        case 5:
            space = st.sampled_from(["", " ", "\n", "\n# ], [ } ' \"\n\n"])
            items = [
                draw(space) + draw(toml_values(marks, depth + 1)) + draw(space) for _ in range(draw(st.integers(0, 3)))
            ]
            return f"[{','.join(items)}{draw(st.sampled_from(['', ', '])) if items else ''}]"
        case _:
            names = draw(st.lists(KEYS, max_size=2, unique=True))
            pairs = [f"{spelled(draw, name)} = {draw(toml_values(marks, depth + 1))}" for name in names]
            return "{ " + ", ".join(pairs) + " }"


def spelled(draw: st.DrawFn, key: str) -> str:
    basic = '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'
    ways = [basic, "".join(['"', *(f"\\U{ord(each):08x}" for each in key), '"'])]
    if "'" not in key:
        ways.append(f"'{key}'")
    if re.fullmatch(r"[A-Za-z0-9_-]+", key):
        ways.append(key)
    return draw(st.sampled_from(ways))


@st.composite
def toml_documents(draw: st.DrawFn) -> str:
    marks: list[str] = []
    lines: list[str] = []
    for _ in range(draw(st.integers(1, 6))):
        path = draw(st.lists(KEYS, min_size=1, max_size=3))
        dotted = draw(st.sampled_from([".", " . "])).join(spelled(draw, key) for key in path)
        match draw(st.integers(0, 4)):
            case 0:
                lines.append(f"[{dotted}] # [no]")
            case 1:
                lines.append(f"[[ {dotted} ]]")
            case 2:
                lines.append(draw(st.sampled_from(["", "# x = 1 ' \"", "   "])))
            case _:
                lines.append(f"  {dotted} = {draw(toml_values(marks))} # '")
    return "\n".join(lines)


def leaves(path: Path, value: Any) -> dict[Path, Any]:
    match value:
        case dict():
            inner = list(value.items())
        case list():
            inner = list(enumerate(value))
        case _:
            return {path: value}
    return {path: None} | {at: leaf for step, item in inner for at, leaf in leaves((*path, step), item).items()}


@given(toml_documents())
def test_every_key_has_its_line(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:  # two keys that don't go together
        return
    lines = key_lines(text)
    expected = leaves((), document)

    assert lines.keys() == expected.keys() - {()}
    for path, value in expected.items():
        if isinstance(value, str) and (mark := re.match(r"m\d+m", value)):
            assert lines[path] == text[: text.index(mark[0])].count("\n") + 1


def test_lines_of_tables_dates_and_arrays_of_tables() -> None:
    text = """\
[a.b] # 1
c = 1979-05-27 07:32:00 # 2
d = [ 1, # 3
  { x.y = 07:32:00 }, [ [] ] ] # 4

[[t]] # 6
x = 1.5e3 # 7
[t.u] # 8
[[t]] # 9
[[t.v]] # 10
x = -inf # 11
[a] # 12
"""
    assert tomllib.loads(text)["a"]["b"]["c"] == dt.datetime.fromisoformat("1979-05-27 07:32:00")
    assert key_lines(text) == {
        ("a",): 12,
        ("a", "b"): 1,
        ("a", "b", "c"): 2,
        ("a", "b", "d"): 3,
        ("a", "b", "d", 0): 3,
        ("a", "b", "d", 1): 4,
        ("a", "b", "d", 1, "x"): 4,
        ("a", "b", "d", 1, "x", "y"): 4,
        ("a", "b", "d", 2): 4,
        ("a", "b", "d", 2, 0): 4,
        ("t",): 6,
        ("t", 0): 6,
        ("t", 0, "x"): 7,
        ("t", 0, "u"): 8,
        ("t", 1): 9,
        ("t", 1, "v"): 10,
        ("t", 1, "v", 0): 10,
        ("t", 1, "v", 0, "x"): 11,
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        (r'"a\"b" = 1', ('a"b',)),
        (r'"a\\" = "#"', ("a\\",)),
        (r'"\u0061.b" . "]" = 1', ("a.b", "]")),
        ("'a\"b' = '\\'", ('a"b',)),
        (r'a = { "b\"}" = "}", c = 1 }', ("a", 'b"}')),
        (r'a = ["\"]", "x"]', ("a", 1)),
        (r'["a\"]"]', ('a"]',)),
    ],
)
def test_quoted_keys_and_texts_with_escapes(text: str, path: Path) -> None:
    lines = key_lines(f"# \n{text}\n\nafter = 1\n")

    assert lines[path] == 2
    assert [line for at, line in lines.items() if at[-1] == "after"] == [4]
