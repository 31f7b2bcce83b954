"""Ingestion as a whole: splits, digests, determinism, and what the reader gives back."""

import gzip
import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from vaesc.config import DatasetConfig
from vaesc.datasets import fingerprint, ingest, is_present, open_dataset
from vaesc.datasets.base import SPLITS
from vaesc.datasets.patches import normalised
from vaesc.datasets.splits import draw
from vaesc.errors import DataError
from vaesc.progress import Listener

DIGITS = DatasetConfig(source="digits")


def made(config: DatasetConfig, folder: Path, seed: int = 0, block_size: int = 8192):
    folder.mkdir(parents=True, exist_ok=True)
    summary = ingest(config, folder, seed=seed, block_size=block_size)
    return summary, open_dataset(folder)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def numbered(tmp_path: Path, n: int = 50, **settings) -> DatasetConfig:
    """A file whose image i holds the value i in its first pixel, and its label."""
    images = np.zeros((n, 2, 3), np.uint8)
    images[:, 0, 0] = np.arange(n)
    np.savez(tmp_path / "n.npz", x=images, y=np.arange(n))
    return DatasetConfig(source="arrays", path=str(tmp_path / "n.npz"), **settings)


def test_digits_are_all_there_once_and_scaled_by_16(tmp_path):
    _, dataset = made(DIGITS, tmp_path)
    rows = np.concatenate([dataset.floats(s).reshape(-1, 64) for s in SPLITS])
    expected = (load_digits().data / 16).astype(np.float32)

    assert np.array_equal(np.unique(rows, axis=0), np.unique(expected, axis=0))
    assert sum(dataset.n(s) for s in SPLITS) == 1797
    assert (dataset.low, dataset.high) == (0, 16)


def test_labels_stay_with_their_images(tmp_path):
    _, dataset = made(DIGITS, tmp_path)
    bunch = load_digits()
    label_of = {row.tobytes(): y for row, y in zip(bunch.data, bunch.target, strict=True)}
    for split in SPLITS:
        images = (dataset.floats(split).reshape(-1, 64) * 16).astype(np.float64)
        assert [label_of[row.tobytes()] for row in images] == list(dataset.labels(split))


def test_the_summary_is_json_and_holds_the_records_fields(tmp_path):
    summary, dataset = made(DIGITS, tmp_path)

    assert json.loads(json.dumps(summary)) == summary
    assert summary["source"] == "digits"
    assert summary["shape"] == [8, 8]
    assert summary["n_classes"] == 10
    assert {s: summary[f"n_{s}"] for s in SPLITS} == dataset.counts
    assert summary["metrics"] == {f"{s}/n_images": float(dataset.n(s)) for s in SPLITS}


def test_splits_are_disjoint_cover_everything_and_keep_the_order(tmp_path):
    _, dataset = made(numbered(tmp_path), tmp_path / "out")
    rows = {s: dataset.images(s)[:, 0, 0] for s in SPLITS}

    assert sorted(np.concatenate(list(rows.values()))) == list(range(50))
    for split in SPLITS:
        assert (np.diff(rows[split].astype(int)) > 0).all()
        assert np.array_equal(rows[split], dataset.labels(split))
    # 50 * 0.2 test images, then 40 * 0.1 for validation
    assert {s: len(r) for s, r in rows.items()} == {"train": 36, "validation": 4, "test": 10}


def test_the_test_split_does_not_depend_on_the_share_of_validation(tmp_path):
    few = numbered(tmp_path, validation_fraction=0.1)
    _, a = made(few, tmp_path / "a")
    _, b = made(replace(few, validation_fraction=0.5), tmp_path / "b")
    _, c = made(few, tmp_path / "c", seed=1)

    assert a.sha256["test"] == b.sha256["test"]
    assert a.sha256["test"] != c.sha256["test"]


def test_limit_draws_from_each_split_and_keeps_the_order(tmp_path):
    config = numbered(tmp_path)
    _, whole = made(config, tmp_path / "a")
    _, some = made(replace(config, limit=7), tmp_path / "b")
    for split in SPLITS:
        kept = some.labels(split)
        assert len(kept) == min(7, whole.n(split))
        assert (np.diff(kept) > 0).all()
        assert set(kept) <= set(whole.labels(split))


@given(n=st.integers(2, 300), share=st.floats(0.001, 0.5), seed=st.integers(0, 2**63 - 1))
@settings(max_examples=50, deadline=None)
def test_draw_parts_the_rows(n, share, seed):
    rest, drawn = draw(np.arange(n), share, seed)

    assert sorted([*rest, *drawn]) == list(range(n))
    assert len(drawn) == max(1, round(share * n))
    assert list(rest) == sorted(rest)
    assert list(drawn) == sorted(drawn)


@pytest.mark.parametrize("source", ["digits", "patches"])
def test_equal_seeds_give_equal_bytes_whatever_the_block_size(tmp_path, source):
    config = DatasetConfig(source=source, n_patches=3000)
    made(config, tmp_path / "a", block_size=8192)
    made(config, tmp_path / "b", block_size=7)

    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_equal_bytes_over_many_shards(tmp_path):
    """Images of 1 MB: a shard holds 16 of them, a block fewer."""
    images = np.random.default_rng(0).integers(0, 256, (40, 1000, 1000), dtype=np.uint8)
    np.save(tmp_path / "big.npy", images)
    config = DatasetConfig(source="arrays", path=str(tmp_path / "big.npy"))
    _, a = made(config, tmp_path / "a", block_size=8192)
    made(config, tmp_path / "b", block_size=3)

    assert tree(tmp_path / "a") == tree(tmp_path / "b")
    first_pixels = [x for s in SPLITS for x in a.images(s)[:, 0, :8].tolist()]
    assert sorted(first_pixels) == sorted(images[:, 0, :8].tolist())


def test_a_splits_digest_is_that_of_its_images_then_its_labels(tmp_path):
    summary, dataset = made(DIGITS, tmp_path)
    for split in SPLITS:
        raw = dataset.images(split).tobytes() + dataset.labels(split).tobytes()
        assert hashlib.sha256(raw).hexdigest() == dataset.sha256[split] == summary["sha256"][split]


def test_blocks_cover_a_split_and_slices_agree_with_the_whole(tmp_path):
    _, dataset = made(DIGITS, tmp_path)
    for n_rows in (90, 100, 500, 10_000):
        blocks = list(dataset.blocks("train", n_rows))
        assert max(b.stop - b.start for b in blocks) <= n_rows
        joined = np.concatenate([dataset.floats("train", b) for b in blocks])
        assert np.array_equal(joined, dataset.floats("train"))


def test_progress_ends_at_the_total(tmp_path):
    class Heard(Listener):
        last: tuple[float, float] = (0, 0)

        def progress(self, done, total, **figures):
            assert done >= self.last[0]
            self.last = (done, total)

    heard = Heard()
    ingest(DIGITS, tmp_path, seed=0, block_size=100, listener=heard)

    assert heard.last == (1797, 1797)


def test_patches_are_normalised_and_the_splits_share_no_pixel(tmp_path):
    config = DatasetConfig(source="patches", n_patches=2000, patch_size=8)
    summary, dataset = made(config, tmp_path)
    values = (dataset.floats("test").astype(np.float64) - 0.5) * 6

    assert {s: dataset.n(s) for s in SPLITS} == {"train": 1440, "validation": 160, "test": 400}
    assert summary["shape"] == [8, 8]
    assert np.abs(values).max() <= 3
    unclipped = np.abs(values).max(axis=(1, 2)) < 3
    assert unclipped.mean() > 0.5
    assert np.abs(values[unclipped].mean(axis=(1, 2))).max() < 1e-6
    assert (values[unclipped].std(axis=(1, 2)) < 1).all()
    rows = [{x.tobytes() for x in dataset.floats(s)} for s in SPLITS]
    assert not rows[0] & rows[2]
    assert not rows[0] & rows[1]


def test_contrast_normalisation_in_closed_form():
    """Half 0, half 1: mean 1/2, std 1/2, so v = 0.5 / 0.51; a flat patch is grey."""
    patch = np.zeros((2, 4, 4))
    patch[0, :2] = 1
    out = normalised(patch)

    assert out[0, 0] == pytest.approx(0.5 + (0.5 / 0.51) / 6)
    assert out[0, 3] == pytest.approx(0.5 - (0.5 / 0.51) / 6)
    assert (out[1] == 0.5).all()


def test_too_many_patches_are_refused(tmp_path):
    config = DatasetConfig(source="patches", n_patches=10_000_000, patch_size=8)
    with pytest.raises(DataError, match=r"hold \d+ patches of size 8 .* lower dataset.n_patches"):
        ingest(config, tmp_path, seed=0, block_size=100)


@pytest.mark.parametrize("source", ["digits", "patches"])
def test_built_in_sources_are_present_and_have_a_fixed_fingerprint(source):
    config = DatasetConfig(source=source)

    assert is_present(config)
    assert fingerprint(config) == fingerprint(config)
    assert len(fingerprint(config)) == 64


def test_too_few_images_to_split(tmp_path):
    with pytest.raises(DataError, match=r"too few images to split \(train 1, validation 1"):
        made(numbered(tmp_path, n=3), tmp_path / "out")


def test_unknown_splits_and_folders_are_refused(tmp_path):
    _, dataset = made(DIGITS, tmp_path)
    with pytest.raises(DataError, match="train, validation, test, got 'valid'"):
        dataset.images("valid")
    with pytest.raises(DataError, match="not a data set of vaesc"):
        open_dataset(tmp_path / "nowhere")


def test_a_flipped_bit_is_an_error_never_a_wrong_pixel(tmp_path):
    _, dataset = made(DIGITS, tmp_path)
    chunk = next(p for p in (tmp_path / "dataset.zarr/train/images/c").rglob("*") if p.is_file())
    damaged = bytearray(chunk.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    chunk.write_bytes(damaged)
    with pytest.raises(DataError, match="train/images cannot be read"):
        dataset.images("train")


@pytest.mark.dataset
def test_fashion_mnist_is_read_whole_and_exactly(tmp_path, fashion_mnist):
    _, dataset = made(DatasetConfig(source="fashion-mnist"), tmp_path)
    with gzip.open(fashion_mnist / "t10k-images-idx3-ubyte.gz") as stream:
        pixels = stream.read()[16:]
    with gzip.open(fashion_mnist / "t10k-labels-idx1-ubyte.gz") as stream:
        labels = stream.read()[8:]

    assert dataset.counts == {"train": 54_000, "validation": 6_000, "test": 10_000}
    assert dataset.images("test").tobytes() == pixels
    assert dataset.labels("test").astype(np.uint8).tobytes() == labels
    assert dataset.classes[9] == "Ankle boot"
    start = time.perf_counter()
    dataset.images("train")
    assert time.perf_counter() - start < 5  # a third of a second; the bound is for busy machines
