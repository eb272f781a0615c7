"""Intervals: sane for every input, exact where they claim to be, and covering what they should on real outcomes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from shared_files import SHARED

from routing.data.outcome_readers import read_outcomes
from routing.errors import RoutingError
from routing.metrics.pair import Interval
from routing.pilot.intervals import (
    assisted_ends,
    assisted_interval,
    bounded_ends,
    bounded_interval,
    combine_known,
    ratio_ends,
    ratio_interval,
    total_interval,
)
from routing.pilot.proportions import proportion_interval, proportion_lower

GSM8K = SHARED / "routellm" / "gsm8k" / "gsm8k_responses.csv"
qualities = st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=1, max_size=60)
draws = st.tuples(qualities, st.integers(0, 400))
DRAWS = 3000
FLOOR = 0.95 - 3 * (0.95 * 0.05 / DRAWS) ** 0.5
"""Three standard deviations of a coverage of exactly 95 % counted over DRAWS."""


@settings(max_examples=60, deadline=None)
@given(draws, st.booleans())
def test_intervals_hold_their_mean_and_what_is_certain(draw, difference):
    values, unseen = np.array(draw[0]) - (0.5 if difference else 0.0), draw[1]
    bounds = (-1.0, 1.0) if difference else (0.0, 1.0)
    n, n_total = len(values), len(values) + unseen
    found = bounded_interval(values, n_total, bounds=bounds)
    least = (values.sum() + bounds[0] * unseen) / n_total
    most = (values.sum() + bounds[1] * unseen) / n_total
    assert least - 1e-12 <= found.low <= found.mean <= found.high <= most + 1e-12
    assert found.mean == pytest.approx(values.mean())
    if not unseen:
        assert found.low == pytest.approx(found.high)
    elif n_total > n + 1:
        # Also where all values are equal: nothing has been proved.
        assert found.high - found.low > 0.2 / n_total


@settings(max_examples=60, deadline=None)
@given(draws)
def test_a_higher_level_gives_a_wider_interval_around_the_narrower(draw):
    values, n_total = np.array(draw[0]), len(draw[0]) + draw[1]
    right = int((values == 1).sum())
    for narrow, wide in (
        (bounded_interval(values, n_total, 0.8), bounded_interval(values, n_total, 0.95)),
        (proportion_interval(right, len(values), n_total, 0.8), proportion_interval(right, len(values), n_total, 0.95)),
    ):
        assert wide.low <= narrow.low + 1e-12 and narrow.high <= wide.high + 1e-12


def test_exact_intervals_are_the_inverted_tests():
    for n_right, n, n_total in ((0, 5, 20), (3, 5, 20), (5, 5, 20), (17, 30, 31), (20, 20, 5000)):
        found = proportion_interval(n_right, n, n_total)
        counts = np.arange(n_total + 1)
        kept = (stats.hypergeom.sf(n_right - 1, n_total, counts, n) > 0.025) & (
            stats.hypergeom.cdf(n_right, n_total, counts, n) > 0.025
        )
        assert (found.low, found.high) == (counts[kept].min() / n_total, counts[kept].max() / n_total)
    assert proportion_interval(30, 40, 40) == Interval(0.75, 0.75, 0.75)
    # In a set that is large beside the sample it is Clopper and Pearson's.
    plain = stats.binomtest(45, 50).proportion_ci(0.95)
    large = proportion_interval(45, 50, 10**8)
    assert (large.low, large.high) == (pytest.approx(plain.low, abs=1e-5), pytest.approx(plain.high, abs=1e-5))
    assert proportion_lower(45, 50, 10**8) == pytest.approx(stats.beta.ppf(0.05, 45, 6), abs=1e-5)
    assert proportion_lower(0, 0, 10) == 0.0


@pytest.mark.parametrize(("n", "n_total", "right"), [(10, 40, 37), (30, 300, 295), (25, 60, 30)])
def test_exact_intervals_cover_at_least_their_level_also_near_one(n, n_total, right):
    counts = np.arange(n + 1)
    chance = stats.hypergeom.pmf(counts, n_total, right, n)
    inside = [
        chance[k] > 0 and (found := proportion_interval(int(k), n, n_total)).low <= right / n_total <= found.high
        for k in counts
    ]
    assert chance[np.array(inside)].sum() >= 0.95
    below = [proportion_lower(int(k), n, n_total) <= right / n_total for k in counts]
    assert chance[np.array(below)].sum() >= 0.95


def test_control_variates_that_explain_everything_leave_little_and_useless_ones_cost_little():
    rng = np.random.default_rng(0)
    x = rng.random(5000)
    at = rng.choice(5000, 200, replace=False)
    plain = bounded_interval(x[at], 5000)
    helped = assisted_interval(x[at], x[at, None], [x.mean()], 5000)
    assert helped.mean == pytest.approx(x.mean(), abs=0.003)
    assert helped.high - helped.low < 0.5 * (plain.high - plain.low)
    noise = rng.random((5000, 3))
    useless = assisted_interval(x[at], noise[at], noise.mean(axis=0), 5000)
    assert useless.high - useless.low < 1.05 * (plain.high - plain.low)
    everything = assisted_interval(x, noise, noise.mean(axis=0), 5000)
    assert everything.mean == pytest.approx(x.mean()) and everything.high - everything.low < 1e-9
    equal = assisted_interval(np.ones(200), noise[at], noise.mean(axis=0), 5000)
    assert equal.high == 1 and 0.95 < equal.low < 0.995
    constant = assisted_interval(x[at], np.ones((200, 1)), [1.0], 5000)
    assert constant == pytest.approx(plain)


def test_the_assisted_estimate_is_unbiased_whatever_the_variates():
    rng = np.random.default_rng(1)
    x = rng.random(120) ** 3
    variates = np.stack([x + rng.normal(0, 0.1, 120), x**2], axis=1)
    at = np.stack([rng.permutation(120)[:40] for _ in range(5000)])
    means = assisted_ends(x[at], variates[at], variates.mean(axis=0), 120)[0]
    assert abs(means.mean() - x.mean()) < 4 * means.std() / len(means) ** 0.5


def test_a_ratio_has_no_interval_where_its_denominator_may_be_zero():
    gap = np.array([1.0, -1.0] * 30 + [1.0])
    assert ratio_interval(np.where(gap > 0, gap, 0), gap, 5000) is None
    gap = np.array([1.0] * 40 + [0.0] * 60)
    found = ratio_interval(gap * (np.arange(100) % 2), gap, 5000)
    assert found is not None and found.low < 0.5 < found.high and found.mean == pytest.approx(0.5)
    none_taken = ratio_interval(np.zeros(100), gap, 5000)
    assert none_taken is not None and none_taken.mean == 0 and none_taken.low < 0 < none_taken.high
    assert ratio_interval(gap, gap, 100) == pytest.approx(Interval(1, 1, 1))


def test_totals_follow_what_was_expected():
    rng = np.random.default_rng(0)
    expected = rng.lognormal(0, 1, 4000)
    paid = expected * 1.3 * rng.lognormal(0, 0.3, 4000)
    at = rng.choice(4000, 300, replace=False)
    found = total_interval(paid[at], expected[at], expected.sum(), 4000)
    assert found is not None and found.low < paid.sum() < found.high and found.high / found.low < 1.12
    assert total_interval(paid, expected, expected.sum(), 4000) == pytest.approx(Interval(*[paid.sum()] * 3))
    assert total_interval(paid[:1], expected[:1], 1.0, 10) is None
    assert total_interval([0.0, 0.0], [0.0, 0.0], 1.0, 10) is None


def test_known_rows_are_constants():
    assert combine_known(Interval(0.5, 0.4, 0.6), 10, 10.0, 10) == pytest.approx(Interval(0.75, 0.7, 0.8))
    assert combine_known(None, 0, 3.0, 4) == Interval(0.75, 0.75, 0.75)
    assert combine_known(None, 1, 3.0, 4) is None


@pytest.mark.parametrize("values", [[], [0.5, np.nan], [1.1], [-0.1], [[0.5]]])
def test_values_that_are_no_sample_are_refused(values):
    with pytest.raises(RoutingError, match="intervals"):
        bounded_interval(values, 10)
    with pytest.raises(RoutingError, match="intervals"):
        bounded_interval([0.5] * 3, 2)


def test_coverage_on_gsm8k_is_that_of_the_level():
    """A quick look; 20,000 draws on three sets, beside the Wald interval, are benchmarks/coverage.py."""
    if not GSM8K.exists():
        pytest.skip("../shared/data/routellm/gsm8k not present")
    outcomes = read_outcomes(GSM8K)
    quality = outcomes.quality[outcomes.known()].astype(float)
    weak, strong = quality[:, np.argsort(quality.mean(axis=0))].T
    n, rng = len(weak), np.random.default_rng(0)
    lengths = np.array([len(prompt) for prompt in np.array(outcomes.prompts)[outcomes.known()]], float)
    routed = (lengths > np.median(lengths)).astype(float)
    gains, variates = (strong - weak) * routed, np.stack([routed, lengths], axis=1)
    at = np.argpartition(rng.random((DRAWS, n), dtype=np.float32), 60, axis=1)[:, :60]
    for truth, ends in (
        (strong.mean(), bounded_ends(strong[at], n)),
        (strong.mean(), assisted_ends(strong[at], variates[at], variates.mean(axis=0), n)),
        ((strong - weak).mean(), bounded_ends((strong - weak)[at], n, bounds=(-1.0, 1.0))),
        (gains.mean() / (strong - weak).mean(), ratio_ends(gains[at], (strong - weak)[at], n)),
    ):
        given_one = np.isfinite(ends[0])
        assert given_one.mean() > 0.7
        assert ((ends[1] <= truth) & (truth <= ends[2]))[given_one].mean() > FLOOR


@pytest.mark.slow
def test_twenty_thousand_draws_are_covered_at_945_permille():
    data = GSM8K.parents[2]
    if not GSM8K.exists():
        pytest.skip("../shared/data/routellm/gsm8k not present")
    from benchmarks.results.promises import coverage, load_case

    case = load_case(data, "GSM8K")
    for n in (30, 50, 100, 200):
        for record in coverage(case, n, 20_000):
            if record["method"] not in ("Wald", "bootstrap"):
                assert record["coverage"] >= 0.945, record


def test_no_row_at_all_has_no_mean() -> None:
    assert combine_known(None, 0, 0.0, 0) is None
