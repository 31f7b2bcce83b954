"""Reports in a real browser: no complaint, no request, no wider than a phone, all described."""

import os
import re

import pytest
from chromium import EXECUTABLE, Browser
from report_samples import HISTORY, RUN, made_up_claim, made_up_results, write_evaluation

from vaesc.report.claim import render_claim
from vaesc.report.html import render_report

REQUIRED = os.environ.get("VAESC_REQUIRE_BROWSER") == "1"
pytestmark = pytest.mark.skipif(
    EXECUTABLE is None and not REQUIRED, reason="there is no Chromium here"
)
RATE = made_up_results()["rate"]
PAGES = ("grey", "colour", "claim")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, shape in (("grey", (8, 8)), ("colour", (3, 16, 16))):
        (folder / f"{name}-evaluation").mkdir()
        evaluation = write_evaluation(folder / f"{name}-evaluation", shape)
        html = render_report(evaluation, history=HISTORY, run=RUN)
        (folder / f"{name}.html").write_text(html, encoding="utf-8")
    claim = render_claim({**made_up_claim(), "rate": RATE}, [evaluation] * 3, run=RUN)
    (folder / "claim.html").write_text(claim, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def browser():
    with Browser() as browser:
        yield browser


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_without_complaint_and_is_no_wider_than_the_screen(
    pages, browser, name, dark, width
):
    browser.open(pages / f"{name}.html", width=width, dark=dark)
    assert browser.complaints() == ([], [])
    assert browser.value("document.documentElement.scrollWidth") == width
    outside = browser.value(
        "[...document.querySelectorAll('body *')].filter(e => !e.closest('.scroll table')"
        f" && !e.closest('svg.sheet') && !e.closest('svg.cut use')"
        f" && e.getBoundingClientRect().right > {width} + .5).map(e => e.outerHTML.slice(0, 80))"
    )
    assert outside == []
    assert browser.value(
        "[...document.querySelectorAll('.card')].every(c => [...c.querySelectorAll('dl *')]"
        ".every(e => e.getBoundingClientRect().right <= c.getBoundingClientRect().right - 5))"
    )
    background = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background)[:3])) < 200) == dark


@pytest.mark.parametrize("name", PAGES)
def test_every_picture_is_loaded_shown_and_described(pages, browser, name):
    browser.open(pages / f"{name}.html")
    assert browser.value(
        "[...document.images].every(i => i.complete && i.naturalWidth > 0 && i.alt.length > 40)"
    )
    assert browser.value("document.images.length") >= 2
    cuts = "[...document.querySelectorAll('svg.cut')]"
    assert browser.value(f"{cuts}.length") > 50
    assert browser.value(f"{cuts}.every(s => s.getAttribute('aria-label').length > 15)")
    assert browser.value(f"{cuts}.every(s => s.getBoundingClientRect().height > 5)")
    # Every cut is of a sheet that is there, and lies inside it.
    assert browser.value(
        f"{cuts}.every(s => [...s.querySelectorAll('use')].every(u => {{"
        "const i = document.querySelector(u.getAttribute('href')), v = s.viewBox.baseVal;"
        "return i && v.x + v.width <= +i.getAttribute('width')"
        " && v.y + v.height <= +i.getAttribute('height')}))"
    )


def test_a_phone_gets_the_narrow_figure_and_the_dark_the_dark_one(pages, browser):
    seen = set()
    for width, dark in ((390, False), (390, True), (1280, False), (1280, True)):
        browser.open(pages / "grey.html", width=width, dark=dark)
        seen.add(browser.value("document.images[0].currentSrc"))
        shown = browser.value("getComputedStyle(document.querySelector('.cut .dark')).display")
        assert (shown != "none") == dark
    assert len(seen) == 4


def test_words_are_large_enough_to_read_on_a_phone(pages, browser):
    browser.open(pages / "grey.html", width=390)
    smallest = browser.value(
        "Math.min(...[...document.querySelectorAll('main *')].filter(e => e.innerText)"
        ".map(e => parseFloat(getComputedStyle(e).fontSize)))"
    )
    assert smallest >= 11


def test_a_page_can_be_printed_and_sent(pages, browser, tmp_path):
    for name in PAGES:
        browser.open(pages / f"{name}.html")
        browser.pdf(tmp_path / "page.pdf")
        assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
        assert (pages / f"{name}.html").stat().st_size < 5_000_000
