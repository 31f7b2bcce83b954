"""What is installed: pinned, hashed, without a word on where from; and an audit that can fail."""

import json
import re
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deployments import audit

ROOT = Path(__file__).parents[1]
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
LOCK = (ROOT / "requirements.lock").read_text()
ENTRY = re.compile(r"^(\S+==[^\\\n]+?) \\\n((?:    --hash=\S+(?: \\)?\n)+)", re.MULTILINE)
NOT_FOR_EVERYBODY = {"atheris"}
"""Of the extra `fuzz`, which `.[dev]` has not."""


def test_every_line_of_the_lock_is_a_version_and_its_hashes():
    assert ENTRY.sub("", LOCK) == ""
    for requirement, hashes in ENTRY.findall(LOCK):
        assert str(Requirement(requirement).specifier).startswith("=="), requirement
        for each in hashes.split():
            assert each == "\\" or re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each), requirement


@pytest.mark.parametrize("text", [CONSTRAINTS, LOCK])
def test_no_pin_says_where_it_comes_from(text):
    assert not re.search(r"://|^\s*-[^-]|--(?!hash=)|^#|@|/", text, re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="constraints.txt is frozen on Linux")
def test_what_linux_installs_with_hashes_is_what_it_installs_without():
    found = [Requirement(requirement) for requirement, _ in ENTRY.findall(LOCK)]
    here = [r for r in found if not r.marker or r.marker.evaluate({"python_version": "3.11"})]
    hashed = set(audit.pins(f"{r.name}{r.specifier}\n" for r in here))
    plain = {p for p in audit.pins([CONSTRAINTS]) if p.split("==")[0] not in NOT_FOR_EVERYBODY}
    assert hashed == plain


CANARY = {"name": "pyyaml", "version": "5.3", "vulns": [{"id": "A-1", "fix_versions": ["5.4"]}]}
CLEAN = {"name": "torch", "version": "2.14.1", "vulns": []}
UNKNOWN = {"name": "torch", "skip_reason": "not found"}


@pytest.fixture
def answers(tmp_path, monkeypatch):
    """Let a stand-in for pip-audit give these answers, one after the other."""

    def prepare(*given):
        for number, answer in enumerate(given):
            said = answer if isinstance(answer, str) else json.dumps({"dependencies": answer})
            (tmp_path / f"{number}.answer").write_text(said)
        (tmp_path / "pip_audit.py").write_text(
            "from pathlib import Path\n"
            "first = min(Path(__file__).parent.glob('*.answer'))\n"
            "print(first.read_text())\nfirst.unlink()\nraise SystemExit('Service: no answer')\n"
        )
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return prepare


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ([[CANARY], [CLEAN]], 0, "no known vulnerability in 1 pinned versions"),
        ([[CANARY], [CANARY, CLEAN]], 1, "pyyaml 5.3: A-1, mended in 5.4"),
        ([[CANARY], [CLEAN, UNKNOWN]], 2, "1 of 2 not audited: torch"),
        ([[UNKNOWN]], 2, "knows nothing of pyyaml==5.3"),
        ([[{**CANARY, "vulns": []}]], 2, "knows nothing of pyyaml==5.3"),
        (["Traceback"], 2, "could not ask its advisory service: Service: no answer"),
        ([[CANARY], "Traceback"], 2, "could not ask its advisory service: Service: no answer"),
    ],
)
def test_only_a_whole_audit_that_finds_nothing_is_good(given, code, said, answers, capsys):
    answers(*given)
    assert audit.main([]) == code
    assert said in "".join(capsys.readouterr())


def test_pins_of_every_platform_are_audited():
    pins = audit.pins([CONSTRAINTS, LOCK])
    for name in ("pywin32", "waitress", "nvidia-cublas", "torch", "atheris", "ruamel-yaml"):
        assert sum(pin.startswith(f"{name}==") for pin in pins) == 1, name
