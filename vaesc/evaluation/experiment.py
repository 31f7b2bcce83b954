"""The step *evaluate*: fit every method, measure it on the test split, and write it down."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from vaesc.bundle import SparseVAE
from vaesc.config import DictionaryConfig, EvaluationConfig, derive_seed
from vaesc.dictionary import HISTORY, SPLITS
from vaesc.evaluation import results
from vaesc.evaluation.batches import Split
from vaesc.evaluation.comparison import Measured, measure
from vaesc.evaluation.contenders import DescendedPixels
from vaesc.evaluation.controls import learn_shuffled
from vaesc.evaluation.dictionaries import (
    Dictionaries,
    PixelDictionary,
    Plan,
    learn_dictionaries,
    load_pixels,
    plan_of,
    side_by_side,
)
from vaesc.evaluation.facts import Subject, bounds_of, facts_of, model_metrics
from vaesc.evaluation.fitting import fit_methods
from vaesc.evaluation.methods import Method
from vaesc.evaluation.partial import parts_of
from vaesc.evaluation.passes import Passes
from vaesc.evaluation.rate import Codec, OnTest, Rates, codecs_of, measure_rates
from vaesc.evaluation.rate_results import RateErrors, assemble_rates
from vaesc.evaluation.rate_shards import ByShards
from vaesc.evaluation.refined import RefinedCodes, open_refined
from vaesc.progress import Listener
from vaesc.shards import HERE, Runner
from vaesc.windows import WINDOW_BYTES


def evaluate(
    config: EvaluationConfig,
    dictionary_config: DictionaryConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    seed: int,
    device: str,
    block_size: int,
    listener: Listener,
    window_bytes: int = WINDOW_BYTES,
    checkpoints: Path | None = None,
    runner: Runner = HERE,
) -> dict[str, Any]:
    """Compare all methods on the test split, at equal k and K.

    Writes ``results.json``, ``table.csv``, ``errors.safetensors`` (each image's squared error by
    method and k), ``rate_errors.safetensors`` (the same at equal bits), the dictionaries it
    learned (see :mod:`vaesc.evaluation.dictionaries`), their ``history.json`` (one dict an
    epoch), the figures (see :mod:`vaesc.report.figures`), and what they show in words:
    ``cards.json`` and ``reconstructions.json``.

    Args:
        config: Sparsity levels, how dictionaries are learned for them, and sizes of samples.
        dictionary_config: Settings of the model's dictionary, which all others share.
        inputs: Folders of the artifacts ``dataset``, ``vae``, ``latents`` and ``dictionary``, and
            ``refined`` if the run refines: its models are then compared too, and the claim is
            theirs; they started from the very pixel dictionaries they are compared with.
        folder: Empty folder to write into.
        seed: The run's seed.
        device: Where torch computes.
        block_size: Images held in memory at once; no result depends on it.
        listener: Hears of progress and of the epochs of every dictionary.
        window_bytes: Half of it is shuffled together of latents and pixels, see
            :mod:`vaesc.windows`.
        checkpoints: Keeps what was learned of each dictionary: a killed run's successor goes on
            from there; to be deleted by the caller once what was written is safe. Default: none.
        runner: Who codes by descent and measures at equal bits; no part of the result. All else,
            what is learned above all, is computed in this process.

    Returns:
        Summary: ``n_test``, ``metrics``, ``verdict`` (a sentence) and ``crossover``.

    Raises:
        DataError: The dictionary was learned on another VAE's latents, or an artifact is damaged.
    """
    from vaesc.training.threads import one_thread

    with one_thread():
        return _evaluate(
            config, dictionary_config, inputs, folder, seed=seed, device=device,
            block_size=block_size, listener=listener, window_bytes=window_bytes,
            checkpoints=checkpoints, runner=runner,
        )  # fmt: skip


def _evaluate(
    config: EvaluationConfig,
    dictionary_config: DictionaryConfig,
    inputs: Mapping[str, Path],
    folder: Path,
    *,
    seed: int,
    device: str,
    block_size: int,
    listener: Listener,
    window_bytes: int,
    checkpoints: Path | None,
    runner: Runner,
) -> dict[str, Any]:
    subject = _open(inputs, device, window_bytes)
    plan = plan_of(config, dictionary_config)
    splits = {name: Split(subject.dataset, name, block_size, window_bytes) for name in SPLITS}
    pixels = _pixels_of(inputs, plan)
    heard = Passes(
        listener, config, splits, plan, subject.model, dictionary_config.max_epochs,
        None if pixels else math.prod(subject.model.shape),
        refined=bool(subject.refined),
    )  # fmt: skip
    learned, history = learn_dictionaries(
        dictionary_config, plan, subject.model.dictionary, subject.latents, splits, folder,
        seed=seed, listener=heard, pixels=pixels, checkpoints=checkpoints,
    )  # fmt: skip
    shuffled, told = learn_shuffled(
        dictionary_config, plan, subject.model.dictionary, subject.latents, seed=seed,
        listener=heard, checkpoints=checkpoints,
    )  # fmt: skip
    history = side_by_side([history, *told])
    (folder / HISTORY).write_text(json.dumps(history, indent=1, sort_keys=True) + "\n")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        refined = RefinedCodes(subject.refined, Path(scratch)) if subject.refined else None
        rival = DescendedPixels(learned.pixels, Path(scratch)) if refined else None
        methods = fit_methods(
            config, subject.model, splits, subject.latents, learned, shuffled, folder,
            seed=seed, on_rows=heard.add, refined=refined, rival=rival,
        )  # fmt: skip
        on_test = None
        if runner is not HERE:
            on_test = ByShards(
                runner=runner, inputs=inputs, learned=learned, plan=plan, refined=refined,
                rival=rival, folder=folder, device=device, checkpoints=checkpoints,
            )  # fmt: skip
        codecs = codecs_of(subject.model, learned, refined, rival)
        rates = _rates(subject, splits, learned, codecs, folder, heard, on_test)
        measured, written = _compare(
            subject, splits, plan, learned, methods, folder, seed=seed, heard=heard
        )
    written["rate"] = assemble_rates(
        rates, written["levels"], methods, written["n_train"] + written["n_test"],
        claimant=written["claimant"], seed=derive_seed(seed, "evaluate/rate-bootstrap"),
    )  # fmt: skip
    written["metrics"] |= model_metrics(
        config, subject, measured, seed=seed, block_size=block_size
    )
    written["bounds"] = bounds_of(config, subject, seed=seed, block_size=block_size)
    written["metrics"] |= {
        f"test/iwae_{bound['samples']}_samples": bound["nats"] for bound in written["bounds"]
    }
    results.write(written, folder)
    _draw(config, subject, splits["test"], written, learned, inputs, folder)
    return {
        "n_test": written["n_test"],
        "metrics": written["metrics"],
        "verdict": written["verdict"],
        "crossover": written["crossover"],
    }


def _pixels_of(inputs: Mapping[str, Path], plan: Plan) -> dict[int, PixelDictionary] | None:
    """Return the pixel dictionaries that refinement started from, learned by the same call."""
    # Whatever `relearn` says of the others: a rival must not be weaker than what set out from it.
    return (
        load_pixels(replace(plan, relearn=True), inputs["refined"])
        if "refined" in inputs
        else None
    )


def _open(inputs: Mapping[str, Path], device: str, window_bytes: int) -> Subject:
    from vaesc.datasets.reader import open_dataset
    from vaesc.latents import open_latents

    model = SparseVAE.from_artifacts(
        inputs["dataset"], inputs["vae"], inputs["dictionary"], device=device
    )
    refined = None
    if "refined" in inputs:
        refined = open_refined(inputs["dataset"], inputs["refined"], device=device)
    latents = open_latents(inputs["latents"], window_bytes=window_bytes)
    return Subject(model, open_dataset(inputs["dataset"]), latents, refined)


def _compare(
    subject: Subject,
    splits: Mapping[str, Split],
    plan: Plan,
    learned: Dictionaries,
    methods: list[Method],
    folder: Path,
    *,
    seed: int,
    heard: Passes,
) -> tuple[Measured, dict[str, Any]]:
    """Measure every method on the test split, at equal k."""
    model, latents = subject.model, subject.latents
    measured = measure(
        model, methods, splits["test"], latents, learned.latents, on_rows=heard.measured,
        folder=folder,
    )  # fmt: skip
    stream = derive_seed(seed, "evaluate/bootstrap")
    facts = {**facts_of(subject), "relearn": plan.relearn}
    if parts := parts_of(splits, latents, plan.levels):
        facts["parts"] = parts
    written = results.assemble(measured, methods, facts, seed=stream)
    return measured, {**written, "metrics": results.metrics_of(written)}


def _rates(
    subject: Subject,
    splits: Mapping[str, Split],
    learned: Dictionaries,
    codecs: list[Codec],
    folder: Path,
    heard: Passes,
    on_test: OnTest | None,
) -> dict[str, Rates]:
    """Measure the methods the claim is on at equal bits."""
    with RateErrors(folder, "refined" if subject.refined else "article") as record:
        return measure_rates(
            codecs, splits, subject.latents, learned, on_rows=heard.measured, record=record,
            on_test=on_test,
        )  # fmt: skip


def _draw(
    config: EvaluationConfig,
    subject: Subject,
    test: Split,
    written: Mapping[str, Any],
    learned: Dictionaries,
    inputs: Mapping[str, Path],
    folder: Path,
) -> None:
    """Draw the figures and write the cards of the default model's atoms."""
    from vaesc.evaluation.cards import atom_cards, write_cards
    from vaesc.evaluation.examples import reconstructions, write_reconstructions
    from vaesc.report.figures import (
        draw_curve,
        draw_history,
        draw_posterior,
        draw_rate,
        draw_refinement,
    )

    draw_curve(written, folder)
    if written.get("rate"):
        draw_rate(written["rate"], folder)
    rows = reconstructions(
        config, subject.model, test, subject.latents, learned, written, subject.refined
    )
    write_reconstructions(rows, folder)
    name = "refined" if subject.refined else "article"
    model = subject.refined[subject.model.n_nonzero_coefs] if subject.refined else subject.model
    write_cards(atom_cards(model, test, name=name), folder)
    if "refined" in inputs:
        draw_refinement(_read(inputs["refined"] / HISTORY), folder)
    if (inputs["vae"] / "history.json").exists():
        draw_history(_read(inputs["vae"] / "history.json"), folder)
    if (inputs["vae"] / "posterior.json").exists():
        posterior = _read(inputs["vae"] / "posterior.json")
        draw_posterior(posterior["validation/kl_per_dimension"], folder)


def _read(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    return json.loads(path.read_bytes())
