"""One injection, and what became of it: broken, looked at, run again, looked at again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tests.faults.homes import VERSION, Reader
from tests.faults.injector import Injection
from tests.faults.lane import Lane, Run


@dataclass(frozen=True)
class Truth:
    """What an undisturbed run leaves."""

    contents: dict[str, str]
    models: dict[str, str]

    @staticmethod
    def of(lane: Lane) -> Truth:
        """Read it from a home in which one undisturbed run has completed."""
        home = lane.look()
        return Truth(home.contents(), home.models())


@dataclass
class Trial:
    """What was done, and everything that was wrong afterwards."""

    injection: Injection
    step: str
    """The step that was going on."""
    code: int = 0
    """How the broken run ended."""
    lost: int = 0
    """Finished steps that were computed again."""
    seconds: float = 0.0
    """What the next run took."""
    wrong: list[str] = field(default_factory=list)

    @property
    def survived(self) -> bool:
        """Whether nothing was wrong."""
        return not self.wrong

    def to_json(self) -> dict[str, Any]:
        """Return the trial as plain JSON values."""
        return {
            "fault": self.injection.fault, "point": str(self.injection.point), "step": self.step,
            "code": self.code, "lost": self.lost, "seconds": self.seconds, "wrong": self.wrong,
        }  # fmt: skip


def attempt(lane: Lane, injection: Injection, step: str, truth: Truth) -> Trial:
    """Break a run at a point, run again, and say all that is wrong."""
    trial = Trial(injection, step)
    lane.empty()
    with Reader(lane.home / "store") as reader:
        broken = lane.run(injection)
        lane.relieve()
        trial.code = broken.code
        trial.wrong += spoken(broken)
        before = lane.look()
        finished = before.contents()
        before.models()
        trial.wrong += [f"partial after the fault: {what}" for what in before.partial]
        recover(lane, trial, truth, finished)
    trial.wrong += [f"seen by a reader meanwhile: {what}" for what in sorted(reader.partial)]
    if not reader.n_read:
        trial.wrong.append("the reader found nothing to read")
    return trial


def recover(
    lane: Lane,
    trial: Trial,
    truth: Truth,
    finished: dict[str, str],
    environment: dict[str, str] | None = None,
    damaged: bool = False,
) -> None:
    """Run again, undisturbed, and hold what is there against the truth.

    `damaged` says that files of a registered version were damaged on purpose.
    """
    again = lane.run_anew(environment) if environment else lane.run()
    trial.seconds = again.seconds
    if again.code:
        trial.wrong.append(f"the next run ended with {again.code}: {again.said[-600:]}")
        return
    addresses = {key.partition("/")[2] for key in finished}
    trial.lost = len(addresses & again.computed())
    if trial.lost:
        trial.wrong.append(f"{trial.lost} finished steps were computed again")
    after = lane.look()
    if after.contents() != truth.contents:
        trial.wrong.append("the digests are not those of an undisturbed run")
    if list(after.models().values()) != list(truth.models.values()):
        trial.wrong.append(f"registered: {after.models()}, expected {truth.models}")
    if again.summary["model"]["aliases"] != ["champion"]:
        trial.wrong.append(f"aliases: {again.summary['model']['aliases']}")
    # A damaged version stays, as evidence; another takes its place.
    kept = (VERSION,) if damaged else ()
    trial.wrong += [what for what in after.partial if not what.startswith(kept)]
    trial.wrong += [f"left behind: {what}" for what in after.leftovers()]


def spoken(run: Run) -> list[str]:
    """Say what is wrong with how a run ended: it says one sentence, and never a traceback."""
    if run.code in (0, -9):
        return []
    if run.code == -1000:
        return ["it hung"]
    wrong = []
    if "Traceback" in run.said:
        wrong.append(f"a traceback: {run.said[-800:]}")
    if run.code < 0:
        wrong.append(f"ended by signal {-run.code}")
    elif not run.said.rstrip().rpartition("\n")[2].startswith("vaesc: "):
        wrong.append(f"no last word: {run.said[-300:]}")
    return wrong
