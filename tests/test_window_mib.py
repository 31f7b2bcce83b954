"""The setting `window_mib`: it reaches every step whose memory it bounds, and those alone."""

import argparse

import pytest

from vaesc.config import PipelineConfig
from vaesc.config_files import load_config
from vaesc.errors import ConfigError
from vaesc.progress import SILENT
from vaesc.resources import requests_for
from vaesc.steps import APPLICATIONS, EVALUATE, EXTRACT, INGEST, LEARN, REFINE, TRAIN
from vaesc.training.distributed import _work

SMALL = PipelineConfig(window_mib=3, applications=("generation",))
BUILT_BY = {
    TRAIN: "vaesc.training.train",
    LEARN: "vaesc.dictionary.learn",
    REFINE: "vaesc.refinement.step.refine",
    EVALUATE: "vaesc.evaluation.evaluate",
    APPLICATIONS["generation"]: "vaesc.applications.apply",
}


@pytest.mark.parametrize("step", BUILT_BY, ids=lambda step: step.name)
def test_it_reaches_the_step(step, tmp_path, monkeypatch):
    heard = {}
    monkeypatch.setattr(BUILT_BY[step], lambda *_, **how: heard.update(how) or {})
    inputs = dict.fromkeys(("dataset", "latents"), tmp_path)
    step.build(SMALL, inputs, tmp_path, SILENT, tmp_path)
    assert heard["window_bytes"] == 3 * 2**20


def test_it_is_part_of_what_it_changes_and_of_nothing_else():
    def changes(step):
        return step.spec(SMALL, {}).digest != step.spec(PipelineConfig(), {}).digest

    steps = [INGEST, TRAIN, EXTRACT, LEARN, REFINE, EVALUATE, *APPLICATIONS.values()]
    assert {step for step in steps if changes(step)} == set(BUILT_BY)


def test_it_reaches_ranks_that_somebody_else_starts(tmp_path):
    options = argparse.Namespace(
        work=None, preset="digits", config=None, set=["window_mib=3"], out=tmp_path / "out",
        checkpoints=None, dataset=tmp_path, start=None,
    )  # fmt: skip
    assert _work(options).window_bytes == 3 * 2**20


def test_less_memory_is_asked_for():
    """Four windows of images are what a training holds at most."""
    asked = [
        requests_for(
            load_config("arrays", assignments=["dataset.path=x.npy", f"window_mib={mib}"]),
            n_images=10**7, shape=(28, 28),
        ).memory_mib
        for mib in (256, 512, 1024)
    ]  # fmt: skip
    assert asked[2] - asked[1] == pytest.approx(4 * 512 * 1.25, abs=256)
    assert asked[1] - asked[0] == pytest.approx(4 * 256 * 1.25, abs=256)


@pytest.mark.parametrize("value", ["0", "-1", "1.5", "x", "1048577", "true"])
def test_a_number_that_cannot_be_is_one_sentence(value):
    with pytest.raises(ConfigError, match="window_mib"):
        load_config("digits", assignments=[f"window_mib={value}"])
