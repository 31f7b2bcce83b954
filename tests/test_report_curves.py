"""Figures of the smallest and of perfect data: no logarithm of zero, no division by it."""

import warnings

import numpy as np
import pytest

from vaesc.report.curves import _shares, draw_curve, draw_history

NAMES = ["article", "pixel", "literal", "random", "largest", "pca_latents", "pca"]


def results(errors, floor):
    """Results in which each method has one error at every level."""
    curves = {
        name: {key: [value] * 2 for key in ("mse", "low", "high")}
        for name, value in zip(NAMES, errors, strict=True)
    }
    claim = [{"k": k, "ratio": 1.0, "low": 1.0, "high": 1.0, "verdict": "no difference shown"}
             for k in (1, 2)]  # fmt: skip
    return {
        "levels": [1, 2], "methods": curves, "vae": {"mse": floor}, "claim": claim,
        "crossover": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "floor"),
    [
        ([0.25, 0, 0, 0.25, 0.26, 0.25, 0], 0.25),  # as measured on images of one pixel
        ([0] * 7, 0),
        ([0.03] * 7, 0.03),
        ([0.03] * 7, 0),
    ],
)
def test_errors_of_zero_are_drawn_without_a_warning(tmp_path, errors, floor):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curve(results(errors, floor), tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {"curve.png", "curve-dark.png"}


@pytest.mark.parametrize("value", [0.0, 1.0, -3e9, 1e12])
def test_a_flat_learning_curve_is_drawn_without_a_warning(tmp_path, value):
    epochs = [{"train/negative_elbo": value, "validation/negative_elbo": value}] * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_history(epochs, tmp_path)
    assert (tmp_path / "learning.png").is_file()


def test_shares_of_an_axis():
    np.testing.assert_allclose(_shares([2, 3, 4], (2, 4)), [0, 0.5, 1])
    np.testing.assert_array_equal(_shares([2.0, 2.0], (2, 2)), [0, 0])


def test_a_method_without_some_levels_is_drawn_where_it_has_them(tmp_path):
    found = results([0.03] * 7, 0.01)
    found["methods"]["vq"] = {key: [0.1, None] for key in ("mse", "low", "high")}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        draw_curve(found, tmp_path)
    assert (tmp_path / "curve.png").stat().st_size > 0
