"""Runs and models: everything vaesc asks of MLflow, and the only room that imports it.

Every call goes through an ``MlflowClient`` with an explicit run id. MLflow's fluent interface
keeps an *active run* per thread, which does not follow a task into its worker thread: a metric
logged there would silently open a stray run. Nothing here relies on it, nor on the process-wide
tracking URI, nor on autologging.

=============================== ==================================================================
:mod:`.connection`              which MLflow, opened quickly or refused in one sentence
:mod:`.tracking`                runs: parameters, metrics, datasets, artifacts, their end
:mod:`.entries`                 what is written into a run, in the form MLflow takes
:mod:`.processes`               which process opened a run, and whether it still lives
:mod:`.system`                  the machine, the packages and the commit behind a run
:mod:`.environment`             the same, of a run and of now: where they differ
:mod:`.recorded`                what there is of a finished run, to run it again and compare
:mod:`.bundling`                the steps' artifacts, put together as one bundle
:mod:`.registration`            a bundle becomes one loadable version of the registered model
:mod:`.packing`                 what a version consists of
:mod:`.card`                    its description: the model card, written from the run's numbers
:mod:`.model_definition`        the pyfunc model as code: what MLflow's own tools load and serve
:mod:`.files`                   a version's files, fetched and checked
:mod:`.lookup`                  from "champion" to one version; lists of what there is
:mod:`.loading`                 from a version to a verified model in memory, also offline
:mod:`.cache`                   bundles kept on this machine, and what references meant last
:mod:`.serving`                 MLflow's own scoring server, given a verified model
=============================== ==================================================================

Importing this package does not import mlflow, which costs two seconds of a processor: the first
call that needs it does.
"""

from __future__ import annotations

from vaesc.registry.loading import load_model
from vaesc.registry.lookup import list_models, show_model
from vaesc.registry.registration import exists, register
from vaesc.registry.tracking import Tracking, connect

__all__ = [
    "Tracking",
    "connect",
    "exists",
    "list_models",
    "load_model",
    "register",
    "show_model",
]
