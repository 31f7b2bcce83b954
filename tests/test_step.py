"""Which failures are tried again: those that may pass by themselves, and no others."""

import inspect

import pytest
from prefect.states import Failed

from tasks.evaluate import evaluate
from tasks.extract import extract
from tasks.ingest import download, ingest_files
from tasks.learn import learn
from tasks.register import register
from tasks.step import may_pass
from tasks.train import train
from vaesc.bucket_errors import AwayError, BucketError
from vaesc.datasets import DownloadError
from vaesc.errors import ConfigError, DataError, RegistryError, StoreError, TrainingError
from vaesc.registry.failures import UnreachableError


def failed(error):
    return Failed(data=error)


OUTSIDE = [DownloadError("x"), UnreachableError("x"), AwayError("x"), OSError(5, "x")]


@pytest.mark.parametrize("error", OUTSIDE)
def test_the_outside_may_come_back(error):
    assert may_pass(None, None, failed(error))


@pytest.mark.parametrize(
    "kind", [ConfigError, DataError, StoreError, BucketError, TrainingError, RegistryError]
)
def test_what_is_deterministic_fails_again(kind):
    assert not may_pass(None, None, failed(kind("x")))


def test_the_condition_is_a_plain_function():
    """Prefect silently takes any other callable for "never retry"."""
    assert inspect.isfunction(may_pass)


def test_only_what_touches_the_outside_is_retried():
    steps = [ingest_files, train, extract, learn, evaluate]
    assert [step.task.retries for step in steps] == [0] * 5
    assert register.task.retries == 3
    assert download.retries == 3
    every = [*(step.task for step in steps), register.task, download]
    assert all(task.timeout_seconds for task in every)
    assert all(task.task_key for task in every)
