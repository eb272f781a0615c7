"""Promises: the walk, the bounds, and how seldom they are broken."""

from __future__ import annotations

import numpy as np
import pytest
from shared_files import SHARED

from routing.data.outcome_readers import read_outcomes
from routing.errors import RoutingError
from routing.pilot.guarantee import (
    CandidateCuts,
    Margins,
    agreement_margins,
    candidate_cuts,
    promise,
    quality_margins,
    walk,
)
from routing.upgrades.cut import CutLimits, cut
from routing.upgrades.steps import build_steps

ROUTELLM = SHARED / "routellm"
DRAWS = 120
WORST = 0.05 * DRAWS + 3 * (0.05 * 0.95 * DRAWS) ** 0.5
"""Violations three standard deviations above 5 % of DRAWS."""


def made(n, rng, gap=0.3):
    """Quality of two models whose gap grows with x, and x."""
    x = rng.random(n)
    weak = (rng.random(n) < 0.8 - 2 * gap * x).astype(float)
    strong = (rng.random(n) < 0.8).astype(float)
    return np.stack([weak, strong], axis=1), x


def steps_by(score, keys=None):
    n = len(score)
    keys = np.arange(n, dtype=np.int64) if keys is None else keys
    quality = np.stack([(1 - score) / 2, (1 + score) / 2], axis=1)
    return build_steps(quality, np.tile([0.01, 1.0], (n, 1)), keys, rank_by="gain")


def at_rows(cuts, rows):
    return CandidateCuts(cuts.n_steps, cuts.route[:, rows], cuts.rows_by_model, cuts.cost_usd)


def test_candidates_are_the_cuts_themselves():
    rng = np.random.default_rng(0)
    quality, cost = rng.random((60, 4)), np.cumsum(rng.random((60, 4)), axis=1)
    feasible = rng.random((60, 4)) < 0.8
    feasible[:, 2] |= ~feasible.any(axis=1)
    weight = rng.integers(1, 4, 60)
    steps = build_steps(quality, cost, rng.permutation(60).astype(np.int64), weight, feasible)
    rows = np.array([5, 17, 5, 59])
    cuts = candidate_cuts(steps, rows, weight, n_cuts=20, min_seen=0)
    assert cuts.n_steps[0] == steps.n_steps and cuts.n_steps[-1] == 0
    for k, taken in enumerate(cuts.n_steps):
        model = steps.base_model.copy()
        for i in range(taken):
            model[steps.row[i]] = steps.to_model[i]
        assert cuts.route[k].tolist() == model[rows].tolist()
        assert cuts.cost_usd[k] == pytest.approx(sum(cost[i, m] for i, m in enumerate(model)))
        assert cuts.rows_by_model[k].tolist() == np.bincount(model, weight, 4).tolist()
    assert (np.diff(cuts.rows_by_model[:, -1]) <= 0).all()


def test_rows_without_a_choice_count_with_their_weight():
    feasible = np.array([[True, True], [True, False], [False, True]])
    weight = np.array([1, 5, 7])
    steps = build_steps(np.full((3, 2), 0.5), np.ones((3, 2)), np.arange(3), weight, feasible)
    cuts = candidate_cuts(steps, np.arange(3), weight, n_cuts=2, min_seen=0)
    assert cuts.rows_by_model.tolist() == [[5, 8], [6, 7]]
    assert cuts.strong_share[0] == cut(steps, CutLimits()).strong_share


def test_the_walk_stops_at_the_first_failure():
    assert walk([0.0, 0.2, 0.1, -0.1, 0.3]) == 2
    assert walk([-1.0, 0.2]) == 1  # all-strong is not tested
    assert walk([0.0, -0.1, 0.2]) == 0
    assert walk([0.0, np.nan]) == 0
    assert walk([0.0]) == 0


def test_certainty_costs_less_with_more_rows_and_says_how_many_are_needed():
    rng = np.random.default_rng(0)
    quality, x = made(20_000, rng)
    steps = steps_by(x)
    costs = []
    for n in (100, 400, 1600):
        for _ in range(6):
            order = rng.permutation(len(x))
            cuts = candidate_cuts(steps, order[:n])
            found = promise(cuts, quality_margins(cuts, quality[order[:n]], 0.8), n)
            assert found.strong_share >= found.point_strong_share and found.lower >= 0
            assert found.certainty_usd == pytest.approx(found.cost_usd - found.point_cost_usd)
            assert found.certainty_usd >= 0
            costs.append(found.certainty_usd)
    assert np.mean(costs[:6]) > np.mean(costs[6:12]) > np.mean(costs[12:])
    assert found.rows_needed is not None and 200 < found.rows_needed < 1600 * 20
    tiny = candidate_cuts(steps, order[:8])
    nothing = promise(tiny, quality_margins(tiny, quality[order[:8]], 0.95), 8)
    assert not nothing.below_all_strong and nothing.strong_share == 1 and nothing.lower == 0


def test_a_sample_of_everything_knows_the_cut():
    quality, x = made(3000, np.random.default_rng(2))
    steps = steps_by(x)
    cuts = candidate_cuts(steps, np.arange(3000))
    margins = quality_margins(cuts, quality, 0.7)
    gap = quality.mean(axis=0)
    for k in (10, 50, 90):
        routed = quality[np.arange(3000), cuts.route[k]].mean()
        assert margins.estimate[k] == pytest.approx(routed - gap[0] - 0.7 * (gap[1] - gap[0]))
        assert margins.lower[k] == pytest.approx(margins.estimate[k], abs=0.002)
    agrees = np.stack([quality[:, 0] == quality[:, 1], np.ones(3000, bool)], axis=1)
    at_50 = float(agrees[np.arange(3000), cuts.route[50]].mean())
    exact = agreement_margins(cuts, agrees, at_50)
    assert (exact.lower <= exact.estimate + 1e-12).all()
    # The bound of a whole set is the figure itself; before, where there is room, the plain binomial one will do.
    assert walk(exact.lower + 1e-12) >= 50 and exact.lower[50] == pytest.approx(0, abs=1e-9)


def test_what_cannot_be_judged_is_refused():
    quality, x = made(50, np.random.default_rng(0))
    steps = steps_by(x)
    cuts = candidate_cuts(steps, np.arange(10))
    with pytest.raises(RoutingError, match="without NaN"):
        quality_margins(cuts, np.full((10, 2), np.nan), 0.9)
    with pytest.raises(RoutingError, match=r"\(n, m\)"):
        agreement_margins(cuts, np.ones((9, 2), bool), 0.9)
    feasible = np.ones((50, 2), bool)
    feasible[3] = False
    unable = build_steps(quality, np.ones((50, 2)), np.arange(50), feasible=feasible)
    with pytest.raises(RoutingError, match="no model"):
        candidate_cuts(unable, np.array([3]))


def test_agreement_is_free_down_to_the_share_that_the_strong_model_answers():
    steps = steps_by(np.random.default_rng(0).random(1000))
    cuts = candidate_cuts(steps, np.arange(0))
    found = promise(cuts, agreement_margins(cuts, np.ones((0, 2), bool), 0.9), 0)
    assert found.strong_share == pytest.approx(0.9)


def test_margins_of_more_models_hold_for_the_middle_one():
    rng = np.random.default_rng(0)
    n = 4000
    quality = (rng.random((n, 3)) < [0.4, 0.75, 0.8]).astype(float)
    predicted = np.tile([0.4, 0.75, 0.8], (n, 1)) + rng.normal(0, 0.01, (n, 3))
    steps = build_steps(predicted, np.tile([0.01, 0.1, 1.0], (n, 1)), np.arange(n))
    at = rng.choice(n, 600, replace=False)
    cuts = candidate_cuts(steps, at)
    found = promise(cuts, quality_margins(cuts, quality[at], 0.7), 600)
    routed = {int(k): i for i, k in enumerate(cuts.n_steps)}[found.n_steps]
    everything = candidate_cuts(steps, np.arange(n))
    mean = quality[np.arange(n), everything.route[routed]].mean()
    assert found.strong_share < 0.6 and mean >= 0.4 + 0.7 * 0.4 - 0.03


def test_promises_are_broken_in_at_most_one_draw_of_twenty():
    """Real outcomes, scored by prompt length; 1,000 draws on three sets are benchmarks/coverage.py."""
    path = ROUTELLM / "gsm8k" / "gsm8k_responses.csv"
    if not path.exists():
        pytest.skip("../shared/data/routellm/gsm8k not present")
    outcomes = read_outcomes(path)
    outcomes = outcomes.select(outcomes.known())
    quality = outcomes.quality[:, np.argsort(outcomes.quality.mean(axis=0))].astype(float)
    n = len(quality)
    steps = steps_by(np.array([len(prompt) for prompt in outcomes.prompts]) / 2000.0)
    whole = candidate_cuts(steps, np.arange(n))
    routed = np.stack([quality[np.arange(n), route].mean() for route in whole.route])
    weak, strong = quality.mean(axis=0)
    kept = (routed - weak) / (strong - weak)
    agrees = np.stack([quality[:, 0] == quality[:, 1], np.ones(n, bool)], axis=1)
    agreed = np.stack([agrees[np.arange(n), route].mean() for route in whole.route])
    rng = np.random.default_rng(0)
    broken = {"quality": 0, "agreement": 0}
    shares = []
    for _ in range(DRAWS):
        at = rng.choice(n, 250, replace=False)
        cuts = at_rows(whole, at)
        end = walk(quality_margins(cuts, quality[at], 0.8).lower)
        broken["quality"] += kept[end] < 0.8 - 1e-9
        broken["agreement"] += agreed[walk(agreement_margins(cuts, agrees[at], 0.85).lower)] < 0.85 - 1e-9
        shares.append(whole.strong_share[end])
    assert broken["quality"] <= WORST and broken["agreement"] <= WORST
    assert np.mean(shares) < 0.95  # a promise that never leaves all-strong is none


def test_margins_are_plain_data():
    assert (
        promise(
            CandidateCuts(
                np.array([1, 0]), np.zeros((2, 0), np.int8), np.array([[0, 1], [1, 0]]), np.array([1.0, 0.1])
            ),
            Margins(np.zeros(2), np.zeros(2)),
            1,
        ).strong_share
        == 0.0
    )


@pytest.mark.slow
def test_a_thousand_draws_break_at_most_one_promise_in_twenty():
    data = ROUTELLM.parent
    if not (data / "routellm" / "gsm8k").exists():
        pytest.skip("../shared/data/routellm/gsm8k not present")
    from benchmarks.results.promises import load_case, violations

    case = load_case(data, "GSM8K")
    for n in (200, 500):
        assert all(record["violated"] <= 0.05 for record in violations(case, n, 1000))
