"""Metrics: exact by hand, against a brute-force average over tie orders, and against RouteLLM's published figures."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import SHARED

from routing.data.outcome_readers import read_outcomes
from routing.errors import RoutingError
from routing.metrics.pair import (
    apgr,
    bootstrap,
    bootstrap_all,
    cpt,
    routellm_measures,
    routellm_points,
    router_curve,
)
from routing.routers.registry import create

ROUTELLM = SHARED / "routellm"

rows = st.integers(2, 40).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(-5, 5), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n),
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=n, max_size=n),
    )
)


def pgr_at(score, weak, strong, share):
    curve = router_curve(score, weak, strong)
    weak, strong = curve.quality[[0, -1]]
    return (np.interp(share, curve.share, curve.quality) - weak) / (strong - weak)


def routellm_apgr(score, weak, strong, weights=None):
    return routellm_measures(score, weak, strong, weights=weights)["apgr"]


def routellm_cpt(score, weak, strong, recovered, weights=None):
    return routellm_measures(score, weak, strong, weights=weights, recovered={"cpt": recovered})["cpt"]


def gap(weak, strong):
    return abs(np.mean(strong) - np.mean(weak)) > 1e-9


def test_by_hand():
    score, weak, strong = [4, 3, 2, 1], [0, 1, 0, 1], [1, 1, 1, 1]
    curve = router_curve(score, weak, strong)
    np.testing.assert_allclose(curve.share, [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.quality, [0.5, 0.75, 0.75, 1, 1])
    assert apgr(score, weak, strong) == pytest.approx(0.25 * (0.25 + 0.5 + 0.75 + 1))
    assert pgr_at(score, weak, strong, 0.5) == pytest.approx(0.5)
    assert cpt(score, weak, strong, 0.5) == pytest.approx(0.25)
    assert cpt(score, weak, strong, 1.0) == pytest.approx(0.75)
    assert cpt(score, weak, strong, 0.0) == 0
    assert np.isnan(cpt(score, weak, strong, 1.01))


def test_ties_are_the_average_of_all_their_orders():
    weak, strong = np.array([0.0, 1, 0, 0.5, 1]), np.array([1.0, 1, 0.5, 1, 0.5])
    tied = np.array([1, 1, 1, 0, 0])
    orders = [
        apgr(-np.argsort([*first, *second]), weak, strong)
        for first in itertools.permutations([0, 1, 2])
        for second in itertools.permutations([3, 4])
    ]
    assert apgr(tied, weak, strong) == pytest.approx(np.mean(orders))


@settings(deadline=None)
@given(rows)
def test_invariants(data):
    score, weak, strong = map(np.array, data)
    curve = router_curve(score, weak, strong)
    assert curve.share[0] == 0
    assert curve.share[-1] == 1
    assert curve.quality[0] == pytest.approx(weak.mean())
    assert curve.quality[-1] == pytest.approx(strong.mean())
    if not gap(weak, strong):
        assert np.isnan(apgr(score, weak, strong))
        return
    value = apgr(score, weak, strong)
    assert apgr(np.exp(score / 3.0), weak, strong) == value  # a strictly monotone transform changes nothing
    assert apgr(np.zeros(len(score)), weak, strong) == pytest.approx(0.5, abs=1e-12)
    assert value + apgr(-score, weak, strong) == pytest.approx(1)  # reversing the order mirrors the curve
    if strong.mean() > weak.mean():
        assert apgr(strong - weak, weak, strong) >= value - 1e-12
        for recovered in (0.2, 0.5, 0.8, 1.0):
            share = cpt(score, weak, strong, recovered)
            assert pgr_at(score, weak, strong, share) == pytest.approx(recovered) or share == 0


@settings(deadline=None, max_examples=50)
@given(rows, st.integers(0, 2**32 - 1))
def test_weights_are_resampled_rows(data, seed):
    score, weak, strong = map(np.array, data)
    drawn = np.random.default_rng(seed).integers(len(score), size=(3, len(score)))
    weights = np.stack([np.bincount(draw, minlength=len(score)) for draw in drawn])
    for fn in (apgr, lambda *a, **k: cpt(*a, 0.5, **k), routellm_apgr, lambda *a, **k: routellm_cpt(*a, 0.5, **k)):
        together = fn(score, weak, strong, weights=weights)
        one_by_one = [fn(score[d], weak[d], strong[d]) for d in drawn]
        np.testing.assert_allclose(together, one_by_one, atol=1e-9)


@settings(deadline=None, max_examples=50)
@given(rows)
def test_routellm_points_are_thresholds_at_the_quantiles(data):
    score, weak, strong = map(np.array, data)
    share, quality = routellm_points(score, weak, strong)
    edges = np.quantile(score, np.linspace(0, 1, 11))
    for i, edge in enumerate(edges):
        sent = score > edge if i == 10 else score >= edge
        assert share[10 - i] == pytest.approx(sent.mean())
        assert quality[10 - i] == pytest.approx(np.where(sent, strong, weak).mean())


def test_constant_scores_give_exactly_one_half():
    weak, strong = np.array([0.0, 1, 0, 0.3]), np.array([1.0, 0.7, 1, 0.9])
    assert apgr(np.full(4, 0.3), weak, strong) == 0.5
    assert routellm_apgr(np.full(4, 0.3), weak, strong) == pytest.approx(0.5)


def test_random_scores_are_near_one_half():
    rng = np.random.default_rng(1)
    weak, strong = (rng.random(4000) < 0.5).astype(float), (rng.random(4000) < 0.8).astype(float)
    values = [apgr(rng.random(4000), weak, strong) for _ in range(50)]
    assert np.mean(values) == pytest.approx(0.5, abs=0.01)


def test_bootstrap_of_a_mean_is_the_normal_interval():
    x = np.random.default_rng(0).normal(3, 2, 2500)
    interval = bootstrap(lambda w: w @ x / len(x), len(x), 2000, seed=1)
    assert interval.mean == pytest.approx(x.mean())
    assert interval.low == pytest.approx(x.mean() - 1.96 * x.std() / 50, abs=0.01)
    assert interval.high == pytest.approx(x.mean() + 1.96 * x.std() / 50, abs=0.01)
    assert bootstrap(lambda w: w @ x / len(x), len(x), 2000, seed=1) == interval


def test_figures_of_one_bootstrap_share_their_draws():
    x = np.random.default_rng(0).normal(3, 2, 300)
    both = bootstrap_all(lambda w: {"mean": w @ x / 300, "less": w @ x / 300 - 1}, 300, 200, seed=1)
    assert both["mean"] == bootstrap(lambda w: w @ x / 300, 300, 200, seed=1)
    np.testing.assert_allclose(np.array(both["mean"]) - 1, both["less"])


def test_refuses_what_it_cannot_measure():
    with pytest.raises(RoutingError, match="one number per row"):
        apgr([1, 2], [1], [1, 0])
    with pytest.raises(RoutingError, match="q_strong is unknown"):
        apgr([1, 2], [1, 0], [1, np.nan])
    with pytest.raises(RoutingError):
        bootstrap(lambda w: w.sum(-1), 0)
    assert np.isnan(routellm_apgr([1, 2], [1, 0], [0, 1]))
    assert np.isnan(routellm_cpt([1, 2], [1, 0], [0, 1], 0.5))


@pytest.mark.parametrize(
    ("name", "n", "weak", "strong", "length_apgr"),
    [("mmlu", 14037, 68.091, 80.587, 0.584), ("gsm8k", 1307, 63.734, 85.769, 0.599)],
)
def test_routellm_measures(name, n, weak, strong, length_apgr):
    if not ROUTELLM.is_dir():
        pytest.skip("shared RouteLLM data not present")
    models = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
    outcomes = read_outcomes(ROUTELLM / name, drop_contaminated=True).with_models(models)
    assert len(outcomes) == n
    np.testing.assert_allclose(100 * outcomes.quality.mean(0, np.float64), [weak, strong], atol=5e-4)
    quality = create("length", models=models).predict(outcomes.prompts)
    pair = quality[:, 1] - quality[:, 0], outcomes.quality[:, 0], outcomes.quality[:, 1]
    assert routellm_apgr(*pair) == pytest.approx(length_apgr, abs=0.003)
    assert apgr(*pair) == pytest.approx(length_apgr, abs=0.004)
    share, _ = routellm_points(*pair)
    assert len(share) == 11
    assert (share[0], share[-1]) == (0, 1)


def test_mt_bench_figures():
    if not ROUTELLM.is_dir():
        pytest.skip("shared RouteLLM data not present")
    models = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
    outcomes = read_outcomes(ROUTELLM / "mt_bench", drop_contaminated=True).with_models(models)
    assert len(outcomes) == 72
    np.testing.assert_allclose(10 * outcomes.quality.mean(0, np.float64), [8.2813, 9.2118], atol=5e-5)
