"""What the last bits of a number depend on besides source, data and device.

The same sum is added up in another order by another version of a library, and on a processor with
other instructions. Parts of one result must not differ in these.
"""

from __future__ import annotations

import platform
from functools import cache
from importlib import metadata

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS",
)  # fmt: skip
"""Environment variables that say on how many threads numbers are computed."""
_LIBRARIES = ("numpy", "scipy", "numba")


@cache
def arithmetic() -> dict[str, str]:
    """Return the versions of the libraries that compute, and the instructions that they choose.

    ``instructions`` is torch's choice (``x86_64 AVX512``), ``blas`` numpy's and scipy's
    (``Haswell``; empty where they do not say). Imports torch.
    """
    import torch

    chosen = torch.backends.cpu.get_cpu_capability()
    return {
        "torch": torch.__version__,  # says more than its metadata: ``2.9.0+cpu``
        **{name: metadata.version(name) for name in _LIBRARIES},
        "instructions": f"{platform.machine()} {chosen}",
        "blas": " ".join(_kernels()),
    }


def _kernels() -> list[str]:
    """Return the processors for which numpy's and scipy's own BLAS choose their kernels."""
    import scipy.linalg  # noqa: F401 - its BLAS is found only once loaded
    from threadpoolctl import threadpool_info  # type: ignore[import-untyped]

    return sorted(
        {
            str(library.get("architecture"))
            for library in threadpool_info()
            if library["user_api"] == "blas"
            and any(name in library["filepath"] for name in ("numpy", "scipy"))
        }
    )
