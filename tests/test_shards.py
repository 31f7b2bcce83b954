"""Shards: whole or absent, the same bytes whoever computes them, and never computed twice."""

import errno
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from imagesets import write_digits
from test_dictionary import planted
from test_latents import files

from vaesc import arrays, coding_shards, shards
from vaesc.arithmetic import arithmetic
from vaesc.arrays import create_group, open_group, read_csr, write_array
from vaesc.coding_shards import block_rows_of, code_by_shards
from vaesc.config import DictionaryConfig, VAEConfig
from vaesc.dictionary import learn
from vaesc.errors import DataError, StoreError
from vaesc.latents import extract
from vaesc.models import VAE, devices, save_vae
from vaesc.progress import SILENT
from vaesc.shards import HERE, Shard, compute


class Elsewhere:
    """Stands in for workers: shards go through JSON, and the last one is done first."""

    def __init__(self):
        self.computed = 0

    def map(self, every, then):
        sent = [Shard.from_json(json.loads(json.dumps(s.to_json()))) for s in every]
        summaries = [compute(shard) for shard in reversed(sent)]
        self.computed += len(sent)
        for shard, summary in zip(every, reversed(summaries), strict=True):
            then(shard, json.loads(json.dumps(summary)))


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Digits and an untrained VAE; latents in shards of 500 rows."""
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 6 * 4 * 100)
    monkeypatch.setattr(arrays, "SHARD_BYTES", 6 * 4 * 500)
    (tmp_path / "vae").mkdir()
    save_vae(VAE(VAEConfig(hidden=(32,), latent_dim=6), (8, 8)), tmp_path / "vae")
    return write_digits(tmp_path / "dataset"), tmp_path / "vae"


def made(folder):
    folder.mkdir()
    return folder


@pytest.fixture
def counted(monkeypatch):
    """Count the shards whose function is called."""
    called, found = [], shards._function

    def counting(name):
        def function(folder, **arguments):
            called.append((arguments["split"], arguments["start"]))
            return found(name)(folder, **arguments)

        return function

    monkeypatch.setattr(shards, "_function", counting)
    return called


def test_latents_are_the_same_bytes_in_shards_done_in_any_order(inputs, tmp_path):
    one = extract(*inputs, made(tmp_path / "one"), device="cpu")
    runner = Elsewhere()
    other = extract(*inputs, made(tmp_path / "two"), device="cpu", runner=runner)
    assert one == other
    assert files(tmp_path / "one") == files(tmp_path / "two")
    assert runner.computed == 5  # 1200, 200 and 397 rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dataset", "one", "two", "vae"]


def test_a_killed_step_s_finished_shards_are_not_computed_again(inputs, tmp_path, counted):
    expected = extract(*inputs, made(tmp_path / "whole"), device="cpu")
    counted.clear()

    def killed(*heard):
        if len(counted) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extract(
            *inputs,
            made(tmp_path / "a"),
            device="cpu",
            listener=SimpleNamespace(progress=killed),
            checkpoints=tmp_path / "c",
        )
    assert len(counted) == 4
    shutil.rmtree(tmp_path / "a")  # as whoever called it does
    again = extract(*inputs, made(tmp_path / "b"), device="cpu", checkpoints=tmp_path / "c")
    assert counted[4:] == [("test", 0)]
    assert again == expected
    assert files(tmp_path / "b") == files(tmp_path / "whole")


def test_parts_are_kept_on_another_disk_too(inputs, tmp_path, counted, monkeypatch):
    link, refused = os.link, []

    def other_disk(source, target):
        if len({Path(p).relative_to(tmp_path).parts[0] for p in (source, target)}) > 1:
            refused.append(target)
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target)  # Zarr's own

    monkeypatch.setattr(os, "link", other_disk)
    for name in ("a", "b"):
        extract(*inputs, made(tmp_path / name), device="cpu", checkpoints=tmp_path / "c")
    assert len(counted) == 5
    assert len(refused) == 20
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.fixture
def shard(inputs, tmp_path):
    dataset, vae = map(str, inputs)
    return Shard(
        name="extract test/0", function="vaesc.latents:extract_shard", part=tmp_path / "part",
        arguments={"dataset": dataset, "vae": vae, "split": "test", "start": 0, "stop": 397},
        how={"device": "cpu", "block_size": 100},
    )  # fmt: skip


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("what", ["bytes", "missing", "note", "other work"])
def test_a_part_is_believed_only_if_it_is_what_was_written(shard, counted, what):
    summary = compute(shard)
    whole = files(shard.part)
    assert compute(shard) == summary
    assert compute(replace(shard, how={"device": "cpu", "block_size": 7})) == summary
    assert len(counted) == 1
    biggest = max(
        (p for p in shard.part.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    if what == "bytes":
        damage(biggest)
    elif what == "missing":
        biggest.unlink()
    elif what == "note":
        (shard.part / "part.json").write_text("{")
    else:
        compute(replace(shard, arguments={**shard.arguments, "split": "validation", "stop": 200}))
        counted.pop()
    assert compute(shard) == summary
    assert len(counted) == 2
    assert files(shard.part) == whole


@pytest.mark.parametrize("other", ["torch", "instructions", "device"])
def test_a_part_made_with_other_arithmetic_is_made_again(shard, counted, monkeypatch, other):
    compute(shard)
    assert compute(replace(shard, how={**shard.how, "device": "cpu:0"}))
    assert len(counted) == 1
    if other == "device":
        identity = replace(shard, how={**shard.how, "device": "cuda:1"}).identity()
        assert identity == {**shard.identity(), "device": "cuda"}
        return
    monkeypatch.setattr(shards, "arithmetic", lambda: {**arithmetic(), other: "another"})
    compute(shard)
    assert len(counted) == 2


def test_which_device_is_automatic_is_settled_before_anybody_computes(
    inputs, tmp_path, monkeypatch
):
    monkeypatch.setattr(devices, "_count", lambda kind: 1)

    class Asked:
        def map(self, every, then):
            asked.extend(shard.how["device"] for shard in every)
            raise KeyboardInterrupt

    asked = []
    with pytest.raises(KeyboardInterrupt):
        extract(*inputs, made(tmp_path / "a"), device="auto", runner=Asked())
    with pytest.raises(KeyboardInterrupt):
        extract(*inputs, made(tmp_path / "b"), device="cuda:9", runner=Asked())
    assert set(asked[:5]) == {"cuda"}
    assert set(asked[5:]) == {"cuda:9"}  # here is no such device, but there may be


def test_a_shard_that_fails_leaves_nothing(shard, tmp_path):
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(Exception, match="split"):
        compute(replace(shard, arguments={**shard.arguments, "split": "nowhere"}))
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_folder_of_parts_that_was_cleared_away_does_not_come_back(shard, tmp_path):
    gone = replace(shard, part=tmp_path / "gone" / "part")
    with pytest.raises(StoreError, match=r"gone, where extract test/0 is to be, is not there"):
        compute(gone)
    assert not gone.part.parent.exists()


def test_two_that_compute_one_shard_at_once_both_get_it(shard, monkeypatch):
    found = shards._function

    def overtaken(name):
        def function(folder, **arguments):
            monkeypatch.setattr(shards, "_function", found)
            compute(shard)  # another worker, meanwhile
            return found(name)(folder, **arguments)

        return function

    monkeypatch.setattr(shards, "_function", overtaken)
    assert compute(shard) == compute(shard)


@pytest.mark.parametrize("name", ["os:system", "vaesc.latents", "vaescx.y:z"])
def test_only_functions_of_vaesc_are_shards(shard, name):
    with pytest.raises((DataError, ValueError), match="vaesc"):
        compute(replace(shard, function=name))


LATENTS = {"train": 5000, "validation": 700, "test": 0}


@pytest.fixture(scope="module")
def latents_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents")
    attributes = {"vae_sha256": {"vae.json": "a" * 64}, "latent_dim": 12, "counts": LATENTS}
    group = create_group(folder / "latents.zarr", attributes)
    rng = np.random.default_rng(0)
    for seed, (split, n) in enumerate(LATENTS.items()):
        noise = rng.normal(scale=0.1, size=(n, 12))
        latents = (planted(n, seed).reshape(n, 12) + noise).astype(np.float32)
        write_array(group, f"{split}/latents", latents, ("sample", "latent"))
    return folder


@pytest.mark.parametrize("coder", ["ols", "omp", "lasso", "lista"])
def test_codes_in_shards_are_those_of_the_split(latents_folder, tmp_path, monkeypatch, coder):
    """With a number of atoms that makes the coders' blocks no power of two."""
    monkeypatch.setattr(coding_shards, "ROWS", 1000)
    config = DictionaryConfig(
        n_atoms=300, n_nonzero_coefs=3, coder=coder, max_epochs=1, lista_epochs=1,
        on_dead_atoms="continue",
    )  # fmt: skip
    whole, parts = made(tmp_path / "whole"), made(tmp_path / "parts")
    one = learn(config, latents_folder, whole, seed=1, listener=SILENT)
    other = learn(config, latents_folder, parts, seed=1, listener=SILENT, runner=Elsewhere())
    assert one == other
    assert files(whole) == files(parts)


def test_a_shard_of_codes_is_whole_blocks(latents_folder, tmp_path, monkeypatch):
    config = DictionaryConfig(n_atoms=300, n_nonzero_coefs=3, max_epochs=1)
    learn(config, latents_folder, made(tmp_path / "d"), seed=1, listener=SILENT)
    dictionary = coding_shards.load_dictionary(tmp_path / "d")
    assert block_rows_of(dictionary) == 864  # 1 MiB of 300 correlations, in whole sixteens
    assert coding_shards.rows_per_shard(dictionary) % 864 == 0
    monkeypatch.setattr(coding_shards, "ROWS", 1000)
    got = []
    code_by_shards(HERE, tmp_path / "d", latents_folder, "train", got.append)
    assert [codes.shape[0] for codes in got] == [864] * 5 + [680]
    codes = read_csr(open_group(tmp_path / "d" / "codes.zarr"), "train/codes")
    np.testing.assert_array_equal(np.concatenate([c.data for c in got]), codes.data)
