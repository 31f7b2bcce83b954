"""The short form of the fault suite: a few injections of every kind, in real processes.

The long form is ``make faults``; what it found stands in docs/faults.md.
"""

import pytest
from project import STEPS

from tests.faults import __main__ as suite
from tests.faults.catalogue import catalogue, sample, steps_of
from tests.faults.lane import Lane
from tests.faults.trial import attempt

pytestmark = [
    pytest.mark.slow, pytest.mark.service, pytest.mark.faults, pytest.mark.timeout(900),
]  # fmt: skip
FEW = 8


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with Lane(tmp_path_factory.mktemp("faults")) as lane:
        yield suite._Worker(lane)


def test_a_run_passes_points_in_every_step(worker):
    assert set(steps_of(worker.points)) >= {"start", *STEPS, "publish"}
    injections = [injection for injection, _ in catalogue(worker.points)]
    assert len(set(injections)) == len(injections) >= 300


def test_whatever_breaks_the_next_run_completes_with_the_same_bytes(worker):
    chosen = sample(catalogue(worker.points), FEW)
    assert len({injection.fault for injection, _ in chosen}) >= 5
    trials = [attempt(worker.lane, *each, worker.truth) for each in chosen]
    assert [trial.to_json() for trial in trials if not trial.survived] == []


def test_damaged_files_are_made_again_alike(worker):
    planned = worker.damage.plan()
    chosen = planned[:: 1 + len(planned) // 3]
    trials = [worker.damage.attempt(*each) for each in chosen]
    assert [trial.to_json() for trial in trials if not trial.survived] == []
