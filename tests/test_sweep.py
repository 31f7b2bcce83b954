"""``vaesc sweep``: what a grid is made of, what is refused, and what comes of two cells."""

import csv
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from vaesc.config_files import load_config
from vaesc.errors import ConfigError
from vaesc.sweep import as_csv, as_markdown, best_lacks, best_of, cells_of, metric_of, ranked


def grid(*lines, settings=()):
    return cells_of("digits", None, settings, lines)


def test_every_combination_is_a_cell():
    cells = grid("vae.latent_dim=8,16", "dictionary.coder=ols,lasso", "seed=0,1")
    assert len(cells) == len({cell.config_digest for cell in cells}) == 8
    assert cells[0].settings == {"vae.latent_dim": "8", "dictionary.coder": "ols", "seed": "0"}
    assert cells[-1].settings == {"vae.latent_dim": "16", "dictionary.coder": "lasso", "seed": "1"}


def test_values_may_be_lists_and_fractions():
    cells = grid("vae.hidden=[64],[64, 32]", "vae.beta=1,0.5")
    assert [c.settings["vae.hidden"] for c in cells] == ["[64]", "[64]", "[64, 32]", "[64, 32]"]
    config = load_config("digits", None, list(cells[-1].assignments))
    assert (config.vae.hidden, config.vae.beta) == ((64, 32), 0.5)


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ([], "needs a grid"),
        (["vae.latent_dim"], "takes section.name=value"),
        (["vae.latent_dim="], "takes section.name=value"),
        (["vae.latent_dim=8,8"], "every value must be there once"),
        (["dictionary.coder=ols,,omp"], "every value must be there once"),
        (["vae.latent_dim=8", "vae.latent_dim=16"], "names vae.latent_dim twice"),
        (["vae.latentdim=8,16"], "latent_dim"),
        (["vae.latent_dim=8,0"], "vae.latent_dim must be at least 1, got 0"),
        (["vae.beta=1,nan"], "vae.beta"),
        (["runtime.block_size=10,20"], "the same run twice"),
        ([f"seed={','.join(map(str, range(1001)))}"], "1,001 cells"),
    ],
)
def test_a_bad_grid_is_refused_in_a_sentence(lines, sentence):
    with pytest.raises(ConfigError) as error:
        grid(*lines)
    assert sentence in str(error.value)


def test_other_data_are_another_run():
    """No digest knows the path, since the data's own does; and nothing has been read yet."""
    own = ["dataset.source=arrays"]
    assert len(grid("dataset.path=a.npy,b.npy", settings=own)) == 2
    assert len(grid("dataset.labels=a.npy,b.npy", settings=[*own, "dataset.path=x.npy"])) == 2
    assert len(grid("dataset.folder=a,b", settings=["dataset.source=mnist"])) == 2
    with pytest.raises(ConfigError, match="the same run twice"):
        grid("dataset.download=true,false")


def test_the_metric_is_one_that_every_cell_will_have():
    eight = load_config("digits", None, ["dictionary.n_nonzero_coefs=8"])
    levels = "evaluation.sparsity_levels=[1, 4]"
    few = load_config("digits", None, [levels, "dictionary.n_nonzero_coefs=8"])
    assert metric_of(None, [eight]) == "test/mse_k8"
    assert metric_of(None, [eight, few]) == "test/mse_k4"
    assert metric_of("test/negative_elbo", [few]) == "test/negative_elbo"
    with pytest.raises(ConfigError, match="not every cell is evaluated at k = 8, but at 1, 4"):
        metric_of("test/mse_k8", [eight, few])
    for typo in ("mse_k8", "test", "test/", "/mse"):
        with pytest.raises(ConfigError, match="begins with its split, such as test/mse_k8"):
            metric_of(typo, [eight])


@pytest.mark.parametrize("levels", ["4,8", "8,4"])
def test_cells_of_unlike_levels_are_compared_at_the_one_that_is_named(levels):
    """Not at that of whichever was typed first."""
    cells = grid(f"dictionary.n_nonzero_coefs={levels}")
    configs = [load_config("digits", None, list(cell.assignments)) for cell in cells]
    with pytest.raises(ConfigError, match=r"n_nonzero_coefs = 4, 8.*--metric test/mse_k"):
        metric_of(None, configs)
    assert metric_of("test/mse_k4", configs) == "test/mse_k4"


def row(value, **more):
    metrics = {} if value is None else {"m": value}
    return {
        "settings": {"a": str(value)}, "state": "finished", "run_id": "abcdefghij", "seconds": 1.0,
        "config_digest": "d", "error": "", "metrics": metrics, **more,
    }  # fmt: skip


def test_cells_are_ranked_and_failed_ones_kept():
    failed = row(None, state="failed", run_id="", seconds=None, error="it | broke")
    rows = [row(2.0), failed, row(1.0), row(math.nan), row(3.0)]
    up, down = ranked(rows, "m", largest=False), ranked(rows, "m", largest=True)
    assert [r["metrics"].get("m") for r in up[:3]] == [1.0, 2.0, 3.0]
    assert [r["metrics"].get("m") for r in down[:3]] == [3.0, 2.0, 1.0]
    assert best_of(up, "m")["metrics"]["m"] == 1.0
    assert best_of(ranked([failed], "m", largest=False), "m") is None
    lines = as_markdown(up, "m").splitlines()
    assert len(lines) == 7
    assert "it \\| broke" in as_markdown(up, "m")
    table = list(csv.DictReader(as_csv(up).splitlines()))
    assert [line["state"] for line in table].count("failed") == 1
    assert table[0]["m"] == "1.0"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_the_best_and_json_has_no_word_for_it(value):
    from tasks.sweep import row_of

    rows = ranked([row(value), row(value)], "m", largest=True)
    assert best_of(rows, "m") is None
    assert best_lacks(rows, "m") == "no cell is the best: m is no finite number in any of them"
    found = {"run_id": "r", "seconds": 1.0, "report": "x", "metrics": {"m": value, "n": 1.0}}
    told = row_of(grid("seed=0")[0], found)
    assert json.loads(json.dumps(told, allow_nan=False))["metrics"] == {"m": None, "n": 1.0}
    assert best_of([told], "m") is None
    assert as_markdown([told], "m").splitlines()[2].startswith("| 0 | - |")
    assert next(csv.DictReader(as_csv([told]).splitlines()))["m"] == ""


def test_a_metric_that_no_cell_has_is_an_error_that_lists_them(monkeypatch, capsys, tmp_path):
    import vaesc.cli.sweep as command
    from vaesc.cli import main

    def sweep(preset, config_file, settings, grid, metric, largest):
        return {
            "cells": [row(1.0)], "best": None, "metric": metric, "largest": largest,
            "n_failed": 0, "table": "t", "run_id": "r", "seconds": 1.0,
        }  # fmt: skip

    fake = SimpleNamespace(connect=lambda: None, sweep=sweep)
    monkeypatch.setattr(command, "import_module", lambda name: fake)
    code = main(
        ["sweep", "--home", str(tmp_path), "--json", "--grid", "seed=0", "--metric", "test/mes"]
    )
    said = capsys.readouterr()
    assert code == 1
    assert json.loads(said.out)["best"] is None
    assert said.err.startswith("vaesc: no cell has the metric test/mes; name another (--metric)")
    assert said.err.rstrip().endswith("from the cache: m")
    assert best_lacks([row(None, state="failed")], "m") is None


@pytest.mark.slow
@pytest.mark.service
@pytest.mark.timeout(600)
@pytest.mark.long
def test_two_cells_make_one_table_and_a_third_fails_alone(project):
    sweep = (
        "sweep", "--config", str(project.config), "--set", "refine.epochs=0",
        "--set", "evaluation.topk_epochs=0", "--metric", "test/mse_k2", "--json",
    )  # fmt: skip
    done = project.vaesc(
        *sweep, "--set", "training.max_rollbacks=0",
        "--grid", "training.learning_rate=1e-3,2e-3,1e30",
    )  # fmt: skip
    assert done.returncode == 1, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert [cell["state"] for cell in found["cells"]] == ["finished", "finished", "failed"]
    errors = [cell["metrics"]["test/mse_k2"] for cell in found["cells"][:2]]
    assert errors == sorted(errors)
    assert found["best"] == found["cells"][0]
    assert found["cells"][2]["error"].startswith("the run of cell training.learning_rate=1e+30")
    assert found["n_failed"] == 1
    table = list(csv.DictReader(Path(found["table"]).read_text().splitlines()))
    assert float(table[0]["test/mse_k2"]) == errors[0]
    program = f"""
import json
from vaesc.registry.tracking import connect
client = connect(create=False).client
run = client.get_run({found["run_id"]!r})
children = client.search_runs(
    [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{{run.info.run_id}}'")
files = [f.path for f in client.list_artifacts(run.info.run_id)]
names = [m.name for m in client.search_registered_models()]
print(json.dumps([run.info.status, run.data.metrics, len(children), files, names]))
"""
    status, metrics, n_children, files, names = json.loads(project.python(program))
    assert status == "FINISHED"
    assert metrics["test/mse_k2"] == errors[0]
    assert n_children == 3
    assert {"sweep.csv", "sweep.json"} <= set(files)
    assert names == ["vaesc-sweep"]


def test_what_cannot_be_is_said_before_anything_starts(tmp_path, capsys):
    from vaesc.cli import main

    home = tmp_path / "home"
    code = main(["sweep", "--home", str(home), "--grid", "x=1"])
    assert code == 2
    assert not home.exists()
    assert capsys.readouterr().err.startswith("vaesc: ")
