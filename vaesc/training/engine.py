r"""One gradient step: loss, gradient, clipping, Adam, moving average.

Two forms of the same arithmetic. The *eager* one is autograd and torch's fused Adam. The
*compiled* one is all of it, differentiation included, as a single graph of a pure function, which
``torch.compile`` turns into machine code: no autograd at run time, no gradients in memory, Adam
reading what the products wrote. Their losses agree up to rounding (tests/test_training.py).

Compiling takes half a minute or so, which short trainings never win back: see
:mod:`vaesc.training.work`. Where it fails, as without a C++ compiler, training goes on eagerly,
says so in the log, and says so in the record of the run.

References:
    Kingma & Ba, "Adam: A Method for Stochastic Optimization", 2015.
    https://arxiv.org/abs/1412.6980
"""

from __future__ import annotations

import logging
import math
import subprocess
import time
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vaesc.memory import ran_out
from vaesc.training.objective import Objective
from vaesc.training.ranks import ALONE
from vaesc.training.state import State

logger = logging.getLogger(__name__)

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8
_COMPILER_ERRORS = (RuntimeError, OSError, ImportError, subprocess.SubprocessError)


class Engine:
    """Takes gradient steps on a state.

    Args:
        objective: The loss, over the model whose weights are the state's.
        state: What is changed.
        compiled: Compile the step for batches of `batch_size`; others are stepped eagerly.
        batch_size: Images per batch.
    """

    def __init__(
        self, objective: Objective, state: State, *, compiled: bool, batch_size: int
    ) -> None:
        self.objective, self.state = objective, state
        self.clip = objective.config.gradient_clip
        self.batch_size = batch_size
        self.fallback = ""
        self.ranks, self.accumulate = ALONE, 1
        self._graph: Callable[..., Any] | None = None
        if compiled:
            device = objective.vae.device.type
            if device == "cuda":
                hold_still(state)
            self._graph = compiled_form(pure_step(objective, state.names), compile_options(device))
        self._parameters = list(objective.vae.parameters())
        self._counters = [torch.zeros((), device=p.device) for p in self._parameters]
        self._is_started = False

    @property
    def compiled(self) -> bool:
        """Whether whole batches have been stepped by compiled code; others never are."""
        return self._graph is not None and self._is_started

    def step(
        self, images: Tensor, noise: Tensor, rate: float, knobs: tuple[float, float]
    ) -> Tensor:
        """Take one step and return the batch's sums of distortion and kl, shape (2,).

        Args:
            images: As stored, shape (n, *shape).
            noise: Shape (k, n, d).
            rate: Learning rate.
            knobs: See :func:`vaesc.training.objective.knobs_at`.
        """
        numbers = self._next(rate, knobs)
        if self._graph is not None and len(images) == self.batch_size:
            return self._step_compiled(images, noise, rate, numbers)
        return self._step_eagerly(images, noise, rate, numbers)

    def _next(self, rate: float, knobs: tuple[float, float]) -> list[float]:
        """Count a step and return its five numbers, see :func:`pure_step`."""
        self.state.steps += 1
        t = self.state.steps
        corrections = [rate / (1 - _BETA1**t), 1 / math.sqrt(1 - _BETA2**t)]
        return [*corrections, self._new_share(t), *knobs]

    def _new_share(self, t: int) -> float:
        """Return the newest weights' share in the average, larger while there are few."""
        return 1 - min(self.objective.config.weight_average, (1 + t) / (10 + t))

    def _step_compiled(
        self, images: Tensor, noise: Tensor, rate: float, numbers: list[float]
    ) -> Tensor:
        state = self.state
        scalars = torch.tensor(numbers).to(images.device)
        lists = (state.weights, state.first, state.second, state.average)
        sums: Tensor | None = self._by_graph(*lists, images, noise, scalars)
        return self._step_eagerly(images, noise, rate, numbers) if sums is None else sums

    def _by_graph(self, *arguments: Any) -> Any:  # noqa: ANN401
        """Return what compiled code makes of the arguments; None if compiling it has failed."""
        assert self._graph is not None
        if self._is_started:
            return self._graph(*arguments)
        start = time.perf_counter()
        try:
            made = self._graph(*arguments)
        except _COMPILER_ERRORS as error:
            if ran_out(error):
                raise  # eager steps would give other last bits, under the same digest
            self._graph, self.fallback = None, f"eager: {type(error).__name__}"
            logger.warning(
                "the training step could not be compiled and runs eagerly: %s", _first_line(error)
            )
            return None
        self._is_started = True
        logger.info("compiled the training step in %.1f s", time.perf_counter() - start)
        return made

    def _step_eagerly(
        self, images: Tensor, noise: Tensor, rate: float, numbers: list[float]
    ) -> Tensor:
        knobs = torch.tensor(numbers[3:]).to(images.device)
        sums: Tensor
        loss, sums = self.objective(images, noise, knobs)
        self._update(list(torch.autograd.grad(loss, self._parameters)), rate, numbers)
        return sums

    @torch.no_grad()
    def _update(self, gradients: list[Tensor], rate: float, numbers: list[float]) -> None:
        """Follow the gradient of a whole batch."""
        if self.clip:
            torch._foreach_mul_(gradients, shortening(gradients, self.clip))
        self._adam(gradients, rate, numbers)
        if self.state.average:
            flat = self.state.flat
            flat["average"].lerp_(flat["weights"], numbers[2])

    def _adam(self, gradients: list[Tensor], rate: float, numbers: list[float]) -> None:
        """Update weights and moments in one kernel, or in several where there is no such kernel.

        ``torch.optim`` is left out on purpose: its first step imports the whole compiler.
        """
        state = self.state
        if self._parameters[0].device.type == "mps":
            weights = (state.weights, gradients, state.first, state.second)
            adam(*weights, torch.tensor(numbers).to(gradients[0].device))
            return
        for counter in self._counters:
            counter.fill_(state.steps)
        torch._fused_adam_(
            state.weights, gradients, state.first, state.second, [], self._counters, lr=rate,
            beta1=_BETA1, beta2=_BETA2, weight_decay=0.0, eps=_EPSILON, amsgrad=False,
            maximize=False,
        )  # fmt: skip


def pure_step(objective: Objective, names: list[str]) -> Callable[..., Tensor]:
    """Return the whole step as one function of tensors, ready to be compiled.

    It takes weights, first and second moments and average (lists of tensors, changed in place),
    images, noise, and five scalars: the learning rate over the first moment's bias correction,
    one over the root of the second's, the newest weights' share in the average, beta_t, C_t.
    """
    clip = objective.config.gradient_clip

    def step(
        weights: list[Tensor], first: list[Tensor], second: list[Tensor], average: list[Tensor],
        images: Tensor, noise: Tensor, scalars: Tensor,
    ) -> Tensor:  # fmt: skip
        def loss(weights: list[Tensor]) -> Any:  # noqa: ANN401
            named = {f"vae.{name}": w for name, w in zip(names, weights, strict=True)}
            arguments = (images, noise, scalars[3:])
            return torch.func.functional_call(objective, named, arguments)

        sums: Tensor
        gradients, sums = torch.func.grad(loss, has_aux=True)(weights)
        if clip:
            scale = shortening(gradients, clip)
            gradients = [g * scale for g in gradients]
        adam(weights, gradients, first, second, scalars)
        for mean, weight in zip(average, weights, strict=False):
            mean.lerp_(weight, scalars[2])
        return sums

    return step


def adam(
    weights: list[Tensor], gradients: list[Tensor], first: list[Tensor], second: list[Tensor],
    scalars: Tensor,
) -> None:  # fmt: skip
    """Adam's update in place; of `scalars`, see :func:`pure_step`, the first two are used."""
    for w, g, m, v in zip(weights, gradients, first, second, strict=True):
        m.lerp_(g, 1 - _BETA1)
        v.mul_(_BETA2).addcmul_(g, g, value=1 - _BETA2)
        w.sub_(scalars[0] * m / (v.sqrt() * scalars[1] + _EPSILON))


def shortening(gradients: list[Tensor], longest: float) -> Tensor:
    """Return the factor, at most 1, that makes the gradient's norm at most `longest`."""
    norm = torch.stack([g.float().square().sum() for g in gradients]).sum().sqrt()
    return (longest / norm.clamp_min(1e-12)).clamp_max(1.0)


def compile_options(device_type: str) -> dict[str, Any]:
    """Return how the step is compiled: on a GPU as a CUDA graph, replayed in one launch."""
    options: dict[str, Any] = {"fullgraph": True, "dynamic": False}
    return {**options, "mode": "reduce-overhead"} if device_type == "cuda" else options


def hold_still(state: State) -> None:
    """Promise that what a step changes stays where it is: else a CUDA graph would copy it.

    The tensors are views of :attr:`State.flat`, which is filled anew but never moved.
    """
    for tensors in (state.weights, state.first, state.second, state.average):
        for tensor in tensors:
            torch._dynamo.mark_static_address(tensor)


def compiled_form(function: Callable[..., Any], options: dict[str, Any]) -> Callable[..., Any]:
    """Return a function that is compiled, for the shapes it meets, when it is first called."""
    # The compiler keeps its cache at the code object, which all runs of a process would share.
    own = types.FunctionType(
        function.__code__.replace(), function.__globals__, "step", None, function.__closure__
    )
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    compiled: Callable[..., Any] = torch.compile(own, **options)
    return compiled


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
