"""Bundles kept on this machine: whole or not used, bounded, and shared between processes."""

import json
import os
import shutil
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from registry_homes import damage, enter_home, images, saved, tiny_model

from vaesc.bundle import FILES, MANIFEST, SparseVAE
from vaesc.drift.reference import REFERENCE, described
from vaesc.errors import ConfigError
from vaesc.housekeeping import collect_garbage
from vaesc.registry.cache import LIMIT, ModelCache, Resolution, key_of
from vaesc.registry.files import fault, model_digest
from vaesc.store import Store

DIGESTS = st.text("0123456789abcdef", min_size=64, max_size=64)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """Four models: their folders by digest."""
    folder = tmp_path_factory.mktemp("bundles")
    made = [saved(folder / str(seed), seed) for seed in range(4)]
    return {model_digest(each): each for each in made}


@pytest.fixture
def home(tmp_path, monkeypatch):
    return enter_home(tmp_path / "home", monkeypatch, database=False)


def used(cache, digest, seconds_ago):
    then = time.time() - seconds_ago
    os.utime(cache.root / digest, (then, then))


def entries(cache):
    return {p.name for p in cache.root.iterdir() if len(p.name) == 64}


def test_what_is_kept_is_found_and_holds_nothing_but_the_model(home, bundles, tmp_path):
    digest, bundle = next(iter(bundles.items()))
    given_folder = shutil.copytree(bundle, tmp_path / "given")
    (given_folder / "model.py").write_text("raise SystemExit('code that came with weights')")
    cache = ModelCache()
    assert cache.find(digest) is None
    assert not cache.root.exists()

    cache.keep(digest, given_folder)
    found = cache.find(digest)
    assert found == cache.root / digest
    assert {p.name for p in found.iterdir()} == {*FILES, MANIFEST}
    assert fault(found, digest) is None
    assert list((cache.root / "tmp").iterdir()) == []


def test_a_model_that_keeps_what_it_makes_of_its_data_is_kept_whole(home, tmp_path):
    """As every model of a pipeline run does."""
    model, x = tiny_model(3), images(50)
    model.reference = described(model.encode(x), model.score(x))
    model.save(tmp_path / "bundle")
    digest, cache = model_digest(tmp_path / "bundle"), ModelCache()
    cache.keep(digest, tmp_path / "bundle")
    found = cache.find(digest)
    assert {p.name for p in found.iterdir()} == {*FILES, REFERENCE, MANIFEST}
    assert SparseVAE.load(found).reference is not None
    assert not (cache.root / "quarantine").exists()


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_copy_is_set_aside_and_can_be_kept_anew(home, bundles, caplog, name):
    digest, bundle = next(iter(bundles.items()))
    cache = ModelCache()
    cache.keep(digest, bundle)
    damage(cache.root / digest / name)
    evidence = (cache.root / digest / name).read_bytes()

    assert cache.find(digest) is None
    assert "was damaged" in caplog.text
    assert not (cache.root / digest).exists()
    (kept,) = (cache.root / "quarantine").iterdir()
    assert (kept / name).read_bytes() == evidence
    cache.keep(digest, bundle)
    assert cache.find(digest) is not None


def test_what_another_process_has_fetched_anew_is_not_set_aside(home, bundles, monkeypatch):
    """Damaged when it was looked at; before it is moved away, another process has done so."""
    digest, bundle = next(iter(bundles.items()))
    cache, locked = ModelCache(), ModelCache._locked
    cache.keep(digest, bundle)
    damage(cache.root / digest / FILES[0])

    @contextmanager
    def after_another(self):
        shutil.rmtree(self.root / digest)
        shutil.copytree(bundle, self.root / digest)
        with locked(self):
            yield

    monkeypatch.setattr(ModelCache, "_locked", after_another)
    assert cache.find(digest) == cache.root / digest
    assert not (cache.root / "quarantine").exists()


def test_gc_deletes_the_evidence_when_told_to(home, bundles):
    digest, bundle = next(iter(bundles.items()))
    cache = ModelCache()
    cache.keep(digest, bundle)
    damage(cache.root / digest / FILES[0])
    assert cache.find(digest) is None
    (evidence,) = (cache.root / "quarantine").iterdir()
    assert collect_garbage(Store(), set(), keep_days=30) == []
    (listed,) = collect_garbage(Store(), set(), keep_days=30, quarantine=True, delete=True)
    assert listed.path == evidence
    assert listed.bytes > 1000
    assert not evidence.exists()


def test_a_copy_that_lacks_a_file_is_set_aside(home, bundles):
    digest, bundle = next(iter(bundles.items()))
    cache = ModelCache()
    cache.keep(digest, bundle)
    (cache.root / digest / FILES[0]).unlink()
    assert cache.find(digest) is None


def test_the_least_recently_used_go_but_none_in_use(home, bundles, monkeypatch):
    monkeypatch.setenv(LIMIT, "2")
    cache, (a, b, c, d) = ModelCache(), bundles
    for seconds_ago, digest in ((4000, a), (3000, b), (2000, c)):
        cache.keep(digest, bundles[digest])
        used(cache, digest, seconds_ago)
    assert entries(cache) == {b, c}
    assert cache.find(b)  # used now: c is the older one
    cache.keep(d, bundles[d])
    assert entries(cache) == {b, d}
    cache.keep(a, bundles[a])
    assert entries(cache) == {a, b, d}  # all in use: the bound waits
    used(cache, b, 400)
    used(cache, d, 500)
    cache.keep(c, bundles[c])
    assert entries(cache) == {a, c}


def test_none_are_kept_where_none_are_wanted(home, bundles, monkeypatch):
    monkeypatch.setenv(LIMIT, "0")
    digest, bundle = next(iter(bundles.items()))
    cache = ModelCache()
    cache.keep(digest, bundle)
    assert cache.find(digest) is None
    assert not cache.root.exists()


@pytest.mark.parametrize("value", ["-1", "many", "2.5"])
def test_a_limit_that_is_no_number_is_refused(home, monkeypatch, value):
    monkeypatch.setenv(LIMIT, value)
    with pytest.raises(ConfigError, match=f"{LIMIT} must be .* got '{value}'"):
        ModelCache()


def test_where_nothing_can_be_written_it_warns_and_goes_on(home, bundles, caplog):
    digest, bundle = next(iter(bundles.items()))
    (home / "models").write_text("a file in the way")
    cache = ModelCache()
    cache.keep(digest, bundle)
    cache.remember(key_of("r", "n", "t"), resolution(digest))
    assert cache.find(digest) is None
    assert cache.recall(key_of("r", "n", "t")) is None
    assert caplog.text.count("cannot be written") == 2


def test_a_process_killed_while_it_copies_leaves_nothing_that_counts(home, bundles):
    digest, bundle = next(iter(bundles.items()))
    code = (
        "import os, sys; from pathlib import Path; from vaesc.registry import cache\n"
        "cache.fsync = lambda _: os._exit(9)\n"
        "cache.ModelCache().keep(sys.argv[1], Path(sys.argv[2]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, digest, str(bundle)], check=False)
    cache = ModelCache()
    assert done.returncode == 9
    (orphan,) = (cache.root / "tmp").iterdir()
    assert cache.find(digest) is None

    os.utime(orphan, (0, 0))
    cache.keep(digest, bundle)
    assert cache.find(digest)
    assert list((cache.root / "tmp").iterdir()) == []


def test_a_bad_disk_is_not_filled_with_evidence(home, bundles):
    digest, bundle = next(iter(bundles.items()))
    cache = ModelCache()
    for _ in range(8):
        cache.keep(digest, bundle)
        damage(cache.root / digest / "vae.safetensors")
        assert cache.find(digest) is None
    kept = list((cache.root / "quarantine").iterdir())
    assert len(kept) == 5
    assert all(fault(folder, digest) for folder in kept)


def test_processes_at_once_never_see_half_a_bundle(home, bundles):
    """Each keeps, finds and damages the same two models over and over; none sees a wrong file."""
    code = (
        "import json, random, sys; from pathlib import Path\n"
        "from vaesc.registry.cache import ModelCache\n"
        "from vaesc.registry.files import fault\n"
        "bundles, seed = json.loads(sys.argv[1]), int(sys.argv[2])\n"
        "random.seed(seed); cache = ModelCache(); found = 0\n"
        "for turn in range(60):\n"
        "    digest = random.choice(sorted(bundles))\n"
        "    folder = cache.find(digest)\n"
        "    if folder is None:\n"
        "        cache.keep(digest, Path(bundles[digest]))\n"
        "    elif seed == 0 and turn % 3 == 0:\n"
        "        try: (folder / 'vae.safetensors').write_bytes(b'damaged')\n"
        "        except FileNotFoundError: pass\n"
        "    else: found += 1\n"
        "print(found)\n"
    )
    two = json.dumps({digest: str(bundles[digest]) for digest in list(bundles)[:2]})
    commands = [[sys.executable, "-c", code, two, str(seed)] for seed in range(3)]
    running = [subprocess.Popen(c, stdout=subprocess.PIPE, text=True) for c in commands]
    outputs = [process.communicate(timeout=600)[0] for process in running]

    assert [process.returncode for process in running] == [0, 0, 0]
    assert sum(int(text) for text in outputs) > 0
    cache = ModelCache()
    for digest, bundle in list(bundles.items())[:2]:
        if cache.find(digest) is None:
            cache.keep(digest, bundle)
        assert fault(cache.root / digest, digest) is None
    for evidence in (cache.root / "quarantine").iterdir():
        assert fault(evidence, evidence.name.partition(".")[0]) is not None, (
            "a whole one set aside"
        )


def resolution(digest, **changes):
    facts = {
        "name": "vaesc", "version": 3, "place": "", "resolved": "2026-11-22T19:00:00+00:00",
    }  # fmt: skip
    return Resolution(digest=digest, **{**facts, **changes})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(DIGESTS, st.text(), st.integers(1, 10**9))
def test_what_is_remembered_is_recalled(home, digest, name, version):
    cache, said = ModelCache(), resolution(digest, name=name, version=version)
    cache.remember(key_of("registry", name, "champion"), said)
    assert cache.recall(key_of("registry", name, "champion")) == said
    assert cache.recall(key_of("another", name, "champion")) is None


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(st.binary(max_size=60) | st.from_regex(r'\A\{"name": .{0,20}\}\Z').map(str.encode))
def test_no_damage_of_a_note_escapes(home, content):
    cache, key = ModelCache(), key_of("registry", "vaesc", "champion")
    cache.remember(key, resolution("0" * 64))
    (cache.root / "refs" / f"{key}.json").write_bytes(content)
    assert cache.recall(key) is None


@pytest.mark.parametrize(
    "changes", [{"digest": "../.."}, {"resolved": "2026-11-22"}, {"version": 0}, {"version": "3"}]
)
def test_a_note_of_nonsense_is_ignored(home, changes):
    cache, key = ModelCache(), key_of("registry", "vaesc", "champion")
    cache.remember(key, resolution(**{"digest": "0" * 64, **changes}))
    assert cache.recall(key) is None


def test_a_note_reveals_no_password(home):
    cache, key = ModelCache(), key_of("http://me:secret@host", "vaesc", "champion")
    cache.remember(key, resolution("0" * 64))
    (path,) = (cache.root / "refs").iterdir()
    assert "secret" not in path.name + path.read_text()
