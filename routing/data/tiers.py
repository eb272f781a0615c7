"""Bradley-Terry strengths of models from battles, and tiers of similar models.

P(a beats b) = sigmoid(r_a - r_b), fitted by maximum likelihood: Newton's method on a win-count matrix, a few steps of
an (m, m) solve whatever the number of battles; a tie counts half each way. Tiers (RouteLLM, arXiv 2406.18665): ratings
cut into k ranges of least within-tier sum of squares, exact by dynamic programming, O(k m^2). A tier stands for models
that share too few battles to be told apart. Legend: n battles, m models, k tiers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.data.preferences import Preferences, relabelled
from routing.errors import RoutingError

RIDGE = 1e-4
"""Penalty in pseudo-battles, 1/2 RIDGE r^2: a model that never lost keeps a finite strength, a measured one moves by
less than a thousandth. RouteLLM's unpenalised fit stops wherever its solver gives up."""
STEPS = 50
TOLERANCE = 1e-9


def win_counts(preferences: Preferences, models: Sequence[str]) -> NDArray[np.float64]:
    """(m, m): entry [i, j] is how often models[i] beat models[j], a tie counting half for both."""
    a, b = preferences.sides(models)
    counts = np.zeros((len(models), len(models)))
    np.add.at(counts, (a, b), preferences.winner)
    np.add.at(counts, (b, a), 1 - preferences.winner)
    return counts


def bradley_terry(
    wins: NDArray[np.float64], ridge: float = RIDGE, start: NDArray[np.float64] | None = None
) -> NDArray[np.float64]:
    """Strengths (..., m), mean zero, for win counts (..., m, m); leading dimensions are problems solved side by side.

    Maximises sum_ij wins_ij log sigmoid(r_i - r_j) - ridge / 2 |r|^2, which is strictly concave: one maximum, on the
    hyperplane of mean zero. Newton steps, halved where they overshoot, from `start` (m,) or zero. The problems
    of a batch never mix: each takes the steps it would take alone.
    """
    wins = np.asarray(wins, np.float64)
    m = wins.shape[-1]
    games = wins + np.swapaxes(wins, -1, -2)
    strength = np.zeros(wins.shape[:-1])
    if start is not None:
        strength = strength + (start - np.mean(start))
    done = np.zeros(wins.shape[:-2], np.bool_)
    eye = np.eye(m)
    value = _objective(wins, strength, ridge)
    for _ in range(STEPS):
        win_rate = _sigmoid(strength[..., :, None] - strength[..., None, :])
        gradient = (wins - games * win_rate).sum(-1) - ridge * strength
        curvature = games * win_rate * np.swapaxes(win_rate, -1, -2)
        hessian = eye * (curvature.sum(-1)[..., None] + ridge) - curvature
        step = np.linalg.solve(hessian, gradient[..., None])[..., 0]
        # Only the ridge holds the common level, so rounding would drift along it and never come to rest.
        step -= step.mean(-1, keepdims=True)
        # A far-off start flattens the curvature and overshoots; a step of at most 4 units stays where Newton converges.
        longest = np.abs(step).max(-1, keepdims=True)
        step *= np.minimum(1, 4 / np.maximum(longest, 1e-300))
        step[done] = 0
        scale = np.ones(wins.shape[:-2])
        for _ in range(20):
            trial = strength + scale[..., None] * step
            trial_value = _objective(wins, trial, ridge)
            worse = trial_value < value - 1e-12 * (1 + np.abs(value))
            if not worse.any():
                break
            scale = np.where(worse, scale / 2, scale)
        strength, value = trial, trial_value
        done |= np.abs(step).max(-1) < TOLERANCE
        if done.all():
            break
    result: NDArray[np.float64] = strength - strength.mean(-1, keepdims=True)
    return result


def ratings(preferences: Preferences, ridge: float = RIDGE) -> dict[str, float]:
    """Model → Bradley-Terry strength, mean zero; times 400 / ln(10) it is in Elo points.

    Raises RoutingError for no battles.
    """
    if not len(preferences):
        raise RoutingError("ratings: no battles to rate models by")
    models = preferences.models
    strengths = bradley_terry(win_counts(preferences, models), ridge)
    return dict(zip(models, strengths.tolist(), strict=True))


def weakest_first(preferences: Preferences) -> tuple[str, ...]:
    """All models by rising strength, equal ones by name; () for no battles."""
    strength = ratings(preferences) if len(preferences) else {}
    # Rounded, or the last bit of the fit would order models that are equal.
    return tuple(sorted(strength, key=lambda name: (round(strength[name], 6), name)))


def win_rates(strength: NDArray[np.float64]) -> NDArray[np.float32]:
    """Strengths (n, m) to the mean probability of beating another model, (n, m); of two models 1 - p and p.

    A lone model, with nobody to beat, gets 0.5.
    """
    n, m = strength.shape
    if m == 1:
        return np.full((n, 1), 0.5, np.float32)
    if m == 2:
        p = _sigmoid(strength[:, 1] - strength[:, 0])
        return np.stack([1 - p, p], 1).astype(np.float32)
    # Against itself every model has .5, which the sum counts and must not.
    rates = [(_sigmoid(strength[:, j : j + 1] - strength).sum(1) - 0.5) / (m - 1) for j in range(m)]
    return np.clip(np.stack(rates, 1), 0, 1).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Tiers:
    """Groups of models, strongest first."""

    groups: tuple[tuple[str, ...], ...]
    """k groups of names, each strongest first."""

    def tier_of(self, model: str) -> int:
        """Number of a model's tier, 0 the strongest. Raises RoutingError for a model in none."""
        for number, group in enumerate(self.groups):
            if model in group:
                return number
        known = ", ".join(name for group in self.groups for name in group)
        raise RoutingError(f"tiers: model {model!r} is in none; rated are {known}")

    def names(self) -> dict[str, str]:
        """Model → name of its tier, "tier-0" the strongest."""
        return {model: f"tier-{number}" for number, group in enumerate(self.groups) for model in group}

    def classes(
        self,
        preferences: Preferences,
        strong: Sequence[int] = (0, 1),
        weak: Sequence[int] = (2,),
        names: tuple[str, str] = ("weak", "strong"),
    ) -> Preferences:
        """Battles between a model of the strong tiers and one of the weak tiers, renamed; the defaults are RouteLLM's.

        Raises RoutingError where tiers overlap or do not exist, or no battle is left.

        preferences: battles of the models in `groups`, and of others, which are dropped.
        strong, weak: numbers of tiers, 0 the strongest.
        names: of the two classes, (weak, strong).
        """
        if set(strong) & set(weak) or not strong or not weak or {*strong, *weak} - set(range(len(self.groups))):
            raise RoutingError(
                f"tiers: strong {list(strong)} and weak {list(weak)} must be different tiers of 0..{len(self.groups) - 1}"
            )
        renamed = {model: names[0] for number in weak for model in self.groups[number]}
        renamed |= {model: names[1] for number in strong for model in self.groups[number]}
        battles = relabelled(preferences, renamed)
        if not len(battles):
            raise RoutingError(f"tiers: no battle between strong tiers {list(strong)} and weak tiers {list(weak)}")
        return battles


def make_tiers(strengths: Mapping[str, float], k: int = 10) -> Tiers:
    """Cut models into at most `k` ranges of rating with the least sum of squared distances to their range's mean.

    With k or fewer models each is its own tier. Raises RoutingError for no models or k < 1.
    """
    if not strengths or k < 1:
        raise RoutingError(f"tiers: {k} tiers of {len(strengths)} models; both must be at least 1")
    order = sorted(strengths, key=lambda name: (-strengths[name], name))
    values = np.array([strengths[name] for name in order])
    m, k = len(order), min(k, len(order))
    total = np.concatenate([[0.0], np.cumsum(values)])
    squares = np.concatenate([[0.0], np.cumsum(values**2)])

    def spread(start: NDArray[np.intp], stop: int) -> NDArray[np.float64]:
        size = stop - start
        result: NDArray[np.float64] = squares[stop] - squares[start] - (total[stop] - total[start]) ** 2 / size
        return result

    # best[t, j]: least cost of the first j models in t tiers; cut[t, j]: where the last of those tiers starts.
    best = np.full((k + 1, m + 1), np.inf)
    best[0, 0] = 0
    cut = np.zeros((k + 1, m + 1), np.intp)
    for t in range(1, k + 1):
        for j in range(t, m + 1):
            starts = np.arange(t - 1, j)
            cost = best[t - 1, starts] + spread(starts, j)
            chosen = int(cost.argmin())
            best[t, j], cut[t, j] = cost[chosen], starts[chosen]
    groups: list[tuple[str, ...]] = []
    stop = m
    for t in range(k, 0, -1):
        start = int(cut[t, stop])
        groups.append(tuple(order[start:stop]))
        stop = start
    return Tiers(tuple(reversed(groups)))


def _objective(wins: NDArray[np.float64], strength: NDArray[np.float64], ridge: float) -> NDArray[np.float64]:
    gap = strength[..., :, None] - strength[..., None, :]
    # log sigmoid(x) = -log(1 + exp(-x)), without overflow for large |x|.
    value: NDArray[np.float64] = -(wins * np.logaddexp(0, -gap)).sum((-1, -2)) - ridge / 2 * (strength**2).sum(-1)
    return value


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = 0.5 * (1 + np.tanh(x / 2))
    return result
