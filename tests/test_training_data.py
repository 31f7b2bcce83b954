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
from vaesc.models import elbo
from vaesc.training import order, prepare, streamed, train
from vaesc.training.order import Order
from vaesc.training.resident import ResidentBatches, load_split
from vaesc.training.streamed import StreamedBatches, may_stay

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
    kinds, anew = [], []

    def open_batches(*args, **kwargs):
        kinds.append(streamed.open_batches(*args, **kwargs))
        return kinds[-1]

    def group_images(*args):
        anew.append(name)
        return elbo.group_images(*args)

    monkeypatch.setattr(prepare, "open_batches", open_batches)
    monkeypatch.setattr(prepare, "group_images", group_images)
    for name, held in (("resident", 100), ("streamed", 0)):
        monkeypatch.setattr(streamed, "IMAGE_WINDOWS", held)
        monkeypatch.setattr(prepare, "VALIDATION_WINDOWS", held)
        (tmp_path / name).mkdir()
        train(
            vae, training, dataset, tmp_path / name, seed=0, window_bytes=SMALL, device="cpu"
        )  # fmt: skip
    assert [type(kind) for kind in kinds] == [ResidentBatches, StreamedBatches]
    assert all(len(kind.order.windows(1)) > 1 for kind in kinds)
    assert set(anew) == {"streamed"}
    for file in (tmp_path / "resident").iterdir():
        assert file.read_bytes() == (tmp_path / "streamed" / file.name).read_bytes()


@pytest.mark.parametrize(
    ("device", "free", "stays"),
    [
        ("cpu", 10_000, {300, 1000}),
        ("cpu", 1200, {300}),
        ("cuda", 10_000, {300, 1000, 2500}),
        ("cuda", 1200, {300}),
        ("cpu", 0, set()),
    ],
)
def test_images_stay_if_they_fit_the_bound_and_a_share_of_what_is_free(
    monkeypatch, device, free, stays
):
    """A bound of 1,000 bytes, a quarter of what is free; a GPU's memory is its own bound."""
    monkeypatch.setattr(streamed, "free_bytes", lambda _: free)
    place = torch.device(device)
    assert {n for n in (300, 1000, 2500, 2501) if may_stay(n, 1000, place, 4)} == stays


@pytest.mark.parametrize("image_bytes", [64, 5000, 10**6])
def test_a_window_bounds_large_images_too(image_bytes):
    """Pages shrink with it; a batch is the least there is."""
    made = Order(10_000, 8, image_bytes, seed=0, window_bytes=2**20)
    n = max(sum(p.stop - p.start for p in pages) for pages in made.windows(1))
    assert n * image_bytes <= max(2**20, 8 * image_bytes)


def test_an_order_depends_on_seed_and_epoch_only():
    def first(seed, epoch):
        made = Order(1000, 10, 64, seed=seed, window_bytes=SMALL)
        return made.window(epoch, made.windows(epoch)[0], 0).batches[0].tolist()

    assert first(0, 1) == first(0, 1)
    assert len({tuple(first(seed, epoch)) for seed in (0, 1) for epoch in (1, 2)}) == 4


def test_a_broken_reader_is_heard(tmp_path):
    """An error in the reading thread reaches the training."""
    dataset = numbered(tmp_path)
    broken = dataclasses.replace(dataset, group={})
    plan = Order(1203, 10, 64, seed=1, window_bytes=SMALL)
    with pytest.raises(Exception, match="train/images"):
        list(StreamedBatches(broken, plan, CPU).epoch(1))
