"""The step itself: a dataset in, a refined VAE and dictionary for every sparsity level out."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from vaesc.bundle import SparseVAE, squared_errors
from vaesc.config import DictionaryConfig, RefineConfig, canonical_json
from vaesc.dictionary import HISTORY, History, LatentDictionary, save_dictionary
from vaesc.errors import ConfigError, TrainingError
from vaesc.evaluation.batches import Floats, Split
from vaesc.evaluation.dictionaries import PixelDictionary, Plan, learn_pixels, side_by_side
from vaesc.evaluation.refined import LEVELS
from vaesc.models import VAE, resolve_device, save_vae
from vaesc.models.files import DESCRIPTION, WEIGHTS
from vaesc.progress import Listener
from vaesc.refinement.coding import CurveCoding, PursuitCoding, amounts_of
from vaesc.refinement.fit import Refinement
from vaesc.refinement.network import linear_vae, span
from vaesc.refinement.warm import warm_up
from vaesc.store import file_digest
from vaesc.training.checkpoints import Checkpoints
from vaesc.training.determinism import deterministic, stream
from vaesc.training.streamed import open_batches
from vaesc.training.threads import one_thread
from vaesc.windows import WINDOW_BYTES

if TYPE_CHECKING:
    from vaesc.datasets.reader import ImageDataset

_SAMPLE = 8192
"""Training images from which the spread of latents and the amounts of atoms are taken, at most."""
_OUTCOME = "outcome.json"


def refine(
    config: RefineConfig,
    dictionary_config: DictionaryConfig,
    sparsity_levels: Sequence[int],
    dataset_folder: Path,
    folder: Path,
    *,
    seed: int,
    device: str,
    block_size: int,
    checkpoints: Path,
    listener: Listener,
    window_bytes: int = WINDOW_BYTES,
    warm: Path | None = None,
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
        device: Where torch computes.
        block_size: Images read at once.
        checkpoints: Keeps each finished level, and the last epoch of an unfinished one: a killed
            run's successor goes on from there; to be deleted by the caller once what was written
            is safe.
        listener: Hears of every epoch of every level.
        window_bytes: Images shuffled together, as stored, see :mod:`vaesc.windows`.
        warm: Folder of an earlier refinement: levels that it holds start from there, if it was
            made with the same sizes; default: every level starts from its pixel dictionary.

    Returns:
        Summary: ``levels`` (learned at), ``metrics`` (validation errors, best epochs), ``warm``
        (levels that started from the earlier refinement), ``health`` (what was not as it should
        be: one sentence each).

    Raises:
        ConfigError: No epochs are asked for.
        TrainingError: A loss is not finite, however often a level went back; or too many atoms
            are dead, and the policy is to fail.
    """
    from vaesc.datasets.reader import open_dataset

    if config.epochs < 1:
        raise ConfigError(f"refine.epochs must be at least 1 to refine, got {config.epochs}")
    dataset = open_dataset(dataset_folder)
    plan = _plan(dictionary_config, sparsity_levels)
    splits = {
        name: Split(dataset, name, block_size, window_bytes) for name in ("train", "validation")
    }
    pixels, _ = learn_pixels(
        dictionary_config, plan, splits, folder, seed=seed, listener=listener,
        checkpoints=checkpoints,
    )  # fmt: skip
    at = plan.learned_at(min(dictionary_config.n_atoms, splits["train"].pick([0]).size))
    history: list[History] = []
    metrics: dict[str, float] = {}
    warmed: list[int] = []
    health: list[str] = []
    # One thread: a step is dozens of small operations, and several seeds may run side by side.
    with one_thread():
        for level in sorted(set(at.values())):
            start = next(pixels[k] for k in plan.levels if at[k] == level)
            made = checkpoints / f"k{level}"
            if not _is_whole(made):
                _refine_aside(
                    config, start, level, splits, made, seed=seed,
                    device=resolve_device(device), listener=listener, warm=warm,
                )  # fmt: skip
            shutil.copytree(made, folder / made.name)
            told = json.loads((folder / made.name / _OUTCOME).read_bytes())
            (folder / made.name / _OUTCOME).unlink()
            history.append(told.pop("epochs"))
            health += [*told["troubles"], *_dead_atoms(dictionary_config, level, told)]
            told.pop("files")
            warmed += [level] if told.pop("warm") else []
            metrics |= _metrics(level, told)
    _write(folder / HISTORY, side_by_side(history))
    _write(folder / LEVELS, {str(k): v for k, v in at.items()})
    return {
        "levels": sorted(set(at.values())), "metrics": metrics, "warm": warmed, "health": health,
    }  # fmt: skip


def _refine_aside(
    config: RefineConfig, start: PixelDictionary, k: int, splits: Mapping[str, Split],
    folder: Path, **how: Any,  # noqa: ANN401
) -> None:  # fmt: skip
    """Refine one level beside `folder`, and move it there when it is whole."""
    aside = folder.with_name(f"{folder.name}.part")
    # What else it depends on is in the address that the folder lies under.
    facts = ["refine", k, torch.__version__, str(how["device"]), splits["train"].window_bytes]
    epochs = Checkpoints(folder.with_name(f"{folder.name}-epochs"), canonical_json(facts))
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(folder, ignore_errors=True)
    outcome = _refine_level(config, start, k, splits, aside, epochs=epochs, **how)
    digests = {path.name: file_digest(path) for path in sorted(aside.iterdir())}
    _write(aside / _OUTCOME, {**outcome, "files": digests})
    aside.rename(folder)
    epochs.remove()


def _is_whole(folder: Path) -> bool:
    """Whether a level lies there as it was written: after a power cut files may be torn."""
    try:
        files = json.loads((folder / _OUTCOME).read_bytes())["files"]
        return all(file_digest(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _plan(config: DictionaryConfig, sparsity_levels: Sequence[int]) -> Plan:
    levels = tuple(sorted({*sparsity_levels, config.n_nonzero_coefs}))
    return Plan(own=config.n_nonzero_coefs, levels=levels, relearn=True)


def _refine_level(
    config: RefineConfig,
    start: PixelDictionary,
    k: int,
    splits: Mapping[str, Split],
    folder: Path,
    *,
    seed: int,
    device: torch.device,
    listener: Listener,
    warm: Path | None,
    epochs: Checkpoints,
) -> dict[str, Any]:
    """Refine one level, write its model into `folder`, and return what came of it."""
    train, validation = splits["train"], splits["validation"]
    dataset = train.dataset
    batches = open_batches(
        dataset, device, batch_size=config.batch_size, seed=seed, block_size=train.block_size,
        window_bytes=train.window_bytes, name=f"refine/{k}/order",
    )  # fmt: skip
    with deterministic():
        vae, coding = _start(config, start, k, train, device, seed=seed)
        warmed = warm is not None and warm_up(vae, coding, warm / f"k{k}")
        told: list[dict[str, float]] = []

        def hear(epoch: int, errors: dict[str, float]) -> None:
            told.append({f"{split}/refined_mse_k{k}": e for split, e in errors.items()})
            if epoch:
                listener.epoch(epoch, told[-1])
            listener.progress(epoch, config.epochs)

        def validate() -> float:
            # Without the descent, which takes longer than the epoch and changes no ranking.
            return _coding_error(_model(vae, coding, dataset, steps=0), validation)

        training = Refinement(vae, coding, k, config, seed)
        outcome = training.run(batches, len(train), validate, hear, epochs)
    model = _model(vae.eval(), coding, dataset, steps=config.descent_steps)
    outcome["descended"] = _coding_error(model, validation)
    outcome["dead_fraction"] = _dead_fraction(_model(vae, coding, dataset, steps=0), train)
    folder.mkdir(parents=True)
    save_vae(vae, folder)
    digests = {name: file_digest(folder / name) for name in (WEIGHTS, DESCRIPTION)}
    save_dictionary(replace(model.dictionary, vae_sha256=digests), folder)
    return {**outcome, "epochs": told, "warm": warmed}


def _start(
    config: RefineConfig,
    start: PixelDictionary,
    k: int,
    train: Split,
    device: torch.device,
    *,
    seed: int,
) -> tuple[VAE, PursuitCoding | CurveCoding]:
    """Return the pixel dictionary as a VAE, and the way in which its latents are coded."""
    pixel_atoms, mean = (torch.from_numpy(a) for a in (start.dictionary, start.mean))
    basis = span(pixel_atoms)
    few = torch.from_numpy(np.concatenate(list(_few(train))))
    latents = (few - mean) @ basis.T
    if k == 1:  # a codebook is decoded again and again, and its few pictures need no correction
        config = replace(config, channels=())
    vae = linear_vae(
        pixel_atoms, mean, tuple(train.dataset.shape), config,
        spread=float(latents.std().clamp_min(1e-3)), generator=stream(seed, f"refine/{k}/init"),
    ).to(device)  # fmt: skip
    atoms = pixel_atoms @ basis.T
    atoms /= atoms.norm(dim=1, keepdim=True)
    if k == 1:
        amounts = amounts_of(latents, atoms, config.n_amounts)
        return vae, CurveCoding(vae, atoms.to(device), amounts.to(device), _greedy(start.coder))
    level = min(k, len(basis))
    return vae, PursuitCoding(
        vae, atoms.to(device), level, _greedy(start.coder), config.batch_size
    )


def _greedy(coder: str) -> str:
    """Return the pursuit that codes while refining: the configured one, or, for a lasso, OLS.

    A lasso's path is too slow for every gradient step, and its atoms are worse at equal k.
    """
    return coder if coder in ("ols", "omp") else "ols"


def _model(
    vae: VAE, coding: PursuitCoding | CurveCoding, dataset: ImageDataset, *, steps: int
) -> SparseVAE:
    """Return the model a user would hold, as training stands, with so many steps of descent."""
    atoms = coding.atoms.detach().cpu().numpy()
    dictionary = LatentDictionary(
        dictionary=np.ascontiguousarray(atoms, np.float32),
        mean=np.zeros(atoms.shape[1], np.float32),
        scale=np.ones(atoms.shape[1], np.float32),
        coder=coding.selection,
        n_nonzero_coefs=coding.k,
        vae_sha256={},
        descent_steps=steps,
        amounts=coding.amounts.cpu().numpy() if isinstance(coding, CurveCoding) else None,
    )
    return SparseVAE(vae, dictionary, low=dataset.low, high=dataset.high)


def _few(train: Split) -> Iterator[Floats]:
    """Yield the first training images, no more than a window holds of them as floats."""
    fit = train.window_bytes // (4 * math.prod(train.dataset.shape))
    return (flat for _, flat in train.batches(slice(0, min(_SAMPLE, max(1, fit)))))


def _coding_error(model: SparseVAE, images: Split) -> float:
    """Return the mean squared error a pixel of decoder(D a), coded as a user's images are."""
    total = 0.0
    for _, flat in images.batches():
        unit = flat.reshape(-1, *model.shape)
        error = squared_errors(unit, model.unit_reconstructions(unit))
        total += float(error.sum(dtype=np.float64))
    return total / len(images)


def _dead_fraction(model: SparseVAE, images: Split) -> float:
    """Return the share of atoms that none of the first training images uses."""
    uses = np.zeros(model.n_atoms, np.int64)
    for flat in _few(images):
        codes = model.codes_of_unit(flat.reshape(-1, *model.shape))
        uses += np.bincount(codes.indices, minlength=model.n_atoms)
    return float((uses == 0).mean())


def _dead_atoms(config: DictionaryConfig, level: int, told: Mapping[str, Any]) -> list[str]:
    """Return a sentence if too many atoms of a level are dead, although training revives them.

    Raises:
        TrainingError: They are, and the policy is to fail.
    """
    if told["dead_fraction"] <= config.max_dead_fraction:
        return []
    found = (
        f"refinement at k = {level}: {100 * told['dead_fraction']:.0f} % of the atoms are used by "
        f"none of {_SAMPLE} training images, more than dictionary.max_dead_fraction="
        f"{config.max_dead_fraction:g} allows; lower dictionary.n_atoms"
    )
    if config.on_dead_atoms == "fail":
        raise TrainingError(f"{found} (dictionary.on_dead_atoms=fail)")
    return [found]


def _metrics(level: int, told: Mapping[str, Any]) -> dict[str, float]:
    return {
        f"validation/refined_start_mse_k{level}": told["start"],
        f"validation/refined_mse_k{level}": told["descended"],
        f"validation/refined_undescended_mse_k{level}": told["error"],
        f"train/refined_best_epoch_k{level}": float(told["best_epoch"]),
        f"train/refined_rollbacks_k{level}": float(told["rollbacks"]),
        f"train/refined_dead_fraction_k{level}": told["dead_fraction"],
    }


def _write(path: Path, value: Any) -> None:  # noqa: ANN401
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
