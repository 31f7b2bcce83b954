"""Servers as child processes: what is said when one fails, and that nothing is left behind."""

import os
import shutil
import subprocess
import sys

import pytest
from services import alive, descendants, need_postgres, open_folder, wait_for

from deployments import stack
from deployments.credentials import Secrets
from tasks.children import Child, ServerError, last_words


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "it said nothing"),
        ("one\n\ntwo\n \n", "two"),
        ("FATAL:  role is missing\nshutting down\nbye\n", "FATAL:  role is missing"),
        ("error: old\n" + "fine\n" * 40, "fine"),
        ("x" * 999, "x" * 200),
    ],
)
def test_the_last_words_are_those_that_tell_most(tmp_path, log, words):
    (tmp_path / "log").write_text(log)
    assert last_words(tmp_path / "log") == words


def child(tmp_path, *command):
    return Child("the server", command, log=tmp_path / "log", environment={}, folder=tmp_path)


def test_a_program_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ServerError, match="the server cannot be started: /no/program: No such"):
        child(tmp_path, "/no/program")


def test_one_that_ends_or_tarries_is_waited_for_no_longer(tmp_path):
    ended = child(tmp_path, sys.executable, "-c", "raise SystemExit('port in use')")
    with pytest.raises(ServerError, match=r"the server has ended with 1 \(port in use\)"):
        ended.wait_until(lambda: False, 60)
    slow = child(tmp_path, sys.executable, "-c", "import time; time.sleep(600)")
    with pytest.raises(ServerError, match="did not answer within 0 s"):
        slow.wait_until(lambda: False, 0)
    slow.stop()
    slow.stop()
    assert alive([slow.process.pid]) == []


def test_secrets_are_made_once_and_for_one_pair_of_eyes(tmp_path):
    made = Secrets.of(tmp_path)
    assert Secrets.of(tmp_path) == made
    assert (tmp_path / "secrets.json").stat().st_mode & 0o777 == 0o600
    (tmp_path / "other").mkdir()
    other = Secrets.of(tmp_path / "other")
    every = [*vars(made).values(), *vars(other).values()]
    assert len(set(every)) == len(every) == 12


@pytest.mark.service
def test_a_stack_that_cannot_start_leaves_nothing_and_says_why(monkeypatch):
    need_postgres()
    folder = open_folder()
    try:
        monkeypatch.setattr(stack, "S3", ["rclone", "serve", "nonsense"])
        seen, before = set(), set(descendants(os.getpid()))

        def listens(_):
            seen.update(set(descendants(os.getpid())) - before)
            return False

        monkeypatch.setattr(stack, "listens", listens)
        with (
            pytest.raises(ServerError, match=r"S3 server has ended with \d .*unknown"),
            stack.Stack(folder),
        ):
            pass
        assert len(seen) > 3  # PostgreSQL and its helpers
        wait_for(lambda: not alive(seen), 90, lambda: alive(seen))
    finally:
        shutil.rmtree(folder)


def test_the_exports_reach_a_shell_and_nobody_else(tmp_path, capsys):
    made = stack.Stack(tmp_path)
    made.environment = {"PREFECT_API_URL": "http://x/api", "MLFLOW_TRACKING_URI": "http://y",
                        "PREFECT_API_AUTH_STRING": "a:b'c $d"}  # fmt: skip
    stack._announce(made)
    file = tmp_path / "environment.sh"
    assert file.stat().st_mode & 0o777 == 0o600
    assert "b'c" not in capsys.readouterr().out
    shell = ["sh", "-c", f'. {file}; printf %s "$PREFECT_API_AUTH_STRING"']
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout == "a:b'c $d"
