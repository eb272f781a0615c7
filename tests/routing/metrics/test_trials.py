"""Figures of trials against the measures they are made of, and their intervals."""

import numpy as np
import pytest

from routing.data.outcomes import Outcomes
from routing.metrics.pair import apgr, cpt
from routing.metrics.plane import aiq, zero_router
from routing.metrics.sweep import oracle
from routing.metrics.trials import FIGURES, Trial, measure_references, measure_trials


def table(quality, cost=None):
    rows = [str(i) for i in range(len(quality))]
    models = tuple("abc"[: quality.shape[1]])
    return Outcomes(rows, rows, ["d"] * len(rows), models, quality.astype(np.float32), cost)


def test_a_pair():
    rng = np.random.default_rng(0)
    score = rng.random(600)
    weak, strong = (rng.random(600) < 0.8 - 0.6 * score).astype(float), (rng.random(600) < 0.9).astype(float)
    priced = table(np.stack([weak, strong], 1), np.tile([1.0, 10.0], (600, 1)))
    said = np.stack([1 - score, score], 1).astype(np.float32)
    rows = np.arange(600)
    found = measure_trials([Trial(rows, said, np.array([1.0, 10.0]))], priced, pair=True, n_boot=100)
    exact = said[:, 1].astype(np.float64) - said[:, 0]
    assert found["apgr"].mean == pytest.approx(apgr(exact, weak, strong))
    assert found["cpt50"].mean == pytest.approx(cpt(exact, weak, strong, 0.5))
    assert found["calls_vs_random_cpt50"].mean == pytest.approx(0.5 / found["cpt50"].mean)
    beside = measure_references([rows], priced, pair=True, n_boot=100)
    assert beside["zero"]["aiq"].mean == pytest.approx((weak.mean() + strong.mean()) / 2)
    assert found["aiq_gain"].mean == pytest.approx(found["aiq"].mean - beside["zero"]["aiq"].mean)
    assert beside["zero"]["aiq"].mean < found["aiq"].mean < beside["oracle"]["aiq"].mean
    assert all(figure.low <= figure.mean <= figure.high for figure in found.values())
    assert found["aiq_gain"].low > 0
    unpriced = measure_trials([Trial(rows, said)], table(priced.quality), pair=True, n_boot=10)
    assert set(unpriced) == set(found) == set(FIGURES)
    assert unpriced["aiq"] is None and unpriced["apgr"] is not None


def test_three_models():
    rng = np.random.default_rng(0)
    talent, hard = np.array([0.5, 0.7, 0.8]), rng.random((400, 1))
    quality = (rng.random((400, 3)) < talent + 0.3 - 0.6 * hard).astype(float)
    cost = np.tile([1.0, 3.0, 10.0], (400, 1))
    priced, rows, price = table(quality, cost), np.arange(400), cost[0]
    said = np.clip(talent + 0.3 - 0.6 * hard, 0, 1).astype(np.float32)
    found = measure_trials([Trial(rows, said, price)], priced, pair=False, n_boot=50)
    beside = measure_references([rows], priced, pair=False, n_boot=50)
    assert beside["zero"]["aiq"].mean == pytest.approx(aiq(zero_router(quality, cost), 1, 10))
    assert found["aiq"].mean <= beside["oracle"]["aiq"].mean
    assert beside["zero"]["best_quality"].mean == pytest.approx(quality.mean(0).max())
    assert beside["oracle"]["best_quality"].mean == pytest.approx(oracle(quality, cost).quality.mean())
    exact = measure_trials([Trial(rows, quality.astype(np.float32), price)], priced, pair=False, n_boot=10)
    assert exact["best_quality"].mean == pytest.approx(beside["oracle"]["best_quality"].mean)
    assert found["apgr"] is None and found["cpt80"] is None


def test_an_interval_that_cannot_be_given_has_no_ends():
    same = np.array([[1.0, 0.0], [0.0, 1.0]] * 20)
    said = np.tile(np.float32([0.4, 0.6]), (40, 1))
    found = measure_trials([Trial(np.arange(40), said)], table(same), pair=True, n_boot=50)
    assert all(found[name] is None or np.isnan(found[name].low) for name in ("apgr", "cpt50"))
    assert found["best_quality"].low < 0.5 < found["best_quality"].high
