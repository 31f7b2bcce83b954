"""What coding a latent by its decoder is worth, without training anything anew.

The article's VAE stays as it is. Latents of validation images are coded in the article's
dictionaries in several metrics, and the decoded error is compared with that of pixel dictionaries:

- ``euclidean``: the article's own recipe;
- ``mean precision``: dictionary learned, and latents coded, in the metric of the encoder's mean
  precision 1 / sigma^2;
- ``precision``: each latent coded in the metric of its own precision;
- ``pull-back``: each latent coded in the metric J^T J of the decoder at that latent;
- ``... + descent``: the coefficients then descend the decoded error;
- ``nearest``: at k = 1 the atom and amount whose decoded image is nearest.

::

    .venv/bin/python -m benchmarks.openings --preset fashion-mnist [--json]

The steps come from the store in ``$VAESC_HOME`` where a run has made them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import csr_array

from vaesc import datasets
from vaesc.bundle import SparseVAE
from vaesc.config import PipelineConfig, derive_seed
from vaesc.config_files import load_config
from vaesc.datasets.reader import open_dataset
from vaesc.decoder_coding import DecoderCoder
from vaesc.dictionary import LatentDictionary, fit_dictionary, learn_atoms, path
from vaesc.evaluation.batches import Split, mean_of
from vaesc.latents import LatentStore, open_latents
from vaesc.progress import SILENT
from vaesc.records import Record
from vaesc.sparse import metric_pursuit
from vaesc.steps import EXTRACT, INGEST, LEARN, TRAIN, run_step

N_IMAGES = 2048
N_AMOUNTS = 16
STEPS = 4


def main() -> int:
    """Measure every opening at every level and print a table, or one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.openings", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(load_config(options.preset, None, options.set))
    if options.json:
        print(json.dumps(found))
        return 0
    print(
        f"{'validation MSE over pixels':<28}"
        + "".join(f"{f'k = {k}':>9}" for k in found["levels"])
    )
    for name, errors in found["ratio"].items():
        cells = (f"{'-' if e is None else format(e, '.3f'):>9}" for e in errors)
        print(f"{name:<28}" + "".join(cells))
    return 0


def measure(config: PipelineConfig) -> dict[str, Any]:
    """Return each opening's validation error over that of the pixel dictionary, by level."""
    model, dataset, latents = _made(config)
    images = Split(dataset, "validation", config.runtime.block_size).pick(
        list(range(min(N_IMAGES, dataset.n("validation"))))
    )
    rows = slice(0, len(images))
    z = latents.latents("validation", rows)
    precision = 1 / np.square(latents.latent_std("validation", rows))
    pull_back = _pull_back(model, z)
    levels = config.evaluation.sparsity_levels
    ratio: dict[str, list[float | None]] = {}
    for k in levels:
        pixel = _pixel_error(config, dataset, images, k)
        learned = _dictionary(config, latents, k)
        whitened = _whitened(config, latents, k)
        for name, error in _openings(
            model, learned, whitened, images, z, precision, pull_back, k
        ).items():
            ratio.setdefault(name, []).append(None if error is None else error / pixel)
    return {"preset": config.preset, "images": len(images), "levels": list(levels), "ratio": ratio}


def _openings(
    model: SparseVAE, learned: LatentDictionary, whitened: LatentDictionary, images: Any, z: Any,
    precision: Any, pull_back: Any, k: int,
) -> dict[str, float | None]:  # fmt: skip
    level = min(k, *learned.dictionary.shape)

    def error(dictionary: LatentDictionary, codes: csr_array) -> float:
        decoded = model.unit_images(dictionary.decode(codes)).reshape(images.shape)
        return float(np.square(decoded - images).mean(dtype=np.float64))

    def in_metric(metric: Any) -> csr_array:
        scaled = np.asarray((z - learned.mean) / learned.scale, np.float32)
        return metric_pursuit(scaled, learned.dictionary, level, metric, selection="ols")

    unit = images.reshape(-1, *model.shape)
    descent = LatentDictionary(**{**learned.__dict__, "descent_steps": STEPS})
    descended: Callable[[csr_array], csr_array] = lambda codes: DecoderCoder(  # noqa: E731
        model.vae, descent
    ).descended(unit, codes)
    euclidean, local = learned.encode(z, level), in_metric(pull_back)
    return {
        "euclidean (the article)": error(learned, euclidean),
        "mean precision": error(whitened, whitened.encode(z, level)),
        "precision": error(learned, in_metric(precision)),
        "pull-back": error(learned, local),
        "euclidean + descent": error(learned, descended(euclidean)),
        "pull-back + descent": error(learned, descended(local)),
        "nearest": _nearest(model, descent, unit, z, error) if k == 1 else None,
    }


def _nearest(
    model: SparseVAE, dictionary: LatentDictionary, unit: Any, z: Any, error: Any
) -> float:
    from vaesc.refinement.coding import amounts_of

    scaled = torch.from_numpy(np.asarray((z - dictionary.mean) / dictionary.scale, np.float32))
    amounts = amounts_of(scaled, torch.from_numpy(dictionary.dictionary), N_AMOUNTS).numpy()
    tried = LatentDictionary(**{**dictionary.__dict__, "amounts": amounts})
    return float(error(tried, DecoderCoder(model.vae, tried).nearest(unit)))


def _made(config: PipelineConfig) -> tuple[SparseVAE, Any, LatentStore]:
    """Run the article's steps, or find them in the store."""
    records: dict[str, Record] = {}
    needs = {"dataset": INGEST, "vae": TRAIN, "latents": EXTRACT, "dictionary": LEARN}
    inputs = {"vae": ["dataset"], "latents": ["dataset", "vae"], "dictionary": ["latents"]}
    for name, step in needs.items():
        given: dict[str, Record | str] = {i: records[i] for i in inputs.get(name, [])}
        if name == "dataset":
            given = {"source": datasets.fingerprint(config.dataset)}
        records[name] = step.recorded(run_step(step, config, given))
    folders = {name: Path(record.uri) for name, record in records.items()}
    model = SparseVAE.from_artifacts(folders["dataset"], folders["vae"], folders["dictionary"])
    return model, open_dataset(folders["dataset"]), open_latents(folders["latents"])


def _dictionary(config: PipelineConfig, latents: LatentStore, k: int) -> LatentDictionary:
    found, _ = fit_dictionary(
        config.dictionary, latents, n_nonzero_coefs=k,
        seed=derive_seed(config.seed, f"openings/{k}"), listener=SILENT, prefix="",
    )  # fmt: skip
    return found


def _whitened(config: PipelineConfig, latents: LatentStore, k: int) -> LatentDictionary:
    """Learn a dictionary of latents measured in their mean posterior precision."""
    mean = latents.latents("train").mean(axis=0, dtype=np.float64).astype(np.float32)
    spread = np.sqrt(1 / (1 / np.square(latents.latent_std("train"))).mean(axis=0)).astype(
        np.float32
    )
    train, validation = ((latents.latents(s) - mean) / spread for s in ("train", "validation"))
    size = float(np.sqrt(np.square(train).mean()))
    atoms, _ = learn_atoms(
        config.dictionary, train / size, validation / size, n_nonzero_coefs=k,
        seed=derive_seed(config.seed, f"openings/whitened/{k}"), listener=SILENT, prefix="",
    )  # fmt: skip
    return LatentDictionary(
        dictionary=atoms, mean=mean, scale=spread * size, coder="ols", n_nonzero_coefs=k,
        vae_sha256={},
    )  # fmt: skip


def _pull_back(model: SparseVAE, z: Any) -> Any:
    """Return J^T J of the decoder at each latent, shape (n, d, d)."""
    decode = lambda one: model.vae.decode(one[None]).flatten()  # noqa: E731
    jacobian = torch.func.vmap(torch.func.jacfwd(decode))
    parts = [jacobian(part) for part in torch.from_numpy(z).to(model.vae.device).split(256)]
    found = torch.cat([j.transpose(1, 2) @ j for j in parts]).cpu().double().numpy()
    return found + 1e-6 * np.eye(z.shape[1])


def _pixel_error(config: PipelineConfig, dataset: Any, images: Any, k: int) -> float:
    splits = {
        name: Split(dataset, name, config.runtime.block_size) for name in ("train", "validation")
    }
    mean = mean_of(splits["train"].images)
    train, validation = (
        np.concatenate([batch for _, batch in split.batches()]) - mean for split in splits.values()
    )
    atoms, _ = learn_atoms(
        config.dictionary, train, validation, n_nonzero_coefs=k,
        seed=derive_seed(config.seed, f"openings/pixel/{k}"), listener=SILENT, prefix="",
    )  # fmt: skip
    codes = path(images - mean, atoms, [k], coder="ols")[k]
    return float(np.square(np.clip(codes @ atoms + mean, 0, 1) - images).mean(dtype=np.float64))


if __name__ == "__main__":
    raise SystemExit(main())
