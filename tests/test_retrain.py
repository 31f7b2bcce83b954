"""Retraining as the schedule runs it: candidates, decisions, nothing new, a warm start."""

import json
import time

import numpy as np
import pytest
from card_reader import numbers, section, tables
from project import Project, stop_server

pytestmark = [pytest.mark.slow, pytest.mark.service, pytest.mark.timeout(600)]

QUICK = """
[dataset]
source = "arrays"
split = "content"
[vae]
hidden = [64]
latent_dim = 8
likelihood = "gaussian"
observation_std = 0.1
[training]
epochs = 8
batch_size = 32
[dictionary]
n_atoms = 32
n_nonzero_coefs = 2
max_epochs = 3
[refine]
epochs = 0
[evaluation]
sparsity_levels = [2]
topk_epochs = 0
iwae_samples = [5]
iwae_images = [20]
"""


def digits():
    from sklearn.datasets import load_digits

    return (load_digits().images * 15).astype(np.uint8)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    found = Project(tmp_path_factory.mktemp("retrain"))
    found.config.write_text(QUICK)
    np.save(found.home / "images.npy", digits()[:1200])
    yield found
    stop_server(found)


def retrained(project, *arguments):
    done = project.vaesc(
        "retrain", "--preset", "arrays", "--config", str(project.config), "--json",
        "--set", f"dataset.path={project.home / 'images.npy'}", *arguments,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def story(project):
    """Five retrainings, one after the other, as a week might bring them."""
    told = {"first": retrained(project)}
    start = time.monotonic()
    told["again"] = retrained(project)
    told["again_seconds"] = time.monotonic() - start
    told["worse"] = retrained(project, "--set", "vae.latent_dim=2")
    told["better"] = retrained(project, "--set", "training.epochs=40")
    np.save(project.home / "images.npy", digits())
    told["more data"] = retrained(project, "--set", "training.epochs=40", "--warm-start")
    return told


def show(project, ref):
    done = project.vaesc("models", "show", str(ref), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_first_model_is_champion_for_want_of_another(story):
    assert story["first"]["outcome"] == "promoted"
    assert story["first"]["champion"] is None
    assert all(check["passes"] for check in story["first"]["checks"])


def test_an_ill_first_model_is_no_champion(project, story):
    """A VAE whose latents have collapsed: no active unit."""
    found = retrained(
        project, "--set", "registry.model_name=ill", "--set", "vae.beta=1000",
        "--set", "training.epochs=1",
    )  # fmt: skip
    assert found["outcome"] == "rejected"
    assert "active_units is 0" in found["reason"]
    done = project.vaesc("models", "history", "--name", "ill", "--json")
    assert json.loads(done.stdout) == []
    done = project.vaesc("models", "rollback", "--name", "ill")
    assert done.returncode == 1
    assert "there is no champion of 'ill'" in done.stderr


def test_nothing_new_is_said_at_once(story):
    assert story["again"]["outcome"] == "nothing new"
    assert "version 1, which is the champion" in story["again"]["reason"]
    assert story["again"]["run"] is None


@pytest.mark.long
def test_a_decision_that_was_cut_off_before_the_alias_moved_is_made_again(project):
    """Killed after the decision was kept: the next night must not take it for done."""
    name = ("--set", "registry.model_name=cut")
    first = retrained(project, *name)
    cut = (
        "from tasks import gate\n"
        "from vaesc.config_files import load_config\n"
        "from vaesc.registry import promotion\n"
        "from flows.retrain import retrain\n"
        "def killed(*a, **k): raise SystemExit('killed')\n"
        "promotion.promote = killed\n"
        "retrain('arrays', ['dataset.path=images.npy', 'registry.model_name=cut',\n"
        "    'training.epochs=40'], 'small.toml')\n"
    )
    done = project.script(cut)
    assert done.returncode != 0
    again = retrained(project, *name, "--set", "training.epochs=40")
    assert again["outcome"] == "promoted", again["reason"]
    assert again["champion"] == first["candidate"]
    assert retrained(project, *name, "--set", "training.epochs=40")["outcome"] == "nothing new"


@pytest.mark.long
def test_a_rollback_is_not_undone_by_the_next_night(project):
    name = ("--set", "registry.model_name=cut", "--set", "training.epochs=40")
    done = project.vaesc("models", "rollback", "--name", "cut", "--json")
    assert done.returncode == 0, done.stderr
    told = retrained(project, *name)
    assert told["outcome"] == "nothing new"
    assert "was champion before" in told["reason"]


@pytest.mark.long
def test_the_champion_trained_again_stays_what_it_is(project):
    """Another key, the same model: it is neither judged alone nor loses its decision."""
    name = ("--set", "registry.model_name=cut")
    told = retrained(project, *name, "--set", "gate.margin=0.02")
    assert told["outcome"] == "nothing new"
    assert "the champion" in told["reason"]
    found = project.vaesc("models", "show", "1", "--name", "cut", "--json")
    assert json.loads(found.stdout)["aliases"] == ["champion"]


@pytest.mark.long
def test_a_candidate_that_was_overtaken_is_compared_with_the_new_champion(project):
    """Another retraining promotes its own between the comparison and the move."""
    third = retrained(project, "--set", "registry.model_name=cut", "--set", "vae.latent_dim=2")
    assert third["outcome"] == "rejected"
    overtaken = (
        "import json\n"
        "from pathlib import Path\n"
        "from tasks.gate import gate\n"
        "from vaesc.config_files import load_config\n"
        "from vaesc.registry import connect, promotion\n"
        "from vaesc.registry.lookup import find_version\n"
        "config = load_config('arrays', Path('small.toml'),\n"
        "    ['dataset.path=images.npy', 'registry.model_name=cut'])\n"
        "real, overtaken = promotion.promote, []\n"
        "def promote(tracking, version, **how):\n"
        "    if not overtaken:\n"
        "        overtaken.append(True)\n"
        f"        third = find_version(tracking, {third['candidate']}, 'cut')\n"
        "        real(tracking, third, expected=how['expected'], reason='was faster')\n"
        "    return real(tracking, version, **how)\n"
        "promotion.promote = promote\n"
        "run = find_version(connect(), 2, 'cut').run_id\n"
        "print(json.dumps(gate.fn(config, 2, run, 'a key')))\n"
    )
    done = project.script(overtaken)
    assert done.returncode == 0, done.stderr[-2000:]
    decision = json.loads(done.stdout.splitlines()[-1])
    assert decision["champion"] == third["candidate"]
    assert decision["outcome"] == "promoted"
    moved = json.loads(
        project.vaesc("models", "history", "--name", "cut", "--json").stdout
    )[-2:]  # fmt: skip
    assert [(m["previous"], m["version"]) for m in moved] == [(1, 3), (3, 2)]


def test_a_worse_candidate_is_rejected_and_the_reason_is_kept(project, story):
    worse = story["worse"]
    assert worse["outcome"] == "rejected"
    assert worse["champion"] == 1
    kept = show(project, worse["candidate"])
    assert kept["aliases"] == []
    decision = kept["decision"]
    assert decision["outcome"] == "rejected"
    assert decision["reason"] == worse["reason"]
    ratios = {c["metric"]: c["ratio"] for c in decision["comparisons"]}
    assert ratios["mse"] > 1.03
    shown = project.vaesc("models", "show", str(worse["candidate"])).stdout
    assert f"rejected: {worse['reason']}" in shown


def test_a_better_candidate_is_promoted(project, story):
    better = story["better"]
    assert better["outcome"] == "promoted", better["reason"]
    mse = next(c for c in better["comparisons"] if c["metric"] == "mse")
    assert mse["high"] < 1
    moved = json.loads(project.vaesc("models", "history", "--json").stdout)
    assert (1, better["candidate"]) in [(m["previous"], m["version"]) for m in moved]


def test_the_frozen_split_stays_when_data_is_added(story):
    more = story["more data"]
    assert more["n_images"] == story["better"]["n_images"] == story["first"]["n_images"]
    assert more["n_seen"] == 0  # dataset.split=content moves no image


def test_a_warm_start_is_on_record_and_starts_lower(project, story):
    run = story["more data"]["run"]["run_id"]
    program = (
        "from vaesc.registry import connect\n"
        f"print(connect().client.get_run('{run}').data.tags['vaesc.warm_start'])"
    )
    said = project.python(program).strip()
    assert said.startswith(f"version {story['better']['candidate']}: vae")
    assert first_epoch(project, story["more data"]) < first_epoch(project, story["better"]) - 1


def first_epoch(project, found):
    run = found["run"]["run_id"]
    program = (
        "from vaesc.registry import connect\n"
        "client = connect().client\n"
        f"found = client.search_runs(client.get_run('{run}').info.experiment_id.split(),\n"
        f"    \"tags.mlflow.parentRunId = '{run}' and tags.vaesc.step = 'train'\")[0]\n"
        "path = client.get_metric_history(found.info.run_id, 'validation/negative_elbo')\n"
        "print(min(path, key=lambda m: m.step if m.step else 999).value)\n"
    )
    return float(project.python(program))


def test_the_atoms_of_a_champion_are_numbered_for_good(project, story):
    ids = json.loads(show(project, story["better"]["candidate"])["tags"]["vaesc.atoms"])
    atoms = story["better"]["atoms"]
    assert ids["ids"] == atoms["ids"]
    assert len(set(ids["ids"])) == 32
    version = story["better"]["candidate"]
    loaded = project.python(f"from vaesc import load_model; print(load_model({version}).atom_ids)")
    assert loaded.strip() == str(tuple(ids["ids"]))
    assert atoms["n_persisted"] + len(atoms["born"]) == 32
    assert ids["next_id"] > max(ids["ids"])
    # Numbers that a rejected candidate's atoms had are not given again.
    assert atoms["born"]
    assert not set(atoms["born"]) & set(story["worse"]["atoms"]["ids"])


@pytest.mark.long
def test_nothing_new_is_known_too_where_the_first_champion_was_never_judged(project):
    """`vaesc run` names the first champion; no gate has frozen a split by then."""
    name = ("--set", "registry.model_name=plain")
    source = ("--set", f"dataset.path={project.home / 'images.npy'}")
    done = project.vaesc(
        "run", "--preset", "arrays", "--config", str(project.config), "--json", *source, *name
    )
    assert done.returncode == 0, done.stderr[-2000:]
    worse = ("--set", "vae.latent_dim=2", *name)
    assert retrained(project, *worse)["outcome"] == "rejected"
    assert retrained(project, *worse)["outcome"] == "nothing new"
    done = project.vaesc("models", "history", "--name", "plain", "--json")
    assert [entry["kind"] for entry in json.loads(done.stdout)] == ["first", "freeze"]


def test_images_that_cannot_be_compared_are_refused_before_they_are_trained_on(project, story):
    np.save(project.home / "small.npy", digits()[:600, 1:7, 1:7])
    done = project.vaesc(
        "retrain", "--preset", "arrays", "--config", str(project.config),
        "--set", f"dataset.path={project.home / 'small.npy'}",
    )  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "images of shape (6, 6)" in last
    assert "registry.model_name=NAME" in last
    assert "epoch 1" not in done.stderr
    # By hand, they are not made what the champion is judged on, either.
    project.vaesc(
        "run", "--preset", "arrays", "--config", str(project.config), "--set",
        f"dataset.path={project.home / 'small.npy'}", "--set", "training.epochs=1",
    )  # fmt: skip
    done = project.vaesc("models", "freeze", "latest", "--reason", "why not")
    assert done.returncode == 1
    assert "cannot be frozen" in done.stderr


@pytest.mark.long
def test_another_split_is_frozen_by_hand_only_and_what_it_rejected_is_asked_anew(project):
    name = ("--set", "registry.model_name=moved")
    project_images = project.home / "images.npy"
    before = np.load(project_images)
    first = retrained(project, *name)
    worse = ("--set", "vae.latent_dim=2", *name)
    assert retrained(project, *worse)["outcome"] == "rejected"
    assert retrained(project, *worse)["outcome"] == "nothing new"
    np.save(project_images, np.concatenate([before, 15 - before]))
    try:
        more = retrained(project, *name, "--set", "gate.policy=not-worse")
        assert more["frozen_dataset"] == first["frozen_dataset"]

        again = project.vaesc("models", "freeze", "1", "--name", "moved")
        assert again.returncode == 1
        assert "models:/moved/1's data already" in again.stderr
        done = project.vaesc(
            "models", "freeze", str(more["candidate"]), "--name", "moved",
            "--reason", "negatives are normal now", "--json",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        choice = json.loads(done.stdout)
        assert choice["previous"] == first["frozen_dataset"]
        assert choice["reason"] == "negatives are normal now"
    finally:
        np.save(project_images, before)
    judged = retrained(project, *worse)
    assert judged["outcome"] in ("promoted", "rejected")
    assert judged["frozen_dataset"] == choice["address"]
    assert judged["n_images"] > 1.5 * first["n_images"]


def test_the_card_of_a_version_tells_the_run_s_own_numbers_and_the_decision(project, story):
    # Before the next test promotes that version by force, which its card would tell.
    found = story["worse"]
    shown = show(project, found["candidate"])
    card = shown["description"]
    digest = next(s for s in found["run"]["steps"] if s["name"] == "evaluate")["digest"]
    folder = project.home / "store" / "evaluation" / digest[:2] / digest
    results = json.loads((folder / "results.json").read_text())
    k = results["n_nonzero_coefs"]
    own = results["levels"].index(k)
    main, claims = tables(section(card, "Metrics"))
    for cell, name in zip(main[1][1:], (results["claimant"], "pixel"), strict=True):
        method = results["methods"][name]
        expected = [method[key][own] for key in ("mse", "low", "high")]
        assert numbers(cell) == pytest.approx(expected, rel=6e-3)
    assert numbers(main[1][1])[0] == pytest.approx(
        found["run"]["metrics"][f"test/mse_k{k}"], rel=6e-3
    )
    for row, claim in zip(claims[1:], results["claim"], strict=True):
        expected = [claim["ratio"], claim["low"], claim["high"]]
        assert numbers(row[1]) == pytest.approx(expected, rel=6e-3)
    assert f"MLflow run `{found['run']['run_id']}`" in card
    assert f"dataset digest: `{shown['tags']['vaesc.digest.ingest']}`" in card
    assert str(project.home) not in card
    told = section(card, "Decision")
    assert told.startswith(f"**rejected**, compared with version {found['champion']}")
    compared, health = tables(told)
    for row, c in zip(compared[1:], found["comparisons"], strict=True):
        expected = [c["ratio"], c["low"], c["high"]]
        assert numbers(row[3]) == pytest.approx(expected, rel=6e-3)
    assert len(health) == 1 + len(found["checks"])


def test_compare_promote_and_rollback_from_the_command_line(project, story):
    worse = story["worse"]["candidate"]
    done = project.vaesc("models", "compare", str(worse))
    assert done.returncode == 0, done.stderr
    assert "would be rejected" in done.stdout
    done = project.vaesc("models", "promote", str(worse))
    assert done.returncode == 1
    assert "--force promotes it all the same" in done.stderr
    assert done.stderr.count("\n") == 1
    done = project.vaesc(
        "models", "promote", str(worse), "--force", "--reason", "a drill", "--json"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kind"] == "force"
    before = json.loads(done.stdout)["previous"]
    done = project.vaesc("models", "rollback", "--json")
    assert json.loads(done.stdout)["version"] == before


def test_the_decision_is_in_the_run_with_its_page(project, story):
    found = story["better"]
    page = (project.home / "runs" / found["run"]["run_id"] / "decision.html").read_text()
    assert f"Version {found['candidate']} was promoted" in page
    program = (
        "from vaesc.registry import connect\n"
        f"run = connect().client.get_run('{found['run']['run_id']}')\n"
        "print(run.data.tags['vaesc.gate'], run.data.metrics['gate/mse_ratio'])\n"
    )
    word, ratio = project.python(program).split()
    assert word == "promoted"
    assert float(ratio) < 1
