"""Draws, folds, the worth of one more row, and the order of the cut, chosen on a pilot."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.errors import RoutingError
from routing.pilot.folds import (
    FOLD_NAMES,
    MIN_FIT_ROWS,
    FoldSizes,
    affordable,
    assign_folds,
    draw,
    fold_sizes,
    hash_order,
    stopping,
)
from routing.pilot.rank_choice import choose_rank_by

keys = st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=80)


@settings(max_examples=60, deadline=None)
@given(keys, st.integers(0, 100), st.integers(-(2**31), 2**31))
def test_draws_are_nested_and_do_not_depend_on_the_order_of_the_input(row_key, rows, seed):
    row_key = np.unique(np.array(row_key, np.int64))
    drawn = draw(row_key, rows, seed)
    assert len(drawn) == len(np.unique(drawn)) == min(rows, len(row_key))
    assert draw(row_key, rows + 5, seed)[: len(drawn)].tolist() == drawn.tolist()
    assert row_key[::-1][draw(row_key[::-1], rows, seed)].tolist() == row_key[drawn].tolist()


def test_draws_are_the_same_on_every_machine_and_differ_by_seed():
    row_key = np.arange(1000, dtype=np.int64)
    assert draw(row_key, 5, 0).tolist() == [286, 250, 781, 728, 844]
    assert len(np.intersect1d(draw(row_key, 100, 0), draw(row_key, 100, 1))) < 30
    # Every position is drawn equally often.
    counts = np.bincount(np.concatenate([draw(row_key, 100, seed) for seed in range(300)]), minlength=1000)
    assert counts.std() == pytest.approx((300 * 0.1 * 0.9) ** 0.5, rel=0.15)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=120), st.data())
def test_folds_part_prompts_and_keep_their_sizes(groups, data):
    row_key = np.array(groups, np.int64)
    n = len(row_key)
    fit = data.draw(st.integers(0, n))
    select = data.draw(st.integers(0, n - fit))
    sizes = FoldSizes(fit, select, n - fit - select)
    fold = assign_folds(row_key, sizes, seed=3)
    assert all(len(set(fold[row_key == key])) == 1 for key in set(groups))
    largest = max(groups.count(key) for key in set(groups))
    for index, size in enumerate((sizes.fit, sizes.select, sizes.report)):
        assert abs(int((fold == index).sum()) - size) <= largest - (largest == 1)
    order = np.random.default_rng(0).permutation(n)
    assert assign_folds(row_key[order], sizes, seed=3).tolist() == fold[order].tolist()


def test_folds_do_not_follow_the_draw():
    row_key = draw(np.arange(5000, dtype=np.int64), 1000)
    fold = assign_folds(row_key, FoldSizes(300, 300, 400))
    assert [int((fold[:500] == k).sum()) for k in range(3)] == pytest.approx([150, 150, 200], abs=40)
    with pytest.raises(RoutingError, match="folds"):
        assign_folds(row_key, FoldSizes(1, 1, 1))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.booleans())
def test_fold_sizes_use_every_row_and_never_fit_on_a_few(n, promise):
    sizes = fold_sizes(n, promise)
    assert sizes.fit + sizes.select + sizes.report == n
    assert min(sizes.fit, sizes.select, sizes.report) >= 0
    assert sizes.fit == 0 or sizes.fit >= MIN_FIT_ROWS
    assert (sizes.select > 0) == (promise and n > 0)
    if n >= 10:
        assert sizes.report > 0
    assert len(FOLD_NAMES) == 3


def test_fold_sizes_by_hand():
    assert fold_sizes(500) == FoldSizes(300, 0, 200)
    assert fold_sizes(500, promise=True) == FoldSizes(150, 150, 200)
    # ± 5 points need 289 rows; what is more goes to learning and to certainty.
    assert fold_sizes(2000, promise=True) == FoldSizes(855, 856, 289)
    assert fold_sizes(2000, half_width=0.02).report == 800
    assert fold_sizes(120) == FoldSizes(0, 0, 120)
    with pytest.raises(RoutingError, match="half width"):
        fold_sizes(100, half_width=0)


def test_a_row_pays_until_its_saving_meets_its_price():
    found = stopping(n=400, lost_usd=80.0, row_usd=0.02, n_total=100_000)
    assert found.saving_usd == pytest.approx(0.1) and found.pays
    sizes = np.arange(1, 5000)
    total = 80.0 * (400 / sizes) ** 0.5 + 0.02 * sizes
    assert abs(found.best_rows - sizes[total.argmin()]) <= 1
    assert not stopping(found.best_rows + 100, 80.0 * (400 / (found.best_rows + 100)) ** 0.5, 0.02, 100_000).pays
    assert stopping(10, 5.0, 0.0, 700).best_rows == 700
    assert stopping(10, 0.0, 0.0, 700).best_rows == 0 and not stopping(10, 0.0, 0.0, 700).pays
    with pytest.raises(RoutingError, match="stopping"):
        stopping(0, 1.0, 1.0, 10)


def test_money_ends_a_draw():
    assert affordable([1.0, 1.0, 1.0], 2.0) == 2
    assert affordable([1.0, 1.0, 1.0], None) == 3
    assert affordable([], 2.0) == 0 and affordable([3.0, 0.1], 2.0) == 0


def test_rank_by_follows_what_the_pilot_measured():
    rng = np.random.default_rng(0)
    n = 400
    cost = np.stack([np.full(n, 0.01), rng.lognormal(0, 1.5, n)], axis=1)
    gain = rng.random(n) * 0.5
    predicted = np.stack([0.4 * np.ones(n), 0.4 + gain], axis=1)
    honest = np.stack([rng.random(n) < 0.4, rng.random(n) < 0.4 + gain], axis=1).astype(float)
    row_key = hash_order(np.arange(n))
    choice = choose_rank_by(predicted, honest, cost, row_key, "budget_usd")
    assert choice.rank_by == "gain_per_dollar" and choice.area["gain_per_dollar"] > choice.area["gain"]
    # Dear rows gain much more than the router says, cheap ones nothing: dividing by the price is then the wrong order.
    dear = rng.random(n) < 0.5
    cost[:, 1] = np.where(dear, 1.0, 0.5)
    predicted[:, 1] = np.where(dear, 0.6, 0.55)
    wrong = np.stack([np.where(dear, 0.0, 1.0), np.ones(n)], axis=1)
    choice = choose_rank_by(predicted, wrong, cost, row_key, "budget_usd")
    assert choice.rank_by == "gain" and choice.lead > choice.error > 0
    share = choose_rank_by(predicted, wrong, cost, row_key, "strong_share")
    assert share.rank_by == "score" and set(share.area) == {"score", "gain_per_dollar"}
    assert set(choose_rank_by(predicted, wrong, cost, row_key, "threshold").area) == {"score"}
    noise = rng.random((n, 2))
    assert choose_rank_by(noise, np.ones((n, 2)), cost, row_key, "min_quality").rank_by == "gain_per_dollar"
    with pytest.raises(RoutingError, match="NaN"):
        choose_rank_by(predicted, np.full((n, 2), np.nan), cost, row_key, "budget_usd")
