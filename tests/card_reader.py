"""A model card read back: its sections, its tables, the numbers in a cell."""

import re

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:e[-+]\d+)?")


def section(card, title):
    """Return the text under a heading of the second rank."""
    return re.search(rf"^## {title}\n\n(.*?)(?=\n\n## |\Z)", card, re.MULTILINE | re.DOTALL)[1]


def tables(text):
    """Return each table as rows of cells, its heads first."""
    found = []
    for block in text.split("\n\n"):
        lines = block.splitlines()
        if len(lines) > 1 and re.fullmatch(r"\|( --- \|)+", lines[1]):
            cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in (lines[0], *lines[2:])]
            assert len({len(row) for row in cells}) == 1, block
            found.append([[cell.replace("&emsp;", "").strip() for cell in row] for row in cells])
    return found


def numbers(cell):
    """Return the numbers of a cell."""
    return [float(each.replace(",", "")) for each in _NUMBER.findall(cell)]
