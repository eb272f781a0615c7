"""The four policies: ranges, the rules of the cut, and nestedness."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from routing.errors import RoutingError
from routing.upgrades.policy import Policy, least_usd, require_base_paid
from routing.upgrades.steps import build_steps

EVEN = [0.0, 0.125, 0.25, 0.5, 0.625, 0.75, 1.0]


def pair(p, weak_usd=0.01, strong_usd=1.0, weight=None, rank_by="score"):
    p = np.asarray(p, np.float32)
    cost = np.tile([weak_usd, strong_usd], (len(p), 1))
    return build_steps(np.stack([1 - p, p], 1), cost, np.arange(len(p)), weight, None, rank_by)


@pytest.mark.parametrize(
    ("kind", "value", "rank_by", "message"),
    [
        ("strong_share", 1.5, None, r"policy\.strong_share must be between 0 and 1, not 1\.5"),
        ("threshold", -0.1, None, r"policy\.threshold must be between 0 and 1"),
        ("min_quality", 95, None, r"policy\.min_quality must be between 0 and 1, not 95"),
        ("budget_usd", 0, None, r"policy\.budget_usd must be above 0 dollars"),
        ("budget_usd", -3.0, None, r"policy\.budget_usd must be above 0 dollars"),
        ("budget_usd", math.inf, None, r"policy\.budget_usd must be a finite number"),
        ("threshold", math.nan, None, r"policy\.threshold must be a finite number"),
        ("strong_share", True, None, r"policy\.strong_share must be a finite number"),
        ("strong_share", "0.3", None, r"policy\.strong_share must be a finite number"),
        ("share", 0.3, None, "policy must be one of threshold, strong_share, budget_usd, min_quality"),
        ("budget_usd", 3.0, "dollars", r"policy\.rank_by must be one of score, gain, gain_per_dollar"),
        ("threshold", 0.5, "gain", r"policy\.rank_by must be score with policy\.threshold"),
    ],
)
def test_values_out_of_range_are_refused_by_name(kind, value, rank_by, message):
    with pytest.raises(RoutingError, match=message):
        Policy(kind, value, rank_by)


def test_default_orders():
    orders = {kind: Policy(kind, 0.5).order for kind in ("threshold", "strong_share", "budget_usd", "min_quality")}
    assert orders == {
        "threshold": "score",
        "strong_share": "score",
        "budget_usd": "gain_per_dollar",
        "min_quality": "gain_per_dollar",
    }
    assert Policy("budget_usd", 5, "gain").order == "gain"


def test_steps_ranked_otherwise_are_refused():
    with pytest.raises(RoutingError, match=r"policy\.rank_by is gain_per_dollar, but the steps are ranked by score"):
        Policy("budget_usd", 5).cut(pair([0.5]))


def test_threshold_takes_every_score_at_or_above_it_whatever_the_sign_of_the_gain():
    steps = pair([0.1, 0.3, 0.116, 0.9])
    assert Policy("threshold", 0.116).cut(steps).model.tolist() == [0, 1, 1, 1]
    assert Policy("threshold", 0.0).cut(steps).model.tolist() == [1, 1, 1, 1]
    assert Policy("threshold", 1.0).cut(steps).model.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("n", [1, 3, 7, 10, 100, 1319])
@pytest.mark.parametrize("share", [0.0, 0.07, 0.1, 0.29, 0.3, 1 / 3, 0.5, 0.7, 0.999, 1.0])
def test_share_is_exact_to_the_row(n, share):
    rng = np.random.default_rng(n)
    got = Policy("strong_share", share).cut(pair(rng.choice([0.2, 0.3, 0.4], n)))
    assert got.strong_weight == math.floor(round(share * n, 6)) == int((got.model == 1).sum())


def test_share_of_many_rows_survives_binary_fractions():
    steps = pair(np.linspace(0, 1, 4), weight=np.full(4, 25_000_000))
    assert Policy("strong_share", 0.29).limits(steps).max_strong_weight == 29_000_000
    assert Policy("strong_share", 0.29).cut(steps).strong_weight == 25_000_000


def test_rows_only_the_strong_model_can_answer_count_first():
    quality, cost = np.tile([0.5, 0.75], (4, 1)), np.tile([0.0, 1.0], (4, 1))
    feasible = np.array([[True, True], [False, True], [True, True], [True, True]])
    steps = build_steps(quality, cost, np.arange(4), None, feasible, "score")
    assert Policy("strong_share", 0.5).cut(steps).model.tolist() == [1, 1, 0, 0]
    assert Policy("strong_share", 0.25).cut(steps).model.tolist() == [0, 1, 0, 0]
    assert Policy("strong_share", 0.0).cut(steps).model.tolist() == [0, 1, 0, 0]


def test_a_group_is_taken_whole_or_not_at_all():
    steps = pair([0.9, 0.8, 0.7], weight=np.array([2, 5, 1]))
    cuts = {share: Policy("strong_share", share / 8).cut(steps).strong_weight for share in range(9)}
    assert cuts == {0: 0, 1: 0, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 7, 8: 8}


def test_budget_reserves_the_base_of_every_row_and_stops_where_the_gain_ends():
    steps = pair([0.9, 0.8, 0.6, 0.4], weak_usd=0.25, strong_usd=1.25, rank_by="gain_per_dollar")
    taken = {usd: Policy("budget_usd", usd).cut(steps).n_steps_taken for usd in (1, 1.9, 2, 3, 3.9, 4, 5, 100)}
    assert taken == {1: 0, 1.9: 0, 2: 1, 3: 2, 3.9: 2, 4: 3, 5: 3, 100: 3}
    with pytest.raises(
        RoutingError, match=r"policy\.budget_usd is 0\.9 dollars.*costs 1\.00 for all 4 rows.*at least 1\.00"
    ):
        Policy("budget_usd", 0.9).cut(steps)


@pytest.mark.parametrize("usd", [1e-9, 0.000123456, 0.00999, 0.5, 1.234, 99.999, 12345.6789])
def test_the_sum_a_refused_budget_names_is_enough(usd):
    steps = pair([0.9], weak_usd=usd, strong_usd=usd * 2, rank_by="gain_per_dollar")
    with pytest.raises(RoutingError) as error:
        Policy("budget_usd", usd * 0.99).cut(steps)
    named = float(str(error.value).split("at least ")[1].split(",")[0])
    assert usd <= named <= usd * 1.02
    assert Policy("budget_usd", named).cut(steps).model.tolist() == [0]


def test_a_sum_of_decimals_fits_its_own_budget():
    steps = pair([0.9, 0.8, 0.7], weak_usd=0.0, strong_usd=0.1, rank_by="gain_per_dollar")
    assert Policy("budget_usd", 0.3).cut(steps).n_steps_taken == 3


def test_a_cheaper_and_better_strong_model_is_always_taken_and_lowers_the_least_sum():
    quality, cost = np.array([[0.5, 0.75], [0.5, 0.75]]), np.array([[1.0, 0.25], [1.0, 4.0]])
    steps = build_steps(quality, cost, np.arange(2))
    assert least_usd(steps) == 1.25
    require_base_paid(steps, 1.25, "max_usd")
    with pytest.raises(RoutingError, match=r"max_usd is 1\.2 dollars"):
        require_base_paid(steps, 1.2, "max_usd")
    got = Policy("budget_usd", 1.25).cut(steps)
    assert (got.model.tolist(), got.cost_usd) == ([1, 0], 1.25)
    assert Policy("min_quality", 0.0).cut(steps).model.tolist() == [1, 0]


def test_min_quality_takes_the_cheapest_prefix_that_keeps_the_share_of_the_gap():
    steps = pair([1.0, 0.75, 0.75, 0.5], rank_by="gain_per_dollar")
    # Gains 1, .5, .5, 0: the gap is 2 rows.
    taken = {v: Policy("min_quality", v).cut(steps).n_steps_taken for v in (0.0, 0.25, 0.5, 0.51, 0.75, 0.76, 1.0)}
    assert taken == {0.0: 0, 0.25: 1, 0.5: 1, 0.51: 2, 0.75: 2, 0.76: 3, 1.0: 3}


def test_min_quality_can_keep_the_whole_gap_with_fewer_rows_where_some_gains_are_negative():
    steps = pair([1.0, 0.75, 0.25], rank_by="gain_per_dollar")
    got = Policy("min_quality", 1.0).cut(steps)
    assert got.model.tolist() == [1, 0, 0]
    assert got.quality * 3 >= steps.strong_quality


def test_min_quality_asks_for_nothing_where_the_strong_model_is_predicted_worse():
    steps = pair([0.25, 0.25, 0.375], rank_by="gain_per_dollar")
    assert Policy("min_quality", 1.0).cut(steps).n_steps_taken == 0


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["threshold", "strong_share", "budget_usd", "min_quality"]),
    st.sampled_from([None, "score", "gain", "gain_per_dollar"]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
    st.integers(2, 4),
    st.data(),
)
def test_a_wider_limit_takes_a_superset(kind, rank_by, values, m, data):
    assume(not (kind == "threshold" and rank_by in ("gain", "gain_per_dollar")))
    n = data.draw(st.integers(0, 8))

    def matrix(grid):
        rows = st.lists(st.sampled_from(grid), min_size=m, max_size=m)
        return np.array(data.draw(st.lists(rows, min_size=n, max_size=n)), np.float64).reshape(n, m)

    quality, cost = matrix(EVEN), matrix([0.0, 0.5, 1.0, 4.0])
    weight = np.array(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)), np.int64)
    steps = build_steps(quality, cost, np.arange(n), weight, None, Policy(kind, 0.5, rank_by).order)
    narrow, wide = sorted(values, reverse=kind == "threshold")
    if kind == "budget_usd":
        narrow, wide = (least_usd(steps) + 1e-3 + value * float(cost.sum()) for value in (narrow, wide))
    less, more = Policy(kind, narrow, rank_by).cut(steps), Policy(kind, wide, rank_by).cut(steps)
    assert less.n_steps_taken <= more.n_steps_taken
    assert (less.model <= more.model).all()
    if kind == "budget_usd":
        assert less.cost_usd <= narrow * (1 + 1e-9)
    if kind == "strong_share":
        assert less.strong_weight <= narrow * int(weight.sum()) + 1e-6
    if kind == "min_quality" and n and more.n_steps_taken < steps.n_gaining:
        target = steps.base_quality + wide * (steps.strong_quality - steps.base_quality)
        assert more.quality * int(weight.sum()) >= target - 1e-5
