"""What every schema registry does: embedded in any log, or Confluent's REST API."""

import json
import uuid
from contextlib import ExitStack, closing

import pytest

from cdc.core.errors import UnknownSchemaError
from cdc.core.log import Record, TopicSpec
from cdc.core.settings import LogSettings, RegistrySettings
from cdc.log.memory import MemoryLog
from cdc.log.open import open_log
from cdc.registry.confluent import ConfluentRegistry
from cdc.registry.embedded import EmbeddedRegistry


def log_for(kind, request, tmp_path):
    match kind:
        case "memory":
            return MemoryLog()
        case "local":
            return open_log(LogSettings(url=f"sqlite:///{tmp_path}/log.db"))
        case "kafka":
            return open_log(LogSettings(url=f"kafka://{request.getfixturevalue('kafka')}"))


@pytest.fixture(params=["embedded in memory", "embedded in local", "embedded in kafka", "confluent"])
def registries(request, tmp_path):
    """Two registries over the same store: the first registers, the second is another process's, which only looks up."""
    with ExitStack() as stack:
        if request.param == "confluent":
            settings = RegistrySettings(url=request.getfixturevalue("schema_registry_url"))
            pair = ConfluentRegistry(settings), ConfluentRegistry(settings)
        else:
            log = log_for(request.param.split()[-1], request, tmp_path)
            writer = stack.enter_context(closing(log.writer()))
            topic = f"cdc-schemas-{uuid.uuid4().hex[:12]}"
            pair = EmbeddedRegistry(log, writer, topic), EmbeddedRegistry(log, None, topic)
        for registry in pair:
            stack.enter_context(closing(registry))
        yield pair


@pytest.fixture
def registry(registries):
    return registries[0]


@pytest.fixture
def other(registries):
    return registries[1]


@pytest.fixture
def subject():
    return f"s-{uuid.uuid4().hex[:12]}-value"


def schema(subject, *fields):
    """A schema of its own for each test: registries are shared."""
    name = "r" + subject.replace("-", "_")
    return json.dumps(
        {
            "type": "record",
            "name": name,
            "fields": [{"name": f, "type": ["null", "int"], "default": None} for f in fields],
        }
    )


def test_a_registered_schema_is_found_by_its_id(registry, subject):
    text = schema(subject, "a")

    schema_id = registry.register(subject, text)

    assert isinstance(schema_id, int)
    assert json.loads(registry.schema(schema_id)) == json.loads(text)


def test_registering_again_gives_the_same_id(registry, subject):
    first = registry.register(subject, schema(subject, "a"))
    second = registry.register(subject, schema(subject, "a", "b"))

    assert first != second
    assert registry.register(subject, schema(subject, "a")) == first
    assert registry.register(subject, schema(subject, "a", "b")) == second


def test_the_same_schema_under_another_subject_has_the_same_id(registry, subject):
    text = schema(subject, "a")

    assert registry.register(subject, text) == registry.register(f"other-{subject}", text)


def test_another_process_finds_schemas_also_those_that_come_later(registry, other, subject):
    first = registry.register(subject, schema(subject, "a"))
    assert json.loads(other.schema(first)) == json.loads(schema(subject, "a"))

    second = registry.register(subject, schema(subject, "a", "b"))
    assert json.loads(other.schema(second)) == json.loads(schema(subject, "a", "b"))


def test_an_unknown_id_is_said(registry, other):
    for each in (registry, other):
        with pytest.raises(UnknownSchemaError, match="2000000000") as unknown:
            each.schema(2_000_000_000)
        assert unknown.value.mend


@pytest.mark.parametrize("kind", ["memory", "local", "kafka"])
def test_a_later_writer_goes_on_where_the_first_ended(request, tmp_path, subject, kind):
    log = log_for(kind, request, tmp_path)
    topic = f"cdc-schemas-{uuid.uuid4().hex[:12]}"
    ids = []
    for fields in ("a", "ab", "a"):
        with closing(log.writer()) as writer, closing(EmbeddedRegistry(log, writer, topic)) as registry:
            ids.append(registry.register(subject, schema(subject, *fields)))

    assert ids == [1, 2, 1]


@pytest.mark.parametrize("kind", ["memory", "local", "kafka"])
def test_registering_leaves_the_tickets_of_a_shared_writer_right(request, tmp_path, subject, kind):
    log = log_for(kind, request, tmp_path)
    topic, schemas = (f"{name}-{uuid.uuid4().hex[:12]}" for name in ("t", "cdc-schemas"))
    with closing(log.writer()) as writer, closing(EmbeddedRegistry(log, writer, schemas)) as registry:
        writer.create_topics([TopicSpec(topic, 1)])
        before = writer.append([Record(topic, 0, b"k", b"v")])
        registry.register(subject, schema(subject, "a"))

        assert writer.poll(0) > before
