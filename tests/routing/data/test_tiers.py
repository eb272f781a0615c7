"""Bradley-Terry strengths against closed forms and scikit-learn; tiers against all cuts there are."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from routing.data.preferences import Preferences
from routing.data.tiers import bradley_terry, make_tiers, ratings, weakest_first, win_counts, win_rates
from routing.errors import RoutingError


def battles(*rows):
    a, b, winner = zip(*rows, strict=True)
    return Preferences(["p"] * len(rows), list(a), list(b), np.array(winner, float), ["d"] * len(rows))


def test_two_models_have_the_log_odds_between_them():
    # 3 wins, 1 loss, 2 ties: 4 half-way wins to 2, P = 2/3.
    table = battles(*[("x", "y", 1)] * 3, ("y", "x", 1), ("x", "y", 0.5), ("y", "x", 0.5))
    counts = win_counts(table, ("x", "y"))
    np.testing.assert_array_equal(counts, [[0, 4], [2, 0]])
    strength = bradley_terry(counts)
    assert strength[0] - strength[1] == pytest.approx(np.log(2), abs=1e-3)
    assert strength.sum() == pytest.approx(0, abs=1e-12)
    assert weakest_first(table) == ("y", "x")
    assert ratings(table)["x"] == pytest.approx(np.log(2) / 2, abs=1e-3)


def test_chain_of_models_adds_up():
    # a beats b 3:1 and b beats c 4:1; a and c never met: the log odds add.
    counts = np.array([[0, 3, 0], [1, 0, 4], [0, 1, 0]], float)
    strength = bradley_terry(counts, ridge=1e-9)
    assert strength[0] - strength[1] == pytest.approx(np.log(3), abs=1e-6)
    assert strength[0] - strength[2] == pytest.approx(np.log(12), abs=1e-6)


def test_a_circle_and_strangers_are_equal():
    np.testing.assert_allclose(bradley_terry(np.array([[0, 1, 0], [0, 0, 1], [1, 0, 0.0]])), 0, atol=1e-12)
    np.testing.assert_allclose(bradley_terry(np.zeros((4, 4))), 0)


def test_who_never_lost_stays_finite_and_ahead():
    strength = bradley_terry(np.array([[0, 1e6], [0, 0]]))
    assert 5 < strength[0] - strength[1] < 40
    assert np.isfinite(bradley_terry(np.array([[0, 1e-9], [0, 0]]))).all()


def test_same_as_logistic_regression_over_all_battles():
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 30, (6, 6)) * rng.random((6, 6))
    np.fill_diagonal(counts, 0)
    i, j = np.nonzero(counts)
    design = np.zeros((len(i), 6))
    design[np.arange(len(i)), i], design[np.arange(len(i)), j] = 1, -1
    # Each count twice, from both sides, as a fit needs two classes.
    fit = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10, max_iter=1000).fit(
        np.vstack([design, -design]), np.repeat([1, 0], len(i)), np.tile(counts[i, j], 2)
    )
    expected = fit.coef_[0] - fit.coef_[0].mean()
    np.testing.assert_allclose(bradley_terry(counts, ridge=0 + 1e-10), expected, atol=1e-5)


def test_batched_is_single_to_the_bit():
    rng = np.random.default_rng(1)
    counts = rng.gamma(0.3, 10, (40, 5, 5))
    counts[:5] *= 1e6  # problems that need more steps than others
    counts[5] = 0
    together = bradley_terry(counts)
    np.testing.assert_array_equal(together, np.stack([bradley_terry(one) for one in counts]))
    np.testing.assert_allclose(together, bradley_terry(counts, start=np.array([3, -3, 0, 1, 9.0])), atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 100), min_size=12, max_size=12), st.floats(0.5, 50))
def test_strengths_ignore_names_and_scale(values, scale):
    counts = np.zeros((4, 4))
    counts[~np.eye(4, dtype=bool)] = np.array(values) + 0.1
    strength = bradley_terry(counts)
    order = np.array([2, 0, 3, 1])
    np.testing.assert_allclose(bradley_terry(counts[np.ix_(order, order)]), strength[order], atol=1e-7)
    np.testing.assert_allclose(bradley_terry(counts.T), -strength, atol=1e-7)
    np.testing.assert_allclose(bradley_terry(counts * scale, ridge=1e-4 * scale), strength, atol=1e-7)


def test_win_rates():
    np.testing.assert_allclose(win_rates(np.array([[0, np.log(3)]])), [[0.25, 0.75]], atol=1e-7)
    np.testing.assert_allclose(win_rates(np.zeros((2, 1))), [[0.5], [0.5]])
    three = win_rates(np.array([[0, np.log(3), 0.0]]))
    np.testing.assert_allclose(three, [[(0.25 + 0.5) / 2, 0.75, 0.375]], atol=1e-7)
    np.testing.assert_allclose(win_rates(np.random.default_rng(0).normal(size=(50, 5))).mean(1), 0.5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-50, 50), min_size=1, max_size=9), st.integers(1, 5))
def test_tiers_are_the_best_of_all_cuts(values, k):
    names = [f"m{i}" for i in range(len(values))]
    tiers = make_tiers(dict(zip(names, map(float, values), strict=True)), k)
    assert sorted(name for group in tiers.groups for name in group) == sorted(names)
    assert len(tiers.groups) == min(k, len(values))

    def cost(groups):
        return sum(len(group) * np.var(group) for group in groups)

    ordered = sorted(values, reverse=True)
    cuts = itertools.combinations(range(1, len(values)), len(tiers.groups) - 1)
    best = min(cost([ordered[i:j] for i, j in itertools.pairwise([0, *cut, len(values)])]) for cut in cuts)
    found = [[values[names.index(name)] for name in group] for group in tiers.groups]
    assert cost(found) == pytest.approx(best, abs=1e-6)
    assert [value for group in found for value in group] == ordered


def test_tiers_name_and_class_models():
    tiers = make_tiers({"a": 5.0, "b": 4.9, "c": 1.0, "d": 0.9, "e": -3.0}, 3)
    assert tiers.groups == (("a", "b"), ("c", "d"), ("e",))
    assert tiers.tier_of("d") == 1
    assert tiers.names()["e"] == "tier-2"
    table = battles(("a", "e", 1), ("e", "c", 0.5), ("a", "b", 1), ("d", "b", 0))
    pair = tiers.classes(table, strong=(0,), weak=(1, 2))
    assert list(zip(pair.model_a, pair.model_b, pair.winner, strict=True)) == [
        ("strong", "weak", 1),
        ("weak", "strong", 0),
    ]
    for strong, weak, match in (((0,), (0,), "different"), ((0,), (3,), "different"), ((), (1,), "different")):
        with pytest.raises(RoutingError, match=match):
            tiers.classes(table, strong, weak)
    with pytest.raises(RoutingError, match="no battle"):
        tiers.classes(table.select(np.array([2])), (0,), (1,))
    with pytest.raises(RoutingError, match="'z' is in none"):
        tiers.tier_of("z")
    with pytest.raises(RoutingError, match="at least 1"):
        make_tiers({}, 3)
    with pytest.raises(RoutingError, match="no battles"):
        ratings(table.select(np.zeros(4, bool)))
