"""Identical runs at once, on one store and one run database: all complete, nothing twice."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections import Counter

from tests.faults.injector import Injection, Point
from tests.faults.lane import ROOT, Lane
from tests.faults.trial import Trial, Truth, recover


def attempt(lane: Lane, n: int, truth: Truth) -> Trial:
    """Start `n` identical runs in processes of their own, and say all that is wrong."""
    trial = Trial(Injection(f"{n} runs at once", Point("start", "all steps")), "all")
    lane.empty()
    command = [
        sys.executable, "-m", "vaesc", "run", "--json", "--config",
        str(lane.folder / "small.toml"),
    ]  # fmt: skip
    started = time.monotonic()
    runs = [
        subprocess.Popen(
            command, env=lane.environment, cwd=ROOT, text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(n)
    ]  # fmt: skip
    computed: Counter[str] = Counter()
    for run in runs:
        out, err = run.communicate(timeout=900)
        if run.returncode:
            trial.wrong.append(f"one ended with {run.returncode}: {err[-600:]}")
            continue
        steps = json.loads(out)["steps"]
        computed.update(s["digest"] for s in steps if s["state"] == "computed")
    trial.code = max(run.returncode for run in runs)
    twice = [digest for digest, times in computed.items() if times > 1]
    if twice:
        trial.wrong.append(f"{len(twice)} steps were computed more than once")
    home = lane.look()
    recover(lane, trial, truth, home.contents())
    trial.seconds = round(time.monotonic() - started, 2)
    return trial
