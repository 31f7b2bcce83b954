"""What a step's nested MLflow run does while MLflow is away: nothing is lost, nothing stops."""

import logging

import pytest

from tasks import tracking
from tasks.tracking import StepRun
from vaesc.errors import RegistryError


class Flaky:
    """A tracking server that refuses some requests."""

    def __init__(self, *refused):
        self.refused, self.requests, self.got = set(refused), 0, []

    def log_history(self, run_id, history, times):
        self.requests += 1
        if self.requests in self.refused:
            raise RegistryError("MLflow does not answer")
        self.got += [(epoch, time) for (epoch, _), time in zip(history, times, strict=True)]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tracking, "SEND_EPOCHS_EVERY_SECONDS", 0.0)
    monkeypatch.setattr(tracking, "_logger", lambda: logging.getLogger("step"))


def test_epochs_wait_for_a_server_that_comes_back(caplog):
    server = Flaky(2, 3)
    run = StepRun("run", server, None)
    for epoch in range(1, 6):
        run.epoch(epoch, {"train/kl": 1.0})
    run.flush()
    assert [epoch for epoch, _ in server.got] == [1, 2, 3, 4, 5]
    times = [time for _, time in server.got]
    assert times == sorted(times)
    assert caplog.text.count("MLflow does not answer") == 2


def test_what_cannot_be_sent_in_the_end_is_an_error():
    run = StepRun("run", Flaky(1, 2), None)
    run.epoch(1, {"train/kl": 1.0})
    with pytest.raises(RegistryError):
        run.flush()
