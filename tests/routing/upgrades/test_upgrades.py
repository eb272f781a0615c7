"""The hull, the steps and their order, against slow references written in plain Python."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import RoutingError
from routing.upgrades.cut import CutLimits, cut, row_ranks, row_scores
from routing.upgrades.hull import RANKS, gain_per_dollar
from routing.upgrades.steps import build_steps, lexicographic_order

GRID = [0.0, 0.125, 0.25, 0.5, 0.625, 0.75, 1.0]
"""Exact in float32, so that ties are ties and sums are exact."""


@st.composite
def tables(draw, max_rows=8, models=(2, 4), monotone_cost=False, infeasible=True, weights=True):
    """(quality, cost_usd, row_key, weight, feasible, raw_score) with many ties."""
    n, m = draw(st.integers(0, max_rows)), draw(st.integers(*models))

    def matrix(values):
        rows = st.lists(st.sampled_from(values), min_size=m, max_size=m)
        return np.array(draw(st.lists(rows, min_size=n, max_size=n)), np.float64).reshape(n, m)

    cost = matrix([0.0, 0.25, 0.5, 1.0, 2.0, 8.0])
    if monotone_cost:
        cost = np.cumsum(cost + 0.25, axis=1)
    feasible = matrix([0, 1, 1, 1]).astype(bool) if infeasible else None
    raw = matrix(GRID).astype(np.float32) if draw(st.booleans()) else None
    keys = np.array(draw(st.lists(st.integers(-(2**62), 2**62), min_size=n, max_size=n, unique=True)), np.int64)
    weight = np.array(draw(st.lists(st.integers(1, 4 if weights else 1), min_size=n, max_size=n)), np.int64)
    return matrix(GRID).astype(np.float32), cost, keys, weight, feasible, raw


def step_tuples(steps, keys):
    """Every column of every step, rows named by key: what must not depend on the order of the input."""
    columns = (steps.from_model, steps.to_model, steps.step_no, steps.gain, steps.cost_usd, steps.score, steps.rank)
    return list(zip(keys[steps.row].tolist(), *(c.tolist() for c in columns), steps.weight.tolist(), strict=True))


def test_a_pair_has_one_step_per_row_also_when_the_gain_is_negative():
    p = np.array([0.9, 0.116, 0.5, 0.3], np.float32)
    cost = np.tile([0.001, 0.1], (4, 1))
    steps = build_steps(np.stack([1 - p, p], 1), cost, np.arange(4), rank_by="score")
    assert steps.row.tolist() == [0, 2, 3, 1]
    np.testing.assert_allclose(steps.score, p[[0, 2, 3, 1]], atol=3e-8)
    assert (steps.gain < 0).tolist() == [False, False, True, True]
    np.testing.assert_allclose(steps.cost_usd, 0.099)
    np.testing.assert_allclose(row_scores(steps), p, atol=3e-8)
    np.testing.assert_allclose(row_ranks(steps), p, atol=3e-8)


@pytest.mark.parametrize("p", [0.7, 0.62, 0.3, 0.5, 0.9])
def test_a_win_rate_equal_to_the_threshold_passes_it(p):
    win = np.float32(p)
    steps = build_steps(np.array([[1 - win, win]]), np.array([[0.0, 1.0]]), np.zeros(1, np.int64), rank_by="score")
    assert cut(steps, CutLimits(min_score=float(steps.score[0]))).n_steps_taken == 1
    assert cut(steps, CutLimits(min_score=p)).n_steps_taken == 1


def test_models_under_the_hull_are_skipped_and_the_strong_model_always_ends_it():
    quality = np.array(
        [
            [0.2, 0.6, 0.8],  # all three on the hull
            [0.2, 0.3, 0.9],  # the middle one under the line from 0 to 2
            [0.2, 0.9, 0.5],  # the strong model predicted worse than the middle one: still the last
            [0.9, 0.1, 0.4],  # all gains negative: straight to the strong model
        ]
    )
    cost = np.tile([1.0, 2.0, 4.0], (4, 1))
    steps = build_steps(quality, cost, np.arange(4), rank_by="gain_per_dollar")
    paths = {row: [] for row in range(4)}
    for row, from_model, to_model in zip(steps.row, steps.from_model, steps.to_model, strict=True):
        paths[int(row)].append((int(from_model), int(to_model)))
    assert paths == {0: [(0, 1), (1, 2)], 1: [(0, 2)], 2: [(0, 1), (1, 2)], 3: [(0, 2)]}


@settings(deadline=None, max_examples=200)
@given(tables(models=(2, 5), monotone_cost=True))
def test_no_model_lies_above_the_path_of_its_row(table):
    quality, cost, keys, weight, feasible, _ = table
    steps = build_steps(quality, cost, keys, weight, feasible)
    for row in range(len(keys)):
        able = np.flatnonzero(feasible[row])
        mine = np.flatnonzero(steps.row == row)
        path = [int(steps.base_model[row]), *steps.to_model[mine].tolist()]
        if not len(able):
            assert path == [-1]
            continue
        assert path[0] == able[0]
        assert path[-1] == able[-1]
        assert set(path) <= set(able.tolist())
        on_path = np.interp(cost[row, able], cost[row, path], quality[row, path])
        assert (quality[row, able] <= on_path + 1e-9).all()


@settings(deadline=None, max_examples=300)
@given(tables(), st.sampled_from(RANKS))
def test_steps_are_sorted_and_a_row_climbs_in_order(table, rank_by):
    quality, cost, keys, weight, feasible, raw = table
    steps = build_steps(quality, cost, keys, weight, feasible, rank_by, raw)
    assert (steps.rank[1:] <= steps.rank[:-1]).all()
    at = steps.base_model.copy()
    for i, row in enumerate(steps.row):
        assert steps.from_model[i] == at[row] < steps.to_model[i]
        assert steps.step_no[i] == np.count_nonzero(steps.row[:i] == row)
        gain = float(quality[row, steps.to_model[i]]) - float(quality[row, steps.from_model[i]])
        assert steps.gain[i] == gain
        assert steps.score[i] == (1 + gain) / 2
        assert steps.cost_usd[i] == cost[row, steps.to_model[i]] - cost[row, steps.from_model[i]]
        assert steps.weight[i] == weight[row]
        at[row] = steps.to_model[i]
    able = feasible.any(axis=1)
    assert (at[able] == feasible.shape[1] - 1 - feasible[able, ::-1].argmax(axis=1)).all()
    assert (at[~able] == -1).all()


@settings(deadline=None, max_examples=200)
@given(tables(models=(2, 2), infeasible=False), st.sampled_from(RANKS))
def test_pairs_come_in_the_order_of_the_design(table, rank_by):
    quality, cost, keys, weight, _, raw = table
    steps = build_steps(quality, cost, keys, weight, None, rank_by, raw)

    def key(row):
        gain, dollars = float(quality[row, 1]) - float(quality[row, 0]), cost[row, 1] - cost[row, 0]
        rank = {"score": (1 + gain) / 2, "gain": gain}.get(rank_by)
        if rank is None:
            rank = float(gain_per_dollar(np.array([gain * weight[row]]), np.array([dollars]))[0])
        tie = 0.0 if raw is None else float(raw[row, 1] - raw[row, 0])
        return -rank, -tie, dollars, keys[row]

    assert steps.row.tolist() == sorted(range(len(keys)), key=key)


@settings(deadline=None, max_examples=200)
@given(tables(), st.sampled_from(RANKS), st.randoms(use_true_random=False))
def test_the_order_of_the_rows_does_not_matter(table, rank_by, random):
    quality, cost, keys, weight, feasible, raw = table
    order = list(range(len(keys)))
    random.shuffle(order)
    steps = build_steps(quality, cost, keys, weight, feasible, rank_by, raw)
    shuffled = build_steps(
        quality[order],
        cost[order],
        keys[order],
        weight[order],
        feasible[order],
        rank_by,
        None if raw is None else raw[order],
    )
    assert step_tuples(steps, keys) == step_tuples(shuffled, keys[order])
    assert (steps.base_cost_usd, steps.base_quality) == (shuffled.base_cost_usd, shuffled.base_quality)


def test_sums_do_not_depend_on_the_order_of_the_rows():
    rng = np.random.default_rng(0)
    quality, cost = rng.random((5000, 2)), rng.random((5000, 2)) * 10.0 ** rng.integers(-9, 3, (5000, 1))
    sums = set()
    for _ in range(20):
        order = rng.permutation(5000)
        steps = build_steps(quality[order], cost[order], np.arange(5000)[order])
        sums.add((steps.base_cost_usd, steps.base_quality, steps.strong_quality, float(np.cumsum(steps.cost_usd)[-1])))
    assert len(sums) == 1


@settings(deadline=None, max_examples=300)
@given(tables(), st.sampled_from(RANKS), st.data())
def test_the_cut_is_the_longest_prefix_within_the_limits(table, rank_by, data):
    quality, cost, keys, weight, feasible, raw = table
    steps = build_steps(quality, cost, keys, weight, feasible, rank_by, raw)
    strong = quality.shape[1] - 1
    max_usd = data.draw(st.none() | st.integers(0, 80).map(lambda q: q / 4))
    max_strong = data.draw(st.none() | st.integers(0, 20))
    min_score = data.draw(st.none() | st.sampled_from(GRID)) if rank_by == "score" else None
    only_gains = data.draw(st.booleans())
    got = cut(steps, CutLimits(min_score, max_strong, max_usd, None, only_gains))

    model = steps.base_model.tolist()
    dollars, on_strong, taken = steps.base_cost_usd, steps.base_strong_weight, 0
    for i in range(steps.n_steps):
        dollars += float(steps.cost_usd[i])
        on_strong += int(weight[steps.row[i]]) if steps.to_model[i] == strong else 0
        free = steps.rank[i] == math.inf
        if (max_usd is not None and dollars > max_usd and not free) or (
            max_strong is not None and on_strong > max_strong
        ):
            break
        if (only_gains and steps.rank[i] <= (0.5 if rank_by == "score" else 0)) or (
            min_score is not None and steps.rank[i] < min_score
        ):
            break
        model[steps.row[i]] = int(steps.to_model[i])
        taken = i + 1
    assert got.n_steps_taken == taken
    assert got.model.tolist() == model
    answered = [row for row in range(len(keys)) if model[row] >= 0]
    assert got.cost_usd == pytest.approx(sum(cost[row, model[row]] for row in answered))
    assert got.strong_weight == sum(int(weight[row]) for row in answered if model[row] == strong)
    if answered:
        mean = sum(float(quality[row, model[row]]) * int(weight[row]) for row in answered) / int(weight[answered].sum())
        assert got.quality == pytest.approx(mean)
        assert got.strong_share == got.strong_weight / int(weight[answered].sum())


@settings(deadline=None, max_examples=150)
@given(tables(max_rows=5, models=(2, 3), monotone_cost=True, infeasible=False), st.floats(0, 1))
def test_a_budget_cut_is_within_one_step_of_the_best_of_all_assignments(table, part):
    """Greedy on hulls solves the fractional problem: the prefix and a part of the next step bound every assignment."""
    quality, cost, keys, weight, _, _ = table
    steps = build_steps(quality, cost, keys, weight)
    budget = steps.base_cost_usd + part * float(cost[:, -1].sum() - cost[:, 0].sum())
    got = cut(steps, CutLimits(max_usd=budget, only_gains=True))
    rows = range(len(keys))
    best = -math.inf
    for models in itertools.product(range(quality.shape[1]), repeat=len(keys)):
        if sum(cost[r, k] for r, k in zip(rows, models, strict=True)) <= budget:
            best = max(best, sum(float(quality[r, k]) * int(weight[r]) for r, k in zip(rows, models, strict=True)))
    next_gain = 0.0
    if got.n_steps_taken < steps.n_gaining:
        left = (budget - got.cost_usd) / float(steps.cost_usd[got.n_steps_taken])
        next_gain = left * float(steps.gain[got.n_steps_taken]) * int(steps.weight[got.n_steps_taken])
    found = got.quality * steps.total_weight if len(keys) else 0.0
    assert best <= found + next_gain + 1e-6


@settings(deadline=None, max_examples=100)
@given(tables(infeasible=False, models=(2, 3)), st.sampled_from(["score", "gain"]))
def test_a_group_of_w_weighs_like_w_rows_and_costs_one_call(table, rank_by):
    quality, cost, keys, weight, _, _ = table
    grouped = build_steps(quality, cost, keys, weight, None, rank_by)
    copies = np.repeat(np.arange(len(keys)), weight)
    single = build_steps(quality[copies], cost[copies], np.arange(len(copies)), None, None, rank_by)
    assert grouped.total_weight == single.total_weight == len(copies)
    assert grouped.base_quality == pytest.approx(single.base_quality)
    assert int(grouped.weight.sum()) == single.n_steps
    assert sorted(np.repeat(grouped.rank, grouped.weight)) == sorted(single.rank)
    assert grouped.base_cost_usd == pytest.approx(float(cost[:, 0].sum()))


def test_duplicates_buy_more_quality_per_dollar():
    quality, cost = np.array([[0.5, 0.75], [0.5, 0.625]]), np.array([[0.0, 1.0], [0.0, 1.0]])
    assert build_steps(quality, cost, np.arange(2)).row.tolist() == [0, 1]
    assert build_steps(quality, cost, np.arange(2), np.array([1, 3])).row.tolist() == [1, 0]


def test_gain_per_dollar_is_a_total_order_with_free_and_cheaper_strong_models():
    gain = np.array([0.1, 0.1, 0.1, 0.0, 0.0, 0.0, -0.1, -0.1, -0.1])
    cost = np.array([2.0, 0.0, -2.0, 2.0, 0.0, -2.0, 2.0, 0.0, -2.0])
    inf = math.inf
    np.testing.assert_allclose(gain_per_dollar(gain, cost), [0.05, inf, inf, 0, 0, inf, -0.05, -inf, -0.05])


def test_an_infeasible_row_has_no_step_and_counts_nowhere():
    quality, cost = np.full((3, 2), [0.2, 0.8]), np.full((3, 2), [1.0, 5.0])
    feasible = np.array([[True, True], [False, True], [False, False]])
    cost[2] = np.nan
    quality[2] = np.nan
    steps = build_steps(quality, cost, np.arange(3), None, feasible)
    assert steps.base_model.tolist() == [0, 1, -1]
    assert (steps.total_weight, steps.base_strong_weight, steps.base_cost_usd) == (2, 1, 6.0)
    got = cut(steps, CutLimits())
    assert got.model.tolist() == [1, 1, -1]
    assert np.isnan(row_scores(steps)).tolist() == [False, True, True]
    assert (got.cost_usd, got.strong_share) == (10.0, 1.0)


@pytest.mark.parametrize("shape", [(0, 2), (0, 3), (3, 1)])
@pytest.mark.parametrize("raw", [False, True])
def test_nothing_to_upgrade_is_no_special_case(shape, raw):
    quality = np.full(shape, 0.5)
    steps = build_steps(quality, np.ones(shape), np.arange(shape[0]), raw_score=quality if raw else None)
    got = cut(steps, CutLimits(max_usd=100, only_gains=True))
    assert (steps.n_steps, got.n_steps_taken, got.model.tolist()) == (0, 0, [0] * shape[0])


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from([0.0, 1.0, math.inf, -math.inf]), st.integers(0, 2), st.integers(0, 2))))
def test_lexicographic_order_equals_sorting_tuples(rows):
    distinct = np.arange(len(rows))[::-1].copy()
    keys = [np.array([row[i] for row in rows], dtype) for i, dtype in enumerate((np.float64, np.int64, np.int8))]
    order = lexicographic_order([*keys, distinct])
    assert order.tolist() == sorted(range(len(rows)), key=lambda i: (*rows[i], int(distinct[i])))


def test_lexicographic_order_of_many_runs():
    rng = np.random.default_rng(0)
    keys = [rng.integers(0, 150_000, 400_000), rng.integers(0, 3, 400_000), rng.permutation(400_000)]
    np.testing.assert_array_equal(lexicographic_order(keys), np.lexsort(keys[::-1]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quality": np.array([[0.1, np.nan]])}, "quality is not a finite number"),
        ({"raw_score": np.array([[0.1, np.inf]])}, "raw_score is not a finite number"),
        ({"cost_usd": np.array([[0.1, -1.0]])}, "cost_usd is negative"),
        ({"cost_usd": np.array([[0.1, 1.0, 2.0]])}, "cost_usd has shape"),
        ({"row_key": np.arange(2)}, "row_key has shape"),
        ({"weight": np.array([0])}, "weight is below 1"),
        ({"rank_by": "quality"}, "policy.rank_by must be one of"),
        ({"quality": np.zeros(3)}, "must be"),
    ],
)
def test_what_cannot_be_ranked_is_refused(change, message):
    good = {"quality": np.array([[0.1, 0.2]]), "cost_usd": np.array([[0.1, 0.2]]), "row_key": np.zeros(1, np.int64)}
    with pytest.raises(RoutingError, match=message):
        build_steps(**(good | change))
