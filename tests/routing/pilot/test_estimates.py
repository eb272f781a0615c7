"""What a run was worth: exact where all is known, honest where the router saw the rows, covering where it is sampled."""

from __future__ import annotations

import numpy as np
import pytest

from routing.errors import RoutingError
from routing.metrics.pair import Interval
from routing.pilot.estimates import Answered, alternative_usd, estimate_run


def made(n, m=2, seed=0):
    """(route, predicted, quality): a router that sees a little of the truth."""
    rng = np.random.default_rng(seed)
    ability = np.linspace(0.55, 0.8, m)
    difficulty = rng.random((n, 1)) - 0.5
    chance = np.clip(ability - 0.5 * difficulty * np.linspace(1.4, 0.6, m), 0, 1)
    quality = (rng.random((n, m)) < chance).astype(float)
    predicted = np.clip(chance + rng.normal(0, 0.1, (n, m)), 0, 1)
    gain = predicted[:, -1] - predicted[:, 0]
    route = np.digitize(gain, np.quantile(gain, np.linspace(0, 1, m + 1)[1:-1])).astype(np.int8)
    return route, predicted, quality


@pytest.mark.parametrize("m", [2, 3])
def test_a_sample_of_everything_gives_the_figures_themselves(m):
    route, predicted, quality = made(600, m)
    picked = quality[np.arange(600), route]
    found = estimate_run(route, predicted, Answered(np.arange(600), quality))
    gap = quality[:, -1].mean() - quality[:, 0].mean()
    pgr = (picked.mean() - quality[:, 0].mean()) / gap
    on_strong = route == m - 1
    for figure, truth in (
        (found.quality, picked.mean()), (found.gap, gap), (found.pgr, pgr),
        *zip(found.quality_by_model, quality.mean(axis=0), strict=True),
        (found.over_routing, (quality[on_strong, 0] >= quality[on_strong, -1]).mean()),
        (found.under_routing, (quality[~on_strong, -1] > picked[~on_strong]).mean()),
    ):  # fmt: skip
        assert figure == pytest.approx(Interval(truth, truth, truth))
    assert (found.pgr_over_random is None) == (m == 3)
    if m == 2:
        assert found.pgr_over_random.mean == pytest.approx(pgr - on_strong.mean())


def test_intervals_cover_the_run_with_fitted_rows_known_and_not_sampled():
    route, predicted, quality = made(3000)
    rng = np.random.default_rng(1)
    # A head fitted on these rows routes each of them right, and only them: as a sample they would flatter the run.
    fitted = rng.permutation(3000)[:300]
    route[fitted] = (quality[fitted, 1] > quality[fitted, 0]).astype(np.int8)
    picked = quality[np.arange(3000), route]
    gap = quality[:, 1] - quality[:, 0]
    truths = {"quality": picked.mean(), "gap": gap.mean(), "pgr": (picked - quality[:, 0]).mean() / gap.mean()}
    truths["over_routing"] = (gap[route == 1] <= 0).mean()
    rest = np.setdiff1d(np.arange(3000), fitted)
    inside, means = dict.fromkeys(truths, 0), []
    known = Answered(fitted, quality[fitted])
    for _ in range(60):
        at = rng.choice(rest, 200, replace=False)
        found = estimate_run(route, predicted, Answered(at, quality[at]), known)
        means.append(found.quality.mean)
        for name, truth in truths.items():
            figure = getattr(found, name)
            inside[name] += figure.low <= truth <= figure.high
    assert min(inside.values()) >= 0.95 * 60 - 3 * (60 * 0.95 * 0.05) ** 0.5
    assert np.mean(means) == pytest.approx(truths["quality"], abs=4 * np.std(means) / 60**0.5)


def test_failed_verdicts_are_counted_and_widen():
    route, predicted, quality = made(2000)
    at = np.random.default_rng(0).choice(2000, 300, replace=False)
    whole = estimate_run(route, predicted, Answered(at, quality[at]))
    holes = quality[at].copy()
    holes[:15, 0] = np.nan
    found = estimate_run(route, predicted, Answered(at, holes))
    assert (whole.n_failed, found.n_failed, found.n_sampled, found.n_rows) == (0, 15, 300, 2000)
    width = [w.high - w.low for w in (whole.quality_by_model[0], found.quality_by_model[0])]
    assert width[1] > width[0] + 0.04
    assert found.quality_by_model[1] == whole.quality_by_model[1]
    assert found.pgr is not None
    nothing = estimate_run(route, predicted, Answered(at, np.full((300, 2), np.nan)))
    assert nothing.quality is None and nothing.gap is None and nothing.pgr is None and nothing.over_routing is None
    # What fitted the router and has no verdict is estimated with the rest.
    half_known = estimate_run(route, predicted, Answered(at[100:], quality[at[100:]]), Answered(at[:100], holes[:100]))
    assert (half_known.n_known, half_known.n_rows) == (85, 2000)


def test_what_a_sample_cannot_tell_is_none():
    route, predicted, quality = made(500)
    none = Answered(np.zeros(0, np.int64), np.zeros((0, 2)))
    found = estimate_run(route, predicted, none)
    assert found.quality is None and found.quality_by_model == (None, None) and found.under_routing is None
    same = np.repeat(quality[:, :1], 2, axis=1)
    found = estimate_run(route, predicted, Answered(np.arange(80), same[:80]))
    assert found.pgr is None and found.gap.low < 0 < found.gap.high
    with pytest.raises(RoutingError, match="both"):
        estimate_run(route, predicted, Answered(np.arange(5), quality[:5]), Answered(np.arange(3), quality[:3]))


def test_rows_that_cannot_be_asked_count_nowhere():
    route, predicted, quality = made(500)
    route[:100] = -1
    predicted[:100] = np.nan
    at = np.arange(50, 300)
    found = estimate_run(route, predicted, Answered(at, quality[at]))
    assert (found.n_rows, found.n_sampled) == (400, 200)
    assert found.quality.mean == pytest.approx(quality[np.arange(100, 500), route[100:]].mean(), abs=0.1)


def test_the_alternative_that_was_not_sent_is_priced_from_the_sample():
    rng = np.random.default_rng(0)
    expected = rng.lognormal(-5, 1, 5000)
    real = expected * 1.4 * rng.lognormal(0, 0.4, 5000)
    routed = rng.random(5000) < 0.3
    sampled = np.zeros(5000, bool)
    sampled[rng.choice(5000, 400, replace=False)] = True
    paid = np.where(routed | sampled, real, np.nan)
    found = alternative_usd(expected, paid, routed, sampled)
    assert found.low < real.sum() < found.high and found.high / found.low < 1.2 and found.low > real[routed].sum()
    assert alternative_usd(expected, real, np.ones(5000, bool), sampled) == pytest.approx(Interval(*[real.sum()] * 3))
    assert alternative_usd(expected, paid, routed, np.zeros(5000, bool)) is None
