"""What a scored batch leaves behind when the machine that scored it is gone."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from prefect.logging import disable_run_logger
from registry_homes import enter_home, images, tiny_model

from tasks.score import markdown_of, score_batch
from vaesc.drift.reference import described
from vaesc.registry import connect, register
from vaesc.scoring import SCORES, SUMMARY, open_scores

N = 400


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home with a champion, and a batch in it."""
    home = enter_home(tmp_path / "home", monkeypatch)
    model, own = tiny_model(), images(500, seed=1)
    model.reference = described(model.encode(own), model.score(own))
    model.save(home / "model")
    tracking = connect("test")
    register(home / "model", tracking, run_id=tracking.start_run("by hand"))
    np.save(home / "batch.npy", images(N, seed=2))
    return home


def scored(home, out):
    with disable_run_logger():
        return score_batch.fn(
            str(home / "batch.npy"), "champion", "vaesc", out, 8192, 1, 1e-3, "threads"
        )


def logged(found, to):
    """Return the files of a batch's MLflow run, downloaded into a new folder."""
    to.mkdir()
    return Path(connect(create=False).client.download_artifacts(found["run_id"], "", str(to)))


def test_scores_that_nobody_gave_a_folder_outlive_their_machines_disk(home, tmp_path):
    found = scored(home, None)
    before = open_scores(Path(found["out"]))
    codes, mse, p_values = before.codes().toarray(), before.mse(), before.p_values()
    shutil.rmtree(home / "scores")  # as a pod's /data goes with the pod

    after = open_scores(logged(found, tmp_path / "downloaded"))
    assert after.summary == before.summary
    assert codes.shape[0] == N
    np.testing.assert_array_equal(after.codes().toarray(), codes)
    np.testing.assert_array_equal(after.mse(), mse)
    np.testing.assert_array_equal(after.p_values(), p_values)
    assert f"MLflow's run `{found['run_id']}`" in markdown_of(found)


def test_scores_in_a_folder_that_was_asked_for_are_not_stored_twice(home, tmp_path):
    found = scored(home, str(tmp_path / "scores"))
    assert (tmp_path / "scores" / SCORES).is_dir()
    stored = logged(found, tmp_path / "downloaded")
    assert (stored / SUMMARY).is_file()
    assert not (stored / SCORES).exists()
