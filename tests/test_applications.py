"""What applications find, and where it is shown: results.json, report, table of results."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.results import main as results
from vaesc.applications.findings import (
    Figure,
    Findings,
    Picture,
    Published,
    Table,
    read_findings,
    write_findings,
)
from vaesc.errors import DataError
from vaesc.parts import Part, load_part, save_part
from vaesc.report.applications import applications_sections
from vaesc.store import Spec, Store

finite = st.floats(-1e6, 1e6)


def figure(**given):
    return Figure(
        **{
            "key": "test/auroc", "what": "AUROC <of> it", "ours": 0.9, "method": "all | together",
            "better": "higher", "baseline": 0.8, "baseline_name": "PCA & co",
            "published": [Published(value=0.95, name="Deep", source="They, 2020")],
            **given,
        }
    )  # fmt: skip


def findings(*figures):
    return Findings(
        title="Anomaly detection", sentence="Ours is <better>.", figures=figures,
        tables=[Table(title="By class", head=["class", "AUROC"], rows=[["0", 0.5], ["1", None]])],
        pictures=[Picture(name="missing", alt="", caption="")], notes=["Nine are usual."],
        more=[("test/other", 1.0)],
    )  # fmt: skip


@given(ours=finite, goal=finite, better=st.sampled_from(["higher", "lower"]))
def test_a_goal_is_met_on_its_own_side_and_by_equality(ours, goal, better):
    met = figure(ours=ours, goal=goal, better=better).met
    assert met == (ours >= goal if better == "higher" else ours <= goal)
    assert figure(ours=goal, goal=goal, better=better).met
    assert figure(ours=ours, better=better).met is None


def test_findings_come_back_with_every_metric(tmp_path):
    made = findings(figure(goal=0.85), figure(key="test/b", ours=np.float32(2), better="lower"))
    assert dict(made.metrics()) == {"test/auroc": 0.9, "test/b": 2.0, "test/other": 1.0}


def test_what_is_no_number_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_findings(findings(figure(ours=float("nan"))), tmp_path)


def test_the_report_shows_goal_and_baseline_and_escapes_words(tmp_path):
    figures = figure(goal=0.85), figure(goal=0.99, shortfall="k-NN & more")
    write_findings(findings(*figures), tmp_path)
    (html,) = applications_sections([tmp_path])
    for shown in (
        "Ours is &lt;better&gt;", "PCA &amp; co", "AUROC &lt;of&gt; it", "k-NN &amp; more",
        '&ge; 0.850 <b class="better">met', '&ge; 0.990 <b class="worse">missed',
        "0.950 <small>Deep", "By class",
    ):  # fmt: skip
        assert shown in html


@pytest.mark.parametrize("text", ["", "{}", '{"format": 2}', "[1]", '{"format": 1'])
def test_what_is_no_findings_is_refused(text, tmp_path):
    if text:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(DataError, match="holds no findings"):
        read_findings(tmp_path)


def test_the_table_of_results_is_made_of_a_runs_artifacts(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("VAESC_HOME", str(tmp_path))
    spec = Spec(kind="anomaly", config={}, inputs={}, source="0" * 64)

    def build(folder):
        write_findings(findings(figure(goal=0.99, shortfall="More was tried.")), folder)
        return {"application": "anomaly"}

    made = Store().make(spec, build)
    step = {"name": "anomaly", "digest": made.digest, "state": "computed", "seconds": 12.3}
    run = {"seconds": 1234.5, "steps": [step, {"name": "train", "digest": "no matter"}]}
    (tmp_path / "mnist-all.json").write_text(json.dumps(run))
    monkeypatch.setattr(
        "sys.argv", ["", str(tmp_path / "mnist-all.json"), "--write", str(tmp_path / "r.md")]
    )
    assert results() == 0
    text = (tmp_path / "r.md").read_text()
    assert text in capsys.readouterr().out
    assert "`vaesc run --preset mnist-all`, 1,234 s in all" in text
    assert "| **0.900** all \\| together | 0.800 PCA & co | 0.950 Deep (They, 2020) |" in text
    assert ">= 0.990: **missed**" in text
    assert "- More was tried." in text


def test_equal_parts_are_equal_bytes_whatever_their_order(tmp_path):
    numbers = np.arange(6, dtype=np.int32).reshape(2, 3)
    for name, order in (("a", "xy"), ("b", "yx")):
        part = Part(arrays=dict.fromkeys(order, numbers.T), facts=dict.fromkeys(order, 1))
        save_part(part, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    np.testing.assert_array_equal(load_part(tmp_path / "a").arrays["x"], numbers.T)


@pytest.mark.parametrize("kind", ["F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "BF16", "C64"])
def test_a_part_of_a_type_that_numpy_lacks_is_refused(kind, tmp_path):
    n_bytes = {"F4": 2, "BF16": 8, "C64": 32}.get(kind, 4)
    header = {"x": {"dtype": kind, "shape": [4], "data_offsets": [0, n_bytes]}}
    text = json.dumps({"__metadata__": {"facts": "{}"}, **header}).encode()
    (tmp_path / "a").write_bytes(len(text).to_bytes(8, "little") + text + bytes(n_bytes))
    with pytest.raises(DataError, match=f"holds no part of a model .*'x' is of type {kind}"):
        load_part(tmp_path / "a")


def test_a_fact_beyond_floats_is_refused(tmp_path):
    save_part(Part(arrays={"x": np.ones(9)}, facts={"n": 12345}), tmp_path / "a")
    whole = (tmp_path / "a").read_bytes()
    (tmp_path / "a").write_bytes(whole.replace(b"12345", b"1e999"))
    with pytest.raises(DataError, match="1e999 is beyond floats"):
        load_part(tmp_path / "a")


@pytest.mark.parametrize("damage", ["cut", "header", "facts", "link", "missing"])
def test_a_part_that_is_none_is_refused(damage, tmp_path):
    from safetensors.numpy import save_file

    folder = tmp_path / "model"
    folder.mkdir()
    path = folder / "anomaly.safetensors"
    save_part(Part(arrays={"x": np.ones(9)}), path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-8])
    elif damage == "header":
        path.write_bytes(b"\xff" * 8 + whole[8:])
    elif damage == "facts":
        save_file({"x": np.ones(9)}, path, metadata={"facts": "[1]"})
    elif damage == "link":
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
    else:
        path.unlink()
    with pytest.raises(DataError, match="holds no part of a model"):
        load_part(path)
