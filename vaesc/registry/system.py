"""The machine, the packages and the commit behind a run, as tags: cheap, and never failing.

No version is found by importing a package: torch alone would cost two seconds.
"""

from __future__ import annotations

import functools
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

import vaesc
from vaesc.arithmetic import THREAD_VARIABLES
from vaesc.processes import host_name

PACKAGES = ("torch", "numpy", "scipy", "zarr", "mlflow", "prefect")
_CPU_INFO = Path("/proc/cpuinfo")
_CPU_FEATURES = re.compile(
    r"\b(avx\w*|fma\w*|f16c|amx_\w+|sse4_[12]|asimd\w*|sve\w*|i8mm|bf16|neon)\b"
)
"""Instruction sets among which torch, numpy and their BLAS choose how to add and multiply."""
_VARIABLES = (
    *THREAD_VARIABLES,
    "ATEN_CPU_CAPABILITY", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS", "OPENBLAS_CORETYPE",
    "ONEDNN_MAX_CPU_ISA", "NPY_DISABLE_CPU_FEATURES", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES",
    "CUDA_VISIBLE_DEVICES", "NVIDIA_TF32_OVERRIDE",
)  # fmt: skip
"""Environment variables that say with how many threads, or how, numbers are computed."""


def system_tags(device: str = "") -> dict[str, str]:
    """Return what a number may depend on besides the code, as ``system.*``.

    Args:
        device: The device torch computes on, if it is known.
    """
    tags = {
        "system.python": platform.python_version(),
        "system.platform": platform.platform(),
        "system.cpu_count": str(_cpu_count()),
        **_cpu(),
        "system.environment": _environment(),
        "system.hostname": host_name(),
        **{f"system.{name}": version(name) for name in PACKAGES},
        "system.device": device,
    }
    return {name: value for name, value in tags.items() if value}


def device_tags(name: str) -> dict[str, str]:
    """Return what torch computes on, as ``system.*``; imports torch.

    Args:
        name: The setting ``runtime.device``.

    Raises:
        ConfigError: This machine has no such device.
    """
    import torch

    from vaesc.models import resolve_device

    place = resolve_device(name)
    card = f" {torch.cuda.get_device_name(place)}" if place.type == "cuda" else ""
    return {"system.device": f"{place}{card}", "system.threads": str(torch.get_num_threads())}


@functools.cache
def version(package: str) -> str:
    """Return the version of an installed package; empty if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def requirements() -> str:
    """Return every installed package with its exact version, one ``name==version`` a line."""
    found = {
        f"{name}=={each.version}"
        for each in metadata.distributions()
        if (name := each.metadata["Name"])
    }
    return "\n".join(sorted(found, key=str.lower)) + "\n"


@functools.cache
def git_tags() -> dict[str, str]:
    """Return the commit of the vaesc that runs, if it runs from a git checkout.

    ``vaesc.git.dirty`` says whether tracked files differ from that commit.
    """
    # An installed vaesc may lie in an environment inside someone else's repository: only a file
    # that git tracks speaks for its commit.
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:
        return {}
    commit = _git("rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _git("status", "--porcelain", "--untracked-files=no", ":/")
    dirty = "unknown" if changes is None else str(bool(changes)).lower()
    return {"mlflow.source.git.commit": commit, "vaesc.git.dirty": dirty}


def _git(*arguments: str) -> str | None:
    """Run git beside this package; None if there is no git, no repository, or no answer."""
    folder = Path(vaesc.__file__).parent
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=5,
            check=True, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _cpu_count() -> int:
    """Return how many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@functools.cache
def _cpu() -> dict[str, str]:
    """Return the processor's name and the instruction sets that results may depend on."""
    try:
        told = _CPU_INFO.read_text()
    except OSError:
        name = platform.processor() or platform.machine()
        return {"system.cpu": name, "system.cpu_features": "unlisted"}
    facts = dict(re.findall(r"^([\w ]+?)\s*: (.*)$", told, re.MULTILINE))
    features = sorted(set(_CPU_FEATURES.findall(facts.get("flags") or facts.get("Features", ""))))
    return {
        "system.cpu": facts.get("model name") or platform.machine(),
        "system.cpu_features": " ".join(features) or "unlisted",
    }


def _environment() -> str:
    return " ".join(f"{k}={os.environ[k]}" for k in _VARIABLES if k in os.environ) or "none"
