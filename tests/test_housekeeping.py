"""`vaesc gc` never removes what a registered version or a run that goes on needs."""

import os
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from project import Project, artifacts, states, stop_server
from registry_homes import enter_home, saved, template_database

from vaesc import cli, housekeeping
from vaesc.housekeeping import collect_garbage, last_uses
from vaesc.needed import registered_addresses, work_in_progress
from vaesc.registry import connect, register
from vaesc.scratch import own_name
from vaesc.store import MANIFEST, PROVENANCE, Spec, Store, last_use, read_artifact

DAY = 86_400.0


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch)


def spec(kind, seed=0):
    return Spec(kind=kind, config={"seed": seed}, inputs={}, source="0" * 64)


def build(folder):
    (folder / "data").write_text("the data")
    return {}


def made(kind, seed=0, *parents, days=100):
    """Make an artifact that was last used so many days ago."""
    named = {f"input{i}": parent.digest for i, parent in enumerate(parents)}
    artifact = Store().make(spec(kind, seed), build, parents=named)
    age(artifact.path, days)
    return artifact


def age(folder, days):
    then = time.time() - days * DAY
    for path in (*folder.iterdir(), folder):
        os.utime(path, (then, then))


def gc(*arguments):
    return cli.main(["gc", "--yes", *arguments])


def version(folder, seed, made_from, name="vaesc", experiment="vaesc"):
    """Register a model that was made from artifacts, as the pipeline does; return its run."""
    runs = connect(experiment)
    run = runs.start_run("register")
    bundle = saved(folder / f"bundle-{name}-{seed}", seed)
    tags = {f"vaesc.digest.{artifact.kind}": artifact.digest for artifact in made_from}
    register(bundle, runs, run_id=run, name=name, tags=tags)
    runs.finish(run)
    return run


def test_all_that_a_registered_version_came_from_stays(home, tmp_path):
    dataset = made("dataset")
    vae = made("vae", 0, dataset)
    latents = made("latents", 0, dataset, vae)
    stray = [made("vae", 1, dataset), made("latents", 1)]
    other = made("dataset", 2)
    version(tmp_path, 0, [latents])
    version(tmp_path, 1, [other], name="another", experiment="elsewhere")
    assert registered_addresses() == {latents.digest, other.digest}

    assert gc("--keep-days", "0") == 0

    left = set(Store().folders())
    assert left == {a.path for a in (dataset, vae, latents, other)}
    assert not any(artifact.path.exists() for artifact in stray)
    assert list((home / "store" / "tmp").iterdir()) == []


def test_it_only_says_what_it_would_do(home, capsys):
    stray = made("vae")
    assert cli.main(["gc", "--keep-days", "0"]) == 0
    assert stray.path.exists()
    assert stray.digest in capsys.readouterr().out


def test_what_was_used_lately_stays_with_its_lineage(home):
    dataset = made("dataset")
    vae = made("vae", 0, dataset, days=29)
    old = made("vae", 1, dataset, days=31)
    assert gc() == 0
    assert (dataset.path.exists(), vae.path.exists(), old.path.exists()) == (True, True, False)


def test_a_version_whose_artifact_is_lost_keeps_the_others(home, tmp_path):
    """A version names every step's artifact: a hole in the lineage frees nothing behind it."""
    dataset = made("dataset")
    vae = made("vae", 0, dataset)
    version(tmp_path, 0, [dataset, vae])
    (vae.path / MANIFEST).unlink()
    assert gc("--keep-days", "0") == 0
    assert dataset.path.exists()
    assert vae.path.exists()


@pytest.mark.parametrize("experiment", ["vaesc", "elsewhere"])
def test_nothing_goes_while_a_run_goes_on(home, capsys, experiment):
    """Also a run in an experiment of another name, as `registry.experiment` sets it."""
    stray = made("vae")
    runs = connect(experiment)
    run = runs.start_run("train")
    assert gc("--keep-days", "0") == 1
    said = capsys.readouterr().err
    assert said == f"vaesc: run {run} is in progress; wait for its end, then collect\n"
    assert stray.path.exists()
    runs.finish(run)
    assert gc("--keep-days", "0") == 0
    assert not stray.path.exists()


def test_a_run_of_a_dead_process_holds_nothing_up(home):
    stray = made("vae")
    program = "from vaesc.registry import connect; print(connect('elsewhere').start_run('train'))"
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    assert gc("--keep-days", "0") == 0
    assert not stray.path.exists()
    assert connect().client.get_run(done.stdout.strip()).info.status == "KILLED"


def test_a_run_of_another_tool_holds_nothing_up(home):
    stray = made("vae")
    connect("elsewhere").client.create_run(connect("elsewhere").experiment_id)
    assert gc("--keep-days", "0") == 0
    assert not stray.path.exists()


def test_nothing_goes_while_a_script_makes_an_artifact_without_a_run(home, capsys):
    dataset = made("dataset")
    codes = []

    def slowly(folder):
        codes.append(gc("--keep-days", "0"))
        return build(folder)

    Store().make(spec("vae"), slowly, parents={"dataset": dataset.digest})
    assert codes == [1]
    assert "in progress" in capsys.readouterr().err
    assert dataset.path.exists()


def test_the_checkpoint_of_a_training_that_goes_on_stays_however_old(home):
    """A training holds the lock of what it makes; both may be older than any limit."""
    address = spec("vae").digest
    checkpoint = home / "checkpoints" / address
    checkpoint.mkdir(parents=True)
    (checkpoint / "training.safetensors").write_bytes(b"x")

    def train(folder):
        age(checkpoint, 100)
        for lock in (home / "store" / "locks").iterdir():
            os.utime(lock, (0, 0))
        collected = collect_garbage(Store(), set(), keep_days=0, delete=True)
        assert collected == []
        assert (checkpoint / "training.safetensors").exists()
        return build(folder)

    Store().make(spec("vae"), train)
    listed = {item.path for item in collect_garbage(Store(), set(), keep_days=1, delete=True)}
    assert checkpoint in listed
    assert not checkpoint.exists()


@pytest.mark.parametrize("how", ["use", "make", "note_use"])
def test_what_a_run_uses_that_began_after_the_listing_stays(home, how):
    used, stray = made("vae", 0), made("vae", 1)
    store = Store()
    seen = last_uses(store)
    if how == "use":
        store.use("vae", used.digest)
    elif how == "make":
        store.make(spec("vae", 0), build)
    else:
        store.note_use(used.path)
    new = store.make(spec("latents"), build)
    gone = collect_garbage(store, set(), keep_days=0, delete=True, seen=seen)
    assert [item.path for item in gone] == [stray.path]
    assert used.path.exists()
    assert new.path.exists()


def test_a_use_is_noted_of_our_artifacts_only(home, tmp_path):
    folder = tmp_path / "a" / "b" / "c"
    folder.mkdir(parents=True)
    (folder / PROVENANCE).write_text("{}")
    age(folder, 1)
    before = (folder / PROVENANCE).stat().st_mtime
    Store().note_use(folder)
    assert (folder / PROVENANCE).stat().st_mtime == before


def test_runs_that_begin_at_any_moment_lose_nothing(home, monkeypatch):
    """Runs work (noted beside, as makers are) while garbage is collected without a pause."""
    (home / "mlflow.db").unlink()
    store, stop, lost, removed = Store(), threading.Event(), [], []

    def collect():
        while not stop.is_set():
            seen = last_uses(store)
            if not work_in_progress(store):
                gone = collect_garbage(store, set(), keep_days=0, delete=True, seen=seen)
                removed.extend(item.path.name for item in gone)

    def run():
        for _ in range(150):
            mark = store.root / "tmp" / own_name("run")
            mark.mkdir(parents=True)
            for kind in ("dataset", "vae"):
                found = store.make(spec(kind), build)
                time.sleep(0.0005)
                if not (found.path / "data").exists():
                    lost.append(found)
            mark.rmdir()
            time.sleep(0.002)

    collector = threading.Thread(target=collect)
    collector.start()
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(run) for _ in range(2)]
    stop.set()
    collector.join()
    for each in runs:
        each.result()
    assert lost == []
    assert len(removed) > 5, "nothing was ever collected: nothing was put to the test"


def test_two_at_once_remove_each_thing_once(home):
    strays = [made("vae", seed) for seed in range(20)]
    store = Store()
    seen = last_uses(store)
    begin = threading.Barrier(2)

    def collect():
        begin.wait()
        gone = collect_garbage(store, set(), keep_days=0, delete=True, seen=seen)
        return [item.path for item in gone if item.path in seen]

    with ThreadPoolExecutor(2) as pool:
        first, second = [each.result() for each in [pool.submit(collect) for _ in range(2)]]
    assert sorted(first + second) == sorted(stray.path for stray in strays)


def test_what_another_removes_meanwhile_is_no_error(home, monkeypatch):
    """It is gone between two looks at it: at its files, or at its times before that."""
    early, late, slow = (made("vae", seed) for seed in range(3))
    looked, walk = last_use, os.walk

    def quick(folder):
        if folder == early.path:
            shutil.rmtree(folder)
        return looked(folder)

    def then_gone(folder):
        listed = list(walk(folder))
        if folder == late.path:
            shutil.rmtree(folder)
        return listed

    monkeypatch.setattr(housekeeping, "last_use", quick)
    monkeypatch.setattr(os, "walk", then_gone)
    assert [item.path for item in collect_garbage(Store(), set(), keep_days=0, delete=True)] == [
        slow.path
    ]


def test_what_is_removed_while_it_is_verified_is_not_called_damaged(home, monkeypatch):
    gone, left = made("vae", 0), made("vae", 1)

    def quick(folder):
        if folder == gone.path:
            shutil.rmtree(folder)
        return read_artifact(folder)

    monkeypatch.setattr(housekeeping, "read_artifact", quick)
    found = [(each["digest"], each["whole"]) for each in housekeeping.verify_store(Store())]
    assert found == [(left.digest, True)]


def test_what_a_killed_collection_leaves_is_swept(home):
    stray = made("vae")
    program = (
        "import os; from vaesc import housekeeping, store\n"
        "store.shutil.rmtree = lambda *_, **__: os._exit(9)\n"
        "housekeeping.collect_garbage(store.Store(), set(), keep_days=0, delete=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False)
    assert done.returncode == 9
    assert not stray.path.exists()
    (grave,) = (home / "store" / "tmp").iterdir()
    assert [item.path for item in collect_garbage(Store(), set(), keep_days=9)] == [grave]
    assert gc() == 0
    assert not grave.exists()


def test_cache_records_go_with_their_artifacts_and_not_before(home):
    old, new = made("vae", 0), made("vae", 1, days=1)
    results = home / "results"
    results.mkdir()
    for name in (f"train-{old.digest}", f"train-{new.digest}", f"register-{'0' * 64}"):
        (results / name).write_text("{}")
    assert gc() == 0
    left = {path.name for path in results.iterdir()}
    assert left == {f"train-{new.digest}", f"register-{'0' * 64}"}


def test_versions_of_before_stay_when_another_mlflow_is_in_use(home, tmp_path, monkeypatch):
    """Whoever points at a server today may have registered in the home's own database before."""
    kept, stray = made("vae", 0), made("vae", 1)
    version(tmp_path, 0, [kept])
    elsewhere = shutil.copy(template_database(), tmp_path / "elsewhere.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{elsewhere}")
    assert gc("--keep-days", "0") == 0
    assert (kept.path.exists(), stray.path.exists()) == (True, False)


def test_no_registry_that_answers_no_collection(home, monkeypatch, capsys):
    """What is registered cannot be known then, so nothing may go."""
    stray = made("vae")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert gc("--keep-days", "0") == 1
    assert capsys.readouterr().err.startswith("vaesc: ")
    assert stray.path.exists()


STRAY = """
from vaesc.config_files import load_config
from vaesc.steps import INGEST, run_step
from pathlib import Path
config = load_config("digits", Path("small.toml"), ["seed=77"])
print(run_step(INGEST, config, {"source": "x"}).path)
"""


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.service
@pytest.mark.timeout(900)
def test_a_real_home_keeps_every_version_and_its_cache(tmp_path):
    project = Project(tmp_path / "home")
    try:
        first = project.run()
        second = project.run("--set", "dictionary.n_atoms=24")
        before = artifacts(project.home)
        stray = Path(project.python(STRAY).strip().splitlines()[-1])
        assert stray.exists()

        done = project.vaesc("gc", "--yes", "--keep-days", "0")

        assert done.returncode == 0, done.stderr
        assert not stray.exists()
        assert artifacts(project.home) == before
        checked = project.vaesc("verify")
        assert checked.returncode == 0, checked.stdout
        assert first["model"]["version"] != second["model"]["version"]
        assert set(states(project.run()).values()) == {"cached"}
    finally:
        stop_server(project)
