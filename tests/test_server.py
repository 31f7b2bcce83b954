"""The local Prefect server: one per home, started when needed, gone when nobody needs it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
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


def test_a_configured_api_is_used_as_it_is(bare, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://example.invalid/api")
    assert server.connect() == "http://example.invalid/api"
    assert not (bare / "prefect").exists()


def test_the_active_profile_s_api_is_used(bare):
    (bare / "profiles.toml").write_text(
        'active = "team"\n[profiles.team]\nPREFECT_API_URL = "http://team.invalid/api"\n'
    )
    assert server.connect() == "http://team.invalid/api"


def test_nothing_runs_and_nothing_is_stopped(bare):
    assert server.status() is None
    assert server.stop() is False


def answers(url):
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=1) as answer:
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def gone_within(url, seconds):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not answers(url):
            return True
        time.sleep(0.3)
    return False


@pytest.mark.service
@pytest.mark.slow
def test_one_server_for_all_and_none_is_left_behind(bare):
    tool = [sys.executable, "-m", "tasks.server"]
    starts = [subprocess.Popen([*tool, "start"], cwd=ROOT) for _ in range(2)]
    assert [s.wait(200) for s in starts] == [0, 0]
    url = server.status()
    assert url
    state = json.loads((bare / "prefect" / "server.json").read_text())
    assert state["url"] == url
    keepers = [
        p for p in Path("/proc").glob("[0-9]*/cmdline")
        if f"keep\0{bare / 'prefect'}".encode() in _read(p)
    ]  # fmt: skip
    assert len(keepers) == 1
    # However the keeper dies, the server goes with it.
    os.kill(int(keepers[0].parent.name), signal.SIGKILL)
    assert gone_within(url, 30)
    assert server.status() is None


def _read(path):
    try:
        return path.read_bytes()
    except OSError:
        return b""
