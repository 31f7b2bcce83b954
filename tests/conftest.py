"""What all tests share. Nothing here may import vaesc before VAESC_HOME is set."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# A first call may compile or import for seconds; pytest-timeout catches what really hangs.
settings.register_profile("vaesc", deadline=None)
settings.load_profile("vaesc")

_HOME = tempfile.mkdtemp(prefix="vaesc-tests-")
os.environ["VAESC_HOME"] = _HOME

LONG = ("slow", "service", "faults")
"""Markers of tests that run whole pipelines or start servers."""
DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


SLOWNESS = 4
"""By how much a machine may be slower than that on which tests were given their times."""


def pytest_collection_modifyitems(items):
    """Put files with long tests first: quick ones fill up what is left of the processes' time.

    A test's own timeout is for what hangs, on slow machines too.
    """
    long = {item.path for item in items if any(map(item.get_closest_marker, LONG))}
    items.sort(key=lambda item: item.path not in long)
    for item in items:
        if own := item.get_closest_marker("timeout"):
            # pytest-timeout takes the first one.
            item.add_marker(pytest.mark.timeout(SLOWNESS * own.args[0]), append=False)


def pytest_unconfigure():
    """Remove the home of this session."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def fashion_mnist() -> Path:
    """Return the folder of Debian's package dataset-fashion-mnist.

    Without it the test is skipped, or fails if VAESC_REQUIRE_DATASETS=1.
    """
    if not DEBIAN_FASHION_MNIST.is_dir():
        sentence = "needs the Debian package dataset-fashion-mnist"
        if os.environ.get("VAESC_REQUIRE_DATASETS") == "1":
            pytest.fail(sentence)
        pytest.skip(sentence)
    return DEBIAN_FASHION_MNIST


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project of a test file's own; its Prefect server is stopped afterwards."""
    from project import Project, stop_server

    project = Project(tmp_path_factory.mktemp("project"))
    yield project
    stop_server(project)


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A Prefect server of a test file's own: the environment that points at it, and its URL."""
    from project import clean_environment

    root, home = Path(__file__).parents[1], tmp_path_factory.mktemp("served")
    environment = {
        **clean_environment(),
        "VAESC_HOME": str(home),
        "PREFECT_HOME": str(home / "no-profile"),
    }
    tool = [sys.executable, "-m", "tasks.server"]
    subprocess.run([*tool, "start"], env=environment, cwd=root, check=True)
    url = json.loads((home / "prefect" / "server.json").read_text())["url"]
    yield {**environment, "PREFECT_API_URL": url}, url
    subprocess.run([*tool, "stop"], env=environment, cwd=root, check=True)


@pytest.fixture(scope="module")
def moto(tmp_path_factory):
    """A test file's own S3 server, which honours conditions and ranges."""
    from object_storage import Moto

    server = Moto(tmp_path_factory.mktemp("moto"))
    server.start()
    yield server
    server.stop()
