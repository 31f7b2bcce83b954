"""``vaesc reproduce``: run a recorded run again, and hold every byte against what it recorded."""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import textwrap
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vaesc.cli.files import local
from vaesc.errors import VaescError
from vaesc.progress import Listener

if TYPE_CHECKING:
    from vaesc.reproduction import Verdict

LOGS = "tasks.logs"
PROOF = "reproduction.json"
_SHOWN_METRICS = 10


def add_commands(
    commands: argparse._SubParsersAction[argparse.ArgumentParser], common: argparse.ArgumentParser
) -> None:
    """Add this module's command to the parser."""
    parser = commands.add_parser(
        "reproduce",
        parents=[common],
        help="run a recorded run again and compare every byte",
        description="From nothing but the MLflow run: restore its config, warn of what is not as "
        "it was (versions, commit, machine), run every step again in a folder of its own, and say "
        "of each whether it is identical. Nothing is registered, and nothing is written to MLflow "
        "or to the store; images that are nowhere on this machine are downloaded. After a step "
        "that differs, those that work on it are run too, since their metrics say how far the "
        "difference goes; after other data, nothing is. Exit code 0 if all is identical, 1 if "
        "not.",
    )
    parser.add_argument(
        "run", metavar="RUN",
        help="id of a pipeline run in MLflow; or an alias, version or models:/NAME/VERSION, for "
        "the run that registered that model",
    )  # fmt: skip
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c",
        help="where the data lies now (dataset.path, dataset.labels, dataset.folder, "
        "dataset.download), or how to compute (runtime.*)",
    )  # fmt: skip
    parser.add_argument("--name", default="vaesc", help="registered model (default: vaesc)")
    parser.add_argument(
        "--keep", type=local, metavar="DIR",
        help=f"keep what was made, and {PROOF}, in a folder that is not there yet; without it "
        "everything is made in a temporary folder ($TMPDIR) and removed",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print one JSON object, nothing else")
    parser.set_defaults(function=reproduce, kept="nothing that was made again is kept")


def reproduce(options: argparse.Namespace) -> int:
    """Run a run again; 1 if anything is not as recorded."""
    logs = import_module(LOGS)  # before torch: it says how torch's threads are to wait
    out = sys.stderr if options.json else sys.stdout
    with _folder(options.keep) as folder:
        from vaesc.registry.recorded import recorded_run
        from vaesc.reproduction import (
            config_warnings,
            environment_warnings,
            restored_config,
        )
        from vaesc.reproduction import reproduce as run_again

        run = recorded_run(options.run, name=options.name)
        config = restored_config(run, options.set)
        _check_data(config, options.set)
        warnings = [*config_warnings(run, config)]
        warnings += environment_warnings(run, config.runtime.device)
        _say(f"run      {run.run_id}", out)
        for warning in warnings:
            _say(f"warning  {warning}", out)
        found = run_again(
            run, config, folder, shown=_Progress(logs), heard=lambda v: _say(told(v), out)
        )
        found |= {"warnings": warnings, "kept": str(options.keep) if options.keep else None}
        text = json.dumps(found, allow_nan=False)
        (folder / PROOF).write_text(text + "\n", encoding="utf-8")
    print(text if options.json else concluded(found))
    return 0 if found["identical"] else 1


def told(verdict: Verdict) -> str:
    """Return a verdict as people read it, on one line."""
    start = f"{verdict.step:<9}"
    if verdict.outcome == "not run":
        return f"{start}not run    it would follow from {verdict.cause}"
    other = f"  (not the same: {', '.join(verdict.other_input)})" if verdict.other_input else ""
    if verdict.outcome == "identical":
        return f"{start}identical  {verdict.content}{other}"
    first = verdict.differences[0]
    what = f"file {first.file}" if first.file else "content"
    expected, got = first.expected or "no such file", first.got or "no such file"
    found = f"first difference: {what}, expected {expected}, got {got}"
    if len(verdict.differences) > 1:
        found += f" ({len(verdict.differences)} files differ)"
    if verdict.outcome == "follows":
        return f"{start}follows    from {verdict.cause}; {found}"
    return f"{start}DIFFERS    {found}{other}"


def concluded(found: dict[str, Any]) -> str:
    """Return the outcome as people read it."""
    metrics, steps = found["metrics"], found["steps"]
    different, lines = metrics["different"], []
    for each in different[:_SHOWN_METRICS]:
        lines.append(
            f"metrics  DIFFERS    {each['name']}: expected {each['expected']}, got {each['got']}"
        )
    if len(different) > _SHOWN_METRICS:
        lines.append(f"metrics  DIFFERS    {len(different) - _SHOWN_METRICS} more; see --json")
    if not metrics["compared"]:
        lines.append("metrics  not run")
    elif not different:
        lines.append(f"metrics  identical  all {metrics['compared']}")
    same = sum(step["outcome"] == "identical" for step in steps)
    first = next((s["step"] for s in steps if s["outcome"] != "identical"), "the metrics")
    verdict = (
        f"identical: every byte of all {same} steps, and every metric"
        if found["identical"]
        else f"not identical: {same} of {len(steps)} steps are; the first difference is in {first}"
    )
    lines += ["", *textwrap.wrap(f"{verdict}. {found['seconds']:.1f} s.", 96)]
    if found["kept"]:
        lines.append(f"kept     {found['kept']}")
    return "\n".join(lines)


def _say(line: str, out: TextIO) -> None:
    print(line, file=out, flush=True)


def _folder(keep: Path | None) -> AbstractContextManager[Path]:
    """Provide the empty folder in which all is made."""
    if keep is None:
        return _passing_folder()
    from vaesc.store import whole_or_absent

    return whole_or_absent(keep.expanduser().resolve())


@contextmanager
def _passing_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="vaesc-reproduce-") as folder:
        yield Path(folder)


def _check_data(config: Any, assignments: list[str]) -> None:  # noqa: ANN401 - a PipelineConfig
    """Refuse data that is not there before anything is run."""
    from vaesc.datasets import check

    try:
        check(config.dataset)
    except VaescError as error:
        if any(a.startswith("dataset.") for a in assignments):
            raise
        raise type(error)(
            f"{error}; if the data of the run lies elsewhere now, say where: --set dataset.path="
        ) from error


class _Progress:
    """Shows how far a step is, as `vaesc run` does: a bar on a terminal, else log lines."""

    def __init__(self, logs: Any) -> None:  # noqa: ANN401 - the module tasks.logs
        logging.basicConfig(format="%(message)s", stream=sys.stderr)
        self._logger = logging.getLogger("vaesc")
        self._logger.setLevel(logging.INFO)
        self._reporter = logs.ProgressReporter

    @contextmanager
    def __call__(self, step: str) -> Iterator[Listener]:
        """Provide the listener of one step."""
        reporter = self._reporter(step, self._logger)
        with reporter.shown():
            yield _Heard(reporter)


class _Heard(Listener):
    def __init__(self, reporter: Any) -> None:  # noqa: ANN401 - a ProgressReporter
        self._reporter = reporter

    def progress(self, done: float, total: float, **figures: float) -> None:
        self._reporter(done, total, **figures)
