"""What a registry's REST API may answer, and what becomes of it."""

import json
import threading
import uuid
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cdc.core.errors import ConfigError, PassingError, RegistryError, SchemaRefusedError, UnknownSchemaError
from cdc.core.settings import RegistrySettings
from cdc.registry.confluent import ConfluentRegistry

_IMPATIENT = {"max.retries": "0", "timeout": "1"}


@contextmanager
def answering(status, body, *, seen=None, first=()):
    """A server that gives every request this answer, but for the `first` ones. The refusals of a real registry can't be
    provoked at will.
    """
    others = [*first]

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if seen is not None:
                seen.append(self.path)
            code, said = others.pop(0) if others else (status, body)
            if code is None:
                return
            self.send_response(code)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_POST = do_GET  # noqa: N815 - the base class looks for this name

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def refusal(code, message):
    return json.dumps({"error_code": code, "message": message}).encode()


def registry_at(host, **options):
    settings = RegistrySettings(url=f"http://me:secret@{host}", options={**_IMPATIENT, **options})
    return closing(ConfluentRegistry(settings))


def says_no_secret(error):
    return "secret" not in f"{error} {error.mend}"


@pytest.mark.parametrize(("status", "code"), [(409, 409), (422, 42201)])
def test_a_refused_schema_names_the_subject_and_the_reason(status, code):
    with answering(status, refusal(code, "not compatible: field gone")) as host, registry_at(host) as registry:
        with pytest.raises(SchemaRefusedError, match=r"subject 'orders-value': not compatible: field gone") as refused:
            registry.register("orders-value", '"string"')
        assert refused.value.mend
        assert says_no_secret(refused.value)


def test_an_id_that_is_not_found_is_an_unknown_schema():
    with (
        answering(404, refusal(40403, "Schema not found")) as host,
        registry_at(host) as registry,
        pytest.raises(UnknownSchemaError, match="schema id 7"),
    ):
        registry.schema(7)


def test_an_id_that_one_of_several_registries_has_not_heard_of_yet_is_asked_for_again():
    not_yet = 404, refusal(40403, "Schema not found")
    found = json.dumps({"schema": '"string"'}).encode()
    with answering(200, found, first=[not_yet, not_yet]) as host, registry_at(host) as registry:
        assert registry.schema(7) == '"string"'


@pytest.mark.parametrize("status", [401, 403])
def test_denied_access_is_no_passing_error(status):
    with answering(status, refusal(status, "no")) as host, registry_at(host) as registry:
        for ask in (lambda: registry.schema(7), lambda: registry.register("s", '"string"')):
            with pytest.raises(RegistryError, match=host) as refused:
                ask()
            assert "password" in refused.value.mend
            assert says_no_secret(refused.value)


@pytest.mark.parametrize("status", [500, 502, 503])
def test_a_registry_in_trouble_is_a_passing_error(status):
    with answering(status, refusal(50001, "store")) as host, registry_at(host) as registry:
        for ask in (lambda: registry.schema(7), lambda: registry.register("s", '"string"')):
            with pytest.raises(PassingError) as refused:
                ask()
            assert says_no_secret(refused.value)


def test_a_registry_that_can_not_be_reached_is_a_passing_error():
    with answering(200, b"{}") as host:
        pass
    with registry_at(host) as registry, pytest.raises(PassingError, match=f"{host} can't be reached") as refused:
        registry.schema(7)
    assert says_no_secret(refused.value)


def test_a_connection_that_breaks_is_a_passing_error():
    with answering(None, b"") as host, registry_at(host) as registry, pytest.raises(PassingError, match=host):
        registry.schema(7)


def test_something_else_at_that_address_is_said():
    with answering(200, b"<html>hello</html>") as host, registry_at(host) as registry:
        with pytest.raises(RegistryError, match="is no schema registry") as refused:
            registry.schema(7)
        assert says_no_secret(refused.value)


def test_a_schema_is_asked_for_once():
    seen = []
    with answering(200, b'{"schema": "\\"string\\""}', seen=seen) as host, registry_at(host) as registry:
        assert [registry.schema(7) for _ in range(3)] == ['"string"'] * 3
    assert len(seen) == 1


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (None, {}),
        ("ftp://me:secret@host", {}),
        ("http://me:secret@host", {"no.such.option": "1"}),
        ("http://me:secret@host", {"timeout": "soon"}),
    ],
)
def test_wrong_settings_are_configuration_errors(url, options):
    with pytest.raises(ConfigError, match=r"\[registry\]") as refused:
        ConfluentRegistry(RegistrySettings(url=url, options=options))
    assert says_no_secret(refused.value)


def test_a_real_registry_refuses_what_is_no_schema(schema_registry_url):
    subject = f"s-{uuid.uuid4().hex[:12]}-value"
    settings = RegistrySettings(url=schema_registry_url)
    with closing(ConfluentRegistry(settings)) as registry, pytest.raises(SchemaRefusedError, match=subject):
        registry.register(subject, '{"type": "nonsense"}')
