"""From the first epoch to the last: validation, the best weights, rollbacks, checkpoints."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vaesc.config import TrainingConfig
from vaesc.errors import TrainingError
from vaesc.models import PosteriorStatistics
from vaesc.models.elbo import mean_terms, sum_groups
from vaesc.training.checkpoints import Checkpoints
from vaesc.training.health import DivergedError, check_finite, explosion_sentence
from vaesc.training.loop import Loop
from vaesc.training.objective import knobs_at
from vaesc.training.schedules import peak_rate

logger = logging.getLogger(__name__)

_LOWER = 0.1
"""A rollback leaves this share of the learning rate."""

Metrics = dict[str, float]


@dataclass
class Best:
    """The best epoch so far, by validation score; the earlier one of equals."""

    epoch: int = 0
    score: float = float("inf")
    weights: Tensor = field(default_factory=lambda: torch.empty(0))

    def offer(self, epoch: int, score: float, weights: Tensor) -> None:
        """Keep a copy of the weights if `score` is lower than every one before."""
        if score < self.score:
            self.epoch, self.score, self.weights = epoch, score, weights.clone()

    def is_old(self, epoch: int, patience: int, first: int = 0) -> bool:
        """Whether `patience` epochs after `first` have passed without a better one.

        Never if `patience` is 0.
        """
        return 0 < patience <= epoch - max(self.epoch, first)


class Run:
    """One training.

    Args:
        loop: Runs the epochs.
        validation: Gives the validation images in [0, 1], in groups, as often as called: of those
            that share a training, each rank its own groups.
        checkpoints: Where it is saved.
        untrained: Score (:func:`score_of`) of random weights, nats per image.
        first_group: Number of the first of these groups, if other ranks take others.
    """

    def __init__(
        self,
        loop: Loop,
        validation: Callable[[], Iterable[Tensor]],
        checkpoints: Checkpoints,
        untrained: float,
        first_group: int = 0,
    ) -> None:
        self.loop, self.validation, self.checkpoints = loop, validation, checkpoints
        self.untrained, self.first_group = untrained, first_group
        self.state, self.config = loop.engine.state, loop.config
        self.best, self.history, self.kl_dimensions = Best(), list[Metrics](), list[list[float]]()
        self.rollbacks = 0
        self.troubles = list[str]()
        """What was wrong and was gone back from, or continued with: one sentence each."""
        self._batch = 0
        self._good, self._good_steps = self.state.copy(), 0

    def fit(self) -> None:
        """Run epochs until the last one or until patience ends; resume if there is where from.

        Raises:
            TrainingError: The loss is not finite, however often training went back.
        """
        self._resume()
        while len(self.history) < self.config.epochs:
            epoch = len(self.history) + 1
            # The same already, unless ranks run on processors of unlike kinds.
            self.loop.ranks.copy_first(self.state.flat.values())
            try:
                metrics = self._run_epoch(epoch)
            except DivergedError as error:
                self._roll_back(error)
                continue
            self._keep(epoch, metrics)
            if self.best.is_old(epoch, *_patience(self.config)):
                logger.info(
                    "no better epoch since %d: stopped early at %d", self.best.epoch, epoch
                )
                break

    def _run_epoch(self, epoch: int) -> Metrics:
        metrics = self.loop.run_epoch(epoch, self._batch, on_batch=self._after_batch)
        with self.state.kept_weights():
            terms, statistics = self._validate()
            metrics |= {f"validation/{name}": value for name, value in terms.items()}
            check_finite(metrics, epoch, self.config, self.loop.rate_share)
            self._check_explosion(terms, epoch)
            score = score_of(terms, self.config, self.loop.vae.config.beta)
            self.best.offer(epoch, score, self.state.flat["weights"])
        self.kl_dimensions.append(statistics.kl_per_dimension())
        metrics["validation/active_units"] = statistics.active_units()
        return metrics

    def _validate(self) -> tuple[Metrics, PosteriorStatistics]:
        """Return the negative ELBO and posteriors of the validation images of all ranks.

        Groups are whole and their sums are put in order, so it is the same numbers, bit by bit,
        however many ranks have shared them.
        """
        vae, ranks, statistics = self.loop.vae, self.loop.ranks, PosteriorStatistics()
        # The noise of evaluate_elbo too, which repeats these numbers; the same every epoch.
        sums, n = sum_groups(
            vae, self.validation(), seed=self.loop.seed, stream="elbo/validation",
            first=self.first_group, on_posterior=statistics.add,
        )  # fmt: skip
        n = sum(ranks.tell(n))
        statistics.merge(n, ranks.rows(statistics.sums, (3, vae.latent_dim)))
        return mean_terms(ranks.rows(sums, (2,)), n, vae.config.beta), statistics

    def _check_explosion(self, terms: Metrics, epoch: int) -> None:
        """Act on an epoch that is far worse than none, as the policy says.

        Raises:
            DivergedError: Training is to go back.
            TrainingError: It is to fail.
        """
        last = epoch * self.loop.n_batches - 1
        # At the weight that the KL has by then: while that rises from zero, a large KL is no harm.
        beta, aim = knobs_at(self.config, self.loop.vae.config.beta, last, self.loop.n_batches)
        excess = abs(terms["kl"] - aim) if self.config.capacity else terms["kl"]
        sentence = explosion_sentence(
            terms["distortion"], beta * excess, terms["kl"], self.untrained, epoch, self.config,
            self.loop.rate_share,
        )  # fmt: skip
        if not sentence:
            return
        if self.config.on_explosion == "mend":
            raise DivergedError(sentence)
        if self.config.on_explosion == "fail":
            raise TrainingError(sentence)
        logger.warning("%s (training.on_explosion=continue)", sentence)
        self.troubles.append(sentence)

    def _keep(self, epoch: int, metrics: Metrics) -> None:
        metrics |= {"train/rollbacks": float(self.rollbacks),
                    "train/compiled": float(self.loop.engine.compiled)}  # fmt: skip
        self.history.append(metrics)
        self.loop.listener.epoch(epoch, metrics)
        logger.debug(
            "epoch %d: negative ELBO %.2f (train), %.2f (validation) nats per image",
            epoch, metrics["train/negative_elbo"], metrics["validation/negative_elbo"],
        )  # fmt: skip
        self._batch = 0
        self._good, self._good_steps = self.state.copy(), self.state.steps

    def _roll_back(self, error: DivergedError) -> None:
        """Return to the start of the epoch with a lower learning rate.

        Raises:
            TrainingError: That was done often enough.
        """
        if self.rollbacks >= self.config.max_rollbacks:
            raise TrainingError(str(error)) from error
        self.rollbacks += 1
        self.troubles.append(f"rolled back, {str(error).partition(';')[0]}")
        self.loop.rate_share *= _LOWER
        self._batch = 0
        self.state.restore(self._good, self._good_steps)
        logger.warning(
            "rollback %d of at most %d: back to the start of epoch %d with learning rate %g (%s)",
            self.rollbacks, self.config.max_rollbacks, len(self.history) + 1,
            peak_rate(self.config, self.loop.batch_size) * self.loop.rate_share,
            str(error).partition(";")[0],
        )  # fmt: skip

    def _after_batch(self, n_batches: int) -> None:
        self._batch = n_batches
        # Go back rather than save what is no number.
        if self.checkpoints.is_due() and self.loop.sound_means(len(self.history) + 1, n_batches):
            self._save()

    def _save(self) -> None:
        tensors = {f"now.{name}": value for name, value in self.state.flat.items()}
        tensors |= {f"good.{name}": value for name, value in self._good.items()}
        tensors |= {"sums": self.loop.sums, "best": self.best.weights}
        facts: dict[str, Any] = {
            "batch": self._batch, "steps": self.state.steps, "good_steps": self._good_steps,
            "rate_share": self.loop.rate_share, "rollbacks": self.rollbacks,
            "best": [self.best.epoch, self.best.score if self.best.epoch else None],
            "history": self.history, "kl_dimensions": self.kl_dimensions,
            "troubles": self.troubles,
        }  # fmt: skip
        self.checkpoints.save(tensors, facts)

    def _resume(self) -> None:
        found = self.checkpoints.load()
        if found is None:
            return
        tensors, facts = found
        place = self.loop.vae.device
        self.state.restore(_below("now.", tensors, place), facts["steps"])
        self._good, self._good_steps = _below("good.", tensors, place), facts["good_steps"]
        self.loop.sums.copy_(tensors["sums"])
        epoch, score = facts["best"]
        if epoch:
            self.best = Best(epoch, score, tensors["best"].to(place))
        self._batch, self.rollbacks = facts["batch"], facts["rollbacks"]
        self.loop.rate_share = facts["rate_share"]
        self.history, self.kl_dimensions = facts["history"], facts["kl_dimensions"]
        self.troubles = facts["troubles"]
        logger.info("resumed in epoch %d after %d batches", len(self.history) + 1, self._batch)
        for number, metrics in enumerate(self.history, start=1):
            self.loop.listener.epoch(number, metrics)


def score_of(terms: Metrics, config: TrainingConfig, beta: float) -> float:
    """Return what the best epoch has least of: the negative ELBO, whatever shapes the loss.

    A target of KL is kept to.

    Args:
        terms: ``negative_elbo``, ``distortion`` and ``kl``, nats per image.
        config: Says whether there is a target.
        beta: Weight of the KL term.
    """
    if not config.capacity:
        return terms["negative_elbo"]
    return terms["distortion"] + beta * abs(terms["kl"] - config.capacity)


def _patience(config: TrainingConfig) -> tuple[int, int]:
    """Return the epochs to wait for a better one, and the epoch to wait from.

    While the KL term's weight rises, the negative ELBO at its full weight says little: a warm-up
    is waited out, and a cycle is given its end.
    """
    if config.patience and config.beta_schedule == "cyclical":
        return max(config.patience, math.ceil(config.beta_epochs)), 0
    warm = config.beta_schedule == "warm-up"
    return config.patience, math.ceil(config.beta_epochs) if warm else 0


def _below(prefix: str, tensors: dict[str, Tensor], place: torch.device) -> dict[str, Tensor]:
    return {
        k.removeprefix(prefix): v.to(place) for k, v in tensors.items() if k.startswith(prefix)
    }
