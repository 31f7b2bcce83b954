"""What may pass by itself is told apart from what never does, and empty names are refused."""

import http.server
import socket
import sqlite3
import threading
import time
from types import SimpleNamespace

import pytest
import requests
from registry_homes import enter_home

from vaesc.errors import RegistryError
from vaesc.registry import connect, list_models, load_model, show_model
from vaesc.registry import registration as registration_module
from vaesc.registry.failures import AbsentError, UnreachableError, explained, shown


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch)


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def raised(error):
    """What :func:`explained` makes of an error."""
    with pytest.raises(RegistryError) as caught, explained("http://host", "do it"):
        raise error
    return type(caught.value)


def mlflow_error(code, cause=None):
    from mlflow.exceptions import MlflowException

    error = MlflowException("said so", error_code=code)
    error.__cause__ = cause
    return error


def sqlite_error(statement, path=":memory:"):
    with pytest.raises(sqlite3.Error) as caught:
        sqlite3.connect(path, timeout=0).execute(statement)
    return caught.value


def test_only_the_network_and_a_busy_database_may_pass(tmp_path):
    from mlflow.protos import databricks_pb2 as codes
    from sqlalchemy.exc import OperationalError

    internal, unavailable = codes.INTERNAL_ERROR, codes.TEMPORARILY_UNAVAILABLE
    for passing in (
        ConnectionResetError("reset"),
        TimeoutError("slow"),
        requests.ConnectionError("refused"),
        requests.exceptions.RetryError("503 too often"),
        mlflow_error(unavailable),
        mlflow_error(internal, requests.ReadTimeout("slow")),
        OperationalError("SELECT 1", {}, Exception("server closed the connection")),
    ):
        assert raised(passing) is UnreachableError
    for lasting in (
        PermissionError(13, "denied"),
        mlflow_error(internal),
        mlflow_error(codes.PERMISSION_DENIED),
        mlflow_error(unavailable, sqlite_error("SELECT * FROM nothing")),
    ):
        assert raised(lasting) is RegistryError
    assert raised(mlflow_error(codes.RESOURCE_DOES_NOT_EXIST)) is AbsentError


def test_a_refused_password_is_told_from_a_missing_permission():
    from mlflow.protos import databricks_pb2 as codes

    doing = explained("http://host", "do it")
    with pytest.raises(RegistryError, match=r"refuses our credentials and cannot do it"), doing:
        raise mlflow_error(codes.UNAUTHENTICATED)
    doing = explained("http://host", "do it")
    with pytest.raises(RegistryError, match="cannot do it: said so"), doing:
        raise mlflow_error(codes.PERMISSION_DENIED)


def test_the_doctor_repeats_no_password(home, monkeypatch, capsys):
    from vaesc.cli import main

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://ada:lovelace@127.0.0.1:9/runs")
    monkeypatch.setenv("PREFECT_API_URL", "http://ada:lovelace@127.0.0.1:9/api")
    assert main(["doctor"]) == 1
    said = capsys.readouterr().out
    assert "ada:***@127.0.0.1:9/runs" in said
    assert "ada:***@127.0.0.1:9/api" in said
    assert "lovelace" not in said


def test_a_locked_database_is_busy_and_a_damaged_one_is_not(home, monkeypatch):
    connection = sqlite3.connect

    def impatient(*arguments, **options):
        return connection(*arguments, **{**options, "timeout": 0})

    monkeypatch.setattr("vaesc.registry.connection.sqlite3.connect", impatient)
    holder = connection(home / "mlflow.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(UnreachableError, match="in use by another process"):
            connect(create=False)
    finally:
        holder.close()
    connect(create=False)
    (home / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(RegistryError, match="cannot be read") as caught:
        connect()
    assert type(caught.value) is RegistryError


def test_a_registry_of_its_own_that_is_not_there_is_called_by_its_name(home, monkeypatch):
    """The runs' MLflow answers; the models' does not."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"http://127.0.0.1:{free_port()}")
    started = time.monotonic()
    with pytest.raises(
        UnreachableError, match="nothing answers at MLFLOW_REGISTRY_URI=http://127"
    ):
        connect(create=False)
    assert time.monotonic() - started < 30  # MLflow itself would insist for minutes


def test_a_registry_file_of_its_own_is_made_by_whoever_writes(home, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", f"sqlite:///{tmp_path / 'models.db'}")
    with pytest.raises(AbsentError, match=r"no model registry at sqlite:///.*models\.db yet"):
        connect(create=False)
    connect()
    with pytest.raises(AbsentError, match=r"no model 'vaesc' is registered at .*models\.db"):
        load_model("champion")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("http://user:pa/ss@host:1/x", "http://user:***@host:1/x"),
        ("http://user:p@ss@host", "http://user:***@host"),
        ("no http://u:p@h, nor http://v:q@i", "no http://u:***@h, nor http://v:***@i"),
        ("postgresql://u@h/db?x=1&password=HUSH&y=2", "postgresql://u@h/db?x=1&password=***&y=2"),
        ("http://host:5000/path", "http://host:5000/path"),
        ("models:/vaesc@champion", "models:/vaesc@champion"),
    ],
)
def test_passwords_are_not_shown(text, told):
    assert shown(text) == told


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_that_is_not_there_is_unreachable(home, monkeypatch, scheme):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://127.0.0.1:{free_port()}/mlflow")
    with pytest.raises(RegistryError, match=r"nothing answers at|driver that is not") as caught:
        connect(create=False)
    # Without a driver for it, a database is not even asked.
    asked = "driver" not in str(caught.value)
    assert asked or scheme == "postgresql"
    assert isinstance(caught.value, UnreachableError) == asked


def test_a_server_that_breaks_off_is_unreachable(home, monkeypatch):
    class Broken(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/health":
                self.send_response(200)
                self.end_headers()
            else:
                self.connection.shutdown(socket.SHUT_RDWR)

        do_POST = do_GET

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Broken)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    try:
        with pytest.raises(UnreachableError, match="cannot list its models"):
            list_models()
    finally:
        server.shutdown()
        server.server_close()


def test_a_version_that_cannot_be_fetched_is_not_called_damaged(monkeypatch):
    def failing(error):
        def fetched(*_):
            raise error

        monkeypatch.setattr("vaesc.registry.files.fetched", fetched)
        version = SimpleNamespace(name="vaesc", version=1)
        return registration_module._is_whole(None, version, "digest")

    with pytest.raises(UnreachableError):
        failing(UnreachableError("nothing answers"))
    assert failing(RegistryError("its files are gone")) is False


@pytest.mark.parametrize("ref", ["", "  "])
@pytest.mark.parametrize("look", [show_model, load_model])
def test_an_empty_name_is_refused(home, look, ref):
    with pytest.raises(RegistryError, match=r"got an empty name; leave it out") as caught:
        look(ref)
    assert "./" not in str(caught.value)
