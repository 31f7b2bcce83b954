"""Progress of the step, counted in images passed over, whatever is done with them."""

from __future__ import annotations

from collections.abc import Mapping

from vaesc.bundle import SparseVAE
from vaesc.config import EvaluationConfig
from vaesc.dictionary import epochs_at
from vaesc.evaluation.batches import Split
from vaesc.evaluation.dictionaries import Plan, n_epochs
from vaesc.evaluation.fitting import n_passes
from vaesc.evaluation.rate import CHOOSING
from vaesc.progress import Listener


class Passes(Listener):
    """Counts passes over images, so that learning, fitting and measuring share one scale."""

    def __init__(
        self, listener: Listener, config: EvaluationConfig, splits: Mapping[str, Split],
        plan: Plan, model: SparseVAE, max_epochs: int, n_pixels: int | None, *, refined: bool,
    ) -> None:  # fmt: skip
        self.listener, self.done = listener, 0
        self.n_train = len(splits["train"])
        n_atoms, d = model.dictionary.dictionary.shape
        shuffled = set(plan.learned_at(min(n_atoms, d)).values())
        epochs = n_epochs(plan, model.dictionary, n_pixels, max_epochs)
        epochs += sum(epochs_at(k, d, max_epochs) for k in shuffled)
        passes = epochs + n_passes(config, len(plan.levels))
        # The test split twice: at equal k, and at equal bits, for which validation chooses.
        measured = min(CHOOSING, len(splits["validation"])) + 2 * len(splits["test"])
        learning = self.n_train * passes
        # Refined codes descend through the decoder: measuring them takes as long as all learning.
        self.weight = max(1, learning // measured) if refined else 1
        self.total = learning + self.weight * measured

    def add(self, n: int) -> None:
        """Hear that `n` more images were passed over."""
        self.done += n
        self.listener.progress(self.done, self.total)

    def measured(self, n: int) -> None:
        """Hear that `n` more images were coded by every method."""
        self.add(n * self.weight)

    def epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Pass on an epoch of a dictionary."""
        self.listener.epoch(epoch, metrics)

    def progress(self, done: float, total: float, **figures: float) -> None:
        """Hear that the learner has passed over all training samples once more."""
        self.add(self.n_train)
