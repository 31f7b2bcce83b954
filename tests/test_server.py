"""The local Prefect server: one per home, started when needed, gone when nobody needs it."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from base64 import b64encode
from pathlib import Path

import pytest

from tasks import server

ROOT = Path(__file__).parents[1]


@pytest.fixture
def bare(monkeypatch, tmp_path):
    """No Prefect configured anywhere, and a home of its own."""
    for name in [n for n in os.environ if n.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    return tmp_path


@pytest.fixture(params=[200, 401])
def foreign(request):
    """Somebody's Prefect server, which may want to know who we are."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(request.param if self.path == "/api/health" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/api"
        running.shutdown()


def test_a_configured_api_is_used_as_it_is(bare, monkeypatch, foreign):
    monkeypatch.setenv("PREFECT_API_URL", foreign)
    assert server.connect() == foreign
    assert not (bare / "prefect").exists()


def test_the_active_profile_s_api_is_used(bare, foreign):
    (bare / "profiles.toml").write_text(
        f'active = "team"\n[profiles.team]\nPREFECT_API_URL = "{foreign}"\n'
    )
    assert server.connect() == foreign


def test_a_configured_api_that_does_not_answer_is_named(bare, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with pytest.raises(server.ServerError, match=r"127\.0\.0\.1:9/api; start that server"):
        server.connect()


@pytest.fixture
def guarded():
    """A Prefect server that answers everybody's health check, and else one login and one key."""
    welcome = {f"Basic {b64encode(b'ada:lovelace').decode()}", "Bearer a-key"}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            let_in = self.path == "/api/health" or self.headers["Authorization"] in welcome
            self.send_response(200 if let_in else 401)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}/api"
        running.shutdown()


@pytest.mark.parametrize(
    ("name", "right"), [("PREFECT_API_AUTH_STRING", "ada:lovelace"), ("PREFECT_API_KEY", "a-key")]
)
def test_credentials_are_tried_before_anything_is_done(bare, monkeypatch, guarded, name, right):
    monkeypatch.setenv("PREFECT_API_URL", guarded)
    for wrong in ("", "ada:guessed"):
        monkeypatch.setenv(name, wrong)
        with pytest.raises(server.ServerError, match="refuses our credentials; set PREFECT_API_A"):
            server.connect()
    monkeypatch.setenv(name, right)
    assert server.connect() == guarded


def test_a_profile_s_credentials_are_used(bare, guarded):
    (bare / "profiles.toml").write_text(
        'active = "team"\n[profiles.team]\n'
        f'PREFECT_API_URL = "{guarded}"\nPREFECT_API_AUTH_STRING = "ada:lovelace"\n'
    )
    assert server.connect() == guarded


def test_a_password_in_the_address_is_not_repeated(bare, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://ada:lovelace@127.0.0.1:9/api")
    with pytest.raises(server.ServerError) as caught:
        server.connect()
    assert "lovelace" not in str(caught.value)


def test_a_local_server_that_cannot_start_says_its_last_words(bare, monkeypatch):
    log = bare / "prefect" / "server.log"

    def launch(folder, port):
        log.write_text("something\nNoSuchModuleError: x\n\n")
        return subprocess.Popen([sys.executable, "-c", "pass"])

    monkeypatch.setattr(server, "_launch_keeper", launch)
    with pytest.raises(server.ServerError, match=r"ended at once \(NoSuchModuleError: x\)"):
        server.start()


def test_a_server_that_is_slow_is_not_held_for_dead(monkeypatch):
    """A second one would end the first, whose users would lose it."""
    asked = []

    class Slow(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            if len(asked) < 3:
                released.wait(30)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            """Say nothing."""

    released, opened = threading.Event(), urllib.request.urlopen
    monkeypatch.setattr(urllib.request, "urlopen", lambda url, timeout: opened(url, timeout=0.3))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Slow) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_address[1]}/api"
        assert not server.answers(url, patience=0)
        assert server.answers(url)
        released.set()
        running.shutdown()
    assert asked == ["/api/health"] * 3
    begun = time.monotonic()
    assert not server.answers(url)  # nobody is there: that is told at once
    assert time.monotonic() - begun < 20


def test_nothing_runs_and_nothing_is_stopped(bare):
    assert server.status() is None
    assert server.stop() is False


def gone_within(url, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not server.answers(url):
            return True
        time.sleep(0.3)
    return False


@pytest.mark.service
@pytest.mark.slow
def test_one_server_for_all_and_none_is_left_behind(bare):
    """Nor does a database that was damaged keep it from starting: it is kept as evidence."""
    (bare / "prefect").mkdir()
    (bare / "prefect" / "prefect.db").write_bytes(b"not a database" * 1000)
    tool = [sys.executable, "-m", "tasks.server"]
    starts = [subprocess.Popen([*tool, "start"], cwd=ROOT) for _ in range(2)]
    assert [s.wait(200) for s in starts] == [0, 0]
    url = server.status()
    assert url
    state = json.loads((bare / "prefect" / "server.json").read_text())
    assert state["url"] == url
    (evidence,) = (bare / "backups").glob("damaged-*/prefect.db")
    assert evidence.read_bytes() == b"not a database" * 1000
    keepers = [
        p for p in Path("/proc").glob("[0-9]*/cmdline")
        if f"keep\0{bare / 'prefect'}".encode() in _read(p)
    ]  # fmt: skip
    assert len(keepers) == 1
    # However the keeper dies, the server goes with it.
    os.kill(int(keepers[0].parent.name), signal.SIGKILL)
    assert gone_within(url, 150)
    assert server.status() is None


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
