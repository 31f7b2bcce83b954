"""What one step hands to the next: small frozen records, never tensors.

A record says where an artifact lies (`uri`), what went into it (`digest`, its address in the
store), what came out (`content`), and which MLflow run made it (`run_id`), plus the few numbers
the next step needs. Records are JSON-serialisable, cheap to hash, log and cache.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Record:
    """A reference to one artifact of the store."""

    uri: str
    """Absolute path of the artifact's folder."""
    digest: str
    """SHA-256 of what went in: kind, config, contents of the inputs, source of the modules."""
    content: str
    """SHA-256 of what came out: every file's path and SHA-256."""
    run_id: str
    """The MLflow run that computed the artifact; empty when it was made without MLflow."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as a plain dict that names its type."""
        return {"record": type(self).__name__, **asdict(self)}


@dataclass(frozen=True, kw_only=True)
class Dataset(Record):
    """Images split into train, validation and test."""

    source: str
    n_train: int
    n_validation: int
    n_test: int
    shape: tuple[int, ...]
    """Shape of one image, such as (28, 28)."""


@dataclass(frozen=True, kw_only=True)
class TrainedVAE(Record):
    """Weights of a VAE."""

    latent_dim: int
    epochs: int
    """Epochs trained, early stopping included."""


@dataclass(frozen=True, kw_only=True)
class Latents(Record):
    """Posterior means and standard deviations of every image of every split."""

    latent_dim: int
    n_samples: int


@dataclass(frozen=True, kw_only=True)
class Dictionary(Record):
    """Atoms, scaling, and the codes of every split."""

    n_atoms: int
    n_nonzero_coefs: int


@dataclass(frozen=True, kw_only=True)
class Refined(Record):
    """A refined VAE and dictionary for each sparsity level."""

    levels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Evaluation(Record):
    """Tables and figures of the comparison on the test split."""

    n_test: int


@dataclass(frozen=True, kw_only=True)
class Applied(Record):
    """What one application of the model measured, and what it adds to the registered model."""

    application: str


@dataclass(frozen=True, kw_only=True)
class ModelVersion(Record):
    """One version of the registered model; `uri` is an MLflow model URI here."""

    name: str
    version: int


RECORDS: dict[str, type[Record]] = {
    cls.__name__: cls
    for cls in (
        Dataset,
        TrainedVAE,
        Latents,
        Dictionary,
        Refined,
        Evaluation,
        Applied,
        ModelVersion,
    )
}


def record_from_json(value: dict[str, Any]) -> Record:
    """Rebuild a record from :meth:`Record.to_json`.

    Raises:
        ValueError: The dict names no record type, or its fields are not that type's.
    """
    kind = RECORDS.get(str(value.get("record")))
    if kind is None:
        raise ValueError(f"record must be one of {sorted(RECORDS)}, got {value.get('record')!r}")
    wanted = {f.name for f in fields(kind)}
    given = set(value) - {"record"}
    if given != wanted:
        raise ValueError(
            f"{kind.__name__} needs exactly the fields {sorted(wanted)}, got {sorted(given)}"
        )
    make: Callable[..., Record] = kind
    return make(
        **{k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k in wanted}
    )
