"""Gaussian process and forest: kernels, sparse solve, unknown qualities, trees as arrays, gains kept inside [0, 1]."""

import numpy as np
import pytest
from scipy.optimize import approx_fprime
from sklearn.ensemble import ExtraTreesRegressor

from routing.data.outcomes import Outcomes
from routing.errors import RoutingError
from routing.features.kernels import kernel_sum, kernels, marginal_likelihood, marginal_likelihood_weights, n_kernels
from routing.routers.registry import create
from routing.routers.text.forest import _arrays, _walk
from routing.routers.text.gp import residual_targets, within_unit

HASHED = {"kind": "hashed", "n_features": 256}
SMALL = {"features": HASHED, "n_components": 8}


def blocks(n, count=2, seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.normal(size=(n, 3)) / np.sqrt(3)).astype(np.float32) for _ in range(count)]


def make_outcomes(n=80, seed=0):
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    prompts = [
        f"Compute {i * 37} times {i}" if h else f"Name colour {chr(97 + i % 26)} of the sky" for i, h in enumerate(hard)
    ]
    quality = (rng.random((n, 3)) < np.where(hard[:, None], [0.1, 0.5, 0.9], 0.9)).astype(np.float32)
    return Outcomes([str(i) for i in range(n)], prompts, ["d"] * n, ("a", "b", "c"), quality)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_kernels_are_positive_and_add_up(count):
    a = blocks(20, count)
    grams = kernels(a, a)
    assert len(grams) == n_kernels(count)
    for gram in grams:
        assert np.linalg.eigvalsh(gram.astype(float)).min() > -1e-4
    weights = np.arange(1.0, len(grams) + 1)
    np.testing.assert_allclose(
        kernel_sum(a, a, weights), sum(w * g for w, g in zip(weights, grams, strict=True)), rtol=1e-5, atol=1e-5
    )


def test_marginal_likelihood_gradient_is_its_derivative():
    a = blocks(15)
    grams = [gram.astype(float) for gram in kernels(a, a)]
    targets = np.random.default_rng(1).normal(size=(15, 2))
    at = np.log(np.linspace(0.05, 0.8, len(grams) + 1))
    numeric = approx_fprime(at, lambda x: marginal_likelihood(x, grams, targets)[0], 1e-6)
    np.testing.assert_allclose(marginal_likelihood(at, grams, targets)[1], numeric, rtol=1e-3, atol=1e-3)


def test_weights_find_the_block_that_matters():
    a = blocks(200)
    y = a[1] @ [1.0, -1.0, 0.5] + 0.3 * np.random.default_rng(2).normal(size=200)
    weights, noise = marginal_likelihood_weights(a, ((y - y.mean()) / y.std())[:, None])
    assert weights[2] > 5 * max(weights[0], weights[1])
    assert noise == pytest.approx(0.09 / y.var(), rel=0.4)


def test_sparse_solve_is_close_to_the_exact_one():
    outcomes = make_outcomes(160)
    exact = create("gp", **SMALL).fit(outcomes)
    sparse = create("gp", **SMALL, max_basis=120).fit(outcomes)
    assert len(sparse.alpha_) == 120
    np.testing.assert_allclose(sparse.predict(outcomes.prompts), exact.predict(outcomes.prompts), atol=0.05)


@pytest.mark.parametrize("name", ["gp", "forest"])
def test_half_unknown_learns_from_the_rest(name):
    outcomes = make_outcomes(160)
    outcomes.quality[::2, 1] = np.nan
    predicted = create(name, **SMALL).fit(outcomes).predict(["Compute 925 times 25", "Name colour q of the sky"])
    assert predicted[0, 2] - predicted[0, 0] > 0.3
    assert predicted[1, 2] - predicted[1, 0] < 0.3


def test_residual_targets():
    common, contrast = residual_targets(np.array([[0.1, 0.3], [0.2, np.nan], [np.nan, np.nan]]))
    np.testing.assert_allclose(common[:, 0], [0.2, 0.2, np.nan])
    np.testing.assert_allclose(contrast, [[-0.1, 0.1], [np.nan, np.nan], [np.nan, np.nan]])


def test_gains_survive_the_ends_of_the_scale():
    quality = np.array([[0.9, 1.2], [-0.1, 0.3], [0.2, 0.4], [-0.5, 1.0]])
    moved = within_unit(quality)
    np.testing.assert_allclose(moved, [[0.7, 1.0], [0.0, 0.4], [0.2, 0.4], [0.0, 1.0]], atol=1e-12)


def test_trees_as_arrays_are_the_forest():
    rng = np.random.default_rng(0)
    x, y = rng.random((90, 5)).astype(np.float32), rng.random((90, 4))
    forest = ExtraTreesRegressor(7, min_samples_leaf=3, random_state=0).fit(x, y)
    queries = rng.random((40, 5)).astype(np.float32)
    np.testing.assert_allclose(_walk(_arrays(forest, 2), queries), forest.predict(queries)[:, :2], atol=1e-6)


@pytest.mark.parametrize(("name", "wrong"), [("gp", {"max_basis": 3}), ("forest", {"n_trees": 0})])
def test_wrong_hyperparameters(name, wrong):
    with pytest.raises(RoutingError, match=next(iter(wrong))):
        create(name, **wrong)
