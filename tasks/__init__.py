"""The pipeline's steps as Prefect tasks: each about ten lines around one library call.

Caching, retries, time limits, Prefect artifacts and the MLflow runs live in this package; what a
step computes lives in :mod:`vaesc`. Importing this package imports nothing heavy.
"""

import os

# OpenMP threads that wait must sleep, not spin: beside any other work on the machine, spinning
# made training two to ten times slower here. Must be said before torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
