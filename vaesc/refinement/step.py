"""The step itself: a dataset in, a refined VAE and dictionary for every sparsity level out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vaesc.config import DictionaryConfig, RefineConfig
from vaesc.dictionary import HISTORY, History, LatentDictionary, save_dictionary
from vaesc.evaluation.batches import Split
from vaesc.evaluation.dictionaries import PixelDictionary, Plan, learn_pixels, side_by_side
from vaesc.evaluation.refined import LEVELS
from vaesc.models import save_vae
from vaesc.models.files import DESCRIPTION, WEIGHTS
from vaesc.progress import Listener
from vaesc.refinement.fit import GROUP, Refinement
from vaesc.refinement.network import LinearPathVAE
from vaesc.store import file_digest
from vaesc.training.determinism import deterministic, stream

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

Images = Callable[[NDArray[np.int64]], Tensor]


def refine(
    config: RefineConfig,
    dictionary_config: DictionaryConfig,
    sparsity_levels: Sequence[int],
    dataset_folder: Path,
    folder: Path,
    *,
    seed: int,
    block_size: int,
    listener: Listener,
) -> dict[str, Any]:
    """Refine a VAE and a dictionary for every sparsity level.

    Writes, for each level learned at, ``k<level>/`` with the files of a VAE and of a dictionary
    (:meth:`vaesc.bundle.SparseVAE.from_artifacts` takes the folder for both);
    ``pixel_dictionaries.safetensors``, which each level starts from; ``levels.json`` (compared
    level -> level learned at) and ``history.json``.

    Args:
        config: How long and how fast.
        dictionary_config: Size and coder; its own level is refined too.
        sparsity_levels: Levels that are compared.
        dataset_folder: Folder of the dataset's artifact.
        folder: Empty folder to write into.
        seed: The run's seed.
        block_size: Images read at once.
        listener: Hears of every epoch of every level.

    Returns:
        Summary: ``levels`` (learned at), ``metrics`` (validation errors, best epochs).

    Raises:
        TrainingError: A loss is not finite.
    """
    from vaesc.datasets.reader import open_dataset

    dataset = open_dataset(dataset_folder)
    plan = _plan(dictionary_config, sparsity_levels)
    splits = {name: Split(dataset, name, block_size) for name in ("train", "validation")}
    pixels, _ = learn_pixels(dictionary_config, plan, splits, folder, seed=seed, listener=listener)
    at = plan.learned_at(min(dictionary_config.n_atoms, splits["train"].pick([0]).size))
    history: list[History] = []
    metrics: dict[str, float] = {}
    # One thread: a step is dozens of small operations, and several seeds may run side by side.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for level in sorted(set(at.values())):
            start = next(pixels[k] for k in plan.levels if at[k] == level)
            told = _refine_level(
                config, start, level, dataset, folder / f"k{level}", seed=seed, listener=listener
            )
            history.append(told.pop("epochs"))
            metrics |= _metrics(level, told)
    finally:
        torch.set_num_threads(threads)
    _write(folder / HISTORY, side_by_side(history))
    _write(folder / LEVELS, {str(k): v for k, v in at.items()})
    return {"levels": sorted(set(at.values())), "metrics": metrics}


def _plan(config: DictionaryConfig, sparsity_levels: Sequence[int]) -> Plan:
    levels = tuple(sorted({*sparsity_levels, config.n_nonzero_coefs}))
    return Plan(own=config.n_nonzero_coefs, levels=levels, relearn=True)


def _refine_level(
    config: RefineConfig,
    start: PixelDictionary,
    k: int,
    dataset: ImageDataset,
    folder: Path,
    *,
    seed: int,
    listener: Listener,
) -> dict[str, Any]:
    """Refine one level and write its model."""
    train, validation = (_resident(dataset, name) for name in ("train", "validation"))
    network = LinearPathVAE(
        torch.from_numpy(start.dictionary), torch.from_numpy(start.mean), config.n_hidden,
        stream(seed, f"refine/{k}/init"),
    )  # fmt: skip
    with deterministic():
        with torch.no_grad():
            network.unit = float(network.encode(train(np.arange(min(GROUP, len(train))))).std())
        atoms = torch.from_numpy(start.dictionary) @ network.into.detach().T
        refinement = Refinement(
            network, atoms, min(k, network.latent_dim), start.coder, config, seed
        )
        told: list[dict[str, float]] = []

        def hear(epoch: int, errors: dict[str, float]) -> None:
            told.append({f"{split}/refined_mse_k{k}": e for split, e in errors.items()})
            if epoch:
                listener.epoch(epoch, told[-1])
            listener.progress(epoch, config.epochs)

        outcome = refinement.run(
            train, len(train), lambda: _validation_error(refinement, validation), hear
        )
    _save(refinement, dataset, train, folder)
    return {**outcome, "epochs": told}


class _resident:
    """A split in memory as stored, handed out as flat floats in [0, 1]."""

    def __init__(self, dataset: ImageDataset, name: str) -> None:
        from vaesc.training.resident import load_split

        self.images = load_split(dataset, name, torch.device("cpu"), block_size=8192).flatten(1)

    def __len__(self) -> int:
        return len(self.images)

    def __call__(self, rows: NDArray[np.int64]) -> Tensor:
        from vaesc.training.resident import to_unit

        return to_unit(self.images[torch.from_numpy(rows)])


def _validation_error(refinement: Refinement, images: _resident) -> float:
    total = 0.0
    for x in _groups(images):
        _, coded = refinement.code(x)
        with torch.no_grad():
            y = refinement.network.decode(coded).clamp(0, 1)
        total += float((y - x).square().mean(1).double().sum())
    return total / len(images)


def _groups(images: _resident) -> Any:  # noqa: ANN401 - an iterator of tensors
    return (
        images(np.arange(i, min(i + GROUP, len(images)))) for i in range(0, len(images), GROUP)
    )


def _save(refinement: Refinement, dataset: ImageDataset, train: _resident, folder: Path) -> None:
    with torch.no_grad():
        reach = max(float(refinement.network.encode(x).abs().max()) for x in _groups(train))
    vae = refinement.network.export(tuple(dataset.shape), beta=1.0, reach=reach)
    folder.mkdir()
    save_vae(vae, folder)
    d = refinement.network.latent_dim
    dictionary = LatentDictionary(
        dictionary=np.ascontiguousarray(refinement.atoms.detach().numpy(), np.float32),
        mean=np.zeros(d, np.float32),
        scale=np.ones(d, np.float32),
        coder=refinement.selection,
        n_nonzero_coefs=refinement.k,
        vae_sha256={name: file_digest(folder / name) for name in (WEIGHTS, DESCRIPTION)},
    )
    save_dictionary(dictionary, folder)


def _metrics(level: int, told: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"validation/refined_start_mse_k{level}": told["start"],
        f"validation/refined_mse_k{level}": told["error"],
        f"train/refined_best_epoch_k{level}": float(told["best_epoch"]),
    }


def _write(path: Path, value: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
