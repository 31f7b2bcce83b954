"""The application generation as a whole, on digits: findings, the model's part, the command."""

import filecmp
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from imagesets import digits, write_dataset
from PIL import Image
from scipy.sparse import csr_array
from sklearn.datasets import load_digits

from vaesc.applications import apply as run_application
from vaesc.applications.findings import read_findings
from vaesc.applications.generation import PRIORS, Sampler
from vaesc.applications.generation.sampler import Priors
from vaesc.arrays import write_array
from vaesc.bundle import SparseVAE
from vaesc.cli import main
from vaesc.config import DictionaryConfig, GenerationConfig, TrainingConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import ConfigError, DataError
from vaesc.latents import extract
from vaesc.parts import PART, Part, load_part
from vaesc.progress import SILENT
from vaesc.training import train

K = 24
SMALL = GenerationConfig(
    n_samples=150, n_components=4, class_components=2, code_classes=6, n_references=60,
    binary_epochs=2, binary_images=2,
)  # fmt: skip


def write_labelled(folder, *, absent=None):
    """Write digits with their labels; `absent` has no training image."""
    order = np.random.default_rng(0).permutation(1797)
    images, labels = digits(), load_digits().target[order].astype(np.int64)
    chosen = {"train": np.arange(1200), "validation": np.arange(1200, 1300),
              "test": np.arange(1400, 1600)}  # fmt: skip
    if absent is not None:
        chosen["train"] = chosen["train"][labels[:1200] != absent]
    write_dataset(folder, **{split: images[rows] for split, rows in chosen.items()})
    group = zarr.open_group(str(folder / "dataset.zarr"), mode="a")
    for split, rows in chosen.items():
        write_array(group, f"{split}/labels", labels[rows], ("sample",))
    return folder


def steps(root, dataset):
    """Return the artifacts of the first steps, a small VAE trained for a few epochs."""
    folders = {"dataset": dataset} | {n: root / n for n in ("vae", "latents", "dictionary")}
    for name in ("vae", "latents", "dictionary"):
        folders[name].mkdir(parents=True)
    vae = VAEConfig(hidden=(32,), latent_dim=6, beta=0.2)
    training = TrainingConfig(epochs=25, batch_size=64, learning_rate=0.01)
    train(vae, training, dataset, folders["vae"], seed=0, device="cpu")
    extract(dataset, folders["vae"], folders["latents"], device="cpu")
    settings = DictionaryConfig(n_atoms=K, n_nonzero_coefs=3, max_epochs=3)
    learn(settings, folders["latents"], folders["dictionary"], seed=0, listener=SILENT)
    return folders


def applied(folders, folder, config=SMALL, **how):
    folder.mkdir(parents=True)
    run_application("generation", config, folders, folder, seed=0, n_nonzero_coefs=3,
                    window_bytes=2**28, device="cpu", **how)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory):
    root = tmp_path_factory.mktemp("generation")
    return steps(root, write_labelled(root / "dataset"))


@pytest.fixture(scope="module")
def folder(artifacts, tmp_path_factory):
    return applied(artifacts, tmp_path_factory.mktemp("applied") / "first")


def model_of(artifacts, part):
    model = SparseVAE.from_artifacts(
        artifacts["dataset"], artifacts["vae"], artifacts["dictionary"], device="cpu"
    )
    return SparseVAE(model.vae, model.dictionary, high=255, parts={"generation": part})


@pytest.fixture(scope="module")
def registered(artifacts, folder, tmp_path_factory):
    """A model as the registry keeps it: a folder."""
    saved = tmp_path_factory.mktemp("registered") / "model"
    model_of(artifacts, load_part(folder / PART)).save(saved)
    return saved


@pytest.fixture(scope="module")
def sampler(registered):
    return Sampler.of(SparseVAE.load(registered, device="cpu"))


def metrics_of(folder):
    found = read_findings(folder)
    return {f["key"]: f["ours"] for f in found["figures"]} | dict(found["more"])


def test_what_it_finds_is_in_range_and_in_order(folder):
    metrics, best = metrics_of(folder), load_part(folder / PART).facts["best"]
    shares = [v for k, v in metrics.items() if "precision" in k or "recall" in k]
    shares += [v for k, v in metrics.items() if "fraction" in k or "accuracy" in k]
    assert len(shares) > 10
    assert all(0 <= share <= 1 for share in shares)
    assert metrics["test/feature_accuracy"] > 0.8
    for name in ("mixture", "coded", "sparse", "aggregated", "standard", "pixels"):
        floor, own = (metrics[f"test/frechet_distance_{n}"] for n in ("train", name))
        assert 0 <= floor < own
    assert metrics["test/frechet_distance"] == metrics[f"test/frechet_distance_{best}"]
    # The bound rises with the number of samples: k = 1 in the mean, 50, 5000.
    assert metrics["test/binary_iwae_50"] < metrics["test/binary_negative_elbo"]


def test_findings_name_their_baselines_and_pictures_exist(folder):
    found = read_findings(folder)
    assert all(f["baseline"] is not None for f in found["figures"])
    assert not any(f["published"] for f in found["figures"])  # those are of MNIST
    for picture in found["pictures"]:
        for theme in ("", "-dark"):
            with Image.open(folder / f"{picture['name']}{theme}.png") as image:
                assert image.width > 500
    assert {p["name"] for p in found["pictures"]} == {
        "samples", "atoms", "interpolation", "classes"
    }  # fmt: skip


def test_the_same_bytes_again_whatever_is_in_memory_at_once(artifacts, folder, tmp_path):
    again = applied(artifacts, tmp_path / "again", block_size=300)
    names = sorted(p.name for p in folder.iterdir())
    assert sorted(p.name for p in again.iterdir()) == names
    assert filecmp.cmpfiles(folder, again, names, shallow=False)[0] == names


def test_without_labels_features_are_pixels_and_there_are_no_classes(tmp_path):
    images = digits()
    dataset = write_dataset(
        tmp_path / "data", train=images[:500], validation=images[500:550], test=images[550:650]
    )
    config = replace(SMALL, binary_epochs=0)
    folder = applied(steps(tmp_path, dataset), tmp_path / "out", config)
    found, metrics = read_findings(folder), metrics_of(folder)
    assert any("no labels" in note for note in found["notes"])
    assert not {"test/class_agreement", "test/feature_accuracy"} & set(metrics)
    assert not any("binary" in key for key in metrics)
    assert load_part(folder / PART).facts["classes"] == []


def test_a_missing_class_a_gaussian_likelihood_and_hardly_any_test_images(tmp_path):
    images = digits().reshape(-1, 64)  # flat
    dataset = write_dataset(
        tmp_path / "data", train=images[:90], validation=images[500:540], test=images[550:555]
    )
    folder = applied(steps(tmp_path / "flat", dataset), tmp_path / "flat" / "out")
    assert "compared with nothing" in read_findings(folder)["sentence"]

    labelled = write_labelled(tmp_path / "labelled", absent=3)
    config = replace(SMALL, binary_epochs=0)
    folder = applied(steps(tmp_path / "absent", labelled), tmp_path / "absent" / "out", config)
    names = load_part(folder / PART).facts["classes"]
    assert names == [str(label) for label in range(10) if label != 3]


# The sampler


@pytest.mark.parametrize("prior", PRIORS)
def test_the_same_seed_draws_the_same_bytes(sampler, registered, prior):
    again = Sampler.of(SparseVAE.load(registered, device="cpu"))
    first = sampler.sample(20, prior=prior, seed=5)
    assert first.shape == (20, 8, 8)
    assert first.dtype == np.float32
    assert 0 <= first.min() <= first.max() <= 1
    np.testing.assert_array_equal(first, again.sample(20, prior=prior, seed=5))
    assert (first != sampler.sample(20, prior=prior, seed=6)).any()


def test_atoms_are_switched(sampler, monkeypatch):
    drawn = []
    decode = sampler.model.dictionary.decode

    def listening(self, codes):
        drawn.append(codes)
        return decode(codes)

    monkeypatch.setattr(type(sampler.model.dictionary), "decode", listening)
    off = list(range(0, K, 2))
    sampler.sample(300, prior="sparse", on=[1, 5], off=off)
    codes = csr_array(drawn[0]).toarray()
    assert (codes[:, off] == 0).all()
    assert (codes[:, [1, 5]] != 0).all()
    assert 2 <= (codes != 0).sum(axis=1).max() <= 3


def test_samples_of_a_class_are_like_it(sampler, artifacts):
    """Nearer to the mean image of their class than to that of most others."""
    order = np.random.default_rng(0).permutation(1797)
    labels, images = load_digits().target[order], digits() / 255
    means = np.stack([images[labels == c].mean(axis=0) for c in range(10)])
    right = 0
    for c in range(10):
        made = sampler.sample(40, of_class=str(c), seed=1)
        found = np.square(made[:, None] - means).sum(axis=(2, 3)).argmin(axis=1)
        right += (found == c).sum()
    assert right / 400 > 0.4


@pytest.mark.parametrize("along", ["linear", "spherical"])
def test_ways_lead_from_one_reconstruction_to_the_other(sampler, along):
    ends = digits()[:2]
    way = sampler.interpolate(*ends, 5, along=along)
    model = sampler.model
    reached = model.decode_latents(model.latents(ends))
    np.testing.assert_allclose(way[[0, -1]], reached, atol=1e-4)
    assert way.shape == (5, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"prior": "uniform"}, ConfigError, "prior must be one of standard, mixture"),
        (
            {"prior": "sparse", "of_class": "1"},
            ConfigError,
            "of the priors mixture, coded, not sparse",
        ),
        ({"prior": "coded", "on": [1]}, ConfigError, "in the prior sparse, not coded"),
        ({"of_class": "1", "on": [1]}, ConfigError, "no switched atoms"),
        ({"of_class": "dog"}, DataError, "knows no class 'dog'; it knows 0, 1, 2"),
        ({"prior": "sparse", "on": [K]}, DataError, "numbered from 0 to 23, got 24"),
        ({"prior": "sparse", "on": [1], "off": [1]}, DataError, "both on and off"),
    ],
)
def test_unusable_arguments_are_refused_in_a_sentence(sampler, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        sampler.sample(3, **arguments)


def test_a_damaged_part_is_refused_in_a_sentence(artifacts, folder):
    good = load_part(folder / PART)

    def without(name):
        return Part(arrays={k: v for k, v in good.arrays.items() if k != name}, facts=good.facts)

    def changed(name, array):
        return Part(arrays={**good.arrays, name: array}, facts=good.facts)

    means = good.arrays["aggregated/means"]
    nan = np.full_like(means, np.nan)
    parts = [without(name) for name in good.arrays]
    parts += [changed("aggregated/means", a) for a in (means[:, :3], means[:0], nan, means[0])]
    parts += [
        changed("aggregated/stds", a) for a in (-(means**2) - 1, means[:3], means.astype("f8"))
    ]
    parts += [changed(name, np.zeros((), np.float32)) for name in good.arrays]
    parts += [Part(arrays=good.arrays, facts=f) for f in ({}, {"classes": 3}, {"classes": [1]})]
    parts += [Part(arrays=good.arrays, facts={**good.facts, "best": "standard"})]
    for part in parts:
        with pytest.raises(DataError, match="again"):
            Sampler.of(model_of(artifacts, part))
    with pytest.raises(DataError, match="must be of 7 latent dimensions"):
        Priors.of_part(good, latent_dim=7, n_atoms=K)
    with pytest.raises(DataError, match="must be of 5 atoms"):
        Priors.of_part(good, latent_dim=6, n_atoms=5)


# The command


def command(registered, *arguments):
    return main(["sample", "--model", str(registered), *map(str, arguments)])


def test_the_command_writes_what_the_sampler_draws(registered, sampler, tmp_path, capsys):
    out = tmp_path / "made.npy"
    assert command(registered, out, "-n", 7, "--prior", "sparse", "--seed", 3, "--on", 2, 4) == 0
    expected = sampler.sample(7, prior="sparse", seed=3, on=[2, 4])
    np.testing.assert_array_equal(np.load(out), expected)
    assert capsys.readouterr().out == f"7 images -> {out}\n"
    assert command(registered, out, "-n", 3, "--off", 1) == 0
    np.testing.assert_array_equal(np.load(out), sampler.sample(3, prior="sparse", off=[1]))
    assert command(registered, out, "-n", 3, "--class", "8") == 0
    np.testing.assert_array_equal(np.load(out), sampler.sample(3, of_class="8"))


def test_the_command_writes_block_by_block(registered, sampler, tmp_path, monkeypatch):
    """Never more images in memory than a block, and the bytes that numpy would save."""
    monkeypatch.setattr("vaesc.applications.generation.sampler.BLOCK", 8)
    sizes = []
    decode = SparseVAE.decode_latents

    def listening(self, latents):
        sizes.append(len(latents))
        return decode(self, latents)

    monkeypatch.setattr(SparseVAE, "decode_latents", listening)
    out, saved = tmp_path / "made.npy", tmp_path / "saved.npy"
    assert command(registered, out, "-n", 21, "--prior", "sparse") == 0
    assert sizes == [8, 8, 5]
    np.save(saved, sampler.sample(21, prior="sparse"))
    assert out.read_bytes() == saved.read_bytes()


def test_the_command_draws_contact_sheets_and_ways(registered, sampler, tmp_path):
    sheets = [tmp_path / f"{i}.png" for i in range(2)]
    for sheet in sheets:
        assert command(registered, sheet, "-n", 25) == 0
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    with Image.open(sheets[0]) as image:
        assert image.width > 2 * image.height  # ten columns, three rows
    ends = tmp_path / "ends.npy"
    np.save(ends, digits()[:2])
    for along in ("linear", "spherical"):
        out = tmp_path / "way.npy"
        assert command(registered, out, "-n", 4, "--interpolate", ends, "--along", along) == 0
        expected = sampler.interpolate(*digits()[:2], 4, along=along)
        np.testing.assert_array_equal(np.load(out), expected)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["made.txt"], 2, "must end in .npy or .png"),
        (["made.npy", "-n", "0"], 2, "-n must be at least 1, got 0"),
        (["made.png", "-n", "10001"], 2, "at most 10000 images"),
        (["made.npy", "--seed", "-1"], 2, "must not be negative"),
        (["nowhere/made.npy"], 1, "folder nowhere does not exist"),
        (["made.npy", "--interpolate", "two.npy", "--class", "1"], 2, "draws nothing"),
        (["made.npy", "--interpolate", "two.npy", "-n", "100001"], 2, "at most 100000 images"),
        (["made.npy", "-n", str(10**15), "--prior", "sparse"], 2, "ask for fewer"),
        (["made.npy", "--interpolate", "three.npy"], 1, "must hold two images"),
        (["made.npy", "--class", "dog"], 1, "knows no class 'dog'"),
        (["made.npy", "--prior", "mixture", "--on", "3"], 2, "not mixture"),
    ],
)
def test_the_command_refuses_in_a_sentence(
    registered, tmp_path, monkeypatch, capsys, arguments, code, sentence
):
    monkeypatch.chdir(tmp_path)
    np.save("two.npy", digits()[:2])
    np.save("three.npy", digits()[:3])
    assert command(registered, *arguments) == code
    told = capsys.readouterr().err
    assert sentence in told
    assert told.count("\n") == 1
    assert not list(tmp_path.glob("made*"))


def test_a_model_without_generation_says_so(artifacts, tmp_path, capsys):
    model = SparseVAE.from_artifacts(
        artifacts["dataset"], artifacts["vae"], artifacts["dictionary"], device="cpu"
    )
    model.save(tmp_path / "model")
    assert command(tmp_path / "model", tmp_path / "made.npy") == 1
    assert "registered without generation" in capsys.readouterr().err
    assert json.loads(Path(tmp_path / "model" / "bundle.json").read_text())
