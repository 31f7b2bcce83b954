"""Which images a step sees: the same ones whether they lie in memory or on disk."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from imagesets import write_dataset, write_digits

from vaesc.config import TrainingConfig, VAEConfig
from vaesc.datasets import open_dataset
from vaesc.training import order, streamed, train
from vaesc.training.order import Order
from vaesc.training.resident import ResidentBatches, load_split
from vaesc.training.streamed import StreamedBatches, open_batches

CPU = torch.device("cpu")


SMALL = 3 * 100 * 64


@pytest.fixture
def small_windows(monkeypatch):
    """Cut 1200 digits of 64 bytes into 12 pages of 100 images; :data:`SMALL` are three."""
    monkeypatch.setattr(order, "_PAGE", 100)


def numbered(tmp_path, n=1203):
    """Return a dataset whose images say which they are."""
    numbers = np.arange(n, dtype=np.uint16)
    images = np.zeros((n, 8, 8), np.uint8)
    images[:, 0, 0], images[:, 0, 1] = numbers % 256, numbers // 256
    return open_dataset(write_dataset(tmp_path, train=images, validation=images[:10]))


def names(batches):
    return [[int(i[0, 0]) + 256 * int(i[0, 1]) for i in batch] for batch in batches]


@given(
    n=st.integers(1, 500), batch_size=st.integers(1, 70), page=st.integers(1, 90),
    window=st.integers(1, 20_000), epoch=st.integers(1, 9),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_every_order_meets_every_image_once(n, batch_size, page, window, epoch):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "_PAGE", page)
        made = Order(n, batch_size, 16, seed=3, window_bytes=window)
        windows = [made.window(epoch, p, i) for i, p in enumerate(made.windows(epoch))]
    batches = [w.rows()[positions] for w in windows for positions in w.batches]
    assert sorted(torch.cat(batches).tolist()) == list(range(n))
    assert [len(batch) for batch in batches[:-1]] == [batch_size] * (made.n_batches - 1)
    assert len(batches) == made.n_batches


@pytest.mark.usefixtures("small_windows")
@pytest.mark.parametrize("first", [0, 1, 29, 30, 31, 100, 119, 120, 121])
def test_streamed_batches_are_the_resident_ones(tmp_path, first):
    dataset = numbered(tmp_path)
    images = load_split(dataset, "train", CPU, block_size=77)
    plan = Order(1203, 10, 64, seed=1, window_bytes=SMALL)
    assert len(plan.windows(2)) == 5
    resident = names(ResidentBatches(images, plan).epoch(2, first))
    assert names(StreamedBatches(dataset, plan, CPU).epoch(2, first)) == resident
    assert resident == names(ResidentBatches(images, plan).epoch(2))[first:]


@pytest.mark.usefixtures("small_windows")
def test_streamed_training_writes_the_same_bytes(tmp_path, monkeypatch):
    dataset = write_digits(tmp_path / "digits")
    vae, training = VAEConfig(hidden=(32,), latent_dim=4), TrainingConfig(epochs=2, batch_size=20)
    kinds, how = [], {"seed": 0, "window_bytes": SMALL}
    for name, held in (("resident", 100), ("streamed", 3)):
        monkeypatch.setattr(streamed, "IMAGE_WINDOWS", held)
        batches = open_batches(open_dataset(dataset), CPU, batch_size=20, block_size=100, **how)
        kinds.append(type(batches))
        (tmp_path / name).mkdir()
        train(vae, training, dataset, tmp_path / name, device="cpu", **how)
    assert kinds == [ResidentBatches, StreamedBatches]
    for file in (tmp_path / "resident").iterdir():
        assert file.read_bytes() == (tmp_path / "streamed" / file.name).read_bytes()


def test_an_order_depends_on_seed_and_epoch_only():
    def first(seed, epoch):
        made = Order(1000, 10, 64, seed=seed)
        return made.window(epoch, made.windows(epoch)[0], 0).batches[0].tolist()

    assert first(0, 1) == first(0, 1)
    assert len({tuple(first(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


def test_a_broken_reader_is_heard(tmp_path):
    """An error in the reading thread reaches the training."""
    dataset = numbered(tmp_path)
    broken = dataclasses.replace(dataset, group={})
    with pytest.raises(Exception, match="train/images"):
        list(StreamedBatches(broken, Order(1203, 10, 64, seed=1), CPU).epoch(1))
