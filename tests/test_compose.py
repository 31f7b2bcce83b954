"""compose.yaml was never run by these tests: here, what can be known of it without Docker."""

import json
import re
from pathlib import Path

import pytest
import yaml

from deployments import stack

FOLDER = Path(stack.__file__).parent
TEXT = (FOLDER / "compose.yaml").read_text()
COMPOSE = yaml.safe_load(TEXT)
SERVICES = COMPOSE["services"]
OURS = {name: s for name, s in SERVICES.items() if s["image"].startswith("vaesc:")}
SECRET = re.compile(r"PASSWORD|SECRET|KEY|AUTH_STRING|COOKIES")


def documented():
    lines = (FOLDER / ".env.example").read_text().splitlines()
    return {line.partition("=")[0]: line.partition("=")[2] for line in lines if "=" in line}


def test_every_variable_is_documented_and_none_is_filled_in():
    assert set(re.findall(r"\$\{(\w+)", TEXT)) == set(documented())
    assert set(documented().values()) == {""}


def test_nothing_starts_while_a_variable_is_unset():
    used = re.findall(r"\$\{\w+([^}]*)\}", TEXT)
    assert used
    assert all(rest.startswith(":?") for rest in used)
    assert not re.search(r"\$\w", TEXT), "a bare $NAME would be empty, not refused"


@pytest.mark.parametrize("name", SERVICES)
def test_no_secret_is_written_down(name):
    for variable, value in SERVICES[name]["environment"].items():
        if SECRET.search(variable) and "PATH" not in variable:
            assert re.search(r"\$\{VAESC_\w+:\?", value), variable
    command = SERVICES[name].get("command", [])
    assert not any("${" in part for part in command), "anybody can list command lines"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_watched_restarted_and_pinned(name):
    service = SERVICES[name]
    check = service["healthcheck"]
    assert check["test"][0] == "CMD"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    assert service["restart"] == "unless-stopped"
    assert re.search(r":\d+\.\d+", service["image"]), "an image without an exact tag"


@pytest.mark.parametrize("name", SERVICES)
def test_what_a_service_refers_to_exists(name):
    service = SERVICES[name]
    assert all(
        SERVICES[other]["healthcheck"] and how == {"condition": "service_healthy"}
        for other, how in service.get("depends_on", {}).items()
    )
    assert set(service["networks"]) <= set(COMPOSE["networks"])
    for volume in service.get("volumes", []):
        source = volume.partition(":")[0]
        assert source in COMPOSE["volumes"] or (FOLDER / source).is_file()
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


def test_the_commands_are_those_of_the_stack():
    def starts(name, command):
        return SERVICES[name]["command"][: len(command)] == command

    assert starts("mlflow", [*stack.MLFLOW, *stack.MLFLOW_AUTH])
    assert starts("prefect", stack.PREFECT)
    assert starts("s3", stack.S3)


def test_both_servers_ask_who_one_is():
    assert "--app-name=basic-auth" in SERVICES["mlflow"]["command"]
    assert SERVICES["prefect"]["environment"]["PREFECT_SERVER_API_AUTH_STRING"]


def test_only_the_servers_reach_the_databases_and_only_mlflow_reaches_s3():
    on = {n: {s for s in SERVICES if n in SERVICES[s]["networks"]} for n in COMPOSE["networks"]}
    assert on["databases"] == {"postgres", "mlflow", "prefect"}
    assert on["storage"] == {"s3", "mlflow"}
    assert COMPOSE["networks"]["databases"]["internal"]
    assert COMPOSE["networks"]["storage"]["internal"]


def test_the_image_holds_what_the_services_name():
    lines = (FOLDER / "Dockerfile").read_text().splitlines()
    assert re.fullmatch(r"FROM python:3\.11\.\d+-slim-\w+", next(x for x in lines if "FROM" in x))
    copied = {p for x in lines if x.startswith("COPY") for p in x.split()[2:-1]}
    assert all((FOLDER.parent / each).exists() for each in copied)
    assert {"vaesc", "tasks", "flows", "deployments", "constraints.txt"} <= copied
    auth = OURS["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"]
    assert (FOLDER.parent / Path(auth).relative_to("/app")).is_file()
    assert json.dumps(OURS["s3"]["command"]).count("/s3") == 1
