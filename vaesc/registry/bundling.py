"""What the steps of a run have made, put together as the one model that is registered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vaesc.records import Applied, Dataset, Dictionary, Refined, TrainedVAE


def save_bundle(
    folder: Path,
    dataset: Dataset,
    vae: TrainedVAE,
    dictionary: Dictionary,
    refined: Refined | None = None,
    applied: Sequence[Applied] = (),
    *,
    seed: int,
) -> None:
    """Write the model of a run to `folder`: VAE, scaling, dictionary, coder, and its reference.

    A run that refines gives the refined model of the dictionary's own sparsity level. With it goes
    what it makes of its own data, computed on the CPU: the model is known by its bytes.

    Args:
        folder: A folder that is not there yet.
        dataset: What it was trained on.
        vae: The article's VAE.
        dictionary: The article's dictionary; its sparsity level is the model's.
        refined: The refined models, if the run refines.
        applied: Applications of the model; what they add to it goes with it.
        seed: The run's seed; it chooses the images of the reference.
    """
    from vaesc.bundle import SparseVAE
    from vaesc.drift import reference_of
    from vaesc.evaluation.refined import refined_folder
    from vaesc.parts import PART, load_part

    network, atoms = Path(vae.uri), Path(dictionary.uri)
    if refined is not None:
        network = atoms = refined_folder(Path(refined.uri), dictionary.n_nonzero_coefs)
    bundle = SparseVAE.from_artifacts(Path(dataset.uri), network, atoms, device="cpu")
    bundle.reference = reference_of(bundle, Path(dataset.uri), seed=seed)
    parts = {each.application: Path(each.uri) / PART for each in applied}
    bundle.parts = {name: load_part(path) for name, path in parts.items() if path.exists()}
    bundle.save(folder)
