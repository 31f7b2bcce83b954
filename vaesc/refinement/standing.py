"""How far the refinement of a level is: to go back to, and to go on from after being killed.

An epoch depends on the weights, the coding, Adam's moments and its own number, and on nothing
else: batches and noise come from streams named after epoch and step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from vaesc.models import VAE
from vaesc.training.checkpoints import Checkpoints

MOST_ROLLBACKS = 3
"""Times a loss that is no number sends a level back to the start of its epoch."""
_LOWER = 0.1
"""What a rollback leaves of the learning rate."""

Weights = dict[str, Tensor]
"""``vae.<name>`` and ``coding.<name>``."""


class Coding(Protocol):
    """How images get their codes: what it has learned can be copied and taken back."""

    def state(self) -> dict[str, Tensor]:
        """Return a copy of what it has learned."""

    def restore(self, state: dict[str, Tensor]) -> None:
        """Take back what :meth:`state` returned."""


class Trained(Protocol):
    """What is trained."""

    vae: VAE
    coding: Any


@dataclass
class Standing:
    """What is known after some epochs."""

    best: float
    """Lowest validation error so far, mean squared error a pixel."""
    kept: Weights
    """The weights that have it."""
    best_epoch: int = 0
    errors: list[dict[str, float]] = field(default_factory=list)
    """Of each epoch, the start first, by split."""
    rollbacks: int = 0
    rate_share: float = 1.0
    """What rollbacks have left of the learning rate."""
    troubles: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.errors = self.errors or [{"validation": self.best}]

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.errors) - 1

    def note(self, errors: dict[str, float], weights: Callable[[], Weights]) -> None:
        """Add an epoch, and keep its weights if they are the best so far."""
        self.errors.append(errors)
        if errors["validation"] < self.best:
            self.best, self.best_epoch, self.kept = errors["validation"], self.epoch, weights()

    def go_back(self, why: str) -> None:
        """Note a rollback."""
        self.rollbacks += 1
        self.rate_share *= _LOWER
        self.troubles.append(why)

    def outcome(self) -> dict[str, Any]:
        """Return what came of it, as plain JSON values."""
        return {
            "best_epoch": self.best_epoch, "start": self.errors[0]["validation"],
            "error": self.best, "rollbacks": self.rollbacks, "troubles": self.troubles,
        }  # fmt: skip


def weights_of(trained: Trained) -> Weights:
    """Return a copy of what is trained."""
    vae = {f"vae.{name}": value.clone() for name, value in trained.vae.state_dict().items()}
    return vae | {f"coding.{name}": value for name, value in trained.coding.state().items()}


def take(trained: Trained, weights: Mapping[str, Tensor]) -> None:
    """Return to the weights that :func:`weights_of` copied."""
    trained.vae.load_state_dict(below("vae.", weights))
    trained.coding.restore(below("coding.", weights))


def snapshot(trained: Trained, optimiser: torch.optim.Optimizer) -> Weights:
    """Return a copy of all that the next epoch depends on."""
    moments = {
        f"adam.{number}.{name}": value.clone()
        for number, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }
    return weights_of(trained) | moments


def restore(
    trained: Trained, optimiser: torch.optim.Optimizer, values: Mapping[str, Tensor]
) -> None:
    """Return to what :func:`snapshot` copied."""
    take(trained, values)
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in below("adam.", values).items():
        number, _, name = key.partition(".")
        # In the memory layout of the weights: in another, sums may round differently.
        like = parameters[int(number)] if value.dim() else value
        moments.setdefault(int(number), {})[name] = torch.empty_like(like).copy_(value).detach()
    groups = optimiser.state_dict()["param_groups"]
    optimiser.load_state_dict({"state": moments, "param_groups": groups})


def save(
    checkpoints: Checkpoints | None, trained: Trained, optimiser: torch.optim.Optimizer,
    now: Standing,
) -> None:  # fmt: skip
    """Keep what is known after an epoch."""
    if checkpoints is None or checkpoints.folder is None:
        return
    tensors = snapshot(trained, optimiser) | {f"kept.{k}": v for k, v in now.kept.items()}
    facts = {
        "best": now.best, "best_epoch": now.best_epoch, "errors": now.errors,
        "rollbacks": now.rollbacks, "rate_share": now.rate_share, "troubles": now.troubles,
    }  # fmt: skip
    checkpoints.save(tensors, facts)


def load(
    checkpoints: Checkpoints | None, trained: Trained, optimiser: torch.optim.Optimizer
) -> Standing | None:
    """Go on from a checkpoint, if there is one of this refinement."""
    found = checkpoints.load() if checkpoints else None
    if found is None:
        return None
    device = trained.vae.device
    tensors = {name: value.to(device) for name, value in found[0].items()}
    restore(trained, optimiser, tensors)
    names = ("best", "best_epoch", "errors", "rollbacks", "rate_share", "troubles")
    return Standing(kept=below("kept.", tensors), **{name: found[1][name] for name in names})


def below(prefix: str, tensors: Mapping[str, Tensor]) -> Weights:
    """Return the tensors whose names begin with `prefix`, without it."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
