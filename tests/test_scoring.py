"""Scoring: what is written is what the model says, whatever the source, blocks and threads."""

import filecmp
import gzip
import json
import os
import struct
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image
from registry_homes import SHAPE, tiny_model

import vaesc.scoring
from vaesc.bundle import SparseVAE
from vaesc.cli import main
from vaesc.drift.reference import described
from vaesc.errors import ConfigError, DataError, StoreError
from vaesc.origin import Origin
from vaesc.scoring import open_scores, score_images
from vaesc.store import file_digest

N = 3000


def bytes_like(n=N, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, *SHAPE), np.uint8)


@pytest.fixture(scope="module")
def model():
    made = tiny_model(low=0, high=255)
    images = bytes_like(500, 1)
    made.reference = described(made.encode(images), made.score(images))
    return made


def score(model, images, folder, **options):
    options = {"workers": 1, **options}
    summary = score_images(model, images, folder, **options)
    assert json.loads((folder / "summary.json").read_text()) == summary
    return open_scores(folder)


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_scores_are_what_the_model_says(model, tmp_path):
    images = bytes_like()
    got = score(model, images, tmp_path / "scores")
    codes = model.encode(images)
    assert (got.codes() != codes).nnz == 0
    assert got.codes().dtype == np.float32
    np.testing.assert_array_equal(got.mse(), model.score(images))
    np.testing.assert_array_equal(got.p_values(), model.reference.p_values(got.mse()))
    assert got.summary["n_images"] == N
    assert got.summary["mse"] == pytest.approx(float(got.mse().mean()), rel=1e-6)
    assert got.summary["l0"] == codes.nnz / N
    assert got.summary["unusual_fraction"] == np.mean(got.p_values() <= 0.01)
    assert names(tmp_path) == ["scores"]


def test_codes_have_anndata_s_layout(model, tmp_path):
    score(model, bytes_like(), tmp_path / "scores")
    codes = zarr.open_group(str(tmp_path / "scores" / "scores.zarr"), mode="r")["codes"]
    assert dict(codes.attrs) == {
        "encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": [N, model.n_atoms],
    }  # fmt: skip
    assert {a: codes[a].attrs["encoding-type"] for a in ("data", "indices", "indptr")} == {
        "data": "array", "indices": "array", "indptr": "array",
    }  # fmt: skip


def test_like_images_have_not_drifted_and_others_have(model, tmp_path):
    same = score(model, bytes_like(seed=7), tmp_path / "same").summary["drift"]
    assert not same["drifted"]
    assert same["reason"].startswith("No drift")
    bright = np.full((N, *SHAPE), 250, np.uint8)
    other = score(model, bright, tmp_path / "other").summary["drift"]
    assert other["drifted"]
    assert other["reason"].startswith("Drift: the batch (3,000 images)")


@pytest.mark.parametrize("options", [{"block_size": 1}, {"block_size": 2048, "workers": 3}])
def test_bytes_depend_neither_on_blocks_nor_on_threads(model, tmp_path, options):
    score(model, bytes_like(), tmp_path / "one")
    score(model, bytes_like(), tmp_path / "other", **options)
    files = sorted(p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*"))
    files = [str(f) for f in files if (tmp_path / "one" / f).is_file()]
    assert len(files) > 6
    same, different, odd = filecmp.cmpfiles(tmp_path / "one", tmp_path / "other", files, False)
    assert (same, different, odd) == (files, [], [])


def write_idx(path, images):
    header = struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape)
    path.write_bytes(gzip.compress(header + images.tobytes()))


def write_folder(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(path / f"{i:05}.png")


WRITERS = {
    "images.npy": np.save,
    "images.npz": lambda path, images: np.savez(path, x=images),
    "split.npz": lambda path, images: np.savez(path, x_train=images[:40], x_test=images[40:]),
    "images.zarr": lambda path, images: zarr.save_array(str(path), images),
    "images-idx3-ubyte.gz": write_idx,
    "folder": write_folder,
    "flat.npy": lambda path, images: np.save(path, images.reshape(len(images), -1)),
    "unit.npy": lambda path, images: np.save(path, images.astype(np.float32) / np.float32(255)),
    "floats.npy": lambda path, images: np.save(path, images.astype(np.float64)),
    "wide.npy": lambda path, images: np.save(path, images.astype(np.int64)),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_source_gives_the_same_scores(model, tmp_path, name):
    images = bytes_like(60)
    WRITERS[name](tmp_path / name, images)
    got = score(model, tmp_path / name, tmp_path / "scores")
    np.testing.assert_array_equal(got.mse(), model.score(images))
    assert (got.codes() != model.encode(images)).nnz == 0
    assert len(got.summary["source"]["fingerprint"]) == 64
    assert names(tmp_path) == sorted([name, "scores"])


def test_the_range_of_floats_is_that_of_all_not_of_a_block(model, tmp_path):
    """A block of nearly black floats in 0..255 must not be taken for one in [0, 1]."""
    images = bytes_like(2048)
    images[:1024] = images[:1024] % 2
    got = score(model, images.astype(np.float32), tmp_path / "scores", block_size=1024)
    np.testing.assert_array_equal(got.mse(), model.score(images))


def broken(images, at, value):
    images = images.astype(np.float64)
    images[at, 0, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "sentence"),
    [
        (bytes_like(5).reshape(5, 5, 4), r"an image has shape \(5, 4\), but the model takes"),
        (broken(bytes_like(1500), 1300, np.nan), "the array: image 1300 holds NaN"),
        (broken(bytes_like(1500), 1300, 1e6), "image 1300 the largest"),
        (broken(bytes_like(1500), 1300, -1e6).astype(np.int64), "the array: image 1300: images m"),
        (np.empty((0, *SHAPE), np.uint8), "is empty"),
        (np.full((3, *SHAPE), "a"), "must be bool, integers or floats"),
    ],
)
def test_an_image_that_cannot_be_scored_is_named_and_nothing_is_left(
    model, tmp_path, images, sentence
):
    with pytest.raises(DataError, match=sentence) as caught:
        score_images(model, images, tmp_path / "scores", block_size=1024, workers=2)
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


def test_a_damaged_image_file_is_named_and_nothing_is_left(model, tmp_path):
    write_folder(tmp_path / "images", bytes_like(1200))
    bad = tmp_path / "images" / "01100.png"
    bad.write_bytes(bad.read_bytes()[:60])
    with pytest.raises(DataError, match=r"01100\.png"):
        score_images(model, tmp_path / "images", tmp_path / "scores", block_size=1024)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(bad)
    with pytest.raises(DataError, match=r"01100\.png is 9x9 pixels"):
        score_images(model, tmp_path / "images", tmp_path / "scores")
    assert names(tmp_path) == ["images"]


def test_what_is_there_is_never_written_over(model, tmp_path):
    (tmp_path / "scores").mkdir()
    with pytest.raises(StoreError, match="scores exists already; remove it"):
        score_images(model, bytes_like(3), tmp_path / "scores")
    with pytest.raises(StoreError, match="exists already"):
        vaesc.scoring.check_paths(tmp_path, tmp_path / "scores")
    with pytest.raises(DataError, match="nothing does not exist"):
        vaesc.scoring.check_paths(tmp_path / "nothing", tmp_path / "new")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        score_images(model, bytes_like(3), tmp_path / "file" / "scores")


def test_whoever_comes_second_loses_and_the_first_scores_stay(model, tmp_path, monkeypatch):
    real = vaesc.scoring.compare

    def overtaken(*args, **options):
        monkeypatch.setattr(vaesc.scoring, "compare", real)
        score(model, bytes_like(5), tmp_path / "scores")
        return real(*args, **options)

    monkeypatch.setattr(vaesc.scoring, "compare", overtaken)
    with pytest.raises(StoreError, match="exists already"):
        score_images(model, bytes_like(9), tmp_path / "scores")
    assert open_scores(tmp_path / "scores").summary["n_images"] == 5
    assert names(tmp_path) == ["scores"]


def test_settings_out_of_range_are_refused(model, tmp_path):
    for name in ("block_size", "workers"):
        with pytest.raises(ConfigError, match=f"{name} must be at least 1, got 0"):
            score_images(model, bytes_like(3), tmp_path / "scores", **{name: 0})
    with pytest.raises(ConfigError, match="alpha must be below 1"):
        score_images(model, bytes_like(3), tmp_path / "scores", alpha=0)
    assert names(tmp_path) == []


def test_a_model_without_a_reference_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no reference\.json"):
        score_images(tiny_model(), bytes_like(3), tmp_path / "scores")
    assert names(tmp_path) == []


def test_the_model_s_digest_is_kept(model, tmp_path):
    model.save(tmp_path / "model")
    loaded = SparseVAE.load(tmp_path / "model", device="cpu")
    got = score(loaded, bytes_like(20), tmp_path / "scores")
    assert got.summary["model"]["digest"] == loaded.digest
    assert dict(got.group.attrs)["model"] == loaded.digest
    assert loaded.digest == file_digest(tmp_path / "model" / "bundle.json")


def test_images_without_any_atom_are_written_too(model, tmp_path, monkeypatch):
    from scipy.sparse import csr_array

    def nothing(unit, level=None):
        return csr_array((len(unit), model.n_atoms), dtype=np.float32)

    monkeypatch.setattr(model, "codes_of_unit", nothing)
    got = score(model, bytes_like(1500), tmp_path / "scores")
    assert got.codes().shape == (1500, model.n_atoms)
    assert got.codes().nnz == 0
    assert got.summary["drift"]["drifted"]


def test_codes_whose_indices_lead_elsewhere_are_refused(model, tmp_path):
    """Compiled code would follow them."""
    got = score(model, bytes_like(50), tmp_path / "scores")
    indices = zarr.open_group(tmp_path / "scores" / "scores.zarr", mode="r+")["codes"]["indices"]
    indices[:2] = [2**30, -(2**30)]
    with pytest.raises(DataError, match="codes cannot be read"):
        got.codes()


def test_nothing_is_no_scores(tmp_path):
    with pytest.raises(DataError, match="holds no scores of vaesc"):
        open_scores(tmp_path)


@pytest.fixture
def command(model, tmp_path, monkeypatch, capsys):
    """``vaesc score`` with a saved model, where no Prefect server is configured."""
    for name in [n for n in os.environ if n.startswith("PREFECT")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "none.toml"))
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "model")

    def run(*arguments):
        code = main(["score", "--device", "cpu", *arguments])
        return code, capsys.readouterr()

    return run


def test_the_command_prints_one_json_object_and_nothing_else(command, model, tmp_path):
    np.save("in.npy", bytes_like(300, 5))
    code, said = command("in.npy", "out", "--model", "./model", "--json")
    assert code == 0
    found = json.loads(said.out)
    summary = open_scores(tmp_path / "out").summary
    assert summary.items() <= found.items()
    assert set(found) - set(summary) == {
        "version", "images", "out", "seconds", "images_per_second", "event",
    }  # fmt: skip
    assert found["version"] is None
    assert found["event"] is False
    assert summary["model"]["digest"] == file_digest(tmp_path / "model" / "bundle.json")


def test_the_command_says_what_drifted_and_that_nobody_was_told(command):
    np.save("in.npy", np.full((300, *SHAPE), 250, np.uint8))
    code, said = command("in.npy", "out", "--model", "./model")
    assert code == 0
    lines = said.out.splitlines()
    assert lines[0].startswith("300 images in ")
    assert any(line.startswith("usage_divergence") for line in lines)
    assert any(line.startswith("Drift: the batch (300 images) differs") for line in lines)
    assert lines[-2:] == [
        "scores   out",
        "no event: a model in a folder is not registered, so nothing retrains it",
    ]
    code, said = command("in.npy", "more", "--model", "./model", "--no-event")
    assert said.out.splitlines()[-1] == "scores   more"


def test_a_prefect_server_that_does_not_answer_costs_no_scores(command, model, monkeypatch):
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    origin = Origin(
        ref="champion", digest="", uri="", resolved=datetime.now(UTC), name="vaesc", version=3
    )
    monkeypatch.setattr(model, "origin", origin)
    monkeypatch.setattr("vaesc.registry.load_model", lambda *_, **__: model)
    np.save("in.npy", np.full((300, *SHAPE), 250, np.uint8))
    code, said = command("in.npy", "out", "--json")
    assert code == 0
    assert json.loads(said.out)["event"] is False
    assert json.loads(said.out)["version"] == {"name": "vaesc", "version": 3}
    assert "no event: nothing answers at the configured Prefect API" in said.err
    assert open_scores(Path("out")).summary["drift"]["drifted"]


def test_the_command_finds_mistakes_before_it_loads_a_model(command, monkeypatch):
    def never(*_, **__):
        raise AssertionError("loaded")

    monkeypatch.setattr("vaesc.registry.load_model", never)
    np.save("in.npy", bytes_like(3))
    Path("there").mkdir()
    for arguments, sentence, exit_code in (
        (("absent.npy", "out"), "absent.npy does not exist", 1),
        (("in.npy", "there"), "there exists already", 1),
        (("in.npy", "out", "--block-size", "0"), "--block-size must be at least 1, got 0", 2),
        (("in.npy", "out", "--workers", "0"), "--workers must be at least 1, got 0", 2),
    ):
        code, said = command(*arguments)
        assert code == exit_code
        assert said.out == ""
        assert sentence in said.err
        assert len(said.err.splitlines()) == 1
