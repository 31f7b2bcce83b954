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
from report_samples import (
    HISTORY,
    METHODS,
    RUN,
    made_up_claim,
    made_up_results,
    write_evaluation,
)

from vaesc.config import settings
from vaesc.config_files import load_config
from vaesc.report.axes import ratio_ticks, spread
from vaesc.report.claim import render_claim, verdict_sentence
from vaesc.report.curves import draw_curve
from vaesc.report.html import render_report
from vaesc.report.posterior import draw_posterior
from vaesc.report.provenance import commands
from vaesc.report.rate import crossover_bits
from vaesc.report.sprites import as_picture
from vaesc.report.text import number


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_evaluation(tmp_path_factory.mktemp("report"))


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
            assert attributes.get(name, "data:").startswith(("data:", "#"))
    assert "default-src 'none'" in html
    assert len(html) < 5_000_000


def test_every_image_has_a_size_and_says_what_it_shows(html):
    images = [attributes for tag, attributes in Page(html).tags if tag == "img"]
    assert len(images) == 5  # error, rate, learning, posterior, refinement
    for image in images:
        assert len(image["alt"]) > 40
        assert int(image["width"]) >= 690
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
    assert re.findall(r"<td>(?:<b>)?([\d.]+)", row) == ["0.0167", "0.0300", "0.0200"]


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


def test_what_was_not_measured_is_a_dash(html):
    row = re.search(r"Title of vq</th>(.*?)</tr>", html)[1]
    assert re.findall(r"<td>(.*?)</td>", row) == ["0.00357", *["\N{EN DASH}"] * 2]


def test_the_two_of_the_verdict_come_first_then_peers_controls_and_the_floor(html):
    table = html[html.index("The numbers") :]
    order = ["Title of refined", "Title of pixel", "Others with the same k", "Title of vq",
             "Title of a_new_one", "Controls", "Title of shuffled", "Floor"]  # fmt: skip
    at = [table.index(words) for words in order]
    assert at == sorted(at)


def test_sections_whose_files_are_missing_are_left_out(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    results = made_up_results()
    del results["rate"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    for name in ("cards.json", "reconstructions.json", "refining.png"):
        (tmp_path / name).unlink()
    page = Page(render_report(tmp_path, history=HISTORY, run=RUN))
    assert page.open == []
    words = "".join(page.words)
    for title in ("At equal bits", "What atoms mean", "Reconstructions"):
        assert title not in words


def test_cards_show_the_numbers_of_the_file(folder, html):
    facts = json.loads((folder / "cards.json").read_text())
    cards = re.findall(r'<article class="card">(.*?)</article>', html)
    assert len(cards) == len(facts["cards"]) > 3
    for card, text in zip(facts["cards"], cards, strict=True):
        words = re.sub(r"<[^>]+>", "", text)
        assert words.startswith(f"Atom {card['atom']}")
        assert number(card["coefficient"]) in words
        assert f"{100 * card['purity']:.0f} %" in words
        assert number(abs(card["ablation"]["increase"])) in words
        assert text.count("<svg") == 2 + len(card["images"])
    assert "&lt;owl&gt;" in html
    assert "<owl>" not in html


def test_curves_at_equal_bits_cross_where_the_ratio_passes_1():
    ratio = [{"bits": 8, "ratio": 2.0}, {"bits": 32, "ratio": 0.5}, {"bits": 64, "ratio": 0.4}]
    assert crossover_bits(ratio) == pytest.approx([16.0])
    assert crossover_bits(ratio[1:]) == []


@pytest.fixture(scope="module")
def claim(folder):
    return render_claim(made_up_claim(), [folder] * 3, run=RUN)


def test_the_claims_report_is_whole_and_names_every_seed(claim):
    page = Page(claim)
    assert page.open == []
    words = "".join(page.words)
    for text in ("seed 5", "seed 7", "r6", "1.80", "2.20", "At equal bits", "Time to encode"):
        assert text in words
    assert "vaesc claim --preset digits --set seed=3 --seeds 3" in words
    assert not re.search(r"https?:", re.sub(r"base64,[A-Za-z0-9+/=]+", "", claim))


def test_the_claims_figures_do_not_depend_on_when_they_are_drawn(folder, claim):
    assert render_claim(made_up_claim(), [folder] * 3, run=RUN) == claim


def test_the_claims_sentence_says_what_the_claims_say():
    found = made_up_claim()
    text = verdict_sentence(found)
    assert text.startswith("The claim held at 1 of 3 sparsity levels: over 3 seeds")
    assert "better at k = 4; worse at k = 1; elsewhere no difference" in text
    for word, opening in (("better", "held at every"), ("worse", "did not hold at any")):
        claims = [{**c, "verdict": word} for c in found["claim"]]
        assert opening in verdict_sentence({**found, "claim": claims})
    assert verdict_sentence({**found, "verdict": "It held: so."}) == "It held: so."


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
