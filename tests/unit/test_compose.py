"""docker-compose.yml, the Dockerfile and their configuration, held against the code: no Docker needed."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from typer.main import get_command

from cdc.cli import app
from cdc.core.config import parse_settings
from cdc.demo.shop import TABLES, main

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
CONFIG = (ROOT / "docker" / "cdc.toml").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = [name for name, service in SERVICES.items() if "build" in service]
LISTENS = {"source": 5432, "target": 5432, "kafka": 9092, "registry": 8080}
_VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def environment(service: str) -> dict[str, str]:
    """The service's environment, with every variable at its default."""
    values = SERVICES[service].get("environment", {})
    return {name: defaulted(str(value)) for name, value in values.items()}


def defaulted(text: str) -> str:
    return _VARIABLE.sub(
        lambda found: found[2] if found[2] is not None else pytest.fail(f"{found[0]}: no default"), text
    )


def require_endpoint(url: str) -> None:
    parts = urlsplit(url)
    assert parts.hostname in SERVICES, f"{url}: no service of that name"
    assert parts.port == LISTENS[parts.hostname], f"{url}: the service does not listen there"


def test_our_services_are_these() -> None:
    assert sorted(OURS) == ["apply", "capture", "shop"]


@pytest.mark.parametrize("service", ["capture", "apply"])
def test_commands_are_commands_of_cdc(service: str) -> None:
    command, *arguments = SERVICES[service]["command"]
    known = get_command(app).commands  # type: ignore[attr-defined]
    assert command in known
    context = known[command].make_context(command, list(arguments))
    if "target" in context.params:
        settings = parse_settings(CONFIG, environment(service))
        assert context.params["target"] in settings.targets


def test_the_shop_is_a_module_that_takes_these_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    shop = SERVICES["shop"]
    python, option, module = shop["entrypoint"]
    assert (python, option) == ("python", "-m")
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()
    assert len(shop["command"]) == 1
    assert shop["healthcheck"]["test"][1:5] == [python, option, module, "--ready"]
    assert shop["healthcheck"]["test"][5] == shop["command"][0]
    require_endpoint(defaulted(shop["command"][0]))
    assert main([]) == 2
    assert "usage" in capsys.readouterr().err
    assert "pulse" in TABLES


@pytest.mark.parametrize("service", ["capture", "apply"])
def test_the_configuration_parses_under_the_environment_and_names_services(service: str) -> None:
    settings = parse_settings(CONFIG, environment(service))
    for url in (settings.source.url, settings.log.url, settings.registry.url, settings.targets["warehouse"].url):
        assert url is not None
        require_endpoint(url)


def test_databases_and_passwords_are_those_the_servers_are_made_with() -> None:
    settings = parse_settings(CONFIG, environment("capture"))
    for service, url in (("source", settings.source.url), ("target", settings.targets["warehouse"].url)):
        parts, made = urlsplit(url), environment(service)
        assert parts.path == f"/{made['POSTGRES_DB']}"
        assert parts.password == made["POSTGRES_PASSWORD"]
        assert parts.username == "postgres"
    assert "wal_level=logical" in SERVICES["source"]["command"]


def test_every_variable_is_used_and_set() -> None:
    used = {found[1] for found in _VARIABLE.finditer(CONFIG)}
    for service in ("capture", "apply"):
        assert used <= environment(service).keys()


@pytest.mark.parametrize("service", OURS)
def test_what_is_mounted_exists_and_is_what_cdc_reads(service: str) -> None:
    (mounted,) = SERVICES[service]["volumes"]
    source, inside, _ = mounted.split(":")
    assert (ROOT / source).is_file()
    assert environment(service)["CDC_CONFIG"] == inside


@pytest.mark.parametrize("service", SERVICES)
def test_dependencies_are_services_with_a_health_check(service: str) -> None:
    for name, condition in SERVICES[service].get("depends_on", {}).items():
        assert condition == {"condition": "service_healthy"}
        assert "healthcheck" in SERVICES[name]


@pytest.mark.parametrize("service", ["source", "target", "kafka"])
def test_data_is_kept_in_volumes_that_are_declared(service: str) -> None:
    for mounted in SERVICES[service]["volumes"]:
        assert mounted.partition(":")[0] in COMPOSE["volumes"]


def test_schemas_are_kept_where_events_are() -> None:
    registry, log = environment("registry"), parse_settings(CONFIG, environment("capture")).log
    assert registry["APICURIO_STORAGE_KIND"] == "kafkasql"
    assert registry["APICURIO_KAFKASQL_BOOTSTRAP_SERVERS"] == log.url.removeprefix("kafka://")


def test_published_ports_are_those_that_are_listened_on() -> None:
    for name, service in SERVICES.items():
        for published in service.get("ports", []):
            address, _, inside = published.rpartition(":")
            assert int(inside) == LISTENS[name]
            assert address.startswith("127.0.0.1:")


def test_the_broker_says_the_address_that_clients_use() -> None:
    kafka = environment("kafka")
    log = parse_settings(CONFIG, environment("capture")).log
    assert kafka["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{log.url.removeprefix('kafka://')}"
    assert f":{LISTENS['kafka']}," in kafka["KAFKA_LISTENERS"]


def test_the_image_copies_what_is_there_and_runs_the_console_script() -> None:
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY"):
            for path in line.split()[1:-1]:
                assert (ROOT / path).exists(), path
    entrypoint = re.search(r'ENTRYPOINT \["(\w+)"\]', DOCKERFILE)
    assert entrypoint
    assert entrypoint[1] in PROJECT["project"]["scripts"]


def test_the_image_has_a_python_that_the_project_takes_and_an_ordinary_user() -> None:
    version = re.search(r"FROM python:3\.(\d+)", DOCKERFILE)
    least = re.search(r">=3\.(\d+)", PROJECT["project"]["requires-python"])
    assert version
    assert least
    assert int(version[1]) >= int(least[1])
    assert re.search(r"^USER (?!root)\w+", DOCKERFILE, re.MULTILINE)


def test_every_package_is_in_the_image() -> None:
    for package in PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]:
        assert f"COPY {package} ./{package}" in DOCKERFILE
