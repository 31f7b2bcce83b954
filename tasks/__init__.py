"""The pipeline's steps as Prefect tasks: each about ten lines around one library call.

Caching, retries, time limits, Prefect artifacts and the MLflow runs live in this package; what a
step computes lives in :mod:`vaesc`. Importing this package imports nothing heavy.
"""
