"""Files that commands are given: pipes and devices are refused, claims are not believed."""

import os
import signal
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from vaesc.applications.compression import files
from vaesc.cli import _parser, main

COMMANDS = (
    ("encode", "IN", "out.npz"),
    ("decode", "IN", "out.npy"),
    ("reconstruct", "IN", "out.npy"),
    ("sample", "out.npy", "--interpolate", "IN"),
    ("compress", "IN", "out.vsc"),
    ("decompress", "IN", "out.npy"),
    ("represent", "IN", "out.npz"),
    ("cluster", "IN", "out.csv"),
    ("detect", "IN", "out.json"),
    ("label", "IN", "labels.npy", "out.npy"),
    ("label", "images.npy", "IN", "out.npy"),
)


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAESC_DEBUG", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    np.save("images.npy", np.zeros((20, 4, 4)))
    np.save("labels.npy", np.zeros(20, int))
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def refused(command, given, capsys):
    code = main([str(given) if word == "IN" else word for word in command])
    assert code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("given", ["/dev/zero", "pipe"])
@pytest.mark.timeout(60)
def test_pipes_and_devices_are_refused_unread(command, given, here, capsys):
    os.mkfifo("pipe")
    said = refused(command, given, capsys)
    assert said == f"vaesc: {given} is a pipe or a device; write what it gives to a file first\n"
    assert {p.name for p in here.iterdir()} == {"images.npy", "labels.npy", "pipe"}


@pytest.mark.parametrize(
    ("n_images", "words"), [(1, "it must have 70 bytes, and has"), (2**32 - 1, "damaged")]
)
def test_a_terabyte_of_nothing_is_refused_by_its_header(n_images, words, here, capsys):
    head = files.MAGIC + struct.pack("<32sBBIII", bytes(32), 1, 1, 64, files.BLOCK, n_images)
    head += struct.pack("<II", 4, zlib.crc32(bytes(4)))
    head += struct.pack("<I", zlib.crc32(head))
    with Path("huge.vsc").open("wb") as file:
        file.write(head)
        file.truncate(2**40)
    assert "huge.vsc: it" in (said := refused(COMMANDS[5], "huge.vsc", capsys))
    assert words in said


def test_a_terabyte_of_zeros_is_no_file_of_ours(here, capsys):
    with Path("huge.vsc").open("wb") as file:
        file.truncate(2**40)
    assert "no file of `vaesc compress`" in refused(COMMANDS[5], "huge.vsc", capsys)


@pytest.mark.parametrize("command", COMMANDS)
def test_what_is_stopped_says_that_nothing_is_kept(command):
    assert _parser().parse_args(command).kept == "OUT was not written; run it again"


def test_a_command_that_is_terminated_leaves_nothing(here):
    program = (
        "import os, signal, sys\n"
        "from vaesc import cli\n"
        "import vaesc.registry as registry\n"
        "registry.load_model = lambda *a, **k: os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.exit(cli.main(['compress', 'images.npy', 'out.vsc']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 143
    assert done.stderr == "vaesc: terminated; OUT was not written; run it again\n"
    assert {p.name for p in here.iterdir()} == {"images.npy", "labels.npy"}


REMOTE = (
    *((*(part if part == "IN" or not part.startswith("out.") else "URL" for part in command),)
      for command in COMMANDS),
    ("score", "IN", "URL"),
    ("label", "--probabilities", "URL", "IN", "labels.npy", "out.npy"),
    ("detect", "--explain", "URL", "IN", "out.json"),
    ("models", "export", "champion", "URL"),
    ("reproduce", "RUN", "--keep", "URL"),
)  # fmt: skip


@pytest.mark.parametrize("url", ["s3://key:hush@bucket/x.npy", "gs://bucket/x.npy", "file:///x"])
@pytest.mark.parametrize("command", REMOTE, ids=" ".join)
def test_an_output_that_is_a_url_is_refused(command, url, here, capfd):
    named = {"URL": url, "IN": "images.npy"}
    with pytest.raises(SystemExit) as caught:
        main([named.get(part, part) for part in command])
    said = capfd.readouterr().err
    assert caught.value.code == 2
    assert f"a URL ({url.partition('://')[0]}://...) is given where a file or folder of" in said
    assert "hush" not in said
    assert sorted(path.name for path in here.iterdir()) == ["images.npy", "labels.npy"]


def test_a_home_that_is_a_url_is_refused(here, monkeypatch, capfd):
    assert main(["gc", "--home", "s3://bucket/home"]) == 2
    monkeypatch.setenv("VAESC_HOME", "s3://bucket/home")
    assert main(["gc"]) == 2
    assert capfd.readouterr().err.count("a URL (s3://...) is given") == 2


def test_the_flow_that_scores_refuses_it_too(here):
    from tasks.score import score_batch
    from vaesc.errors import ConfigError

    with pytest.raises(ConfigError, match=r"a URL \(s3://\.\.\.\) is given"):
        score_batch.fn("images.npy", "champion", "vaesc", "s3://bucket/x", 10, 1, 1e-3)
    assert not list(here.glob("s3*"))
