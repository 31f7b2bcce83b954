"""A retraining that never ends and costs nothing: what tests give a worker that is to be killed.

Named as the real flows are, since the server tells ours from others by their names.
"""

import time

from prefect import flow


@flow(name="pipeline", persist_result=False)
def pipeline():
    """Train, for an hour."""
    time.sleep(3600)


@flow(name="retrain", persist_result=False)
def retrain():
    """Call the pipeline, as the real one does."""
    pipeline()
