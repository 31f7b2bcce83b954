"""A Dask cluster that somebody else runs and that goes away: who waits for it is told so."""

import json
import os
import sys
from pathlib import Path

import pytest
from project import Project, stop_server

pytestmark = [
    pytest.mark.slow, pytest.mark.service, pytest.mark.long, pytest.mark.timeout(600),
]  # fmt: skip
TESTS = Path(__file__).parent

STORY = """
import json, shutil, subprocess, sys, time
from pathlib import Path
import numpy as np
from imagesets import write_dataset
from tasks import crew
from tasks.workers import crew_of
from vaesc.config import RuntimeConfig, VAEConfig
from vaesc.errors import DataError, VaescError
from vaesc.models import VAE, save_vae
from vaesc.shards import Shard

crew.LOOK_SECONDS = 0.5
draw = np.random.default_rng(0)
write_dataset(Path("many"), train=draw.integers(0, 256, (30000, 4, 4), np.uint8))
Path("vae").mkdir()
save_vae(VAE(VAEConfig(hidden=(2000,), latent_dim=8), (4, 4)), Path("vae"))
parts = Path("parts").resolve()

def shards(n, rows):
    return [
        Shard(name=f"extract train/{i}", function="vaesc.latents:extract_shard",
              part=parts / str(i),
              arguments={"dataset": str(Path("many").resolve()),
                         "vae": str(Path("vae").resolve()),
                         "split": "train", "start": 0, "stop": rows + i},
              how={"device": "cpu", "block_size": 1024})
        for i in range(n)
    ]

def dask(what, *options):
    return subprocess.Popen([sys.executable, "-m", f"distributed.cli.dask_{what}",
                             "--scheduler-file", "scheduler.json", "--no-dashboard", *options])

def worker():
    return dask("worker", "--no-nanny", "--nthreads", "1")

scheduler = dask("scheduler", "--port", "0", "--host", "127.0.0.1")
workers = [worker(), worker()]
while not Path("scheduler.json").exists():
    time.sleep(0.1)
address = json.loads(Path("scheduler.json").read_text())["address"]

def fails(these, every, then):
    try:
        these.map(every, then)
    except VaescError as error:
        return str(error)

def refuse(shard, summary):
    raise DataError("no more of these")

found = {}
try:
    with crew_of(RuntimeConfig(runner=f"dask://{address.partition('://')[2]}")) as these:
        these._client.wait_for_workers(2, 60)
        parts.mkdir()
        # The second shard is long at work when what comes of the first is refused.
        found["refused"] = fails(these, [*shards(1, 100), *shards(8, 20000)[1:]], refuse)
        found["left"] = sorted(p.name for p in parts.iterdir())
        shutil.rmtree(parts)
        time.sleep(2)
        found["came back"] = parts.exists()

        parts.mkdir()
        these.map(shards(3, 100), lambda shard, summary: None)
        found["next"] = sorted(p.name for p in parts.iterdir())
        shutil.rmtree(parts)

        parts.mkdir()
        def killed(shard, summary):
            crew.START_SECONDS = 2
            for each in workers:
                each.kill()
        found["no worker"] = fails(these, shards(9, 5000), killed)
        shutil.rmtree(parts)

        workers.append(worker())
        these._client.wait_for_workers(1, 60)
        parts.mkdir()
        found["no scheduler"] = fails(
            these, shards(9, 5000), lambda shard, summary: scheduler.kill())
        found["still none"] = fails(these, shards(2, 100), refuse)
finally:
    for each in (*workers, scheduler):
        each.kill()
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("lost"))
    root = str(TESTS.parent)
    project.env["PYTHONPATH"] = os.pathsep.join([root, str(TESTS), *sys.path])
    done = project.script(STORY)
    stop_server(project)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_no_shard_outlives_the_error_that_gave_its_step_up(found):
    assert found["refused"] == "no more of these"
    assert 2 <= len(found["left"]) < 8  # those at work were waited for, the others cancelled
    assert all(name.isdigit() for name in found["left"])
    assert not found["came back"]
    assert found["next"] == ["0", "1", "2"]


def test_who_waits_for_workers_that_are_all_lost_is_told(found):
    assert found["no worker"].startswith("all workers of dask://127.0.0.1:")
    assert "none came within 2 s: start some (`dask worker 127.0.0.1:" in found["no worker"]


def test_a_scheduler_that_dies_is_said_in_a_sentence(found):
    assert found["no scheduler"].startswith("the scheduler of dask://127.0.0.1:")
    assert "was lost: start it and run again" in found["no scheduler"]
    assert found["still none"] == found["no scheduler"]
