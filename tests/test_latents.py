import json

import numpy as np
import pytest
import torch
from imagesets import digits, write_dataset, write_digits

from vaesc import arrays
from vaesc.config import VAEConfig
from vaesc.datasets import open_dataset
from vaesc.errors import DataError
from vaesc.latents import extract, open_latents
from vaesc.metrics import active_units
from vaesc.models import VAE, load_vae, save_vae
from vaesc.progress import Listener
from vaesc.store import file_digest


@pytest.fixture
def inputs(tmp_path):
    """Return the folders of a dataset of digits and of an untrained VAE."""
    vae_folder = tmp_path / "vae"
    vae_folder.mkdir()
    vae = VAE(VAEConfig(hidden=(32,), latent_dim=6), (8, 8))
    with torch.no_grad():  # some dimensions active, some not
        vae.encoder[-1].weight[:6] *= torch.tensor([0.01, 0.1, 1, 3, 10, 30])[:, None]
    save_vae(vae, vae_folder)
    return write_digits(tmp_path / "dataset"), vae_folder


def extracted(inputs, folder, **options):
    folder.mkdir()
    return extract(*inputs, folder, device="cpu", **options)


def files(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("block_size", [1, 300, 100_000])
def test_latents_are_what_encode_says(inputs, tmp_path, block_size):
    extracted(inputs, tmp_path / "out", block_size=block_size)
    store, dataset, vae = (
        open_latents(tmp_path / "out"), open_dataset(inputs[0]), load_vae(inputs[1])
    )  # fmt: skip
    for split in ("train", "validation", "test"):
        images = dataset.floats(split, slice(0, dataset.n(split)))
        mean, log_var = vae.encode(torch.from_numpy(images))
        assert store.n(split) == len(images)
        np.testing.assert_allclose(store.latents(split), mean, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(store.latent_std(split), torch.exp(log_var / 2), rtol=1e-6)
    assert store.latents("test", slice(5, 9)).shape == (4, store.latent_dim)


def test_the_block_size_changes_no_byte(inputs, tmp_path, monkeypatch):
    """Also where a split needs several shards and a shard several groups."""
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 6 * 4 * 100)
    monkeypatch.setattr(arrays, "SHARD_BYTES", 6 * 4 * 500)
    monkeypatch.setattr("vaesc.models.elbo.GROUP", 64)
    for name, size in (("a", 1), ("b", 200), ("c", 100_000)):
        extracted(inputs, tmp_path / name, block_size=size)
    assert files(tmp_path / "a") == files(tmp_path / "b") == files(tmp_path / "c")
    mean = load_vae(inputs[1]).encode(torch.from_numpy(open_dataset(inputs[0]).floats("train")))[0]
    np.testing.assert_allclose(open_latents(tmp_path / "a").latents("train"), mean, atol=1e-5)


def test_the_summary_counts_rows_and_active_units(inputs, tmp_path):
    summary = extracted(inputs, tmp_path / "out")
    store = open_latents(tmp_path / "out")
    assert summary["latent_dim"] == 6
    assert summary["n_samples"] == 1797
    for split in ("train", "validation", "test"):
        expected = active_units(store.latents(split))
        assert summary["metrics"][f"{split}/active_units"] == expected
        assert 0 < expected < 6
    json.dumps(summary, allow_nan=False)


def test_the_attributes_say_where_they_come_from(inputs, tmp_path):
    extracted(inputs, tmp_path / "out")
    facts = open_latents(tmp_path / "out").attributes
    assert facts["vae_sha256"]["vae.safetensors"] == file_digest(inputs[1] / "vae.safetensors")
    assert facts["counts"] == {"train": 1200, "validation": 200, "test": 397}
    expected = arrays.open_group(inputs[0] / "dataset.zarr").attrs["sha256"]
    assert facts["dataset_sha256"] == expected


def test_any_zarr_reader_finds_named_axes(inputs, tmp_path):
    extracted(inputs, tmp_path / "out")
    array = arrays.open_group(tmp_path / "out" / "latents.zarr")["train/latents"]
    assert array.metadata.dimension_names == ("sample", "latent")
    assert array.dtype == np.float32


def test_floats_and_an_empty_split(inputs, tmp_path):
    images = (digits() / np.float32(255)).astype(np.float32)
    folder = write_dataset(tmp_path / "floats", train=images[:50], validation=images[50:60])
    summary = extracted((folder, inputs[1]), tmp_path / "out")
    assert summary["n_samples"] == 60
    assert set(summary["metrics"]) == {"train/active_units", "validation/active_units"}
    assert open_latents(tmp_path / "out").latents("test").shape == (0, 6)


def test_progress_ends_at_the_total(inputs, tmp_path):
    heard = []

    class Ear(Listener):
        def progress(self, done, total, **figures):
            heard.append((done, total))

    extracted(inputs, tmp_path / "out", listener=Ear())
    assert heard[-1] == (1797, 1797)
    assert heard == sorted(heard)


def test_a_vae_of_other_images_is_refused(inputs, tmp_path):
    other = write_dataset(tmp_path / "other", train=np.zeros((3, 5, 5), np.uint8))
    with pytest.raises(DataError, match=r"\(8, 8\).*\(5, 5\)"):
        extracted((other, inputs[1]), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_latents_that_are_no_numbers_are_refused(inputs, tmp_path):
    images = np.full((4, 8, 8), np.nan, np.float32)
    folder = write_dataset(tmp_path / "nan", train=images)
    with pytest.raises(DataError, match="not finite"):
        extracted((folder, inputs[1]), tmp_path / "out")
