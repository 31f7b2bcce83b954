"""Which rank of a training this process is, and which device it computes on."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaesc.errors import ConfigError


@dataclass(frozen=True)
class Me:
    """Which rank this process is, as torchrun has put it into the environment."""

    rank: int
    n: int
    local_rank: int
    n_local: int
    restarts: int
    """Times that torchrun has started the ranks again."""
    restarts_left: int

    @classmethod
    def from_environment(cls) -> Me:
        """Return what torchrun has told this process.

        Raises:
            ConfigError: It was not started by torchrun.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        try:
            restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
            most = int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", restarts))
            rank, n, local_rank, n_local = (int(os.environ[name]) for name in names)
        except (KeyError, ValueError) as error:
            raise ConfigError(
                "this is one rank of several: start it with torchrun --nproc-per-node N "
                "-m vaesc.training.distributed ..., or let vaesc run do it with runtime.ranks=N"
            ) from error
        return cls(rank, n, local_rank, n_local, restarts, most - restarts)

    def meeting(self, folder: Path) -> dict[str, Any]:
        """Return where the ranks of one machine meet: in a file, that nobody else can reach."""
        path = (folder / f"meeting-{self.restarts}").resolve()
        return {"init_method": path.as_uri(), "rank": self.rank, "world_size": self.n}


def device_of(device: str, local_rank: int, n_local: int) -> tuple[str, int]:
    """Return where a rank computes, and how many ranks share that memory.

    Args:
        device: ``auto``, ``cuda`` or ``cpu``, as in ``runtime.device``.
        local_rank: The rank's number on its machine.
        n_local: Ranks of its machine.

    Raises:
        ConfigError: There are fewer GPUs than ranks, or it is another device.
    """
    n_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device == "cpu" or (device == "auto" and not n_gpus):
        return "cpu", n_local
    if device not in ("auto", "cuda"):
        raise ConfigError(
            f"runtime.device={device}: ranks that share a training have a device each; set auto, "
            "cuda or cpu"
        )
    if n_gpus < n_local:
        raise ConfigError(
            f"{n_local} ranks need a GPU each, and torch finds {n_gpus} on this machine; set "
            f"runtime.ranks={max(1, n_gpus)}, or runtime.device=cpu"
        )
    return f"cuda:{local_rank}", 1
