"""Constants shared by the kernels and their callers, without importing numba."""

DONE, RETRY = 0, 1
"""Outcome of one row: coded, or to be coded again by the caller (rescaled, in float64)."""

LOWEST, HIGHEST = 2.0**-50, 2.0**50
"""Largest correlations outside this range are handed back: their squares might not be numbers."""
