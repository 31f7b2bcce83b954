"""Abuse: a finished run or one sentence, and never weights that are no numbers."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from imagesets import digits, write_dataset, write_digits

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.errors import TrainingError
from vaesc.models import VAE, load_vae
from vaesc.progress import Listener
from vaesc.training import fit, train
from vaesc.training.engine import Engine, shortening
from vaesc.training.health import collapse_sentence, explosion_sentence
from vaesc.training.objective import Objective
from vaesc.training.state import State

SMALL = VAEConfig(hidden=(32,), latent_dim=4)
SHORT = TrainingConfig(epochs=2, learning_rate=3e-3)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def trained(dataset, folder, vae=SMALL, training=SHORT, **options):
    folder.mkdir()
    return train(vae, training, dataset, folder, seed=0, device="cpu", **options)


def assert_sound(folder):
    weights = load_vae(folder).state_dict().values()
    assert all(torch.isfinite(weight).all() for weight in weights)


@pytest.mark.parametrize("rate", [10.0, 1e6])
@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_a_wild_learning_rate_is_lowered_until_it_works(dataset, tmp_path, rate, likelihood):
    vae = VAEConfig(hidden=(64, 64), latent_dim=8, likelihood=likelihood)
    wild = dataclasses.replace(SHORT, learning_rate=rate, max_rollbacks=12, on_collapse="continue")
    summary = trained(dataset, tmp_path / "vae", vae, wild)
    assert_sound(tmp_path / "vae")
    assert math.isfinite(summary["metrics"]["validation/negative_elbo"])
    history = json.loads((tmp_path / "vae" / "history.json").read_text())
    assert history[-1]["train/rollbacks"] == summary["rollbacks"]
    first = history[0]
    lowered = rate * 0.1 ** first["train/rollbacks"]
    assert first["train/learning_rate"] <= lowered * (1 + 1e-9)


def test_a_rollback_returns_to_the_start_of_its_epoch(dataset, tmp_path):
    """After rollbacks in the first epoch, training is one with the lower rate from the start."""
    vae = VAEConfig(hidden=(64, 64), latent_dim=8)
    wild = dataclasses.replace(SHORT, learning_rate=1e6, max_rollbacks=12, on_collapse="continue")
    rollbacks = trained(dataset, tmp_path / "a", vae, wild)["rollbacks"]
    assert rollbacks >= 1
    rate = 1e6
    for _ in range(rollbacks):
        rate *= 0.1
    summary = trained(dataset, tmp_path / "b", vae, dataclasses.replace(wild, learning_rate=rate))
    assert summary["rollbacks"] == 0
    a, b = (load_vae(tmp_path / name).state_dict() for name in "ab")
    for name, weight in a.items():
        torch.testing.assert_close(weight, b[name], rtol=1e-3, atol=1e-3 * rate)


def test_rollbacks_are_bounded(tmp_path):
    images = digits()[:200].astype(np.float32) / 255
    images[5] = np.inf
    dataset = write_dataset(tmp_path / "inf", train=images, validation=images[:50])
    with pytest.raises(TrainingError, match=r"lowered to 3e-06.*images are finite"):
        trained(dataset, tmp_path / "vae")
    assert not list((tmp_path / "vae").iterdir())


@pytest.mark.parametrize("value", [0, 128, 255])
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous-bernoulli", "gaussian"])
@pytest.mark.parametrize("variance", ["learned", "optimal"])
def test_images_without_content_collapse_by_name(tmp_path, value, likelihood, variance, caplog):
    images = np.full((60, 4, 4), value, np.uint8)
    dataset = write_dataset(tmp_path / "flat", train=images, validation=images)
    vae = VAEConfig(hidden=(16,), latent_dim=2, likelihood=likelihood, variance=variance)
    long = TrainingConfig(epochs=30, learning_rate=0.05, patience=0)
    summary = trained(dataset, tmp_path / "vae", vae, long)
    assert_sound(tmp_path / "vae")
    assert "posterior collapse: none of the 2 latent dimensions" in summary["collapse"]
    assert summary["metrics"]["train/collapsed"] == 1
    assert "posterior collapse" in caplog.text


# Policies: continue, mend, fail

COLLAPSING = TrainingConfig(epochs=4, learning_rate=3e-3)
HEAVY = dataclasses.replace(SMALL, beta=4.0)
"""On 8x8 digits so heavy a KL term switches all latents off in so few epochs."""


def test_a_collapse_is_mended_by_a_second_training(dataset, tmp_path):
    once = dataclasses.replace(COLLAPSING, on_collapse="continue")
    collapsed = trained(dataset, tmp_path / "once", HEAVY, once)
    assert collapsed["metrics"]["validation/active_units"] == 0
    assert collapsed["collapse"] == collapsed["health"][0]
    assert collapsed["metrics"]["train/mended"] == 0

    ear = Ear()
    summary = trained(dataset, tmp_path / "mended", HEAVY, COLLAPSING, listener=ear)

    assert summary["metrics"]["validation/active_units"] >= 1
    assert summary["collapse"] == ""
    assert summary["metrics"]["train/mended"] == 1
    assert summary["metrics"]["train/collapsed"] == 0
    (told,) = summary["health"]
    settings = {"beta_schedule": "warm-up", "beta_epochs": 2.0, "free_bits": 0.1}
    assert "mended it" in told
    assert all(f"training.{name}={value}" in told for name, value in settings.items())
    for one in (collapsed, summary):
        assert f"{one['metrics']['validation/negative_elbo']:.5g}" in told
    # It is the training that these settings say, and no other.
    trained(dataset, tmp_path / "direct", HEAVY, dataclasses.replace(COLLAPSING, **settings))
    weights = [(tmp_path / n / "vae.safetensors").read_bytes() for n in ("mended", "direct")]
    assert weights[0] == weights[1]
    # Its history is both trainings', one after the other, as it was heard.
    histories = {n: json.loads((tmp_path / n / "history.json").read_text())
                 for n in ("once", "mended", "direct")}  # fmt: skip
    assert histories["mended"] == histories["once"] + histories["direct"]
    assert ear.epochs == list(range(1, 9))
    assert summary["epochs"] == 8
    assert summary["best_epoch"] > 4


class Ear(Listener):
    def __init__(self):
        self.epochs = []

    def epoch(self, epoch, metrics):
        self.epochs.append(epoch)


def test_a_mending_that_fails_leaves_the_first_training(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(
        fit, "mended",
        lambda config: dataclasses.replace(config, learning_rate=1e9, max_rollbacks=0),
    )  # fmt: skip
    summary = trained(dataset, tmp_path / "vae", HEAVY, COLLAPSING)
    once = dataclasses.replace(COLLAPSING, on_collapse="continue")
    trained(dataset, tmp_path / "once", HEAVY, once)
    weights = [(tmp_path / n / "vae.safetensors").read_bytes() for n in ("vae", "once")]
    assert weights[0] == weights[1]
    assert "failed: the " in summary["health"][0]
    assert summary["metrics"]["train/collapsed"] == 1


def test_a_rollback_is_told_alike_whenever_it_was_seen(dataset, tmp_path, monkeypatch):
    """What is recorded is part of the artifact: no clock may have a say in it."""
    vae = VAEConfig(hidden=(64, 64), latent_dim=8, likelihood="gaussian")
    wild = dataclasses.replace(SHORT, learning_rate=1e4, max_rollbacks=12)
    told = []
    for seconds in (0.0, 1e9):
        monkeypatch.setattr("vaesc.training.loop._REPORT_SECONDS", seconds)
        told.append(trained(dataset, tmp_path / f"after {seconds}", vae, wild))
    assert told[0]["rollbacks"] > 0
    assert told[0] == told[1]


def test_a_collapse_fails_if_it_is_to(dataset, tmp_path):
    failing = dataclasses.replace(COLLAPSING, on_collapse="fail")
    with pytest.raises(TrainingError, match=r"posterior collapse.*on_collapse=fail"):
        trained(dataset, tmp_path / "vae", HEAVY, failing)
    assert not list((tmp_path / "vae").iterdir())


def test_what_cannot_be_mended_is_said(tmp_path):
    images = np.full((60, 4, 4), 128, np.uint8)
    dataset = write_dataset(tmp_path / "flat", train=images, validation=images)
    summary = trained(dataset, tmp_path / "vae", HEAVY, COLLAPSING)
    (told,) = summary["health"]
    assert "is no better" in told
    assert summary["metrics"]["train/collapsed"] == 1


def test_a_mending_that_was_killed_resumes_to_the_same_bytes(dataset, tmp_path):
    class Killed(Exception):
        pass

    class Counting(Listener):
        heard = 0

        def epoch(self, epoch, metrics):
            self.heard += 1
            if self.heard == 4 + 2:  # in the second training
                raise Killed

    place = tmp_path / "checkpoints"
    options = {"checkpoints": place, "checkpoint_batches": 5, "checkpoint_seconds": 0}
    trained(dataset, tmp_path / "whole", HEAVY, COLLAPSING)
    with pytest.raises(Killed):
        trained(dataset, tmp_path / "cut", HEAVY, COLLAPSING, listener=Counting(), **options)
    assert (place / "mended" / "training.safetensors").exists()
    trained(dataset, tmp_path / "resumed", HEAVY, COLLAPSING, **options)
    for file in (tmp_path / "whole").iterdir():
        assert (tmp_path / "resumed" / file.name).read_bytes() == file.read_bytes()
    assert place.exists()  # until what was written is safe: see vaesc.steps.run_step


WILD = dataclasses.replace(SHORT, learning_rate=1e6)
"""Adam's first step moves every weight by a million: the loss stays finite, and is absurd."""


def test_an_explosion_to_finite_numbers_is_gone_back_from(dataset, tmp_path):
    vae = VAEConfig(hidden=(64, 64), latent_dim=8, likelihood="gaussian")
    summary = trained(dataset, tmp_path / "vae", vae, dataclasses.replace(WILD, max_rollbacks=12))
    assert summary["rollbacks"] == len(summary["health"]) > 0
    assert all(told.startswith("rolled back, ") for told in summary["health"])
    plain = trained(dataset, tmp_path / "plain", vae)
    # Once it works it is a training like others: no worse than ten times a sound one's loss.
    loss = "validation/negative_elbo"
    assert summary["metrics"][loss] < 10 * plain["metrics"][loss]


def test_an_explosion_fails_if_it_is_to_or_once_rollbacks_are_used_up(dataset, tmp_path):
    vae = VAEConfig(hidden=(16,), latent_dim=2)
    tame = dataclasses.replace(SHORT, learning_rate=3.0)
    for name, training in {
        "fail": dataclasses.replace(tame, on_explosion="fail"),
        "mend": dataclasses.replace(tame, max_rollbacks=0),
    }.items():
        with pytest.raises(TrainingError, match=r"exploded in epoch 1 .*before training"):
            trained(dataset, tmp_path / name, vae, training)
        assert not list((tmp_path / name).iterdir())
    go_on = dataclasses.replace(tame, on_explosion="continue")
    summary = trained(dataset, tmp_path / "continue", vae, go_on)
    assert summary["rollbacks"] == 0
    assert "exploded in epoch 1" in summary["health"][0]


@pytest.mark.parametrize(
    ("distortion", "penalty", "kl", "untrained", "said"),
    [
        (500.0, 500.0, 500.0, 543.0, ""),
        (1077.0, 10.0, 10.0, 543.0, "the loss has exploded"),
        (100.0, 4900.0, 4900.0, 543.0, "the KL has exploded"),
        (100.0, 0.0, 4900.0, 543.0, ""),  # while beta rises from zero
        (100.0, 0.0, 54_400.0, 543.0, "the KL has exploded"),
        (95.0, 5.0, 5.0, -500.0, "the loss has exploded"),  # a density's nats may be negative
        (-6.0, 5.0, 5.0, -2.0, ""),
    ],
)
def test_an_explosion_is_worse_than_twice_no_training(distortion, penalty, kl, untrained, said):
    sentence = explosion_sentence(distortion, penalty, kl, untrained, 3, SHORT)
    assert sentence.startswith(said) if said else sentence == ""


@pytest.mark.parametrize("schedule", ["warm-up", "cyclical"])
def test_a_kl_that_costs_nothing_yet_is_no_explosion(dataset, tmp_path, schedule):
    free = dataclasses.replace(
        SHORT, epochs=10, learning_rate=0.01, beta_schedule=schedule, beta_epochs=1e4
    )
    vae = VAEConfig(hidden=(64,), latent_dim=32)
    summary = trained(dataset, tmp_path / "vae", vae, free)
    history = json.loads((tmp_path / "vae" / "history.json").read_text())
    untrained = 64 * math.log(2)  # of 8x8 images
    assert max(epoch["validation/negative_elbo"] for epoch in history) > 2 * untrained
    assert summary["rollbacks"] == 0
    assert summary["health"] == []


def test_a_latent_that_varies_is_no_collapse():
    assert collapse_sentence(1.0, 32) == ""


@pytest.mark.parametrize("latent_dim", [1, 1000])
def test_any_latent_dimension(dataset, tmp_path, latent_dim):
    trained(dataset, tmp_path / "vae", dataclasses.replace(SMALL, latent_dim=latent_dim))
    assert_sound(tmp_path / "vae")


@pytest.mark.parametrize("n", [1, 5])
def test_few_images_and_a_large_batch(tmp_path, n):
    dataset = write_dataset(tmp_path / "few", train=digits()[:n], validation=digits()[n : 2 * n])
    for name, training in {
        "plain": SHORT,
        "all": dataclasses.replace(
            SHORT, gradient_clip=1.0, weight_average=0.99, warmup_epochs=1.0, free_bits=0.1,
            schedule="flat-linear", beta_schedule="cyclical", precision="bf16",
        ),
    }.items():  # fmt: skip
        trained(dataset, tmp_path / name, training=training)
        assert_sound(tmp_path / name)


def test_clipping_shortens_what_is_long_and_only_that():
    gradients = [torch.full((3,), 2.0), torch.full((1,), 2.0)]
    assert shortening(gradients, 1.0).item() == pytest.approx(0.25)
    assert shortening(gradients, 4.0).item() == 1
    assert shortening(gradients, 100.0).item() == 1
    assert shortening([torch.zeros(3)], 1.0).item() == 1


def test_the_average_follows_the_weights_and_is_what_is_validated():
    vae = VAE(SMALL, (8, 8))
    config = TrainingConfig(weight_average=0.9)
    state = State(vae, averaged=True)
    engine = Engine(Objective(vae, config), state, compiled=False, batch_size=20)
    images = torch.from_numpy(digits()[:20])
    expected = state.flat["weights"].clone()
    for t in range(1, 40):
        engine.step(images, torch.zeros(1, 20, 4), 1e-3, (1.0, 0.0))
        expected += (1 - min(0.9, (1 + t) / (10 + t))) * (state.flat["weights"] - expected)
    torch.testing.assert_close(state.flat["average"], expected)
    trained_weight = vae.encoder[0].weight.clone()
    with state.kept_weights():
        kept = vae.encoder[0].weight.clone()
    assert torch.equal(kept, state.average[0])
    assert torch.equal(vae.encoder[0].weight, trained_weight)
    assert not torch.equal(kept, trained_weight)
