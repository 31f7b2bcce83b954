"""Dask's workers, really: the same bytes from any number of them, also when one is killed."""

import json
import os
import sys
from pathlib import Path

import pytest
from project import Project, artifacts, states, stop_server

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(900)]
TESTS = Path(__file__).parent

START = """
import hashlib, json, os, signal, sys, time
from pathlib import Path
import numpy as np
from imagesets import write_dataset
from tasks.workers import crew_of
from vaesc import coding_shards, scoring_shards
from vaesc.config import DictionaryConfig, RuntimeConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import DataError
from vaesc.latents import extract
from vaesc.models import VAE, save_vae
from vaesc.progress import SILENT, Listener
from vaesc.shards import HERE

coding_shards.ROWS, scoring_shards.ROWS = 4096, 4096

def digest(folder):
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return hashlib.sha256(b"".join(
        str(p.relative_to(folder)).encode() + p.read_bytes() for p in files)).hexdigest()

def made(name):
    Path(name).mkdir()
    return Path(name)

def pids(crew):
    from distributed import Client
    with Client(crew.address(), set_as_default=False) as client:
        return sorted(client.run(os.getpid).values())

def crew(n):
    return crew_of(RuntimeConfig(runner="dask", workers=n))
"""

STORY = """
from registry_homes import images as tiny_images, tiny_model
from vaesc.config import EvaluationConfig, RefineConfig
from vaesc.drift.reference import described
from vaesc.evaluation import evaluate, rate_shards
from vaesc.refinement.step import refine
from vaesc.report import style
from vaesc.scoring import score_images

draw = np.random.default_rng(0)
images = draw.integers(0, 256, (15000, 4, 4), np.uint8)
write_dataset(Path("dataset"), train=images[:12000], validation=images[12000:13000],
              test=images[13000:])
save_vae(VAE(VAEConfig(hidden=(16,), latent_dim=1024), (4, 4)), made("vae"))  # shards of 4096
save_vae(VAE(VAEConfig(hidden=(16,), latent_dim=8), (4, 4)), made("small-vae"))
extract(Path("dataset"), Path("small-vae"), made("small"), device="cpu")
model, own = tiny_model(), tiny_images(500, seed=1)
model.reference = described(model.encode(own), model.score(own))
np.save("batch.npy", tiny_images(10000, seed=2))
dictionary = DictionaryConfig(n_atoms=40, n_nonzero_coefs=3, max_epochs=1)

# Of few images, but two shards of them.
write_dataset(Path("few"), train=images[:800], validation=images[800:1000],
              test=images[1000:2100])
extract(Path("few"), Path("small-vae"), made("few-latents"), device="cpu")
learn(dictionary, Path("few-latents"), made("few-dictionary"), seed=0, listener=SILENT)
refine(RefineConfig(epochs=1, hidden=(16, 16), channels=(4,)), dictionary, (1, 3), Path("few"),
       made("few-refined"), seed=0, device="cpu", block_size=1024,
       checkpoints=made("checkpoints"), listener=SILENT)
rate_shards.ROWS = rate_shards.QUICK_ROWS = 1024
style.png_of = lambda draw, theme: b""
comparison = EvaluationConfig(sparsity_levels=(1, 3), topk_epochs=0, elbo_samples=1,
                              iwae_samples=(1,), iwae_images=(10,))
inputs = {"dataset": "few", "vae": "small-vae", "latents": "few-latents",
          "dictionary": "few-dictionary"}

def evaluated(runner, name):
    # Without refined models, and with them.
    found = []
    for more in ({}, {"refined": "few-refined"}):
        folder = made(f"{'-'.join(['e', *more])}-{name}")
        evaluate(comparison, dictionary, {k: Path(v) for k, v in {**inputs, **more}.items()},
                 folder, seed=0, device="cpu", block_size=8192, listener=SILENT, runner=runner)
        found.append(digest(folder))
    return found

def all_digests(runner, name, listener=SILENT):
    extract(Path("dataset"), Path("vae"), made(f"l-{name}"), device="cpu", runner=runner,
            listener=listener)
    learn(dictionary, Path("small"), made(f"d-{name}"), seed=0, listener=SILENT, runner=runner)
    score_images(model, Path("batch.npy"), Path(f"s-{name}"), runner=runner)
    return [digest(Path(f"{kind}-{name}")) for kind in "lds"]

class Killer(Listener):
    def __init__(self, crew):
        self.crew, self.killed = crew, None
    def progress(self, done, total, **figures):
        if self.killed is None:
            self.killed = pids(self.crew)[0]
            os.kill(self.killed, signal.SIGKILL)

found = {"here": all_digests(HERE, "here"), "evaluated-here": evaluated(HERE, "here")}
for n in (1, 2):
    with crew(n) as these:
        found[f"dask-{n}"] = all_digests(these, f"dask-{n}")
        found[f"evaluated-dask-{n}"] = evaluated(these, f"dask-{n}")
        if n == 2:
            before = pids(these)
            killer = Killer(these)
            found["killed"] = all_digests(these, "killed", killer)
            found["survivor"] = set(before) - {killer.killed} <= set(pids(these))
            found["gone"] = killer.killed not in pids(these)
print(json.dumps(found))
"""

KILL = """
from vaesc.shards import NOTE, Shard
images = np.random.default_rng(0).integers(0, 256, (40000, 4, 4), np.uint8)
write_dataset(Path("many"), train=images)
save_vae(VAE(VAEConfig(hidden=(2000,), latent_dim=64), (4, 4)), made("slow-vae"))
every = [
    Shard(name=f"extract train/{i}", function="vaesc.latents:extract_shard",
          part=Path("parts").resolve() / str(i),
          arguments={"dataset": str(Path("many").resolve()),
                     "vae": str(Path("slow-vae").resolve()),
                     "split": "train", "start": 0, "stop": 20000 + i},
          how={"device": "cpu", "block_size": 1024})
    for i in range(8)
]
Path("parts").mkdir()
heard, before, state = [], {}, {}

def inodes():
    return {p.parent.name: p.stat().st_ino for p in Path("parts").glob(f"[0-9]/{NOTE}")}

with crew(2) as these:
    def then(shard, summary):
        heard.append(shard.name)
        if len(heard) == 2:
            os.kill(pids(these)[0], signal.SIGKILL)
            before.update(inodes())
    these.map(every, then)
    after = inodes()
    these.map(every, lambda shard, summary: None)
print(json.dumps({
    "heard": heard, "before": len(before), "kept": all(after[k] == v for k, v in before.items()),
    "all": len(after), "again": inodes() == after,
    "left": [p.name for p in Path("parts").iterdir() if p.name not in after],
}))
"""

BROKEN = """
import torch
images = np.zeros((50, 4, 4), np.uint8)
write_dataset(Path("zeros"), train=images)
vae = VAE(VAEConfig(hidden=(4,), latent_dim=2), (4, 4))
with torch.no_grad():
    vae.encoder[-1].bias.fill_(float("nan"))
save_vae(vae, made("nan-vae"))
with crew(1) as these:
    try:
        extract(Path("zeros"), Path("nan-vae"), made("nan"), device="cpu", runner=these)
    except DataError as error:
        print(json.dumps(str(error)))
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    project = Project(tmp_path_factory.mktemp("dask"))
    root = str(TESTS.parent)
    project.env["PYTHONPATH"] = os.pathsep.join([root, str(TESTS), *sys.path])
    yield project
    stop_server(project)


def told(project, program):
    done = project.script(START + program)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_step_that_workers_share_makes_the_same_bytes_from_any_number(project):
    found = told(project, STORY)
    assert found["dask-1"] == found["here"]
    assert found["dask-2"] == found["here"]
    assert found["killed"] == found["here"]
    assert found["evaluated-dask-1"] == found["evaluated-here"]
    assert found["evaluated-dask-2"] == found["evaluated-here"]
    assert found["gone"]
    assert found["survivor"]


def test_only_what_a_killed_worker_had_not_finished_is_computed_again(project):
    found = told(project, KILL)
    assert found["heard"] == [f"extract train/{i}" for i in range(8)]
    assert 2 <= found["before"] < 8  # it was killed in the middle
    assert found["kept"]
    assert found["all"] == 8
    assert found["again"]


def test_what_a_shard_complains_of_arrives_as_its_sentence(project):
    assert told(project, BROKEN) == (
        "a latent of the train split is not finite; train the VAE again"
    )


@pytest.mark.long
def test_a_run_on_workers_makes_the_artifacts_of_a_run_on_threads(project, tmp_path):
    small = ("--set", "refine.epochs=0", "--set", "evaluation.topk_epochs=0")
    on_two = ("--set", "runtime.runner=dask", "--set", "runtime.workers=2")
    done = project.vaesc("run", "--config", str(project.config), "--json", *small, *on_two)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(states(json.loads(done.stdout)).values()) == {"computed"}
    for noise in ("persisting result", "distributed.nanny"):
        assert noise not in done.stderr
    server = json.loads((project.home / "prefect" / "server.json").read_text())["url"]
    other = Project(tmp_path / "other", server)
    other.env["PYTHONPATH"] = project.env["PYTHONPATH"]
    other.run(*small)
    assert artifacts(other.home) == artifacts(project.home)
    assert not list((project.home / "checkpoints").glob("*/parts"))


def test_a_scheduler_that_is_not_there_is_refused_in_a_sentence(project):
    done = project.vaesc(
        "run", "--config", str(project.config), "--set", "runtime.runner=dask://127.0.0.1:1"
    )
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("vaesc: runtime.runner=dask://127.0.0.1:1: no Dask scheduler answers")
    assert "Traceback" not in done.stderr
