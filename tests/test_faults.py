"""The short form of the fault suite: a few injections of every kind, in real processes.

The long form is ``make faults``; what it found stands in docs/faults.md.
"""

import json
import subprocess
import sys

import pytest
from project import STEPS

from tests.faults import __main__ as suite
from tests.faults.catalogue import catalogue, sample, steps_of
from tests.faults.lane import ROOT, Lane
from tests.faults.trial import attempt

pytestmark = [
    pytest.mark.slow, pytest.mark.service, pytest.mark.faults, pytest.mark.timeout(900),
]  # fmt: skip


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    with Lane(tmp_path_factory.mktemp("faults")) as lane:
        yield suite._Worker(lane)


def test_a_run_passes_points_in_every_step(worker):
    assert set(steps_of(worker.points)) >= {"start", *STEPS, "publish"}
    injections = [injection for injection, _ in catalogue(worker.points)]
    assert len(set(injections)) == len(injections) >= 300


def test_whatever_breaks_the_next_run_completes_with_the_same_bytes(worker):
    planned = catalogue(worker.points)
    one_of_each = {
        injection.fault: (injection, step) for injection, step in sample(planned, 10**6)
    }
    assert len(one_of_each) == 11
    if not worker.lane.fillable:  # that takes the right to mount a disk
        del one_of_each["filled disk"]
    trials = [attempt(worker.lane, *each, worker.truth) for each in one_of_each.values()]
    assert [trial.to_json() for trial in trials if not trial.survived] == []


def test_damaged_files_are_made_again_alike(worker):
    planned = worker.damage.plan()
    chosen = planned[:: 1 + len(planned) // 3]
    trials = [worker.damage.attempt(*each) for each in chosen]
    assert [trial.to_json() for trial in trials if not trial.survived] == []


def test_killed_at_random_moments_learning_resumes_to_the_same_bytes():
    command = [sys.executable, "-m", "tests.faults.kills", "--times", "4", "--dictionaries", "2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert (figures["kills"], figures["identical"]) == (4, 4)
    assert figures["batches_done_when_killed"]["distinct"] > 1
    learned = figures["dictionaries"]
    assert (learned["kills"], learned["identical"]) == (2, 2)
