"""In what numbers were computed, then and now: versions, commit, machine; and where they differ.

Each difference is a warning, never a refusal: the bytes decide.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from vaesc.registry.system import PACKAGES, device_tags, git_tags, requirements, system_tags

COMMIT, DIRTY = "mlflow.source.git.commit", "vaesc.git.dirty"
_FACTS = {
    "system.python": "Python",
    "system.platform": "the platform",
    "system.cpu": "the CPU",
    "system.cpu_count": "the number of processors",
    "system.environment": "the environment's number of threads or choice of kernels",
}
_DEVICE = {"system.device": "the device", "system.threads": "torch's number of threads"}
_FEATURES = "system.cpu_features"
_COMPUTING = {
    *PACKAGES, "scikit-learn", "numba", "llvmlite", "torchvision", "pillow", "numcodecs",
    "safetensors", "triton", "mkl", "intel-openmp", "vaesc",
}  # fmt: skip
"""Packages that results or files depend on: each that differs gets a sentence of its own."""


@dataclass(frozen=True)
class Environment:
    """What a result may depend on besides config, data and the source of the steps."""

    tags: Mapping[str, str]
    """``system.*`` and the commit, as in a run's tags."""
    packages: Mapping[str, str]
    """Version of each installed package, by its normalised name; empty if unknown."""

    def with_tags(self, tags: Mapping[str, str]) -> Environment:
        """Return this environment with the device that a step's own run names."""
        return replace(self, tags={**self.tags, **{k: tags[k] for k in _DEVICE if k in tags}})


def recorded_environment(tags: Mapping[str, str], listed: str) -> Environment:
    """Return the environment that a run recorded.

    Args:
        tags: The run's tags.
        listed: One ``name==version`` a line; empty if the run has no such list.
    """
    pairs = (line.partition("==") for line in listed.split())
    packages = {_normal(name): version for name, _, version in pairs}
    named = {p: tags[f"system.{p}"] for p in PACKAGES if f"system.{p}" in tags}
    return Environment(dict(tags), {**packages, **named})


def environment_now(device: str) -> Environment:
    """Return the environment of this process.

    Args:
        device: The setting ``runtime.device``.

    Raises:
        ConfigError: This machine has no such device.
    """
    tags = {**system_tags(), **git_tags(), **device_tags(device)}
    return recorded_environment(tags, requirements())


def differences(then: Environment, now: Environment) -> Iterator[str]:
    """Yield one sentence for each thing that a result may depend on and that is another now."""
    yield from _code(then.tags, now.tags)
    yield from _packages(then.packages, now.packages)
    for key, name in {**_FACTS, **_DEVICE}.items():
        before, here = then.tags.get(key), now.tags.get(key, "unknown")
        if before and before != here:
            yield f"{name} was {before} and is {here} now"
    yield from _features(then.tags, now.tags)


def _code(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    before, here = then.get(COMMIT), now.get(COMMIT)
    if before and before != here:
        yield f"the commit was {before} and is {here or 'unknown (no git checkout)'} now"
    elif here and not before:
        yield f"the run names no commit; it is {here} now"
    if then.get(DIRTY, "false") != "false":
        yield "the run was made with changes that were not committed"
    if now.get(DIRTY, "false") != "false":
        yield "there are changes here that are not committed"


def _packages(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    other = {n: (v, now.get(n, "not installed")) for n, v in then.items() if v != now.get(n)}
    for name in sorted(other.keys() & _COMPUTING):
        yield "{} was {} and is {} now".format(name, *other[name])
    rest = sorted(other.keys() - _COMPUTING)
    if rest:
        told = ", ".join("{} ({}, now {})".format(n, *other[n]) for n in rest[:5])
        more = f" and {len(rest) - 5} more" if len(rest) > 5 else ""
        yield f"other packages differ: {told}{more}"
    if not then.keys() - set(PACKAGES):
        yield "the run has no list of its packages; only their most important ones are compared"


def _features(then: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    if _FEATURES not in then:
        yield "the run does not say which instruction sets its CPU had"
        return
    before, here = (set(tags.get(_FEATURES, "").split()) for tags in (then, now))
    if before - here:
        yield f"the CPU lacks instruction sets it had: {', '.join(sorted(before - here))}"
    if here - before:
        yield f"the CPU has instruction sets it had not: {', '.join(sorted(here - before))}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
