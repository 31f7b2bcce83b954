"""Models in MLflow: registered whole or not at all, found by any name, refused when damaged."""

import json
import os
import pickletools
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from registry_homes import (
    N_ATOMS,
    SHAPE,
    damage,
    enter_home,
    files_of,
    images,
    is_json,
    look_up_while_it_moves,
    reconstructed,
    same_model,
    saved,
    tiny_model,
)

from tasks.children import free_port
from vaesc import __version__
from vaesc.errors import DataError, RegistryError, StoreError
from vaesc.records import Dictionary, ModelVersion
from vaesc.registry import connect, exists, list_models, load_model, register, show_model
from vaesc.registry.failures import AbsentError
from vaesc.registry.registration import _Draft
from vaesc.store import file_digest

METRICS = {"test/mse_k1": 0.5, "test/mse_k8": 0.25}
DICTIONARY = Dictionary(
    uri="somewhere", digest="d" * 64, content="c" * 64, run_id="r" * 32,
    n_atoms=N_ATOMS, n_nonzero_coefs=2,
)  # fmt: skip


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch)


def made(folder, seed=0, name="vaesc", **options):
    """Register a tiny model as a pipeline run does: in a run nested in the pipeline's."""
    runs = connect("test")
    parent = runs.start_run("pipeline")
    run = runs.start_run("register", parent=parent, tags={"vaesc.step": "register"})
    bundle = saved(folder / f"bundle-{name}-{seed}", seed)
    options = {"metrics": METRICS, "records": {"learn": DICTIONARY}, **options}
    return register(bundle, runs, run_id=run, name=name, **options), parent


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A home with two versions, champion and challenger, made once."""
    with pytest.MonkeyPatch.context() as patch:
        folder = enter_home(tmp_path_factory.mktemp("kept"), patch)
        versions = [made(folder, seed) for seed in (0, 1)]
    return folder, versions


@pytest.fixture
def two(kept, monkeypatch):
    """The home with two versions, for reading only."""
    folder, versions = kept
    return enter_home(folder, monkeypatch, database=False), versions


@pytest.fixture
def own_two(home):
    """A home with the same two versions, for changing."""
    return home, [made(home, seed) for seed in (0, 1)]


# Registering


def test_the_first_version_is_champion_and_later_ones_challenge(home):
    records = [made(home, seed)[0] for seed in range(3)]
    aliases = {v["version"]: v["aliases"] for v in list_models()}

    assert [r.version for r in records] == [1, 2, 3]
    assert [r.uri for r in records] == ["models:/vaesc/1", "models:/vaesc/2", "models:/vaesc/3"]
    assert aliases == {1: ["champion"], 2: [], 3: ["challenger"]}


def test_the_same_model_is_registered_once(two):
    folder, [(first, _), _] = two
    runs = connect("test")
    run = runs.start_run("register")
    again = register(folder / "bundle-vaesc-0", runs, run_id=run, metrics=METRICS)

    assert again == first
    assert [v["version"] for v in list_models("vaesc")] == [2, 1]
    assert same_model(load_model(run), tiny_model(0))


def test_equal_models_have_equal_digests_and_others_do_not(two, tmp_path):
    _, [(first, _), (second, _)] = two
    other, _ = made(tmp_path, 0, name="other")

    assert other.digest == first.digest != second.digest
    assert (other.name, other.version) == ("other", 1)
    assert load_model(name="other").n_atoms == N_ATOMS


def test_nothing_is_pickled(two):
    folder, _ = two
    kept = [p for p in (folder / "mlartifacts" / "models").rglob("*") if p.is_file()]

    assert {p.suffix for p in kept} <= {"", ".json", ".py", ".safetensors", ".txt", ".yaml"}
    for path in kept:
        assert path.read_bytes()[:1] != b"\x80", path  # How a pickle since protocol 2 begins
        assert path.read_bytes()[:2] != b"PK", path  # How torch's archive of pickles begins
        with pytest.raises((ValueError, AttributeError, IndexError)):
            list(pickletools.genops(path.read_bytes()))
    mlmodel = next(p for p in kept if p.name == "MLmodel").read_text()
    assert "loader_module: mlflow.pyfunc.loaders.code_model" in mlmodel
    assert "python_model.pkl" not in mlmodel


def test_the_requirements_are_pinned(two):
    folder, _ = two
    lines = next((folder / "mlartifacts").rglob("artifacts/requirements.txt")).read_text().split()

    assert f"vaesc=={__version__}" in lines
    assert all("==" in line and "+" not in line for line in lines)


def test_mlflow_loads_the_champion_in_a_new_process_with_the_same_numbers(two, tmp_path):
    folder, _ = two
    x, model = images(), tiny_model(0)
    np.save(tmp_path / "x.npy", x)
    code = (
        "import sys, numpy as np, mlflow\n"
        "model = mlflow.pyfunc.load_model('models:/vaesc@champion')\n"
        "x = np.load('x.npy')\n"
        "codes = model.predict(x, params={'method': 'encode'})\n"
        "np.savez('y.npz', reconstruct=model.predict(x), encode=codes,\n"
        "         score=model.predict(x, params={'method': 'score'}),\n"
        "         decode=model.predict(codes[:, None, :], params={'method': 'decode'}))\n"
    )
    environment = {
        **os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder / 'mlflow.db'}",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }  # fmt: skip
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)

    with np.load(tmp_path / "y.npz") as y:
        assert np.array_equal(y["reconstruct"], model.reconstruct(x))
        assert np.array_equal(y["encode"], model.encode(x).toarray())
        assert np.array_equal(y["decode"], y["reconstruct"])
        assert np.array_equal(y["score"], model.score(x))


@pytest.mark.parametrize(
    ("data", "method", "sentence"),
    [
        (images().astype(np.float64), "reconstruct", "dtype of input float64"),
        (images().reshape(6, -1), "reconstruct", "does not match expected shape"),
        (images()[:, :, :-1], "encode", r"images must have shape \(n, 4, 5\)"),
        (images() + 9, "score", "images must lie in the range"),
        (images(), "decode", rf"codes must have shape \(n, {N_ATOMS}\)"),
        (images(), "sing", "method must be one of reconstruct, encode, decode, score"),
    ],
)
def test_what_the_served_model_cannot_take_it_refuses_in_a_sentence(two, data, method, sentence):
    _, [(first, _), _] = two
    from mlflow import pyfunc
    from mlflow.exceptions import MlflowException

    model = pyfunc.load_model(str(files_of(first).parents[1]))
    with pytest.raises(MlflowException, match=sentence) as raised:
        model.predict(data, params={"method": method})

    assert raised.value.get_http_status_code() == 400


def test_no_images_are_no_error(two):
    _, [(first, _), _] = two
    from mlflow import pyfunc

    model = pyfunc.load_model(str(files_of(first).parents[1]))
    none = np.empty((0, *SHAPE), np.float32)

    assert model.predict(none).shape == (0, *SHAPE)
    assert model.predict(none, params={"method": "encode"}).shape == (0, N_ATOMS)


def test_a_model_of_another_range_is_checked_in_that_range(home):
    runs = connect("test")
    bundle = saved(home / "wide", low=-100.0, high=300.0)
    record = register(bundle, runs, run_id=runs.start_run("register"))
    example = json.loads(next((home / "mlartifacts").rglob("input_example.json")).read_text())

    assert np.ptp(example) == 400
    assert (load_model(record.version).low, load_model(record.version).high) == (-100, 300)


def test_a_failed_check_leaves_no_version(home, monkeypatch):
    def interrupted(*_):
        raise RegistryError("cut off")

    monkeypatch.setattr(_Draft, "_check", interrupted)
    with pytest.raises(RegistryError, match="cut off"):
        made(home)
    runs = connect("test")
    (draft,) = runs.client.search_logged_models([runs.experiment_id])

    assert draft.status.value == "FAILED"
    assert list_models() == []
    with pytest.raises(AbsentError, match=r"no model 'vaesc' is registered .* it is empty"):
        load_model()


def test_a_model_that_mlflow_gives_back_changed_is_not_registered(home, monkeypatch):
    from mlflow import pyfunc

    class Changed:
        def predict(self, x):
            return np.asarray(x)

    monkeypatch.setattr(pyfunc, "load_model", lambda *_, **__: Changed())
    with pytest.raises(RegistryError, match="reconstructs differently"):
        made(home)

    assert list_models() == []


def test_a_damaged_version_is_replaced_and_its_alias_moves(own_two):
    folder, [(first, _), _] = own_two
    damage(files_of(first) / "vae.safetensors")
    assert not exists(first)
    with pytest.raises(RegistryError, match=r"models:/vaesc/1 is damaged .*vae.safetensors"):
        load_model("champion")

    runs = connect("test")
    anew = register(folder / "bundle-vaesc-0", runs, run_id=runs.start_run("register"))
    assert (anew.version, anew.digest) == (3, first.digest)
    assert show_model("champion")["version"] == 3
    assert show_model("challenger")["version"] == 2
    assert same_model(load_model("champion"), tiny_model(0))


def test_another_whole_model_in_its_place_is_refused(own_two):
    _, [(first, _), (second, _)] = own_two
    shutil.rmtree(files_of(first))
    shutil.copytree(files_of(second), files_of(first))

    assert not exists(first)
    with pytest.raises(RegistryError, match="does not have the SHA-256 that was registered"):
        load_model(1)


# Looking up


def test_every_name_of_a_version_finds_it(two):
    folder, [(first, parent), (second, _)] = two
    champion, challenger = tiny_model(0), tiny_model(1)

    for ref in ("champion", 1, "1", "models:/vaesc/1", "models:/vaesc@champion", parent):
        assert same_model(load_model(ref, device="cpu"), champion)
    for ref in ("challenger", 2, "latest", "models:/vaesc/latest", second.run_id):
        assert same_model(load_model(ref, device="cpu"), challenger)
    for ref in (folder / "bundle-vaesc-0", str(folder / "bundle-vaesc-0")):
        assert same_model(load_model(ref, device="cpu"), champion)
    assert first.run_id != second.run_id


def test_a_cached_register_step_is_found_by_its_run(two):
    _, [(first, _), _] = two
    runs = connect("test")
    parent = runs.start_run("pipeline")
    step = runs.start_run("register", parent=parent, tags={"vaesc.step": "register"})
    runs.set_tags(step, {"vaesc.digest": first.digest, "vaesc.cached_from": first.run_id})

    assert same_model(load_model(parent), tiny_model(0))


@pytest.mark.parametrize(
    ("ref", "sentence"),
    [
        (
            "winner",
            "no alias 'winner'; there are the aliases .*champion .version 1.*versions 1, 2",
        ),
        (7, "no version 7; there are the aliases"),
        ("models:/nobody/1", "no model 'nobody' is registered .* it has .*vaesc.* set VAESC_HOME"),
        ("models:/vaesc", "models:/NAME/VERSION or models:/NAME@ALIAS"),
        ("0" * 32, "look up run"),
    ],
)
def test_what_is_not_there_is_named_with_what_is(two, ref, sentence):
    with pytest.raises(RegistryError, match=sentence) as raised:
        load_model(ref)

    assert "\n" not in str(raised.value)


def test_a_run_without_a_model_is_said_to_have_none(two):
    run = connect("test").start_run("nothing")
    with pytest.raises(AbsentError, match=f"run {run} has registered no model; there are"):
        load_model(run)


def test_without_a_registry_nothing_is_found_and_nothing_created(tmp_path, monkeypatch):
    folder = enter_home(tmp_path / "home", monkeypatch, database=False)
    for look in (load_model, list_models, show_model):
        with pytest.raises(AbsentError, match=r"no model registry at .*mlflow.db yet"):
            look()

    assert list(folder.iterdir()) == []


def test_a_folder_that_holds_no_model_is_refused(tmp_path):
    with pytest.raises((StoreError, DataError), match="holds no model"):
        load_model(tmp_path)


def test_a_folder_without_a_slash_is_taken_for_an_alias_and_said_so(two):
    with pytest.raises(AbsentError, match=r"write \./bundle-vaesc-0 for the folder"):
        load_model("bundle-vaesc-0")


def test_lists_and_facts_are_plain_json(two):
    _, [(first, _), _] = two
    rows = [v for v in list_models() if v["name"] == "vaesc"]
    facts = show_model("champion")

    assert is_json(rows)
    assert is_json(facts)
    assert [v["version"] for v in rows] == [2, 1]
    assert {k: facts[k] for k in rows[1]} == rows[1]
    assert facts["metrics"] == METRICS
    assert (facts["model_digest"], facts["run_id"]) == (first.digest, first.run_id)
    assert facts["digests"] == {"learn": DICTIONARY.content}
    assert facts["runs"] == {"learn": DICTIONARY.run_id}
    assert facts["created"].endswith("+00:00")


def test_models_of_others_are_not_listed_and_not_loaded(own_two):
    client = connect().client
    client.create_registered_model("theirs")
    client.create_model_version("theirs", "file:///nowhere")

    assert {v["name"] for v in list_models()} <= {"vaesc", "other"}
    assert list_models("theirs") == []
    with pytest.raises(RegistryError, match="models:/theirs/1 is not a model that vaesc"):
        load_model("models:/theirs/1")


def test_a_version_exists_while_its_files_do(own_two):
    _, [(first, _), (second, _)] = own_two
    assert exists(first)
    assert not exists(replace(first, content="0" * 64))
    assert not exists(replace(first, version=9))
    assert not exists(replace(first, name="nobody"))

    (files_of(second) / "dictionary.json").unlink()
    assert not exists(second)
    connect().client.delete_model_version("vaesc", "1")
    assert not exists(first)


def test_a_version_of_a_registry_that_is_gone_does_not_exist(tmp_path, monkeypatch):
    enter_home(tmp_path / "home", monkeypatch, database=False)
    record = ModelVersion(uri="", digest="", content="", run_id="", name="vaesc", version=1)

    assert not exists(record)
    assert not (tmp_path / "home" / "mlflow.db").exists()


# A real server


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """An MLflow server that keeps the artifacts itself: (its URI, its process, its folder)."""
    with pytest.MonkeyPatch.context() as patch:
        yield from serving(tmp_path_factory.mktemp("server"), patch)


def serving(folder, monkeypatch):
    home = enter_home(folder / "home", monkeypatch)
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--workers", "1",
        "--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}",
        "--artifacts-destination", str(folder / "kept by the server"),
    ]  # fmt: skip
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for _ in range(2):  # somebody may take a port before the server does
        port = free_port()
        uri = f"http://127.0.0.1:{port}"
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--port", str(port)],
                env=environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        try:
            if answers(uri, process, folder / "log"):
                monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
                yield uri, process, folder
                return
        finally:
            stop(process)
    raise AssertionError((folder / "log").read_text())


def answers(uri, process, log, seconds=180):
    """Wait until the server answers, or has ended since somebody else has its port."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"{uri}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            if process.poll() is not None:
                assert "in use" in log.read_text(), log.read_text()
                return False
            time.sleep(0.3)
        else:
            return True
    raise AssertionError(log.read_text())


def stop(process):
    if process.poll() is None:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.fixture
def at_server(server, monkeypatch):
    """The server, as the MLflow in use from its own home."""
    uri, process, folder = server
    enter_home(folder / "home", monkeypatch, database=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri, process, folder


def no_kept_copies(folder):
    shutil.rmtree(folder / "home" / "models", ignore_errors=True)


@pytest.mark.slow
@pytest.mark.service
def test_everything_works_against_a_real_server(at_server, tmp_path):
    uri, _, folder = at_server
    record, parent = made(tmp_path)
    from mlflow.artifacts import list_artifacts

    assert exists(record)
    assert same_model(load_model("champion"), tiny_model(0))
    assert same_model(load_model(parent), tiny_model(0))
    assert made(tmp_path / "again")[0].version == 1
    assert show_model()["metrics"] == METRICS
    runs = connect("test")
    assert runs.run_url(parent) == f"{uri}/#/experiments/{runs.experiment_id}/runs/{parent}"
    assert [f.path for f in list_artifacts(run_id=parent, tracking_uri=uri)] == ["system"]
    assert not (folder / "home" / "mlartifacts").exists()


@pytest.mark.slow
@pytest.mark.service
def test_twenty_lookups_at_a_server_during_fifty_moves_are_whole(at_server, tmp_path):
    _, _, folder = at_server
    records = [made(tmp_path, seed)[0] for seed in (0, 1)]
    expected = {
        r.digest: (r.version, reconstructed(tiny_model(seed))) for seed, r in enumerate(records)
    }
    no_kept_copies(folder)
    client = connect().client
    found = look_up_while_it_moves(client, [r.version for r in records])

    assert len(found) == 20
    for origin, reconstructions in found:
        assert (origin.version, reconstructions) == expected[origin.digest]
        assert not origin.offline
    kept = {p.name for p in (folder / "home" / "models").iterdir() if len(p.name) == 64}
    assert kept == {origin.digest for origin, _ in found}
    client.set_registered_model_alias("vaesc", "champion", str(records[0].version))


@pytest.mark.slow
@pytest.mark.service
def test_a_server_that_goes_leaves_what_was_loaded(at_server, tmp_path, caplog):
    uri, process, folder = at_server
    record, parent = made(tmp_path)
    before = load_model("champion").origin
    load_model(parent)
    weights = files_at(folder, record) / "vae.safetensors"
    damage(weights)
    assert same_model(load_model("champion"), tiny_model(0))
    no_kept_copies(folder)
    with pytest.raises(RegistryError, match=f"{record.uri} is damaged"):
        load_model()
    damage(weights)  # back
    load_model("champion")
    load_model(parent)
    weights.unlink()
    assert not exists(record)

    stop(process)
    for ref in ("champion", parent):
        model = load_model(ref)
        assert same_model(model, tiny_model(0))
        assert model.origin.offline
        assert model.origin.resolved > before.resolved
        assert f"models:/vaesc/{record.version} from this machine's copy" in caplog.text
    for look in (lambda: load_model("challenger"), lambda: exists(record)):
        with pytest.raises(RegistryError, match=f"nothing answers at .*{uri}"):
            look()
    no_kept_copies(folder)
    with pytest.raises(RegistryError, match=r"no copy of 'champion' is kept on this machine"):
        load_model()


def files_at(folder, record):
    """Return the bundle of a version in the server's own folder."""
    found = (folder / "kept by the server").rglob("bundle.json")
    return next(p.parent for p in found if file_digest(p) == record.digest)
