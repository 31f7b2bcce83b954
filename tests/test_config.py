"""Settings: every mistake is named, and digests see what matters and nothing else."""

import contextlib
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vaesc.config import (
    DatasetConfig,
    EvaluationConfig,
    PipelineConfig,
    RegistryConfig,
    RuntimeConfig,
    TrainingConfig,
    VAEConfig,
    config_digest,
    derive_seed,
    flat_settings,
    settings,
)
from vaesc.config_files import config_from_mapping, describe_settings, load_config, presets
from vaesc.errors import ConfigError


def test_the_defaults_are_the_article_s_numbers():
    config = PipelineConfig()
    assert (config.vae.hidden, config.vae.latent_dim) == ((512, 256), 32)
    assert (config.training.learning_rate, config.training.batch_size) == (1e-3, 128)


@pytest.mark.parametrize("name", sorted(set(presets()) - {"arrays", "folder"}))
def test_every_preset_loads(name):
    assert load_config(name).preset == name


@pytest.mark.parametrize("name", ["arrays", "folder"])
def test_presets_for_your_own_data_ask_for_the_path(name):
    with pytest.raises(ConfigError, match=r"dataset\.path must name your data"):
        load_config(name)
    assert load_config(name, assignments=["dataset.path=x"]).dataset.path == "x"


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("dictionary.n_atom=3", "no setting dictionary.n_atom; did you mean dictionary.n_atoms?"),
        ("n_atoms=3", "no setting n_atoms; did you mean dictionary.n_atoms?"),
        ("vae.latents_dim=3", "did you mean vae.latent_dim?"),
        ("vae.beta=x", "vae.beta must be a number, got 'x'"),
        ("vae.beta=nan", "vae.beta must be finite"),
        ("vae.observation_std=inf", "must be finite"),
        ("training.epochs=1.5", "training.epochs must be a whole number, got 1.5"),
        ("training.epochs=true", "training.epochs must be a whole number, got True"),
        ("training.epochs=0", "training.epochs must be at least 1, got 0"),
        ("dictionary.n_nonzero_coefs=257", "must be between 1 and n_atoms=256, got 257"),
        ("evaluation.sparsity_levels=[4,2]", "must be increasing"),
        ("vae.hidden=[3,'a']", "each entry of vae.hidden must be a whole number, got 'a'"),
        ("dataset.source=minst", "got 'minst'; did you mean mnist?"),
        ("dataset=3", "dataset is a section of settings, got 3"),
        ("dataset.path=x", "dataset.path is only read by the sources arrays and folder"),
        ("foo", "--set takes section.name=value, got 'foo'"),
        ("=3", "--set takes section.name=value"),
        ("registry.model_name=a/b", "registry.model_name must hold only letters, digits, spaces,"),
        ("registry.model_name=o'b", 'hyphens, and not be empty, got "o\'b"'),
        ('registry.experiment=""', "registry.experiment must hold only letters"),
        ("registry.experiment=...", "registry.experiment must hold only letters"),
        ('registry.experiment="a\\n"', "registry.experiment must hold only letters"),
        ("dataset.labels=y.npy", "dataset.labels is only read by the source arrays, not by mnist"),
        ("runtime.device=gpu", "must be auto, cpu, mps, cuda or cuda:N, got 'gpu'"),
        ("runtime.device=cuda:", "must be auto, cpu, mps, cuda or cuda:N, got 'cuda:'"),
        ("runtime.device=cuda:x", "must be auto, cpu, mps, cuda or cuda:N, got 'cuda:x'"),
        ('runtime.device=""', "must be auto, cpu, mps, cuda or cuda:N, got ''"),
        ("preset=digits", "preset is chosen with --preset, not with --set; leave it out"),
        ("seed=-1", "seed must be between 0"),
    ],
)
def test_a_wrong_setting_gets_one_sentence(assignment, sentence):
    with pytest.raises(ConfigError) as caught:
        load_config("mnist", assignments=[assignment])
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("device", ["auto", "cpu", "mps", "cuda", "cuda:0", "cuda:12"])
def test_every_device_of_torch_may_be_named(device):
    assert RuntimeConfig(device=device).device == device


@pytest.mark.parametrize("name", ["vaesc", "my model_2.0-b", "modèle", "7"])
def test_names_in_mlflow_may_be_words(name):
    assert RegistryConfig(model_name=name, experiment=name).model_name == name


def test_an_unknown_preset_is_told_the_nearest():
    with pytest.raises(ConfigError) as caught:
        load_config("minst")
    listed = ", ".join(presets())
    expected = f"there is no preset 'minst'; presets are {listed}; did you mean mnist?"
    assert str(caught.value) == expected


def test_a_config_file_cannot_relabel_the_preset(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('preset = "mnist"\n')
    with pytest.raises(ConfigError, match=r"preset is chosen with --preset, not in .*mine\.toml"):
        load_config("digits", file)


@given(st.text(max_size=40))
def test_no_assignment_escapes_as_another_error(text):
    with contextlib.suppress(ConfigError):
        assert load_config("digits", assignments=[text]).preset


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("dictionary.n_atoms=9223372036854775807", r"dictionary\.n_atoms must be below 2\^31"),
        ("vae.hidden=[2147483648]", r"vae\.hidden must be below 2\^31"),
        ("seed=18446744073709551616", r"seed must be below 2\^64"),
    ],
)
def test_a_number_beyond_any_machine_is_refused(setting, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config("digits", assignments=[setting])


def test_a_config_file_that_may_never_end_is_refused(tmp_path):
    pipe, large = tmp_path / "pipe.toml", tmp_path / "large.toml"
    os.mkfifo(pipe)
    large.write_bytes(b"#" * 1_000_001)
    for file, sentence in (
        (pipe, "it is a pipe or a device"), (Path("/dev/zero"), "it is a pipe or a device"),
        (large, "it is larger than 1,000,000 bytes"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=sentence):
            load_config("digits", file)


def test_a_config_file_is_laid_over_the_preset(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("seed = 7\n[vae]\nbeta = 2\n")
    config = load_config("digits", file, ["vae.beta=0.5"])
    assert (config.seed, config.vae.beta, config.vae.latent_dim) == (7, 0.5, 16)


@pytest.mark.parametrize("content", [b"a = ", b"\xff\xfe", b"[vae\n"])
def test_a_broken_config_file_is_named(tmp_path, content):
    file = tmp_path / "broken.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.toml"):
        load_config("digits", file)


def test_settings_survive_the_way_through_toml_types():
    config = load_config("fashion-mnist", assignments=["dataset.limit=100"])
    assert config_from_mapping(settings(config)) == config


def test_the_digest_sees_what_and_not_how():
    base = PipelineConfig()
    assert config_digest(base) == config_digest(PipelineConfig())
    hows = [
        dataclasses.replace(base, runtime=RuntimeConfig(device="cpu", block_size=1)),
        dataclasses.replace(base, dataset=DatasetConfig(folder="elsewhere", download=False)),
        dataclasses.replace(base, preset="mine"),
    ]
    assert {config_digest(c) for c in hows} == {config_digest(base)}
    whats = [
        dataclasses.replace(base, seed=1),
        dataclasses.replace(base, vae=VAEConfig(beta=2.0)),
        dataclasses.replace(base, dataset=DatasetConfig(limit=5)),
    ]
    assert len({config_digest(c) for c in [base, *whats]}) == 4


def test_every_setting_is_documented():
    described = {key: document for key, _, _, document in describe_settings()}
    # The preset is where the settings start: a value, but none that can be set.
    every = {key for key, _ in flat_settings(PipelineConfig())}
    assert every - set(described) == {"preset"}
    assert set(described) <= every
    assert all(described.values())


def test_streams_are_named_and_stable():
    assert derive_seed(0, "train/init") == derive_seed(0, "train/init")
    streams = {derive_seed(s, n) for s in range(20) for n in ("a", "b", "train/init")}
    assert len(streams) == 60
    assert all(0 <= s < 2**63 for s in streams)


def test_loading_a_config_imports_nothing_heavy():
    program = (
        "import sys; from vaesc.config_files import load_config; load_config('mnist');"
        "heavy = ('torch', 'mlflow', 'prefect', 'numpy', 'pydantic');"
        "print([m for m in heavy if m in sys.modules])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "[]"


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_numbers_that_no_json_can_hold_are_refused_in_the_library_too(number):
    for make in (
        lambda: TrainingConfig(learning_rate=number),
        lambda: TrainingConfig(capacity=number),
        lambda: VAEConfig(beta=number),
    ):
        with pytest.raises(ValueError, match="must be finite"):
            make()


def test_a_bound_is_asked_for_once():
    with pytest.raises(ValueError, match="iwae_samples must hold no number twice"):
        EvaluationConfig(iwae_samples=(100, 100), iwae_images=(1000, 50))
    with pytest.raises(ValueError, match="iwae_images must hold as many numbers"):
        EvaluationConfig(iwae_samples=(100,), iwae_images=(1000, 50))
