"""A made-up evaluation, with figures and cards of a tiny untrained model, to render reports of."""

import json
import math
from types import SimpleNamespace

import numpy as np
import torch

from vaesc.bundle import SparseVAE
from vaesc.config import VAEConfig, settings
from vaesc.config_files import load_config
from vaesc.dictionary import LatentDictionary
from vaesc.evaluation.batches import Split
from vaesc.evaluation.cards import atom_cards, write_cards
from vaesc.evaluation.examples import Row, write_reconstructions
from vaesc.models import VAE
from vaesc.report.figures import (
    draw_curve,
    draw_history,
    draw_posterior,
    draw_rate,
    draw_refinement,
)

LEVELS = [1, 2, 4]
METHODS = [
    "refined", "article", "pixel", "literal", "random", "shuffled", "largest", "pca_latents",
    "pca", "lasso", "pixel_lasso", "topk_pixels", "topk_latents", "vq", "a_new_one",
]  # fmt: skip
HISTORY = [
    {"train/negative_elbo": 30.0 - i, "validation/negative_elbo": 31.0 - i} for i in range(5)
]
RUN = {
    "run_id": "abc",
    "config": settings(load_config("digits", None, ["seed=3"])),
    "steps": [{"name": "train", "state": "cached", "seconds": 1.25, "digest": "d" * 64}],
    "tags": {"system.python": "3.11", "x": "<script>alert(1)</script>"},
}


def made_up_results():
    curves = {
        name: {
            "mse": [0.05 / (i + 1), 0.03, 0.02], "low": [0.04 / (i + 1), 0.029, 0.019],
            "high": [0.06 / (i + 1), 0.031, 0.021], "psnr_db": [13.0, 15.2, 17.0],
            "title": f"Title of {name}", "about": "What <it> does & why.", "space": "latent",
        }
        for i, name in enumerate(METHODS)
    }  # fmt: skip
    for key in ("mse", "low", "high", "psnr_db"):  # a codebook knows no k above 1
        curves["vq"][key][1:] = [None, None]
    curves["article"]["fvu"] = [0.5, 0.25, 0.1]
    claim = [
        {"k": 1, "ratio": 2.0, "low": 1.9, "high": 2.1, "verdict": "worse"},
        {"k": 2, "ratio": 1.0, "low": 0.97, "high": 1.02, "verdict": "no difference shown"},
        {"k": 4, "ratio": 0.8, "low": 0.78, "high": 0.81, "verdict": "better"},
    ]
    metrics = {
        "test/negative_elbo": 25.0, "test/distortion": 20.0, "test/kl": 5.0,
        "test/active_units": 6.0, "test/dead_fraction": 0.25, "train/mutual_coherence": 0.9,
    }  # fmt: skip
    return {
        "source": "a <source>", "shape": [8, 8], "n_train": 1200, "n_test": 397, "latent_dim": 6,
        "n_atoms": 32, "n_nonzero_coefs": 2, "relearn": True, "coder": "ols", "levels": LEVELS,
        "order": METHODS, "methods": curves, "claimant": "refined",
        "vae": {"mse": 0.015, "low": 0.014, "high": 0.016, "psnr_db": 18.2},
        "claim": claim, "crossover": [{"k": 2.0, "between": [2, 4], "ahead": "article"}],
        "verdict": "The claim held at 1 of 3 sparsity levels: at k = 4 <b>.", "metrics": metrics,
        "notes": ["A note."], "rate": made_up_rate(curves),
    }  # fmt: skip


def made_up_rate(curves):
    methods = {}
    for name in ("refined", "pixel", "vq"):
        points = [
            {"k": k, "q": q, "bits": k * (5 + q), "mse": e + 0.1 / 4**q, "low": e, "high": 2 * e}
            for k, e in zip(LEVELS, curves[name]["mse"], strict=True) if e is not None
            for q in (2, 4)
        ]  # fmt: skip
        envelope = [{key: p[key] for key in ("bits", "mse", "k", "q")} for p in points]
        methods[name] = {"points": points, "envelope": envelope}
    ratio = [
        {"bits": 8, "ratio": 1.2, "low": 1.1, "high": 1.3, "verdict": "worse"},
        {"bits": 32, "ratio": 1 / 1.2, "low": 0.8, "high": 0.9, "verdict": "better"},
    ]
    amortised = {"refined": {"numbers": 123456, "bits_per_image": 789.0}}
    return {
        "coefficient_bits": [2, 4], "methods": methods, "ratio": ratio, "amortised": amortised,
        "amortised_over": 1797,
    }  # fmt: skip


def tiny_model(shape=(4, 5), *, n_atoms=7, latent_dim=4, level=2):
    """An untrained VAE with a dictionary that is scaled by dimension and has a mean."""
    config = VAEConfig(hidden=(9,), latent_dim=latent_dim)
    vae = VAE(config, shape, generator=torch.Generator().manual_seed(1)).eval()
    with torch.no_grad():  # so that latents vary, and the decoder is far from linear
        for weights in vae.parameters():
            weights.mul_(3.0)
    rng = np.random.default_rng(0)
    atoms = rng.standard_normal((n_atoms, latent_dim)).astype(np.float32)
    dictionary = LatentDictionary(
        dictionary=atoms / np.linalg.norm(atoms, axis=1, keepdims=True),
        mean=rng.standard_normal(latent_dim).astype(np.float32) / 4,
        scale=np.linspace(0.5, 1.5, latent_dim, dtype=np.float32),
        coder="ols", n_nonzero_coefs=level, vae_sha256={},
    )  # fmt: skip
    return SparseVAE(vae, dictionary)


def tiny_split(shape=(4, 5), *, n=1500, classes=("cat", "dog", "<owl>"), block_size=8192):
    """Random images, whose brightness says their class; no labels without classes."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 3, n)
    images = (rng.random((n, *shape)) * (labels + 1).reshape(-1, *[1] * len(shape)) / 3).astype(
        "f4"
    )
    dataset = SimpleNamespace(
        n=lambda _: n, floats=lambda _, rows: images[rows],
        labels=lambda _, rows=slice(None): labels[rows] if classes else None, classes=classes,
    )  # fmt: skip
    return Split(dataset, "test", block_size), images, labels


def write_evaluation(folder, shape=(8, 8)):
    """Write what an evaluation writes and a report reads."""
    results = made_up_results()
    (folder / "results.json").write_text(json.dumps(results))
    draw_curve(results, folder)
    draw_rate(results["rate"], folder)
    draw_history(HISTORY, folder)
    draw_posterior([[0.1, 1.0], [0.2, 2.0]], folder)
    draw_refinement(
        [{"validation/refined_mse_k1": 0.1}, {"validation/refined_mse_k1": 0.05}], folder
    )
    split, images, _ = tiny_split(shape, n=60)
    write_cards(atom_cards(tiny_model(shape), split, name="refined"), folder)
    rows = [Row("original", None, None, images[:12]), Row("vae", None, 0.015, images[12:24])]
    rows += [
        Row(m, k, 0.01, images[24:36]) for k in LEVELS for m in ("refined", "article", "pixel")
    ]
    write_reconstructions(rows, folder)
    return folder


def made_up_claim():
    results = made_up_results()
    seeds = [5, 6, 7]
    methods = {
        name: {**{key: curve[key] for key in ("mse", "low", "high")},
               "by_seed": [[e and e * f for e in curve["mse"]] for f in (0.9, 1.0, 1.1)]}
        for name, curve in results["methods"].items()
    }  # fmt: skip
    claim = [{**c, "by_seed": [c["ratio"] * f for f in (0.9, 1.0, 1.1)]} for c in results["claim"]]
    middle = math.exp(np.mean([math.log(c["ratio"]) for c in claim]))
    return {
        "dataset": "digits", "seeds": seeds, "claimant": "refined", "levels": LEVELS,
        "n_atoms": 32, "n_test": 397, "order": METHODS, "claim": claim,
        "geometric_mean": {"ratio": middle, "low": 0.9, "high": 1.3}, "article_claim": claim,
        "learned_against_random": {str(c["k"]): {"mse": c, "fvu": c} for c in claim},
        "methods": methods, "rate": results["rate"],
        "bits": {"coefficient_bits": 8, "per_image": [13.0, 26.0, 52.0]},
        "parameters": {"refined": [1234], "pixel": [99]}, "runs": ["r5", "r6", "r7"],
        "reports": ["/a", "/b", "/c"], "seconds": 1.0,
        "encode_seconds": {"refined": [1e-5, 2e-5, 4e-5], "vq": [3e-5, None, None]},
    }  # fmt: skip
