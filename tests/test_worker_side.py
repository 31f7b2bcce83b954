"""What a worker must be, and what is said of one that is not; without any."""

import re
from concurrent.futures import CancelledError, Future
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks import runs, worker_side, workers
from tasks.crew import Crew
from tasks.runs import Pipeline
from vaesc import source
from vaesc.arithmetic import THREAD_VARIABLES
from vaesc.config import RuntimeConfig
from vaesc.config_files import load_config
from vaesc.errors import ConfigError, VaescError
from vaesc.shards import Shard


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"version": "0", "source": "0" * 64},
            "has another vaesc (version 0, source 000000000000)",
        ),
        ({"torch": "9.9"}, "computes with torch=9.9, the process that leads with torch="),
        ({"instructions": "x86_64 AVX2"}, "computes with instructions=x86_64 AVX2, the process"),
    ],
)
def test_a_worker_of_another_kind_is_refused_in_a_sentence(other, sentence, tmp_path, monkeypatch):
    facts = worker_side.facts_of_worker(str(tmp_path))
    worker_side.require_alike({"tcp://there:1": facts}, worker_side.own_kind(), tmp_path)
    leader, kind = facts["kind"], {**facts["kind"], **other}
    with pytest.raises(ConfigError, match=re.escape(f"the worker tcp://there:1 {sentence}")):
        worker_side.require_alike({"tcp://there:1": {**facts, "kind": kind}}, leader, tmp_path)
    monkeypatch.setattr(worker_side, "own_kind", lambda: kind)  # one that came late
    with pytest.raises(ConfigError, match=re.escape(f"a worker {sentence}")):
        worker_side.computed_alike({}, leader, "batch")


def test_a_worker_that_cannot_do_our_work_is_refused_in_a_sentence(tmp_path):
    missing = {"tcp://there:1": ModuleNotFoundError("No module named 'tasks'")}
    with pytest.raises(ConfigError, match="cannot use vaesc"):
        worker_side.require_alike(missing, {}, tmp_path)
    blind = {"tcp://there:1": worker_side.facts_of_worker(str(tmp_path / "nothing"))}
    with pytest.raises(
        ConfigError, match=re.escape(f"does not see what this process writes to {tmp_path}: mount")
    ):
        worker_side.require_alike(blind, worker_side.own_kind(), tmp_path)


def test_what_is_compared_is_the_vaesc_that_is_loaded_and_not_what_was_edited_since(
    tmp_path, monkeypatch
):
    facts = worker_side.facts_of_worker(str(tmp_path))
    monkeypatch.setattr(source, "_PACKAGE", tmp_path)
    assert source.digest_of_source() != facts["kind"]["source"]
    worker_side.require_alike({"tcp://there:1": facts}, worker_side.own_kind(), tmp_path)


def test_workers_must_see_the_folder_of_the_parts_before_any_is_computed(tmp_path):
    class Elsewhere:
        status = "running"

        def run(self, function, path, on_error):
            asked.append(path)
            return {"tcp://there:1": {**function(path), "sees": False}}

    asked, crew = [], Crew(RuntimeConfig(runner="dask://there:8786"))
    crew._client = Elsewhere()
    parts = tmp_path / "parts"
    parts.mkdir()
    shard = Shard(name="score 0", function="", part=parts / "score-0", arguments={})
    with pytest.raises(
        ConfigError, match=re.escape(f"there:1 does not see what this process writes to {parts}: ")
    ):
        crew.map([shard], lambda shard, summary: None)
    assert [Path(path).parent for path in asked] == [parts]
    assert not list(parts.iterdir())


def test_a_shard_of_a_batch_that_was_given_up_is_not_begun():
    kind = worker_side.own_kind()
    assert worker_side.give_up("one") == 0
    with pytest.raises(VaescError, match="given up"):
        worker_side.computed_alike({}, kind, "one")
    with pytest.raises(KeyError):  # it is begun, and is no shard
        worker_side.computed_alike({}, kind, "two")
    assert worker_side.give_up("two") == 0


def test_a_cluster_that_does_not_start_is_told_by_whose_it_is():
    def said(**runtime):
        crew = Crew(RuntimeConfig(**runtime))
        crew._client = Silent()
        with pytest.raises(ConfigError) as error:
            crew._check()
        return str(error.value)

    class Silent:
        def wait_for_workers(self, n_workers, timeout):
            raise TimeoutError

    assert "start some (`dask worker there:8786`)" in said(runner="dask://there:8786")
    ours = said(runner="dask", workers=3)
    assert "3 processes did not start on this machine within 120 s" in ours
    assert "dask worker" not in ours


def test_without_the_extra_it_says_what_to_install(monkeypatch):
    monkeypatch.setattr(workers, "find_spec", lambda name: None)
    with (
        pytest.raises(ConfigError, match=r'pip install "vaesc\[dask\]"'),
        workers.workers(RuntimeConfig(runner="dask")),
    ):
        pass


@pytest.mark.parametrize(
    ("runner", "why"),
    [
        ("threads", "leave it 0, or set runtime.runner=dask for so many processes"),
        ("dask://there:8786", "that cluster has the workers that were started there"),
    ],
)
def test_a_number_of_workers_that_does_nothing_is_refused(runner, why):
    with (
        pytest.raises(ConfigError) as error,
        workers.workers(RuntimeConfig(runner=runner, workers=9)),
    ):
        pass
    assert str(error.value).startswith(f"workers=9 has no effect with runner={runner}: ")
    assert why in str(error.value)


def test_threads_are_started_by_who_scores_and_a_pipeline_of_many_has_its_own():
    assert workers.runtime_of("threads", 3) == RuntimeConfig()
    assert workers.runtime_of("dask", 3) == RuntimeConfig(runner="dask", workers=3)
    one = Pipeline("seed 0", "digits", None, ("runtime.runner=dask", "runtime.workers=8"))
    settings = [s for s in one.arguments() if "=" in s]
    runtime = load_config("digits", None, settings).runtime
    with workers.workers(runtime):  # as ``vaesc run`` does
        assert (runtime.runner, runtime.workers) == ("threads", 0)


def test_a_pipeline_s_process_computes_on_one_thread_of_every_library(monkeypatch):
    def popen(command, **options):
        raise BlockingIOError(" ".join(sorted(k for k, v in options["env"].items() if v == "1")))

    for name in THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(runs.subprocess, "Popen", popen)
    runs._OVER.clear()
    with pytest.raises(VaescError) as error:
        runs.run_pipeline.fn(Pipeline("seed 0", "digits", None, ()), {})
    assert set(THREAD_VARIABLES) <= set(str(error.value).split())
    assert "OPENBLAS_NUM_THREADS" in THREAD_VARIABLES


def test_pipelines_that_nobody_is_left_to_run_are_listed_and_what_ended_stands(monkeypatch):
    def submit(pipeline, environment):
        future = Future()
        if pipeline.name == "seed 0":
            future.set_result("ended")
        return future

    def require_worker():
        if not given:
            raise VaescError("all workers were lost")
        given.pop()

    given = [1, 2, 3]
    every = [Pipeline(f"seed {i}", "digits", None, ()) for i in range(3)]
    monkeypatch.setattr(runs, "run_pipeline", SimpleNamespace(submit=submit))
    monkeypatch.setattr(runs, "_LOOK_SECONDS", 0.01)
    runtime = RuntimeConfig(runner="dask://there:8786", workers=2)
    told = [str(found) for found in runs._side_by_side(every, "run", runtime, require_worker)]
    assert told == ["ended", "all workers were lost", "all workers were lost"]


def test_a_shard_whose_scheduler_is_lost_is_told_in_a_sentence():
    class Lost:
        def result(self, timeout):
            raise CancelledError

    crew = Crew(RuntimeConfig(runner="dask://there:8786"))
    with pytest.raises(VaescError, match="the scheduler of dask://there:8786 was lost: start it"):
        crew.result(SimpleNamespace(wrapped_future=Lost()), "shard score 0")


@pytest.mark.parametrize("runner", ["processes", "dask://", "dask://host", "dask:host:1"])
def test_a_runner_that_cannot_be_is_refused(runner):
    with pytest.raises(ValueError, match="must be threads, dask or dask://host:port"):
        RuntimeConfig(runner=runner)
