"""Bad input, the short form: every crash that was found, and fixed damages of every format.

The long form is ``make fuzz``. What is allowed is in ``tests/fuzzing/oracle.py``.
"""

import logging
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fuzzing import corpus, oracle
from fuzzing.__main__ import NAMES
from fuzzing.folders import pack, split, unpack
from fuzzing.mutation import mutate
from fuzzing.oracle import Sandbox, Violation, judge
from fuzzing.targets import TARGETS
from hypothesis import given, settings
from hypothesis import strategies as st

from vaesc.errors import DataError, VaescError

CASES = [(name, path) for name in NAMES for path in corpus.cases(name)]
_ready: set[str] = set()


@pytest.fixture(scope="module")
def sandbox():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAESC_HOME", "replaced by the sandbox")
        made = Sandbox()
        logging.disable(logging.CRITICAL)
        yield made
        logging.disable(logging.NOTSET)
        made.close()


def ready(name: str, sandbox: Sandbox):
    """Return a target that has imported and compiled what it needs."""
    target = TARGETS[name]
    if name not in _ready:
        target.prepare()
        for seed in target.seeds():
            sandbox.clean()
            try:
                target.run(seed, sandbox.inside)
            except VaescError:
                continue
        _ready.add(name)
    return target


def test_every_target_is_named_and_has_valid_inputs(sandbox):
    assert set(NAMES) == set(TARGETS)
    for name in NAMES:
        target = ready(name, sandbox)
        refused = [judge(target.run, seed, sandbox).refused for seed in target.seeds()]
        assert not all(refused), name  # else no damage is ever seen to do any


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{n}-{p.name}" for n, p in CASES])
def test_what_once_did_harm_does_none(sandbox, name, path):
    judge(ready(name, sandbox).run, path.read_bytes(), sandbox)


@pytest.mark.parametrize("name", NAMES)
def test_damage_is_read_or_refused_in_a_sentence(sandbox, name):
    target = ready(name, sandbox)
    seeds = target.seeds()

    @settings(max_examples=60, derandomize=True, deadline=None, database=None)
    @given(st.integers(0, 2**32 - 1), st.integers(0, len(seeds) - 1))
    def damaged(number, which):
        rng = random.Random(number)
        judge(target.run, mutate(rng, seeds[which], target.words, seeds), sandbox)

    damaged()


@pytest.mark.parametrize("name", NAMES)
def test_a_valid_input_cut_short_anywhere_is_harmless(sandbox, name):
    target = ready(name, sandbox)
    for seed in target.seeds():
        for end in np.unique(np.linspace(0, len(seed) - 1, 8).astype(int)):
            judge(target.run, seed[:end], sandbox)


# The oracle itself: a judge that sees nothing would find every parser innocent.


def hang(data, folder):
    while True:
        pass


def swallow_memory(data, folder):
    np.ones(2**28, np.uint8).sum()


def ask_for_memory(data, folder):
    try:
        bytearray(2**45)
    except MemoryError as error:
        raise DataError("it is too large; make it smaller") from error


def read_outside(data, folder):
    (folder.parent / "outside" / "secret").read_bytes()


def write_outside(data, folder):
    (Path(__file__).parent / "written").write_bytes(b"")


def follow_a_link(data, folder):
    (folder / "x").symlink_to("../outside/secret")
    (folder / "x").read_bytes()


def unpickle(data, folder):
    import pickle

    pickle.loads(b"cbuiltins\nlen\n(]tR.")


def start_a_process(data, folder):
    subprocess.run([sys.executable, "-c", ""], check=True)


def say_nothing(data, folder):
    raise DataError("")


def swallow_the_finding(data, folder):
    try:
        read_outside(data, folder)
    except OSError as error:
        raise DataError("it cannot be read; fetch it again") from error


@pytest.mark.parametrize(
    ("harm", "kind"),
    [
        (hang, "hang"), (swallow_memory, "memory"), (ask_for_memory, "memory"),
        (read_outside, "traceback|forbidden"), (write_outside, "traceback|forbidden"),
        (follow_a_link, "traceback|forbidden"), (unpickle, "traceback|forbidden"),
        (start_a_process, "traceback|forbidden"), (say_nothing, "sentence"),
        (swallow_the_finding, "forbidden"), (lambda data, folder: 1 / 0, "traceback: ZeroDiv"),
    ],
)  # fmt: skip
def test_the_oracle_sees_harm(sandbox, monkeypatch, harm, kind):
    monkeypatch.setattr(oracle, "SECONDS", 2.0)
    with pytest.raises(Violation, match=kind):
        judge(harm, b"x" * 100, sandbox)
    assert not (Path(__file__).parent / "written").exists()


def test_the_oracle_lets_the_harmless_pass(sandbox):
    def harmless(data, folder):
        (folder / "x").write_bytes(data)
        raise DataError((folder / "x").read_text())

    start = time.process_time()
    found = judge(harmless, b"one sentence", sandbox)
    assert (found.refused, found.sentence) == (True, "one sentence")
    assert time.process_time() - start < 1


def test_a_folder_as_bytes_leads_nowhere_else(tmp_path):
    data = pack({"a/b": b"1", "../c": b"2", "/d": b"3", "e -> ../f": b"", "e/g": b"4"}, b"first")
    assert unpack(data, tmp_path / "in") == b"first"
    found = sorted(os.path.relpath(p, tmp_path) for p in tmp_path.rglob("*"))
    assert found == ["in", "in/a", "in/a/b", "in/e"]
    assert split(data)[1][0] == ("a/b", b"1")
