"""Where torch computes."""

from __future__ import annotations

import torch

from vaesc.errors import ConfigError


def resolve_device(name: str) -> torch.device:
    """Return the device that a name stands for.

    Args:
        name: ``auto`` (cuda if there is one, else mps, else cpu), ``cpu``, ``mps``, ``cuda`` or
            ``cuda:N``.

    Raises:
        ConfigError: The name is none of these, or this machine has no such device.
    """
    if name == "auto":
        return torch.device(_best_type())
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not index.isdecimal()):
        raise ConfigError(f"runtime.device must be auto, cpu, mps, cuda or cuda:N, got {name!r}")
    if int(index or 0) >= _count(kind):
        raise ConfigError(
            f"runtime.device={name}: torch finds {_count(kind)} {kind} devices on this machine; "
            f"set auto or {_best_type()}"
        )
    return torch.device(name)


def same_everywhere(name: str) -> str:
    """Return the name of a device that means the same on every machine: ``auto`` is settled here.

    Args:
        name: As for :func:`resolve_device`; what is no ``auto`` may be a device that only other
            machines have.
    """
    return str(resolve_device(name)) if name == "auto" else name


def _best_type() -> str:
    return next(kind for kind in ("cuda", "mps", "cpu") if _count(kind))


def _count(kind: str) -> int:
    """Return how many devices of a type torch can use here."""
    if kind == "cuda":
        return torch.cuda.device_count() if torch.cuda.is_available() else 0
    return 1 if kind == "cpu" else int(torch.backends.mps.is_available())
