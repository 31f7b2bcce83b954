"""The report and its figures: self-contained, escaped, legible by machines too."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaesc.config import settings
from vaesc.config_files import load_config
from vaesc.report.curves import draw_curve, draw_history, ratio_ticks, spread
from vaesc.report.html import render_report
from vaesc.report.mosaics import as_picture
from vaesc.report.posterior import draw_posterior
from vaesc.report.provenance import commands
from vaesc.report.text import number

LEVELS = [1, 2, 4]
METHODS = ["article", "pixel", "literal", "random", "largest", "pca_latents", "pca"]
HISTORY = [
    {"train/negative_elbo": 30.0 - i, "validation/negative_elbo": 31.0 - i} for i in range(5)
]


def made_up_results():
    curves = {
        name: {
            "mse": [0.05 / (i + 1), 0.03, 0.02], "low": [0.04 / (i + 1), 0.029, 0.019],
            "high": [0.06 / (i + 1), 0.031, 0.021], "psnr_db": [13.0, 15.2, 17.0],
            "title": f"Title of {name}", "about": "What <it> does & why.", "space": "latent",
        }
        for i, name in enumerate(METHODS)
    }  # fmt: skip
    curves["article"]["fvu"] = [0.5, 0.25, 0.1]
    claim = [
        {"k": 1, "ratio": 2.0, "low": 1.9, "high": 2.1, "verdict": "worse"},
        {"k": 2, "ratio": 1.0, "low": 0.97, "high": 1.02, "verdict": "no difference shown"},
        {"k": 4, "ratio": 0.8, "low": 0.78, "high": 0.81, "verdict": "better"},
    ]
    metrics = {
        "test/negative_elbo": 25.0, "test/distortion": 20.0, "test/kl": 5.0,
        "test/active_units": 6.0, "test/dead_fraction": 0.25, "train/mutual_coherence": 0.9,
    }  # fmt: skip
    return {
        "source": "a <source>", "shape": [8, 8], "n_train": 1200, "n_test": 397, "latent_dim": 6,
        "n_atoms": 32, "n_nonzero_coefs": 2, "relearn": True, "coder": "ols", "levels": LEVELS,
        "order": METHODS, "methods": curves,
        "vae": {"mse": 0.015, "low": 0.014, "high": 0.016, "psnr_db": 18.2},
        "claim": claim, "crossover": [{"k": 2.0, "between": [2, 4], "ahead": "article"}],
        "verdict": "The claim held at 1 of 3 sparsity levels: at k = 4 <b>.", "metrics": metrics,
        "notes": ["A note."],
    }  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    results = made_up_results()
    (folder / "results.json").write_text(json.dumps(results))
    draw_curve(results, folder)
    draw_history(HISTORY, folder)
    for name in ("reconstructions", "atoms"):
        for theme in ("", "-dark"):
            content = (folder / f"curve{theme}.png").read_bytes()
            (folder / f"{name}{theme}.png").write_bytes(content)
    return folder


RUN = {
    "run_id": "abc",
    "config": settings(load_config("digits", None, ["seed=3"])),
    "steps": [{"name": "train", "state": "cached", "seconds": 1.25, "digest": "d" * 64}],
    "tags": {"system.python": "3.11", "x": "<script>alert(1)</script>"},
}


@pytest.fixture(scope="module")
def html(folder):
    return render_report(folder, history=HISTORY, run=RUN)


class Page(HTMLParser):
    """Collects tags and checks that they are closed in order."""

    VOID = frozenset({"meta", "img", "br", "source"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


def test_the_report_needs_nothing_from_elsewhere(html):
    page = Page(html)
    assert page.open == []
    text = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", html)
    assert not re.search(r"https?:|url\(|@import|//", text)
    for tag, attributes in page.tags:
        assert tag not in {"script", "link", "iframe", "object", "form"}
        for name in ("src", "srcset", "href"):
            assert attributes.get(name, "data:").startswith("data:")
    assert "default-src 'none'" in html
    assert len(html) < 5_000_000


def test_every_image_has_a_size_and_says_what_it_shows(html):
    images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert len(images) == 4
    for image in images:
        assert len(image["alt"]) > 40
        assert int(image["width"]) == 990
        assert int(image["height"]) > 100


def test_the_verdict_comes_first_and_markup_in_data_stays_text(html):
    page = Page(html)
    words = " ".join("".join(page.words).split())
    assert words.index("The claim held at 1 of 3") < words.index("Error against sparsity")
    for text in ("a <source>", "What <it> does & why.", "<script>alert(1)</script>", "<b>."):
        assert text in words.replace("\xa0", " ")


def test_the_table_holds_every_method_at_every_level(html):
    for name in METHODS:
        assert f"Title of {name}" in html
    row = re.search(r"Title of pixel</th>(.*?)</tr>", html)[1]
    assert re.findall(r"<td>(?:<b>)?([\d.]+)", row) == ["0.0250", "0.0300", "0.0200"]


@pytest.mark.parametrize(
    ("relearn", "words"),
    [(True, "learned anew for every k"), (False, "learned once, at k = 2, and used at every k")],
)
def test_the_report_says_how_dictionaries_were_learned(folder, tmp_path, relearn, words):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    results = {**made_up_results(), "relearn": relearn}
    (tmp_path / "results.json").write_text(json.dumps(results))
    html = render_report(tmp_path, history=[], run={})
    assert words in html
    assert "<li>A note.</li>" in html


def test_a_run_of_which_nothing_is_known_has_a_report_too(folder):
    assert Page(render_report(folder, history=[], run={})).open == []


def test_the_command_makes_the_same_config_again():
    changes = ["seed=3", "vae.hidden=[30, 20]", "dictionary.coder=omp", "dataset.limit=500"]
    for config in (
        load_config("digits", None, changes),
        load_config("arrays", None, ["dataset.path=my images.npy", "vae.beta=0.5"]),
    ):
        (command,) = commands({"config": settings(config)})
        words = shlex.split(command)
        assert words[:3] == ["vaesc", "run", "--preset"]
        assignments = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
        assert load_config(words[3], None, assignments) == config


def test_rendering_imports_neither_torch_nor_matplotlib():
    code = (
        "import sys, vaesc.report.html; "
        "sys.exit(bool({'torch', 'matplotlib', 'numpy', 'zarr'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_figures_have_the_same_bytes_again_whatever_the_users_matplotlib_says(folder, tmp_path):
    import matplotlib as mpl

    with mpl.rc_context({"font.size": 30, "axes.grid": True, "savefig.dpi": 20}):
        draw_curve(made_up_results(), tmp_path)
    for name in ("curve.png", "curve-dark.png"):
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()
    assert (folder / "curve.png").read_bytes() != (folder / "curve-dark.png").read_bytes()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9).map(sorted))
def test_labels_are_spread_in_order_and_stay_inside(at):
    moved = spread(np.array(at), 0.05)
    assert np.all(np.diff(moved) >= 0.05 - 1e-9)
    assert moved[0] >= -1e-9
    assert moved[-1] <= 1 + 1e-9


def test_labels_far_apart_stay_where_they_are():
    np.testing.assert_allclose(spread(np.array([0.1, 0.5, 0.9]), 0.05), [0.1, 0.5, 0.9])


@given(st.floats(0.001, 0.9), st.floats(1.1, 1000))
def test_ratio_axes_have_few_ticks_and_always_one_at_1(low, high):
    ticks = ratio_ticks(low, high)
    assert 1 in ticks
    assert len(ticks) <= 6 or high / low > 1e5
    assert all(low <= tick <= high for tick in ticks)


@pytest.mark.parametrize(
    ("shape", "shown"),
    [((5, 7), (5, 7)), ((3, 5, 7), (5, 7, 3)), ((1, 5, 7), (5, 7)), ((2, 5, 7), (5, 14)),
     ((9,), (3, 3)), ((7,), (3, 3))],
)  # fmt: skip
def test_every_shape_of_image_can_be_shown(shape, shown):
    image = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    picture = as_picture(image)
    assert picture.shape == shown
    assert np.nansum(picture) == image.sum()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.012345, "0.0123"), (0.00628, "0.00628"), (0.999, "0.999"), (1.0, "1.00"), (14.1, "14.1"),
     (238.118, "238"), (54000.0, "54,000"), (0, "0"), (1e-9, "1e-09"), (None, "\N{EN DASH}")],
)  # fmt: skip
def test_numbers_have_three_digits(value, text):
    assert number(value) == text


def test_the_kl_of_each_dimension_is_drawn_for_any_number_of_both(tmp_path):
    for name, epochs, dimensions in (("one", 1, 1), ("many", 3, 40), ("none", 2, 5)):
        (tmp_path / name).mkdir()
        kl = np.zeros((epochs, dimensions)) if name == "none" else np.ones((epochs, dimensions))
        draw_posterior(kl.tolist(), tmp_path / name)
        assert {f.name for f in (tmp_path / name).iterdir()} == {
            "posterior.png", "posterior-dark.png",
        }  # fmt: skip
