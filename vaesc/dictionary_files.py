"""A dictionary of latents on disk: safetensors and JSON, never pickle.

``dictionary.safetensors`` holds dictionary (K, d), mean (d,) and scale (d,), float32, and under
the coder ``lista`` the weights of its network as ``network.<name>``, and of a dictionary that
is used with its decoder, the ``amounts`` (K, T) it tries;
``dictionary.json`` the coder, the sparsity level and the SHA-256 of each file of the VAE whose
latents it was learned on. What is read is checked before it is believed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vaesc.config import MOST_LAYERS
from vaesc.errors import DataError
from vaesc.untrusted import MOST, is_moderate, read_arrays, read_json

if TYPE_CHECKING:
    from vaesc.dictionary import LatentDictionary

WEIGHTS = "dictionary.safetensors"
SETTINGS = "dictionary.json"
_FORMAT = 1
_NETWORK = "network."
_LEAST_NORM, _MOST_NORM = 1e-6, 1.01
"""Of an atom; one that nothing uses may be short, or nothing."""
_CODERS = ("ols", "omp", "lasso", "lista")
_MAX_STEPS, _MAX_AMOUNTS = 100, 1024


def save_dictionary(dictionary: LatentDictionary, folder: Path) -> None:
    """Write ``dictionary.safetensors`` and ``dictionary.json`` into `folder`."""
    from safetensors.numpy import save_file

    arrays = {name: getattr(dictionary, name) for name in ("dictionary", "mean", "scale")}
    network = dictionary.network or {}
    arrays |= {f"{_NETWORK}{name}": np.ascontiguousarray(w) for name, w in network.items()}
    if dictionary.amounts is not None:
        arrays["amounts"] = dictionary.amounts
    save_file(arrays, folder / WEIGHTS)
    settings: dict[str, Any] = {
        "format": _FORMAT,
        "coder": dictionary.coder,
        "n_nonzero_coefs": dictionary.n_nonzero_coefs,
        "vae_sha256": dict(dictionary.vae_sha256),
    }
    if dictionary.descent_steps:
        settings["descent_steps"] = dictionary.descent_steps
    write_json(folder / SETTINGS, settings)


def load_dictionary(folder: Path) -> LatentDictionary:
    """Read what :func:`save_dictionary` wrote.

    Raises:
        DataError: A file is missing or is not what it should be.
    """
    from vaesc.dictionary import LatentDictionary

    try:
        settings = read_json(folder / SETTINGS)
        arrays, _ = read_arrays(folder / WEIGHTS)
        if settings["format"] != _FORMAT:
            raise DataError(
                f"{folder / SETTINGS} has format {settings['format']}, this vaesc reads {_FORMAT}"
            )
        dictionary = LatentDictionary(
            **{name: arrays[name] for name in ("dictionary", "mean", "scale")},
            coder=str(settings["coder"]),
            n_nonzero_coefs=int(settings["n_nonzero_coefs"]),
            vae_sha256=dict(settings["vae_sha256"]),
            network=_network(arrays),
            descent_steps=int(settings.get("descent_steps", 0)),
            amounts=arrays.get("amounts"),
        )
    except DataError:
        raise
    except (OSError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{folder} holds no readable dictionary: {error}") from error
    _check(dictionary, folder)
    return dictionary


def _network(arrays: dict[str, Any]) -> dict[str, Any] | None:
    """Return the weights of the network among the arrays, by their names without prefix."""
    found = {k.removeprefix(_NETWORK): v for k, v in arrays.items() if k.startswith(_NETWORK)}
    return found or None


def _check(dictionary: LatentDictionary, folder: Path) -> None:
    """Refuse arrays that do not belong together."""
    shapes = dictionary.dictionary.shape, dictionary.mean.shape, dictionary.scale.shape
    if len(shapes[0]) != 2 or not shapes[1] == shapes[2] == shapes[0][1:]:
        raise DataError(
            f"{folder / WEIGHTS} must hold dictionary (K, d), mean (d,) and scale (d,), "
            f"got shapes {shapes}"
        )
    _check_numbers(dictionary, folder)
    _check_decoder_coding(dictionary, folder)
    if (dictionary.coder == "lista") != (dictionary.network is not None):
        raise DataError(
            f"{folder / WEIGHTS} must hold a network if and only if the coder is lista, "
            f"it is {dictionary.coder}"
        )
    if dictionary.network is not None:
        from vaesc.sparse.amortised import from_weights

        thresholds = dictionary.network.get("thresholds", np.empty(0))
        try:
            if np.shape(thresholds)[:1] > (MOST_LAYERS + 1,):  # one more than layers
                raise ValueError(f"it has more than {MOST_LAYERS} layers")
            from_weights(dictionary.dictionary, dictionary.n_nonzero_coefs, dictionary.network)
        except ValueError as error:
            raise DataError(f"{folder / WEIGHTS} holds no network for it: {error}") from error


def _check_numbers(dictionary: LatentDictionary, folder: Path) -> None:
    """Refuse numbers that no learner writes, and a coder or a sparsity level that there is not."""
    for name in ("dictionary", "mean", "scale"):
        values = getattr(dictionary, name)
        if values.dtype != np.float32 or not is_moderate(values):
            raise DataError(
                f"{folder / WEIGHTS} must hold finite float32 of at most {MOST:g}, got "
                f"{values.dtype} in {name}"
            )
    if not (dictionary.scale > 0).all():
        raise DataError(f"{folder / WEIGHTS} must hold a scale above 0 for each dimension")
    norms = np.linalg.norm(dictionary.dictionary.astype(np.float64), axis=1)
    if norms.max(initial=0) > _MOST_NORM:
        raise DataError(f"{folder / WEIGHTS} must hold atoms of norm 1, got {norms.max():g}")
    if ((norms > 0) & (norms < _LEAST_NORM)).any():
        raise DataError(f"{folder / WEIGHTS} must hold atoms of norm 1, got one that is near 0")
    if dictionary.coder not in _CODERS:
        raise DataError(
            f"{folder / SETTINGS} must name a coder of {', '.join(_CODERS)}, got "
            f"{dictionary.coder[:80]!r}"
        )
    if not 1 <= dictionary.n_nonzero_coefs <= dictionary.n_atoms:
        raise DataError(
            f"{folder / SETTINGS} must have n_nonzero_coefs from 1 to {dictionary.n_atoms}, got "
            f"{dictionary.n_nonzero_coefs}"
        )


def _check_decoder_coding(dictionary: LatentDictionary, folder: Path) -> None:
    """Refuse amounts that are no increasing numbers, one row an atom, and absurd step counts."""
    if not 0 <= dictionary.descent_steps <= _MAX_STEPS:
        raise DataError(
            f"{folder / SETTINGS} must have descent_steps from 0 to {_MAX_STEPS}, "
            f"got {dictionary.descent_steps}"
        )
    amounts = dictionary.amounts
    if amounts is None:
        return
    shaped = (
        amounts.dtype == np.float32
        and amounts.ndim == 2
        and len(amounts) == dictionary.n_atoms
        and 2 <= amounts.shape[1] <= _MAX_AMOUNTS
    )
    if not (shaped and is_moderate(amounts) and (np.diff(amounts, axis=1) > 0).all()):
        raise DataError(
            f"{folder / WEIGHTS} must hold amounts of shape ({dictionary.n_atoms}, T), float32, "
            f"finite and increasing along each row, T from 2 to {_MAX_AMOUNTS}, got "
            f"{amounts.dtype} of shape {amounts.shape}"
        )


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401
    """Write `value` so that equal values give equal bytes."""
    path.write_text(json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")
