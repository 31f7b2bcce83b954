"""Settings: TOML files, ``--set``, and the YAML of deployments."""

from __future__ import annotations

from pathlib import Path

from vaesc import config_files
from vaesc.config import DatasetConfig, config_digest, flat_settings
from vaesc.config_files import load_config

from .target import Target

_SECTIONS = (
    b"[dataset]\n", b"[training]\n", b"epochs = 3\n", b"seed = 1\n", b"hidden = [3, 4]\n",
    b"path = '~nobody/x'\n", b"source = 'arrays'\n", b"n_atoms = ", b"0x", b"1979-05-27", b"inf",
    b"nan", b"{a = 1}", b'"""', b"[[", b"]]", b".", b"learning_rate = 1e-3\n", b"preset = 'x'\n",
)  # fmt: skip


def _toml(data: bytes, folder: Path) -> None:
    path = folder / "mine.toml"
    path.write_bytes(data)
    _used(load_config("digits", path))


def _set(data: bytes, folder: Path) -> None:
    # As a shell passes them: any bytes but NUL.
    _used(load_config(assignments=[each.decode("utf-8", "surrogateescape")
                                   for each in data.split(b"\0")]))  # fmt: skip


def _used(config: config_files.PipelineConfig) -> None:
    """Do what every command does with settings first."""
    from vaesc.datasets import check

    config_digest(config)
    dict(flat_settings(config))
    if config.dataset != DatasetConfig():
        check(config.dataset)


def _toml_seeds() -> list[bytes]:
    presets = Path(config_files.__file__).parent / "presets"
    return [path.read_bytes() for path in sorted(presets.glob("*.toml"))]


def _set_seeds() -> list[bytes]:
    flat = [
        f"{key}={default}"
        for key, _, default, _ in config_files.describe_settings()
        if not key.startswith("dataset.")
    ]
    return [each.encode() for each in flat[::6]] + [
        b"seed=3\0vae.hidden=[5, 6]\0training.learning_rate=1e-2", b"dataset.limit=none",
        b"training={epochs = 3}", b"evaluation.sparsity_levels=[1, 2]",
        b"registry.model_name=my model",
    ]  # fmt: skip


def _deployments(data: bytes, folder: Path) -> None:
    from flows.serve import read_deployments, retrained_on_drift

    path = folder / "prefect.yaml"
    path.write_bytes(data)
    retrained_on_drift(read_deployments(path))


def _deployment_seeds() -> list[bytes]:
    file = Path(__file__).parents[2] / "deployments" / "prefect.yaml"
    return [
        file.read_bytes(),
        b"deployments:\n  - &a {name: x, entrypoint: 'flows/retrain.py:retrain',"
        b" parameters: {preset: digits, settings: [seed=1]}, schedules: [{cron: '0 3 * * *'}]}\n",
    ]


def _prepare_deployments() -> None:
    import flows.serve  # noqa: F401


TARGETS = (
    Target(name="toml", what="load_config(file=...)", run=_toml, seeds=_toml_seeds,
           words=_SECTIONS),
    Target(name="set", what="load_config(assignments=...)", run=_set, seeds=_set_seeds,
           words=(*_SECTIONS, b"vae.", b"dataset.path=", b"dataset.source=folder\0", b"=")),
    Target(name="deployments", what="read_deployments, retrained_on_drift", run=_deployments,
           seeds=_deployment_seeds, prepare=_prepare_deployments,
           words=(b"&a ", b"*a", b"- ", b": ", b"!!python/object:os.system", b"<<: *a", b"? ",
                  b"entrypoint: flows/retrain.py:retrain\n", b"2001-99-99", b"!!binary", b"|",
                  b"parameters: ", b"settings: ", b"config_file: ../outside/secret")),
)  # fmt: skip
