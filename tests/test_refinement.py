"""Refinement: the start is the rival to rounding, gradients are exact, and it pays and repeats."""

import filecmp
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from imagesets import write_digits

from vaesc.bundle import SparseVAE
from vaesc.config import DictionaryConfig, RefineConfig
from vaesc.datasets.reader import open_dataset
from vaesc.errors import ConfigError, TrainingError
from vaesc.evaluation.batches import Split
from vaesc.evaluation.dictionaries import Plan, load_pixels
from vaesc.evaluation.refined import open_refined, refined_folder
from vaesc.models import load_vae
from vaesc.progress import SILENT
from vaesc.refinement import refine
from vaesc.refinement.coding import PursuitCoding
from vaesc.refinement.fit import Refinement
from vaesc.refinement.network import linear_vae, span
from vaesc.refinement.projection import project, supports
from vaesc.training.determinism import stream
from vaesc.training.health import DivergedError
from vaesc.training.resident import ResidentBatches
from vaesc.training.streamed import StreamedBatches, open_batches

DICTIONARY = DictionaryConfig(n_atoms=32, n_nonzero_coefs=3, max_epochs=4, batch_size=128)
REFINE = RefineConfig(epochs=6, batch_size=64, hidden=(64, 64), channels=(8,))
LEVELS = (1, 4, 40)


def run(dataset, folder, config=REFINE, seed=0, levels=LEVELS, **how):
    folder.mkdir()
    summary = refine(
        config, DICTIONARY, levels, dataset, folder, seed=seed, device="cpu", block_size=512,
        checkpoints=folder.with_suffix(".checkpoints"), listener=SILENT, **how,
    )  # fmt: skip
    return summary["metrics"]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return write_digits(tmp_path_factory.mktemp("refinement") / "dataset")


@pytest.fixture(scope="module")
def refined(dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("refinement") / "refined"
    return folder, run(dataset, folder)


def atoms_and_images(n_atoms=12, n_pixels=20, n=50):
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((n_atoms, n_pixels)).astype(np.float32)
    images = rng.random((n, n_pixels), np.float32)
    return torch.from_numpy(atoms / np.linalg.norm(atoms, axis=1, keepdims=True)), images


def untrained(n_hidden=8):
    atoms, images = atoms_and_images()
    images = torch.from_numpy(images)
    config = RefineConfig(hidden=(n_hidden, n_hidden), channels=(4,))
    return atoms, images, linear_vae(
        atoms, images.mean(0), (4, 5), config, spread=0.7, generator=stream(0, "test")
    )  # fmt: skip


def test_the_span_is_orthonormal_and_holds_every_atom():
    atoms, _ = atoms_and_images()
    basis = span(atoms)
    assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-5)
    assert torch.allclose(atoms @ basis.T @ basis, atoms, atol=1e-5)


def test_dependent_atoms_do_not_add_dimensions():
    atoms, _ = atoms_and_images()
    assert len(span(torch.cat([atoms, atoms[:3]]))) == len(atoms)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_the_start_reconstructs_as_the_pixel_dictionary_does(k):
    atoms, images, vae = untrained()
    z = vae.encode(images.reshape(-1, 4, 5))[0].detach()
    latent_atoms = atoms @ span(atoms).T
    coded = project(z, latent_atoms, *supports(z, latent_atoms, k, "ols"))
    centred = images - images.mean(0)
    in_pixels = project(centred, atoms, *supports(centred, atoms, k, "ols"))
    decoded = vae.decode_logits(coded).flatten(1)
    assert torch.allclose(decoded, in_pixels + images.mean(0), atol=1e-4)


def test_the_start_is_a_posterior_of_the_stated_width():
    _, images, vae = untrained()
    log_var = vae.encode(images.reshape(-1, 4, 5))[1]
    assert torch.allclose(log_var, torch.full_like(log_var, -4.0), atol=1e-4)


def test_images_that_are_no_pictures_get_no_convolutions():
    atoms, images, _ = untrained()
    vae = linear_vae(
        atoms, images.mean(0), (20,), RefineConfig(), spread=1.0, generator=stream(0, "flat")
    )
    assert not any(isinstance(m, torch.nn.Conv2d) for m in vae.modules())
    assert vae.decode(vae.encode(images)[0]).shape == images.shape


def test_the_gradient_through_the_code_is_the_projection():
    rng = np.random.default_rng(1)
    atoms = torch.from_numpy(rng.standard_normal((9, 5))).double()
    z = torch.from_numpy(rng.standard_normal((4, 5))).requires_grad_(True)
    index = torch.from_numpy(np.array([[0, 1], [2, 3], [4, 5], [6, 7]]))
    counts = torch.ones(4, 2, dtype=torch.float64)
    direction = torch.from_numpy(rng.standard_normal((4, 5)))
    (gradient,) = torch.autograd.grad((project(z, atoms, index, counts) * direction).sum(), z)
    for row, chosen in zip(range(4), index, strict=True):
        basis, _ = np.linalg.qr(atoms[chosen].numpy().T)
        expected = basis @ basis.T @ direction[row].numpy()
        assert np.allclose(gradient[row], expected, atol=1e-3)


def test_placeholders_do_not_count():
    atoms, images = atoms_and_images()
    z = torch.from_numpy(images[:2])
    index = torch.tensor([[3, 0], [5, 0]])
    counts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert torch.allclose(
        project(z, atoms, index, counts), project(z, atoms, index[:, :1], counts[:, :1]), atol=1e-4
    )


def test_validation_error_never_rises_above_the_start_and_falls_where_there_is_room(refined):
    _, metrics = refined
    for k in (1, 3, 4, 32):
        start = metrics[f"validation/refined_start_mse_k{k}"]
        undescended = metrics[f"validation/refined_undescended_mse_k{k}"]
        assert metrics[f"validation/refined_mse_k{k}"] <= undescended <= start
    assert metrics["validation/refined_mse_k4"] < 0.97 * metrics["validation/refined_start_mse_k4"]


def test_the_saved_models_have_the_validation_error_that_was_reported(dataset, refined):
    folder, metrics = refined
    models = open_refined(dataset, folder)
    images = open_dataset(dataset).floats("validation", slice(None))
    for k, model in models.items():
        mse = float(np.square(model.unit_reconstructions(images) - images).mean())
        reported = metrics[f"validation/refined_mse_k{min(k, 32)}"]
        assert mse == pytest.approx(reported, rel=2e-3)


def test_levels_beyond_the_atoms_share_the_last_model(dataset, refined):
    models = open_refined(dataset, refined[0])
    assert set(models) == {1, 3, 4, 40}
    assert models[40].n_nonzero_coefs <= 32


def test_the_pixel_dictionaries_it_started_from_are_read_back(dataset, refined):
    plan = Plan(own=3, levels=(1, 3, 4, 40), relearn=True)
    pixels = load_pixels(plan, refined[0])
    assert pixels is not None
    assert set(pixels) == set(plan.levels)
    images = Split(open_dataset(dataset), "validation", 512).pick([0, 1])
    assert pixels[4].path(images, [4])[4].shape == (2, 32)
    assert load_pixels(Plan(own=3, levels=(2, 3), relearn=True), refined[0]) is None


def test_one_level_is_a_model_of_its_own(dataset, refined, tmp_path):
    own = refined_folder(refined[0], 3)
    model = SparseVAE.from_artifacts(dataset, own, own)
    model.save(tmp_path / "bundle")
    again = SparseVAE.load(tmp_path / "bundle", device="cpu")
    images = np.random.default_rng(0).random((5, 8, 8)).astype(np.float32)
    assert again.encode(images).shape == (5, 32)
    assert np.array_equal(again.reconstruct(images), model.reconstruct(images))


def test_equal_seeds_write_equal_bytes(dataset, tmp_path):
    quick = RefineConfig(epochs=1, batch_size=64, hidden=(16, 16), channels=(4,))
    for name in ("a", "b"):
        run(dataset, tmp_path / name, quick)
    files = sorted(p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*.*"))
    assert len(files) > 10
    same, differ, _ = filecmp.cmpfiles(tmp_path / "a", tmp_path / "b", files, shallow=False)
    assert not differ
    assert len(same) == len(files)
    history = json.loads((tmp_path / "a/history.json").read_text())
    assert len(history) == 2


def test_images_beyond_a_window_are_refined_with_from_disk_to_the_same_bytes(
    dataset, refined, tmp_path, monkeypatch
):
    """Whether they could all be held changes no byte; the window does, and little else."""
    monkeypatch.setattr("vaesc.training.order._PAGE", 128)
    monkeypatch.setattr("vaesc.windows.PAGE", 128)
    found, kinds = {}, []

    def opened(*args, **kwargs):
        batches = open_batches(*args, **kwargs)
        kinds.append((type(batches), len(batches.order.windows(1)) > 1))
        return batches

    monkeypatch.setattr("vaesc.refinement.step.open_batches", opened)
    small = {"levels": (4,), "window_bytes": 2 * 128 * 8 * 8 * 4}
    for name, held in (("held", 100), ("streamed", 1)):
        monkeypatch.setattr("vaesc.training.streamed.IMAGE_WINDOWS", held)
        found[name] = run(dataset, tmp_path / name, **small)
    assert kinds == [(ResidentBatches, True)] * 2 + [(StreamedBatches, True)] * 2
    assert found["held"] == found["streamed"]
    assert same_files(tmp_path / "held", tmp_path / "streamed")
    error, whole = (f["validation/refined_mse_k4"] for f in (found["streamed"], refined[1]))
    assert error != whole
    assert error == pytest.approx(whole, rel=0.1)


def test_a_killed_refinement_keeps_its_finished_levels(dataset, tmp_path, monkeypatch):
    """The second level is interrupted; the successor computes neither the first again, nor other
    bytes."""
    import vaesc.refinement.step as step

    quick = RefineConfig(epochs=1, batch_size=64, hidden=(16, 16), channels=(4,))
    run(dataset, tmp_path / "whole", quick)
    genuine, seen = step._refine_level, []

    def level(config, start, k, *rest, **how):
        if k == 3 and 3 not in seen:
            seen.append(k)
            raise KeyboardInterrupt
        seen.append(k)
        return genuine(config, start, k, *rest, **how)

    monkeypatch.setattr(step, "_refine_level", level)
    with pytest.raises(KeyboardInterrupt):
        run(dataset, tmp_path / "cut", quick)
    for file in sorted((tmp_path / "cut").iterdir(), reverse=True):
        shutil.rmtree(file) if file.is_dir() else file.unlink()
    (tmp_path / "cut").rmdir()
    run(dataset, tmp_path / "cut", quick)
    assert seen == [1, 3, 3, 4, 32]
    files = [p.relative_to(tmp_path / "whole") for p in (tmp_path / "whole").rglob("*.*")]
    _, differ, missing = filecmp.cmpfiles(
        tmp_path / "whole", tmp_path / "cut", files, shallow=False
    )
    assert not differ
    assert not missing


def same_files(one, other):
    files = [p.relative_to(one) for p in one.rglob("*.*")]
    _, differ, missing = filecmp.cmpfiles(one, other, files, shallow=False)
    return bool(files) and not differ and not missing


def test_a_level_that_was_killed_resumes_to_the_same_bytes(dataset, tmp_path, monkeypatch):
    """Killed in the third epoch of k = 1, whose codebook outlives steps, and of k = 4."""
    three = RefineConfig(epochs=3, batch_size=64, hidden=(16, 16), channels=(4,))
    run(dataset, tmp_path / "whole", three)
    genuine, cuts = Refinement._step, [(1, (3, 7)), (4, (3, 2))]
    steps = []

    def step(self, x, optimiser, at):
        steps.append((self.k, at))
        if cuts and (self.k, at) == cuts[0]:
            cuts.pop(0)
            raise KeyboardInterrupt
        return genuine(self, x, optimiser, at)

    monkeypatch.setattr(Refinement, "_step", step)
    for attempt in ("first", "second"):
        with pytest.raises(KeyboardInterrupt):
            refine(
                three, DICTIONARY, LEVELS, dataset, made(tmp_path / attempt), seed=0,
                device="cpu", block_size=512, checkpoints=tmp_path / "checkpoints",
                listener=SILENT,
            )  # fmt: skip
    steps.clear()
    refine(
        three, DICTIONARY, LEVELS, dataset, made(tmp_path / "resumed"), seed=0, device="cpu",
        block_size=512, checkpoints=tmp_path / "checkpoints", listener=SILENT,
    )  # fmt: skip
    assert steps[0] == (4, (3, 0))  # k = 1 and 3 are done, and two epochs of k = 4
    assert same_files(tmp_path / "whole", tmp_path / "resumed")


def made(folder):
    folder.mkdir()
    return folder


@pytest.mark.parametrize("where", ["latents", "weights"])
def test_a_loss_that_is_no_number_sends_a_level_back(dataset, tmp_path, monkeypatch, where):
    """After a rollback in its first epoch a level is one of a tenth of the learning rate."""
    quick = RefineConfig(epochs=2, batch_size=64, hidden=(16, 16), channels=(4,))
    genuine, struck = Refinement._step, []
    n = open_dataset(dataset).n("train")

    def step(self, x, optimiser, at):
        last = at[1] == (10 if where == "latents" else n // 64 - 1)
        if self.k == 4 and last and not struck:
            struck.append(at)
            with torch.no_grad():
                next(self.vae.encoder.parameters()).fill_(float("nan"))
            if where == "weights":
                return 0.0
        return genuine(self, x, optimiser, at)

    monkeypatch.setattr(Refinement, "_step", step)
    folder = made(tmp_path / "struck")
    summary = refine(
        quick, DICTIONARY, (4,), dataset, folder, seed=0, device="cpu", block_size=512,
        checkpoints=tmp_path / "checkpoints", listener=SILENT,
    )  # fmt: skip
    assert struck
    assert summary["metrics"]["train/refined_rollbacks_k4"] == 1
    (told,) = summary["health"]
    assert "refinement at k = 4 lost its way" in told
    slow = replace(quick, learning_rate=quick.learning_rate * 0.1)
    refine(
        slow, DICTIONARY, (4,), dataset, made(tmp_path / "slow"), seed=0, device="cpu",
        block_size=512, checkpoints=tmp_path / "checkpoints", listener=SILENT,
    )  # fmt: skip
    struck, direct = (load_vae(tmp_path / n / "k4").state_dict() for n in ("struck", "slow"))
    for name, weight in struck.items():
        torch.testing.assert_close(weight, direct[name], rtol=1e-4, atol=1e-6)


def test_rollbacks_of_a_level_are_bounded(dataset, tmp_path, monkeypatch):
    def step(self, x, optimiser, at):
        raise DivergedError("errors are not finite")

    monkeypatch.setattr(Refinement, "_step", step)
    quick = RefineConfig(epochs=1, batch_size=64, hidden=(16, 16), channels=(4,))
    with pytest.raises(TrainingError, match=r"k = 1 lost its way.*lowered to 1e-06"):
        run(dataset, tmp_path / "wild", quick)


@pytest.mark.parametrize("coder", ["omp", "lasso", "lista"])
def test_every_coder_refines(dataset, tmp_path, coder):
    quick = RefineConfig(epochs=1, batch_size=64, hidden=(16, 16), channels=(4,))
    settings = replace(DICTIONARY, coder=coder, max_epochs=1, lista_epochs=1)
    (tmp_path / "refined").mkdir()
    refine(
        quick, settings, (1, 3), dataset, tmp_path / "refined", seed=0, device="cpu",
        block_size=512, checkpoints=tmp_path / "checkpoints", listener=SILENT,
    )  # fmt: skip
    models = open_refined(dataset, tmp_path / "refined")
    assert models[3].dictionary.coder == ("omp" if coder == "omp" else "ols")


def test_a_torn_level_is_made_again(dataset, tmp_path):
    quick = RefineConfig(epochs=1, batch_size=64, hidden=(16, 16), channels=(4,))
    run(dataset, tmp_path / "whole", quick)
    torn = tmp_path / "torn.checkpoints"
    shutil.copytree(tmp_path / "whole/k1", torn / "k1")
    (torn / "k1/vae.safetensors").write_bytes(b"torn")
    run(dataset, tmp_path / "torn", quick)
    first, again = (tmp_path / name / "k1/vae.safetensors" for name in ("whole", "torn"))
    assert filecmp.cmp(first, again, shallow=False)


def test_no_epochs_are_refused(dataset, tmp_path):
    with pytest.raises(ConfigError, match=r"refine\.epochs"):
        run(dataset, tmp_path / "none", RefineConfig(epochs=0))


def test_images_that_are_coded_exactly_revive_no_atom():
    """Blank images have no residual that could become an atom: no NaN, and the atoms stay."""
    atoms, _, vae = untrained()
    latent_atoms = atoms @ span(atoms).T
    coding = PursuitCoding(vae, latent_atoms, 2, "ols", 16)
    optimiser = torch.optim.Adam([coding.atoms])
    x = torch.full((16, 20), 0.5)
    coding.atoms.grad = torch.zeros_like(coding.atoms)
    optimiser.step()
    coding.use[:] = 0
    coding.use[0] = 100
    z = torch.zeros(16, latent_atoms.shape[1])
    with torch.no_grad():
        for layer in (m for m in vae.encoder.modules() if isinstance(m, torch.nn.Linear)):
            layer.weight.zero_()
            layer.bias.zero_()
    coding.coded(x, z)
    coding.after_step(49, x, optimiser)
    assert torch.isfinite(coding.atoms).all()
    assert torch.allclose(coding.atoms.norm(dim=1), torch.ones(len(atoms)), atol=1e-5)
