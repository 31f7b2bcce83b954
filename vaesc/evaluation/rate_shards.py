"""The test split at equal bits by many workers, who hand over the codes that took their time.

Two things grow with the test split and take time: coefficients that descend the decoded error
(:class:`RefinedCodes`, :class:`DescendedPixels`), and decoding every code at every number of bits
(:mod:`vaesc.evaluation.rate`). A shard is a few batches of the split and does both; its codes come
back with its errors, and serve the comparison at equal k as well. A batch is computed as the
leading process would, so codes and errors are the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.bundle import SparseVAE
from vaesc.csr_parts import read_csr_part, write_csr_part
from vaesc.dictionary import SPLITS, LatentDictionary
from vaesc.dictionary_files import load_dictionary, save_dictionary
from vaesc.evaluation import batches
from vaesc.evaluation.batches import Split
from vaesc.evaluation.contenders import DescendedPixels
from vaesc.evaluation.dictionaries import PIXELS, Dictionaries, Plan, load_pixels
from vaesc.evaluation.methods import batches_of
from vaesc.evaluation.rate import Limits, Take, codecs_of, errors_of
from vaesc.evaluation.refined import RefinedCodes, open_refined
from vaesc.shards import Runner, Shard, held, name_of, parts_folder, spans
from vaesc.store import file_digest

if TYPE_CHECKING:
    from vaesc.latents import LatentStore

ROWS = 2 * batches.ROWS
"""Test images of a shard, whole batches: seconds of descent (2.8 ms an image at two levels)."""
QUICK_ROWS = 16 * batches.ROWS
"""The same where nothing descends, which takes a tenth of a millisecond an image and level."""
TEST = SPLITS[-1]


@dataclass(frozen=True, kw_only=True)
class ByShards:
    """Measures the test split by a runner's shards; see :data:`vaesc.evaluation.rate.OnTest`."""

    runner: Runner
    inputs: Mapping[str, Path]
    """Folders of the step's inputs; every worker must see them."""
    learned: Dictionaries
    plan: Plan
    refined: RefinedCodes | None
    """Gets the codes of all test images, as does `rival`."""
    rival: DescendedPixels | None
    folder: Path
    """The evaluation's, with the dictionaries of pixels unless refinement started from them."""
    device: str
    checkpoints: Path | None = None
    """Keeps parts for a killed call's successor."""

    def __call__(self, limits: Limits, take: Take) -> None:
        """Hand over the errors of all test images, in order."""

        def passed_on(shard: Shard, found: dict[str, Any]) -> None:
            rows = slice(shard.arguments["start"], shard.arguments["stop"])
            self._keep(shard.part, rows)
            take(rows, {name: np.load(_errors_file(shard.part, name)) for name in limits})

        with parts_folder(self.checkpoints, self.folder) as parts:
            self.runner.map(list(self._shards(limits, parts)), passed_on)

    def _keep(self, part: Path, rows: slice) -> None:
        for name, keeper in (("refined", self.refined), ("pixel_descended", self.rival)):
            if keeper is None:
                continue
            for k in self.plan.levels:
                codes = read_csr_part(part, f"{name}-k{k}")
                for i in range(0, rows.stop - rows.start, batches.ROWS):
                    keeper.keep(TEST, rows.start + i, k, codes[i : i + batches.ROWS])

    def _shards(self, limits: Limits, parts: Path) -> Iterator[Shard]:
        from vaesc.datasets.reader import open_dataset
        from vaesc.models import same_everywhere

        refined = self.inputs.get("refined")
        plan = replace(self.plan, relearn=True) if refined else self.plan
        pixels, latents = (refined or self.folder).resolve(), parts / "learned"
        served = _save_latents(self.learned.latents, latents)
        files = [pixels / PIXELS, *sorted(latents.glob("*/*"))]
        what = {
            "inputs": {name: str(path.resolve()) for name, path in self.inputs.items()},
            "plan": asdict(plan), "served": {str(k): at for k, at in served.items()},
            "learned_sha256": sha256("".join(map(file_digest, files)).encode()).hexdigest(),
            "limits": {name: found.tolist() for name, found in limits.items()},
        }  # fmt: skip
        device, n = same_everywhere(self.device), open_dataset(self.inputs["dataset"]).n(TEST)
        how = {"pixels": str(pixels), "latents": str(latents), "device": device}
        for i, span in enumerate(spans(n, ROWS if refined else QUICK_ROWS)):
            yield Shard(
                name=(name := f"evaluate {TEST}/{i}"), function=f"{__name__}:rate_shard",
                part=parts / name_of(name), how=how,
                arguments={**what, "start": span.start, "stop": span.stop},
            )  # fmt: skip


def rate_shard(
    folder: Path, *, limits: dict[str, list[list[float]]], start: int, stop: int, **opened: object
) -> dict[str, Any]:
    """Measure some test images: errors of every codec, and the codes that descended.

    Args:
        folder: Empty folder to write into.
        limits: Codec -> range of its quantiser at each level and number of bits.
        start: First image.
        stop: One after the last.
        opened: What is read once for all shards of a process, see :func:`_subject`.
    """
    from scipy.sparse import vstack

    from vaesc.training.threads import one_thread

    errors: dict[str, list[Any]] = {name: [] for name in limits}
    codes: dict[str, list[Any]] = {}
    ranges = {name: np.array(rows) for name, rows in limits.items()}
    with one_thread():
        subject = _subject(json.dumps(opened, sort_keys=True))
        refined = RefinedCodes(subject.refined) if subject.refined else None
        rival = DescendedPixels(subject.learned.pixels) if refined else None
        codecs = codecs_of(subject.model, subject.learned, refined, rival)
        for batch in batches_of(
            subject.test, subject.latents, subject.learned.latents, slice(start, stop)
        ):
            for name, found in errors_of(codecs, batch, ranges).items():
                errors[name].append(found)
            if refined and rival:
                for k in subject.learned.pixels:
                    codes.setdefault(f"refined-k{k}", []).append(refined.of(batch, k))
                for k, code in rival.of(batch).items():
                    codes.setdefault(f"pixel_descended-k{k}", []).append(code)
    for name, blocks in errors.items():
        np.save(_errors_file(folder, name), np.concatenate(blocks))
    for name, blocks in codes.items():
        write_csr_part(folder, name, vstack(blocks, format="csr"))
    return {"n": stop - start}


@dataclass(frozen=True)
class _Subject:
    """What a worker measures."""

    model: SparseVAE
    test: Split
    latents: LatentStore
    learned: Dictionaries
    refined: Mapping[int, SparseVAE] | None


@held
def _subject(opened: str) -> _Subject:
    """Open, from the JSON of a shard's arguments, what the leading process has in memory."""
    from vaesc.datasets.reader import open_dataset
    from vaesc.latents import open_latents

    told = json.loads(opened)
    inputs = {name: Path(path) for name, path in told["inputs"].items()}
    plan = Plan(**{**told["plan"], "levels": tuple(told["plan"]["levels"])})
    pixels = load_pixels(plan, Path(told["pixels"]))
    assert pixels is not None  # learned for this plan
    of = {at: load_dictionary(Path(told["latents"]) / f"k{at}") for at in told["served"].values()}
    latents = {int(k): of[at] for k, at in told["served"].items()}
    dataset, device = inputs["dataset"], told["device"]
    return _Subject(
        SparseVAE.from_artifacts(dataset, inputs["vae"], inputs["dictionary"], device=device),
        Split(open_dataset(dataset), TEST, batches.ROWS),
        open_latents(inputs["latents"]),
        Dictionaries(latents={k: latents[k] for k in plan.levels}, pixels=pixels),
        open_refined(dataset, inputs["refined"], device=device) if "refined" in inputs else None,
    )


def _save_latents(dictionaries: Mapping[int, LatentDictionary], folder: Path) -> dict[int, int]:
    """Write each dictionary once, and return compared level -> the level it is written under.

    Levels that share a dictionary share a path of codes: workers must know which do.
    """
    first: dict[int, int] = {}
    served = {k: first.setdefault(id(d), k) for k, d in dictionaries.items()}
    for k in first.values():
        (folder / f"k{k}").mkdir(parents=True, exist_ok=True)
        save_dictionary(dictionaries[k], folder / f"k{k}")
    return served


def _errors_file(part: Path, codec: str) -> Path:
    return part / f"errors-{codec}.npy"
