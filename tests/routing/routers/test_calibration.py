"""Calibration: monotone, right on average, blind to the order of rows, and the same after a trip through arrays."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import RoutingError
from routing.metrics.pair import apgr
from routing.routers.calibrated.calibration import METHODS, TILT, Calibration, fit_calibration

# Few distinct values, so that ties are many; graded targets as well as right or wrong.
SCORES = st.sampled_from([0.0, 0.1, 0.25, 0.25000001, 0.5, 0.9, 1.0])
TARGETS = st.sampled_from([0.0, 0.25, 0.5, 1.0])
ROWS = st.lists(st.tuples(SCORES, TARGETS), min_size=1, max_size=40)


def columns(rows):
    score, target = np.array(rows).T
    return score[:, None], target[:, None]


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(ROWS, st.randoms(use_true_random=False))
def test_monotone_and_blind_to_order(method, rows, rng):
    score, target = columns(rows)
    grid = np.linspace(-0.5, 1.5, 401)[:, None]
    fitted = fit_calibration(score, target, method)
    quality = fitted.apply(grid)[:, 0]
    assert quality.dtype == np.float32
    assert ((quality >= 0) & (quality <= 1)).all()
    assert (np.diff(quality) >= 0).all()
    shuffled = list(rows)
    rng.shuffle(shuffled)
    again = fit_calibration(*columns(shuffled), method).apply(grid)[:, 0]
    np.testing.assert_allclose(again, quality, atol=1e-4 if method == "platt" else 1e-6)
    loaded = Calibration.from_arrays(method, fitted.arrays()).apply(grid)[:, 0]
    np.testing.assert_array_equal(loaded, quality)


@settings(max_examples=30, deadline=None)
@given(ROWS)
def test_isotonic_is_right_on_average_and_keeps_the_order(rows):
    score, target = columns(rows)
    quality = fit_calibration(score, target, "isotonic").apply(score)
    assert quality.mean() == pytest.approx(target.mean(), abs=2 * TILT)
    if np.ptp(target) > 0 and np.ptp(score) > 1e-3:
        assert (quality[score[:, 0] == 1] > quality[score[:, 0] == 0].max(initial=-1)).all()


def test_by_hand():
    score = np.array([[0.1], [0.2], [0.2], [0.3], [0.4]])
    target = np.array([[0.0], [1.0], [0.0], [0.25], [1.0]])
    # The tie at .2 is .5 and is followed by .25: three rows are pooled to 1.25 / 3.
    quality = fit_calibration(score, target, "isotonic").apply(np.array([[0.0], [0.1], [0.2], [0.3], [0.4], [9.0]]))
    np.testing.assert_allclose(quality[:, 0], [0, 0, 1.25 / 3, 1.25 / 3, 1, 1], atol=TILT)


def test_platt_finds_a_logistic_curve():
    rng = np.random.default_rng(0)
    score = rng.random((20_000, 2))
    truth = 1 / (1 + np.exp(-(score * [4, 1] + [-2, 0.5])))
    quality = (rng.random(score.shape) < truth).astype(np.float32)
    quality[rng.random(score.shape) < 0.1] = np.nan
    np.testing.assert_allclose(fit_calibration(score, quality, "platt").apply(score), truth, atol=0.03)
    # Isotonic fits are loose at the two ends, a handful of rows of 20,000.
    assert np.abs(fit_calibration(score, quality, "isotonic").apply(score) - truth).mean() < 0.015


@pytest.mark.parametrize("method", METHODS)
def test_a_score_that_misleads_becomes_the_mean(method):
    score = np.linspace(0, 1, 200)[:, None]
    quality = fit_calibration(score, 1 - score, method).apply(score)
    np.testing.assert_allclose(quality, 0.5, atol=2 * TILT)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("value", [0.0, 0.25, 1.0])
def test_constant_targets(method, value):
    score = np.linspace(0, 1, 7)[:, None]
    np.testing.assert_allclose(fit_calibration(score, np.full((7, 1), value), method).apply(score), value, atol=1e-6)
    one = fit_calibration(score[:1], np.full((1, 1), value), method).apply(score)
    np.testing.assert_allclose(one, value, atol=1e-6)


def test_a_monotone_map_leaves_apgr_where_it_was():
    rng = np.random.default_rng(1)
    gain, weak = rng.random(2000), (rng.random(2000) < 0.5).astype(float)
    strong = (rng.random(2000) < 0.3 + 0.6 * gain).astype(float)
    mapped = fit_calibration(gain[:, None], strong[:, None], "isotonic").apply(gain[:, None])[:, 0]
    assert apgr(mapped, weak, strong) == pytest.approx(apgr(gain, weak, strong), abs=1e-4)


def test_refused():
    good = np.zeros((3, 2))
    with pytest.raises(RoutingError, match="known are isotonic, platt"):
        fit_calibration(good, good, "beta")
    with pytest.raises(RoutingError, match="must be alike"):
        fit_calibration(good, good[:2])
    with pytest.raises(RoutingError, match="finite"):
        fit_calibration(np.full((3, 2), np.nan), good)
    with pytest.raises(RoutingError, match="no known quality"):
        fit_calibration(good, np.full((3, 2), np.nan))
    with pytest.raises(RoutingError, match="for 2 models"):
        fit_calibration(good, good).apply(good[:, :1])
