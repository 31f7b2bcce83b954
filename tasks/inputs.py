"""The records that a step which works on a whole model is given, by the names it knows them by."""

from __future__ import annotations

from vaesc.records import Dataset, Dictionary, Latents, Record, Refined, TrainedVAE


def model_inputs(
    dataset: Dataset,
    vae: TrainedVAE,
    latents: Latents,
    dictionary: Dictionary,
    refined: Refined | None,
) -> dict[str, Record | str]:
    """Return the inputs of a step; ``refined`` only if the run refines."""
    inputs: dict[str, Record | str] = {
        "dataset": dataset, "vae": vae, "latents": latents, "dictionary": dictionary,
    }  # fmt: skip
    return inputs if refined is None else {**inputs, "refined": refined}
