"""Every page, picture, heading and module that the project's files name is there."""

import re
from pathlib import Path

import pytest

THIS = Path(__file__).name
ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "benchmarks", "deployments", "docs", "flows", "tasks", "tests", "vaesc")
TEXT = {".md", ".py", ".yaml", ".toml", ".ini", ".json", ".example", ""}
NAMED = re.compile(
    r"(?<![\w/.:<>-])((?:\.\./)*(?:[\w-]+/)*[\w-]+\.md|(?:\.\./)*docs/[\w./-]*\w"
    r"|(?:flows|tasks|vaesc|deployments|benchmarks)/[\w/]+\.py)(#[\w-]+)?"
)
LINKED = re.compile(r"\]\((?!\w+:)([^)\s#]*)(#[\w-]+)?\)")
WRITTEN = {"FILE.md", "r.md"}
"""Names of what somebody writes: a placeholder in `--help`, and a test's."""


def text_files():
    """Return the project's own text files that may name others."""
    beside = [path for path in ROOT.iterdir() if path.is_file()]
    within = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    return [
        path
        for path in (*beside, *within, ROOT / "data" / "README.md")
        if path.suffix in TEXT and not {"corpus", "__pycache__", THIS} & set(path.parts)
    ]


def references(path):
    """Yield (path, anchor) of each page, picture or heading that a file names."""
    text = path.read_text(encoding="utf-8")
    found = LINKED.findall(text) if path.suffix == ".md" else []
    for name, anchor in {*found, *NAMED.findall(text)}:
        if name not in WRITTEN:
            yield name, anchor.removeprefix("#")


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.M)
    return {re.sub(r"[^\w -]", "", each.lower()).replace(" ", "-") for each in headings}


def missing(path):
    """Return what a file names and is not there: beside it, or from the project's folder."""
    gone = []
    for name, anchor in references(path):
        places = [path.parent / name if name else path, ROOT / name]
        there = next((place for place in places if place.exists()), None)
        if there is None or (anchor and anchor not in anchors(there)):
            gone.append(f"{name}#{anchor}" if anchor else name)
    return sorted(gone)


def test_every_page_picture_and_heading_that_a_file_names_is_there():
    files = text_files()
    assert len(files) > 500
    gone = {str(path.relative_to(ROOT)): missing(path) for path in files}
    assert {path: names for path, names in gone.items() if names} == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("# see docs/scale-deploying.md", ["docs/scale-deploying.md"]),
        ("[a](docs/scale.md#nowhere)", ["docs/scale.md#nowhere"]),
        ("| the log | flows/no_such.py |", ["flows/no_such.py"]),
        ("[a](#no-heading) and (docs/no-such.png).", ["#no-heading", "docs/no-such.png"]),
        ("docs/scale.md#deploying-on-a-cluster, https://elsewhere.org/docs/x.md", []),
    ],
)
def test_what_is_not_there_is_noticed(tmp_path, text, said):
    (tmp_path / "page.md").write_text(text)
    assert missing(tmp_path / "page.md") == said


def test_what_a_shard_costs_is_one_figure():
    cost = r"([\d.]+) CPU\s+seconds\s+beyond\s+its\s+work"
    pages = [(ROOT / name).read_text() for name in ("docs/scale.md", "CONTRIBUTING.md")]
    ours, theirs = (re.findall(cost, page) for page in pages)
    assert ours == theirs
    assert len(ours) == 1
