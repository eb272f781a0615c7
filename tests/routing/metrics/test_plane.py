"""The cost-quality plane: hand-computed figures, invariants, and the Zero router of the recorded RouterBench rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from shared_files import SHARED

from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import concat, split_by_prompt
from routing.errors import RoutingError
from routing.metrics.plane import (
    CostQuality,
    aiq,
    aiq_published,
    by_cost,
    interpolate,
    ndch,
    single_models,
    zero_router,
)
from routing.metrics.sweep import choose, oracle, oracle_points, pair_points, router_points

ROUTERBENCH = SHARED / "routerbench"

unit = st.sampled_from([0.0, 0.25, 0.5, 1.0])


@st.composite
def tables(draw):
    """(quality, cost, predicted), each (n, m)."""
    shape = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    cost = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0, 8.0])))
    return draw(arrays(np.float64, shape, elements=unit)), cost, draw(arrays(np.float64, shape, elements=unit))


def height(hull, cost):
    return np.interp(cost, hull.cost_usd, hull.quality)


def test_ndch_by_hand():
    # (2, .5) lies under the segment from (1, .4) to (3, .8); (4, .7) is worse than what is cheaper; (1, .2) too.
    hull = ndch([3, 1, 2, 4, 1], [0.8, 0.4, 0.5, 0.7, 0.2])
    np.testing.assert_allclose(hull, [[1, 3], [0.4, 0.8]])
    np.testing.assert_allclose(ndch([5.0], [0.5]), [[5], [0.5]])
    both = ndch([[1, 2, 3], [1, 2, 3]], [[0, 0.9, 1], [0.5, 0.1, 0.2]])
    np.testing.assert_allclose(both.cost_usd, [[1, 2, 3], [1, 1, 1]])
    np.testing.assert_allclose(both.quality, [[0, 0.9, 1], [0.5, 0.5, 0.5]])


def test_aiq_by_hand():
    points = by_cost([1, 3], [0.4, 0.8])
    assert aiq(points, 1, 5) == pytest.approx((2 * 0.6 + 2 * 0.8) / 4)  # flat from 3 on
    assert aiq(points, 1, 2) == pytest.approx(0.5)  # the middle of .4 and .6
    assert aiq(points, 0.5, 1) == pytest.approx((0.2 + 0.4) / 2)  # below its cheapest point: the line to (0, 0)
    assert aiq(points, 2, 2) == pytest.approx(0.6)
    assert aiq_published(points, 5) == pytest.approx((2 * 0.6 + 2 * 0.8) / 5)
    assert np.isnan(aiq_published(by_cost([0.0], [0.4]), 0))
    free = by_cost([0, 2], [0.5, 1.0])
    assert aiq(free, 0, 2) == aiq_published(free, 2) == pytest.approx(0.75)
    stacked = CostQuality(np.array([[1.0, 3], [0, 2]]), np.array([[0.4, 0.8], [0.5, 1.0]]))
    np.testing.assert_allclose(aiq(stacked, [1, 0], [5, 2]), [0.7, 0.75])


def test_interpolate_is_a_coin():
    a, b = by_cost([1, 2], [0.2, 0.4]), by_cost([5.0], [0.8])
    np.testing.assert_allclose(interpolate(a, b, 0.25), [[2, 2.75], [0.35, 0.5]])
    np.testing.assert_allclose(interpolate(a, b, 0), a)
    with pytest.raises(RoutingError, match="probability"):
        interpolate(a, b, 1.5)


def test_oracle_by_hand():
    quality = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0]])
    cost = np.array([[2, 1, 9], [1, 2, 9], [3, 2, 9]])
    found = oracle(quality, cost)
    assert found.choice.tolist() == [1, 2, 1]
    assert found.quality.tolist() == [1, 1, 0]
    assert found.cost_usd.tolist() == [1, 9, 2]
    assert oracle(quality, cost, free_misses=True).cost_usd.tolist() == [1, 9, 0]


def test_router_points_by_hand():
    predicted = np.array([[0.1, 0.5, 0.9], [0.6, 0.4, 0.7]])
    quality = np.array([[0, 1, 1], [1, 0, 0]])
    cost = np.array([[1, 2, 4], [1, 2, 4]])
    # Slopes: row 0 by .4 then .2, row 1 straight to the third model by .1 / 3.
    points = router_points(predicted, quality, cost)
    np.testing.assert_allclose(points.cost_usd, [1, 1.5, 2.5, 4])
    np.testing.assert_allclose(points.quality, [0.5, 1, 1, 0.5])
    some = router_points(predicted, quality, cost, willingness=[0, 4, 1e9])
    np.testing.assert_allclose(some.cost_usd, [1, 1.5, 4])
    np.testing.assert_allclose(router_points(predicted, quality, cost, weights=[2, 0]).quality, [0, 1, 1, 1])


def test_random_routing_lies_on_the_segment():
    rng = np.random.default_rng(0)
    quality = np.stack([rng.random(4000) < 0.4, rng.random(4000) < 0.9], 1).astype(float)
    cost = np.tile([1.0, 11.0], (4000, 1))
    points = pair_points(rng.random(4000), *quality.T, *cost.T)
    line = np.interp(points.cost_usd, *single_models(quality, cost))
    np.testing.assert_allclose(points.quality, line, atol=0.03)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 6), unit), min_size=1, max_size=30))
def test_ndch_is_concave_rising_and_above_all_points(points):
    cost, quality = np.array(points, float).T
    hull = ndch(cost, quality)
    assert (np.diff(hull.cost_usd) > 0).all()
    assert (np.diff(hull.quality) > 0).all()
    assert (np.diff(np.diff(hull.quality) / np.diff(hull.cost_usd)) < 1e-9).all()
    assert (height(hull, cost) >= quality - 1e-12).all()
    assert {*zip(*hull, strict=True)} <= {*zip(cost, quality, strict=True)}
    np.testing.assert_array_equal(ndch(*hull), hull)


def test_ndch_of_many_points_whose_vertices_fall_one_by_one():
    # A concave run under one high last point: each pass drops only its end, so the chain has to finish it.
    cost = np.append(np.arange(200.0), 200)
    quality = np.append(np.sqrt(np.arange(200.0)), 1e4)
    hull = ndch(cost, quality)
    assert hull.cost_usd.tolist() == [0, 200]


@settings(deadline=None, max_examples=50)
@given(tables())
def test_zero_below_oracle_and_constant_router_is_zero(table):
    quality, cost, predicted = table
    low, high = single_models(quality, cost).cost_usd[[0, -1]]
    zero, best = zero_router(quality, cost), oracle_points(quality, cost)
    grid = np.linspace(low, high, 7)
    assert (height(ndch(*best), grid) >= height(zero, grid) - 1e-12).all()
    router = router_points(predicted, quality, cost)
    assert aiq(best, low, high) >= aiq(router, low, high) - 1e-12
    assert aiq(best, low, high) >= aiq(zero, low, high) - 1e-12
    assert aiq_published(zero, high) <= aiq(zero, low, high) + 1e-12 or high == 0
    # Who predicts the mean of every model routes as the Zero router.
    same = router_points(np.tile(quality.mean(0), (len(quality), 1)), quality, cost)
    assert aiq(same, low, high) == pytest.approx(aiq(zero, low, high), abs=1e-9)
    # The oracle's richest point is every row's best quality at the least cost that buys it.
    rows = oracle(quality, cost)
    hull = ndch(*best)
    assert hull.quality[-1] == pytest.approx(rows.quality.mean())
    assert hull.cost_usd[-1] <= rows.cost_usd.mean() + 1e-9


@settings(deadline=None, max_examples=50)
@given(tables(), st.sampled_from([0.3, 1.7, 20.0]))
def test_sweep_is_the_argmax_at_every_willingness(table, willingness):
    quality, cost, predicted = table
    for expected in (cost.mean(axis=0) + np.arange(cost.shape[1]) / 97, cost + 0.01):
        point = router_points(predicted, quality, cost, willingness=[willingness], expected_cost=expected)
        worth = willingness * predicted - expected
        if worth.shape[1] == 1 or (np.ptp(np.sort(worth, 1)[:, -2:], axis=1) > 1e-6).all():  # no tie to break
            model = choose(predicted, expected, willingness)
            rows = np.arange(len(quality))
            assert point.cost_usd[0] == pytest.approx(cost[rows, model].mean())
            assert point.quality[0] == pytest.approx(quality[rows, model].mean())


@settings(deadline=None, max_examples=50)
@given(tables(), st.integers(0, 99))
def test_weights_are_resampled_rows(table, seed):
    quality, cost, predicted = table
    draw = np.random.default_rng(seed).integers(len(quality), size=len(quality))
    weights = np.bincount(draw, minlength=len(quality)).astype(float)
    expected = cost.mean(axis=0)
    for weighted, resampled in (
        (zero_router(quality, cost, weights), zero_router(quality[draw], cost[draw])),
        (oracle_points(quality, cost, weights), oracle_points(quality[draw], cost[draw])),
        (
            router_points(predicted, quality, cost, weights, expected_cost=expected),
            router_points(predicted[draw], quality[draw], cost[draw], expected_cost=expected),
        ),
    ):
        assert aiq(weighted, 0, 9) == pytest.approx(aiq(resampled, 0, 9))
    several = router_points(predicted, quality, cost, np.stack([weights, weights]), expected_cost=expected)
    assert aiq(several, 0, 9)[1] == pytest.approx(
        aiq(router_points(predicted, quality, cost, weights, expected_cost=expected), 0, 9)
    )


def test_refuses_what_it_cannot_measure():
    ones = np.ones((2, 2))
    with pytest.raises(RoutingError, match=r"cost is unknown \(NaN\) in 1 rows"):
        zero_router(ones, [[1, np.nan], [1, 1]])
    with pytest.raises(RoutingError, match="must be"):
        oracle(ones, np.ones((2, 3)))
    with pytest.raises(RoutingError, match="expected_cost has shape"):
        router_points(ones, ones, ones, expected_cost=[1, 2, 3])
    with pytest.raises(RoutingError, match="pair up"):
        by_cost([1, 2], [1])


def test_zero_router_of_the_recorded_rows():
    if not ROUTERBENCH.is_dir():
        pytest.skip("shared data routerbench not present")
    for name, published in (("arc_challenge", 0.919), ("", 0.815)):
        values = []
        if name:
            outcomes = concat([read_outcomes(ROUTERBENCH / f"{name}_{half}.csv") for half in ("train", "test")])
            outcomes = outcomes.select(outcomes.known())
        else:
            outcomes = read_outcomes(ROUTERBENCH)
        for seed in range(5):
            _, test = split_by_prompt(outcomes, fraction=0.7, seed=seed)
            quality, cost = outcomes.quality[test].astype(float), outcomes.cost_usd[test]
            low, high = single_models(quality, cost).cost_usd[[0, -1]]
            zero = aiq(zero_router(quality, cost), low, high)
            assert zero - 0.025 < aiq_published(zero_router(quality, cost), high) < zero
            values.append(zero)
        # Other splits than theirs: one split's sd is .007 to .023.
        assert np.mean(values) == pytest.approx(published, abs=0.012)
