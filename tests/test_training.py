import dataclasses
import json
import math
import threading

import numpy as np
import pytest
import torch
from imagesets import digits, write_dataset, write_digits

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.datasets import open_dataset
from vaesc.errors import DataError, TrainingError
from vaesc.models import VAE, evaluate_elbo, load_vae
from vaesc.progress import Listener
from vaesc.training import train
from vaesc.training.order import Order
from vaesc.training.resident import load_split, to_unit
from vaesc.training.run import Best, _patience
from vaesc.training.schedules import learning_rate
from vaesc.training.threads import fitting_threads

SMALL = VAEConfig(hidden=(64,), latent_dim=8)
# Three epochs move no latent far: what looks like a collapse would be trained once more.
SHORT = TrainingConfig(epochs=3, learning_rate=3e-3, on_collapse="continue")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("digits"))


def trained(dataset, folder, vae=SMALL, training=SHORT, *, seed=0, **options):
    folder.mkdir()
    return train(vae, training, dataset, folder, seed=seed, device="cpu", **options)


def history(folder):
    return json.loads((folder / "history.json").read_text())


def files(folder):
    return {f.name: f.read_bytes() for f in folder.iterdir()}


class Ear(Listener):
    def __init__(self):
        self.heard, self.epochs = [], []

    def progress(self, done, total, **figures):
        self.heard.append((done, total, figures))

    def epoch(self, epoch, metrics):
        self.epochs.append((epoch, dict(metrics)))


# It learns


def test_training_beats_the_best_constant_image(dataset, tmp_path):
    """The best model without a latent answers with each pixel's mean; a VAE must do better."""
    summary = trained(
        dataset, tmp_path / "vae", training=dataclasses.replace(SHORT, epochs=20, batch_size=32)
    )
    data = open_dataset(dataset)
    p = data.floats("train").mean(0).clip(1e-4, 1 - 1e-4)
    x = data.floats("validation")
    constant = -(x * np.log(p) + (1 - x) * np.log1p(-p)).sum((1, 2)).mean()
    losses = [epoch["validation/negative_elbo"] for epoch in history(tmp_path / "vae")]
    assert losses[-1] < losses[4] < losses[0]
    assert summary["metrics"]["validation/negative_elbo"] < constant - 1
    assert summary["metrics"]["validation/kl"] > 1


def test_a_gaussian_vae_learns_too(dataset, tmp_path):
    gaussian = dataclasses.replace(SMALL, likelihood="gaussian", observation_std=0.2, beta=0.5)
    trained(dataset, tmp_path / "vae", gaussian, dataclasses.replace(SHORT, epochs=8))
    epochs = history(tmp_path / "vae")
    assert epochs[-1]["validation/negative_elbo"] < epochs[0]["validation/negative_elbo"] - 5
    for epoch in epochs:
        for split in ("train", "validation"):
            total = epoch[f"{split}/distortion"] + 0.5 * epoch[f"{split}/kl"]
            assert epoch[f"{split}/negative_elbo"] == pytest.approx(total, rel=1e-12)


def test_training_and_validation_share_one_scale(tmp_path):
    """With the same images in both splits and a step size of nothing, both losses agree."""
    images = digits()[:1000]
    dataset = write_dataset(tmp_path / "same", train=images, validation=images)
    frozen = TrainingConfig(epochs=1, learning_rate=1e-12, batch_size=37)
    metrics = trained(dataset, tmp_path / "vae", training=frozen)["metrics"]
    assert metrics["train/kl"] == pytest.approx(metrics["validation/kl"], rel=1e-5)
    assert metrics["train/distortion"] == pytest.approx(metrics["validation/distortion"], rel=2e-3)


# It repeats itself


def test_the_same_seed_gives_the_same_bytes(dataset, tmp_path):
    trained(dataset, tmp_path / "a", seed=1)
    trained(dataset, tmp_path / "b", seed=1, block_size=77, listener=Ear())
    trained(dataset, tmp_path / "c", seed=2)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    names = {"vae.safetensors", "vae.json", "history.json", "posterior.json"}
    assert set(files(tmp_path / "a")) == names
    weights = "vae.safetensors"
    assert files(tmp_path / "a")[weights] != files(tmp_path / "c")[weights]


def test_another_thread_gives_the_same_bytes(dataset, tmp_path):
    """Orchestrators run steps in worker threads."""
    trained(dataset, tmp_path / "a")
    worker = threading.Thread(target=trained, args=(dataset, tmp_path / "b"))
    worker.start()
    worker.join()
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_the_callers_torch_is_left_alone(dataset, tmp_path):
    torch.manual_seed(5)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    trained(dataset, tmp_path / "a")
    torch.randn(3)
    trained(dataset, tmp_path / "b")
    torch.manual_seed(5)
    assert torch.equal(before, torch.get_rng_state())
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.utils.deterministic.fill_uninitialized_memory


def test_an_epoch_meets_every_image_once_in_an_order_of_its_own():
    order = Order(1000, 128, 64, seed=0, window_bytes=2**28)
    first, again, second = (
        torch.cat(order.window(epoch, order.windows(epoch)[0], 0).batches) for epoch in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert torch.equal(first.sort().values, torch.arange(1000))


# What is kept


def test_the_weights_kept_are_those_of_the_best_epoch(tmp_path):
    """40 images are soon overfitted: the best epoch is neither the first nor the last."""
    images = digits()
    dataset = write_dataset(tmp_path / "few", train=images[:40], validation=images[40:240])
    patient = TrainingConfig(
        epochs=400, batch_size=10, learning_rate=5e-3, schedule="constant", patience=4
    )
    summary = trained(dataset, tmp_path / "vae", training=patient)
    losses = [epoch["validation/negative_elbo"] for epoch in history(tmp_path / "vae")]
    best = summary["best_epoch"]
    assert losses[best - 1] == min(losses)
    assert best > 1
    assert summary["epochs"] == len(losses) == best + 4 < 400
    again = evaluate_elbo(
        load_vae(tmp_path / "vae"), open_dataset(dataset), "validation", seed=0, block_size=64
    )
    for name, value in again.items():
        assert summary["metrics"][f"validation/{name}"] == value


def test_the_last_epoch_may_be_the_best(dataset, tmp_path):
    summary = trained(dataset, tmp_path / "vae")
    vae = load_vae(tmp_path / "vae")
    again = evaluate_elbo(vae, open_dataset(dataset), "validation", seed=0, block_size=64)
    assert summary["best_epoch"] == summary["epochs"] == 3
    assert summary["metrics"]["validation/negative_elbo"] == again["negative_elbo"]


def test_patience_counts_epochs_since_the_best():
    best, weights = Best(), torch.zeros(3)
    stops = []
    for epoch, score in enumerate([5.0, 3.0, 3.0, 4.0, 2.0, 2.5, 2.5], start=1):
        best.offer(epoch, score, weights)
        stops.append((best.epoch, best.is_old(epoch, 2), best.is_old(epoch, 0)))
    assert [epoch for epoch, _, _ in stops] == [1, 2, 2, 2, 5, 5, 5]
    assert [stop for _, stop, _ in stops] == [False, False, False, True, False, False, True]
    assert not any(never for _, _, never in stops)


def test_the_best_weights_are_a_copy():
    best, weights = Best(), torch.ones(3)
    best.offer(1, 1.0, weights)
    weights.zero_()
    assert torch.equal(best.weights, torch.ones(3))


# What is heard


def test_the_listener_hears_epochs_and_progress(dataset, tmp_path):
    ear = Ear()
    trained(dataset, tmp_path / "vae", listener=ear)
    assert [epoch for epoch, _ in ear.epochs] == [1, 2, 3]
    assert [metrics for _, metrics in ear.epochs] == history(tmp_path / "vae")
    terms = ("negative_elbo", "distortion", "kl")
    keys = {f"{split}/{term}" for split in ("train", "validation") for term in terms}
    keys |= {"train/learning_rate", "train/compiled", "train/rollbacks", "validation/active_units"}
    assert all(set(metrics) == keys for _, metrics in ear.epochs)
    assert [done for done, _, _ in ear.heard] == sorted(done for done, _, _ in ear.heard)
    done, total, figures = ear.heard[-1]
    assert done == total == 3 * 1200
    assert figures["images_per_second"] > 0
    assert figures["negative_elbo"] == ear.epochs[-1][1]["train/negative_elbo"]


def test_cosine_begins_at_the_rate_halves_and_ends_at_nothing():
    config = TrainingConfig(learning_rate=0.2, epochs=20)
    rates = [learning_rate(config, step, 50) for step in range(1001)]
    assert rates[0] == 0.2
    assert rates[500] == pytest.approx(0.1)
    assert rates[1000] == pytest.approx(0, abs=1e-15)
    assert rates == sorted(rates, reverse=True)
    constant = dataclasses.replace(config, schedule="constant")
    assert {learning_rate(constant, step, 50) for step in range(1000)} == {0.2}


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_the_rate_grows_with_the_batch_as_asked(scaling, factor):
    plain = TrainingConfig(learning_rate=0.2)
    config = dataclasses.replace(plain, rate_scaling=scaling)
    large = dataclasses.replace(config, batch_size=512)
    for step in (0, 300):
        expected = learning_rate(plain, step, 50)
        assert learning_rate(config, step, 50) == expected
        assert learning_rate(large, step, 50) == pytest.approx(factor * expected)


def test_a_batch_larger_than_the_data_scales_the_rate_by_what_it_holds():
    config = TrainingConfig(learning_rate=0.2, rate_scaling="linear", batch_size=10**7)
    assert learning_rate(config, 0, 1, 512) == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("schedule", "wait"), [("constant", (5, 0)), ("warm-up", (5, 7)), ("cyclical", (7, 0))]
)
def test_patience_waits_for_the_kl_weight(schedule, wait):
    assert _patience(TrainingConfig(beta_schedule=schedule, beta_epochs=6.5)) == wait
    best = Best(epoch=1)
    assert not best.is_old(11, 5, 7)
    assert best.is_old(12, 5, 7)


# The data on the device


def test_bytes_become_what_the_dataset_says(tmp_path):
    images = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    dataset = open_dataset(write_dataset(tmp_path, train=images))
    resident = load_split(dataset, "train", torch.device("cpu"), block_size=3)
    assert resident.dtype == torch.uint8
    assert np.array_equal(to_unit(resident).numpy(), dataset.floats("train"))


def test_floats_train_as_bytes_do(dataset, tmp_path):
    """The same images stored as floats give the same weights."""
    data = open_dataset(dataset)
    floats = write_dataset(
        tmp_path / "floats", train=data.floats("train"), validation=data.floats("validation")
    )
    trained(dataset, tmp_path / "a")
    trained(floats, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("n", [1, 5])
def test_a_batch_may_be_larger_than_the_data(tmp_path, n):
    dataset = write_dataset(tmp_path / "few", train=digits()[:n], validation=digits()[n : 2 * n])
    summary = trained(dataset, tmp_path / "vae")
    assert math.isfinite(summary["metrics"]["validation/negative_elbo"])


@pytest.mark.parametrize("value", [0, 255])
def test_images_without_content_train(tmp_path, value):
    images = np.full((50, 3, 4, 4), value, np.uint8)
    dataset = write_dataset(tmp_path / "blank", train=images, validation=images)
    summary = trained(dataset, tmp_path / "vae", VAEConfig(hidden=(), latent_dim=1))
    assert math.isfinite(summary["metrics"]["validation/negative_elbo"])


# What goes wrong


def test_a_step_size_without_reason_is_one_sentence(dataset, tmp_path):
    wild = dataclasses.replace(SHORT, learning_rate=1e6, max_rollbacks=0)
    deep = VAEConfig(hidden=(64, 64), latent_dim=8)
    with pytest.raises(TrainingError, match=r"epoch 1 at training\.learning_rate=1e\+06.*lower"):
        trained(dataset, tmp_path / "vae", deep, wild)
    assert not files(tmp_path / "vae")


@pytest.mark.parametrize("split", ["train", "validation"])
def test_images_that_are_no_numbers_are_one_sentence(tmp_path, split):
    images = digits().astype(np.float32) / 255
    splits = {"train": images[:100], "validation": images[100:200].copy()}
    splits[split][7, 3, 3] = np.nan
    dataset = write_dataset(tmp_path / "nan", **splits)
    with pytest.raises(TrainingError, match=f"{split}/negative_elbo = nan.* images are finite"):
        trained(dataset, tmp_path / "vae")
    assert not files(tmp_path / "vae")


@pytest.mark.parametrize("missing", ["train", "validation"])
def test_an_empty_split_is_one_sentence(tmp_path, missing):
    images = digits()[:10]
    splits = {"train": images, "validation": images, missing: images[:0]}
    dataset = write_dataset(tmp_path / "empty", **splits)
    with pytest.raises(DataError, match=f"one {missing} image"):
        trained(dataset, tmp_path / "vae")
    assert not files(tmp_path / "vae")


def test_only_steps_of_some_size_are_shared_between_cores(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for vae, batch_size in ((VAE(SMALL, (8, 8)), 128), (VAE(VAEConfig(), (28, 28)), 1024)):
        with fitting_threads(vae, batch_size):
            asked.append("work")
    assert asked == [1, "work", 4, "work", 4]
