"""ONNX graphs compute what the model does, in batches of any size, and say what they are."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array

from vaesc.bundle import MANIFEST, SparseVAE
from vaesc.cli import main
from vaesc.config import RefineConfig, VAEConfig
from vaesc.dictionary import LatentDictionary
from vaesc.errors import DataError
from vaesc.export import OPSET, SIDECAR, export_onnx
from vaesc.export import files as export_module
from vaesc.models import VAE, save_vae
from vaesc.refinement.network import linear_vae
from vaesc.store import file_digest

N_ATOMS = 12
SHAPES = {
    "article": (28, 28), "residual": (9, 7), "convolutional": (3, 9, 10), "refined": (2, 8, 6),
}  # fmt: skip


def vae_of(kind):
    """Return an untrained network of each architecture, with weights that do something."""
    shape, generator = SHAPES[kind], torch.Generator().manual_seed(0)
    if kind == "refined":
        n_pixels = int(np.prod(shape))
        atoms = torch.randn(N_ATOMS, n_pixels, generator=generator)
        vae = linear_vae(
            atoms / atoms.norm(dim=1, keepdim=True), torch.rand(n_pixels, generator=generator),
            shape, RefineConfig(hidden=(16, 16), channels=(4, 6)), spread=0.7,
            generator=generator,
        )  # fmt: skip
        with torch.no_grad():  # its branches start at zero, which would test nothing
            for weights in vae.parameters():
                weights += 0.1 * torch.randn(weights.shape, generator=generator)
        return vae
    config = {
        "article": VAEConfig(),
        "residual": VAEConfig(
            hidden=(16, 16),
            latent_dim=5,
            residual=True,
            likelihood="continuous-bernoulli",
        ),
        "convolutional": VAEConfig(
            architecture="conv",
            channels=(4, 6),
            residual=True,
            hidden=(16,),
            latent_dim=5,
            activation="silu",
        ),
    }[kind]
    return VAE(config, shape, generator=generator)


def model_of(kind, folder, **options):
    vae, rng = vae_of(kind).eval().requires_grad_(False), np.random.default_rng(0)
    folder.mkdir()
    save_vae(vae, folder)
    atoms = rng.normal(size=(N_ATOMS, vae.latent_dim)).astype(np.float32)
    dictionary = LatentDictionary(
        dictionary=atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        mean=rng.normal(size=vae.latent_dim).astype(np.float32),
        scale=np.full(vae.latent_dim, 1.5, np.float32), coder="ols", n_nonzero_coefs=2,
        vae_sha256={p.name: file_digest(p) for p in folder.iterdir()},
    )  # fmt: skip
    return SparseVAE(vae, dictionary, **options)


@pytest.fixture(scope="module", params=SHAPES)
def exported(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    model = model_of(request.param, folder / "vae", high=255.0)
    return model, folder / "onnx", export_onnx(model, folder / "onnx")


def run(path, **given):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, given)


@pytest.mark.parametrize("n", [1, 7, 300])
def test_the_graphs_compute_what_the_model_does(exported, n):
    model, folder, _ = exported
    rng = np.random.default_rng(n)
    images = rng.random((n, *model.shape), np.float32)
    with torch.inference_mode():
        mean, log_var = (part.numpy() for part in model.vae.encode(torch.from_numpy(images)))
    latents, log_variance = run(folder / "encoder.onnx", images=images)
    np.testing.assert_allclose(latents, mean, rtol=0, atol=1e-5)
    np.testing.assert_allclose(log_variance, log_var, rtol=0, atol=1e-5)

    (decoded,) = run(folder / "decoder.onnx", latents=3 * mean)
    np.testing.assert_allclose(decoded, model.unit_images(3 * mean), rtol=0, atol=1e-5)
    assert np.ptp(decoded) > 0.01
    codes = rng.normal(size=(n, N_ATOMS)).astype(np.float32) * (rng.random((n, N_ATOMS)) < 0.3)
    (images,) = run(folder / "codes.onnx", codes=codes)
    wanted = model.unit_images(model.dictionary.decode(csr_array(codes)))
    np.testing.assert_allclose(images, wanted, rtol=0, atol=1e-5)


def test_the_graphs_say_what_they_are(exported, tmp_path):
    import onnx

    model, folder, written = exported
    sidecar = json.loads((folder / SIDECAR).read_text())
    model.save(tmp_path / "bundle")

    assert sorted(p.name for p in written) == sorted([*sidecar["files"], SIDECAR])
    assert sidecar["model_digest"] == file_digest(tmp_path / "bundle" / MANIFEST)
    assert (tuple(sidecar["shape"]), sidecar["low"], sidecar["high"]) == (model.shape, 0, 255)
    assert (sidecar["n_atoms"], sidecar["opset"]) == (N_ATOMS, OPSET)
    for name, facts in sidecar["files"].items():
        graph = onnx.load(folder / name)
        onnx.checker.check_model(graph, full_check=True)
        assert facts["sha256"] == file_digest(folder / name)
        assert [each.version for each in graph.opset_import if each.domain == ""] == [OPSET]
        assert {each.name for each in graph.graph.input} == set(facts["inputs"])
        assert [each.name for each in graph.graph.output] == facts["outputs"]
        for each in [*graph.graph.input, *graph.graph.output]:
            assert each.type.tensor_type.shape.dim[0].dim_param, "rows must be any number"
        said = {p.key: json.loads(p.value) for p in graph.metadata_props}
        for key, value in sidecar.items():
            if key != "files":
                assert said[f"vaesc.{key}"] == value
        assert str(Path.cwd()) not in (folder / name).read_bytes().decode("latin-1")
    assert not list(folder.parent.glob(".export-*"))


def test_equal_models_give_equal_files_and_keep_their_weights(tmp_path):
    for name in ("a", "b"):
        model = model_of("residual", tmp_path / f"vae-{name}")
        weights = {k: v.clone() for k, v in model.vae.state_dict().items()}
        export_onnx(model, tmp_path / name)
        assert all(torch.equal(weights[k], v) for k, v in model.vae.state_dict().items())
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_the_command_exports_a_folder(tmp_path, capsys):
    model = model_of("residual", tmp_path / "vae")
    model.save(tmp_path / "bundle")
    assert main(["models", "export", str(tmp_path / "bundle"), str(tmp_path / "onnx")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 4
    assert main(["models", "export", str(tmp_path / "bundle"), str(tmp_path / "onnx")]) == 1
    assert "is there already" in capsys.readouterr().err
    assert main(["models", "export", "no/model", str(tmp_path / "other")]) == 1
    assert main(["models", "export", "no/model", str(tmp_path / "nowhere" / "other")]) == 1
    assert not (tmp_path / "other").exists()


def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise DataError("cut off")

    monkeypatch.setattr(export_module, "_facts", interrupted)
    model = model_of("residual", tmp_path / "vae")
    with pytest.raises(DataError, match="cut off"):
        export_onnx(model, tmp_path / "onnx")
    assert {p.name for p in tmp_path.iterdir()} == {"vae"}


def test_a_missing_package_is_named_in_one_sentence(tmp_path):
    """In a process where onnx cannot be imported."""
    code = (
        "import sys, importlib.util\n"
        "find = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda n, *a: None if n == 'onnx' else find(n, *a)\n"
        "from vaesc.cli import main\n"
        "sys.exit(main(['models', 'export', 'champion', 'out']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr == 'vaesc: exporting to ONNX needs onnx: pip install "vaesc[onnx]"\n'
    assert list(tmp_path.iterdir()) == []
