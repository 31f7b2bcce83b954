"""Known vulnerabilities of every version that we pin: ``make audit``.

pip-audit asks an advisory service. Of a package that the service does not know it says "no known
vulnerabilities" all the same, so that a mirror without advisories makes every audit green. Here a
version that is known to be vulnerable is asked for first, and what was not audited is a failure.

Exit codes: 0 nothing known, 1 something known, 2 not, or not wholly, audited.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
FILES = (ROOT / "constraints.txt", ROOT / "requirements.lock")
VULNERABLE = "pyyaml==5.3"
"""CVE-2020-14343; a service that does not know it knows nothing."""
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)
_SIGNS = re.compile(r"[-_.]+")
"""One and the same in a package's name."""


class AuditError(Exception):
    """The audit could not be made."""


def pins(texts: Iterable[str]) -> list[str]:
    """Return ``name==version`` of every line, whatever platform it is for, once."""
    found = {pin for text in texts for pin in _PIN.findall(text)}
    return sorted({f"{_SIGNS.sub('-', name).lower()}=={version}" for name, version in found})


def ask(wanted: list[str], options: list[str]) -> list[dict[str, Any]]:
    """Return what pip-audit says of each version.

    Raises:
        AuditError: It did not come to an answer.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(wanted))
        file.flush()
        done = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "--format", "json",
             "--progress-spinner", "off", "--requirement", file.name, *options],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError) as error:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise AuditError(f"pip-audit could not ask its advisory service: {said[-1]}") from error
    return found


def check_service(options: list[str]) -> None:
    """Ask for a version that is known to be vulnerable.

    Raises:
        AuditError: The service does not answer, or knows nothing of it.
    """
    if not any(each.get("vulns") for each in ask([VULNERABLE], options)):
        raise AuditError(
            f"the advisory service knows nothing of {VULNERABLE}, which is vulnerable: what "
            "answers here is no advisory service"
        )


def report(found: list[dict[str, Any]]) -> int:
    """Print what is known, and what could not be audited; return the exit code."""
    skipped = [each["name"] for each in found if "skip_reason" in each]
    known = [(each, vulnerability) for each in found for vulnerability in each.get("vulns", [])]
    for each, vulnerability in known:
        mended = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        print(f"{each['name']} {each['version']}: {vulnerability['id']}, mended in {mended}")
    if skipped:
        print(f"{len(skipped)} of {len(found)} not audited: {', '.join(skipped)}")
    if not known:
        print(f"no known vulnerability in {len(found) - len(skipped)} pinned versions")
    return 1 if known else 2 if skipped else 0


def main(options: list[str]) -> int:
    """Audit every pinned version; `options` go to pip-audit."""
    try:
        check_service(options)
        return report(ask(pins(file.read_text() for file in FILES), options))
    except AuditError as error:
        print(
            f"audit: {error}; nothing was audited. Run `make audit` where an advisory service "
            "can be reached, or name another one (ARGS='--vulnerability-service osv')",
            file=sys.stderr,
        )
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
