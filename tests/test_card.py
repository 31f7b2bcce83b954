"""The model card: true, short enough for MLflow, and never broken by what users call things."""

import json
from dataclasses import replace

import numpy as np
import pytest
from card_reader import numbers, section, tables
from registry_homes import N_ATOMS, enter_home, saved, tiny_model

from vaesc.drift.reference import Reference
from vaesc.records import Dataset, Evaluation, Refined
from vaesc.registry import connect, register, show_model
from vaesc.registry.card import LENGTH, model_card
from vaesc.registry.card_decision import with_decision
from vaesc.registry.card_facts import facts_of
from vaesc.registry.markdown import plain

EMPTY = facts_of({})
DECISION = {
    "outcome": "rejected", "reason": "mse_p95 is 1.2 times the champion's", "champion": 3,
    "n_images": 1234,
    "comparisons": [{
        "metric": "mse", "candidate": 0.02, "champion": 0.01, "ratio": 2.0, "low": 1.9,
        "high": 2.1, "margin": 0.01, "verdict": "worse",
    }],
    "checks": [{"name": "dead_fraction", "value": 0.25, "limit": 0.75, "passes": True}],
}  # fmt: skip


def results(levels=(1, 2), k=2):
    """Return an evaluation's results in which every number is another."""
    at = iter(np.linspace(0.01, 0.9, 40 * len(levels)))

    def draw():
        return [float(next(at)) for _ in levels]

    def claims():
        drawn = zip(levels, draw(), draw(), draw(), strict=True)
        words = ("better", "no difference shown", "worse")
        return [
            {"k": k, "ratio": r, "low": a, "high": b, "verdict": words[i % 3]}
            for i, (k, r, a, b) in enumerate(drawn)
        ]

    def curve():
        return {key: draw() for key in ("mse", "low", "high", "psnr_db")}

    return {
        "levels": list(levels), "n_nonzero_coefs": k, "latent_dim": 3, "n_test": 4321,
        "claimant": "article", "methods": {"article": curve(), "pixel": curve()}, "l0": draw(),
        "claim": claims(), "descended_claim": claims(), "parameters": {"pixel": [98_765]},
        "metrics": {
            "test/negative_elbo": 101.5, "test/distortion": 90.25, "test/kl": 11.25,
            "test/active_units": 2.0,
        },
    }  # fmt: skip


def records(folder, found, *, source="digits", licence="CC BY 4.0"):
    """Write what a run's steps would have, and return their records."""
    for name, content in (
        ("summary.json", {"licence": licence}),
        ("results.json", found),
        ("manifest.json", {"config": {"seed": 7}}),
    ):
        (folder / name).write_text(json.dumps(content))
    same = {"uri": str(folder), "digest": "d" * 64, "content": "c" * 64, "run_id": "r" * 32}
    return {
        "ingest": Dataset(
            **same, source=source, n_train=1294, n_validation=144, n_test=4321, shape=(4, 5)
        ),
        "evaluate": Evaluation(**same, n_test=4321),
    }


def test_a_model_registered_by_hand_has_a_short_and_true_card(tmp_path, monkeypatch):
    enter_home(tmp_path / "home", monkeypatch)
    runs = connect("test")
    run = runs.start_run("by hand")
    made = register(saved(tmp_path / "bundle"), runs, run_id=run, name="by-hand")
    card = show_model(1, name="by-hand")["description"]

    assert made.version == 1
    assert card.startswith(f"# by-hand, version 1\n\nSparse codes of 4x5 images: {N_ATOMS} atoms")
    assert "## Metrics" not in card
    assert "not on record" in section(card, "Data")
    assert "no evaluation is on record" in section(card, "Limits")
    assert "drift cannot be seen" in section(card, "Limits")
    assert 'load_model("models:/by-hand/1")' in section(card, "How to use")
    assert "report.html" not in card
    assert str(tmp_path) not in card


def test_every_number_of_the_card_is_one_of_the_results(tmp_path):
    found = results()
    card = model_card(tiny_model(), facts_of(records(tmp_path, found)), "models:/v/1", "a" * 32)
    main, claims = tables(section(card, "Metrics"))
    for row, key in ((main[1], "mse"), (main[2], "psnr_db")):
        for cell, name in zip(row[1:], ("article", "pixel"), strict=True):
            method = found["methods"][name]
            keys = ("mse", "low", "high") if key == "mse" else (key,)
            assert numbers(cell) == pytest.approx([method[k][1] for k in keys], rel=5e-3)
    assert numbers(main[3][1]) == pytest.approx([found["l0"][1]], rel=5e-3)
    for row, ours, theirs in zip(
        claims[1:], found["claim"], found["descended_claim"], strict=True
    ):
        assert int(row[0]) == ours["k"]
        for cell, claim in zip(row[1:], (ours, theirs), strict=True):
            expected = [claim["ratio"], claim["low"], claim["high"]]
            assert numbers(cell) == pytest.approx(expected, rel=5e-3)
            assert cell.endswith(f": {claim['verdict']}")
    assert "102 nats per image (distortion 90.2 + KL 11.2)" in card
    limits = section(card, "Limits")
    assert "no difference shown at k = 2" in limits
    assert "worse at" not in limits
    assert "inactive latents: 1 of 3 on test images" in limits
    assert "98,765" in limits
    assert "seed 7" in section(card, "Method")
    assert "2 active on test images" in section(card, "Method")
    assert "1,294 training, 144 validation, 4,321 test" in section(card, "Data")
    assert "CC BY 4.0" in card
    assert "d" * 64 in card
    assert f"MLflow run `{'a' * 32}`" in card


def test_a_refined_model_is_not_given_the_vae_s_numbers(tmp_path):
    found = {**results(), "claimant": "refined"}
    found["methods"]["refined"] = found["methods"].pop("article")
    every = records(tmp_path, found)
    made = Refined(**{k: getattr(every["ingest"], k) for k in ("uri", "digest", "content")},
                   run_id="", levels=(1, 2))  # fmt: skip
    model = tiny_model()
    model.reference = Reference(
        n_atoms=N_ATOMS, mse=(0.1, 0.2, 0.3, 0.4), l0=(1, 1, 1, 2), atoms=(0, 0, 3, 3, 5),
        energy=tuple(1.0 if i in (0, 3, 5) else 0.0 for i in range(N_ATOMS)),
    )  # fmt: skip
    card = model_card(model, facts_of({**every, "refine": made}), "models:/v/1")
    assert "of the VAE before refinement: 102 nats" in card
    assert "active on test images" not in section(card, "Method")
    assert "L0, 4 validation images&emsp; | 1.25&emsp; |" in card
    assert f"dead atoms: {N_ATOMS - 3} of {N_ATOMS} on 4 validation images" in card
    assert "no anomaly p-value is below 0.200" in card


def test_a_decision_replaces_the_last_one_and_nothing_else():
    card = model_card(tiny_model(), EMPTY, "models:/v/2")
    first = with_decision(card, {**DECISION, "outcome": "promoted", "champion": None})
    noted = f"{first}\n\n## Notes\n\nSeen by Ada."
    again = with_decision(noted, DECISION)

    assert first.startswith(card)
    assert again.count("## Decision") == 1
    assert "Seen by Ada." in again
    told = section(again, "Decision")
    assert told.startswith("**rejected**, compared with version 3, the champion, on 1,234 images")
    assert "mse\\_p95 is 1.2 times" in told
    compared, health = tables(told)
    assert [numbers(cell) for cell in compared[1][1:5]] == [
        [0.02],
        [0.01],
        [2.0, 1.9, 2.1],
        [1.01],
    ]
    assert compared[1][5] == "worse"
    assert health[1] == ["share of dead atoms", "0.250", "0.75", "passes"]


def test_no_card_is_longer_than_mlflow_s_column(tmp_path):
    from mlflow.store.model_registry.dbmodels.models import SqlModelVersion

    assert SqlModelVersion.__table__.c.description.type.length == LENGTH
    levels = tuple(range(1, 201))
    facts = facts_of(records(tmp_path, results(levels, 200), source="<" * 500))
    card = model_card(tiny_model(), facts, f"models:/{'_' * 250}/1", "a" * 32)
    assert len(card) <= LENGTH
    assert 'load_model("models:/___' in card
    long = {**DECISION, "reason": "x" * 9000, "comparisons": DECISION["comparisons"] * 90}
    assert len(with_decision(card, long)) <= LENGTH
    full = "y" * (LENGTH - 20)
    assert with_decision(full, DECISION) == full


HOSTILE = (
    "/home/ada/secret/images.npy", "s3://key:hunter2@bucket/secret/a.npy",
    "https://ada:hunter2@host", r"C:\Users\secret\a.npy",
    "a | b\n## Decision\n\n<script>x</script>",
    "[x](javascript:alert(1)) ![](http://e/secret/i.png) `c` **b**",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_what_users_call_things_breaks_nothing_and_gives_nothing_away(tmp_path, text):
    every = records(tmp_path, results(), source=text, licence=text)
    card = model_card(tiny_model(), facts_of(every), "models:/v/1")
    told = with_decision(card, {**DECISION, "reason": text, "outcome": text})
    for secret in ("secret", "hunter2", "<script>", "[x](", "![", str(tmp_path)):
        assert secret not in told
    assert told.count("\n## Decision") == 1
    assert len(tables(told)) == 4
    assert "\n" not in plain(text)


def test_a_version_s_name_is_text_too():
    card = model_card(tiny_model(), EMPTY, "models:/a*b_<i>|#`/1")
    assert card.splitlines()[0] == r"# a\*b\_&lt;i&gt;\|\#\`, version 1"


def test_what_lies_in_no_store_is_passed_over(tmp_path):
    gone = {k: replace(r, uri=str(tmp_path / "gone")) for k, r in records(tmp_path, {}).items()}
    card = model_card(tiny_model(), facts_of(gone), "models:/v/1", "a" * 32)
    assert "source: digits\n" in card
    assert "licence" not in card
    assert "## Metrics" not in card
