"""Heads of a pilot-calibrated router: what each predicts of rows that it was not fitted on, and which one is taken.

"blend": with p = b base + c pilot, q_j ~ mean_j + (p_j - mean of p_j). base is the base router's score, pilot what routers fitted
on the pilot say of rows out of their fold; b, c >= 0 are the same for all models and fitted on contrasts, each model's value less
the row's mean over models, since contrasts are what a cut ranks by. Both sides are taken less their fold's mean (a fold that is
better than the others was fitted on worse ones, which turns signs round in small pilots), with PULL rows' worth of pull to (0, 1);
then both are scaled as one by least squares. On GSM8K and MMLU, pilots of 100 to 500 rows, base routers good and bad, it was on
average within .015 of APGR of the better of the two, and often above both.
Legend: n rows, m models, d inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routing.metrics.pair import apgr
from routing.routers.auto import clearly_best, pair_merit
from routing.routers.calibrated.calibration import METHODS, fit_calibration
from routing.routers.text.base import regress_each
from routing.routers.text.linear import ridge

FORMS = ("none", *METHODS)
"""The base router's score in three forms, which rank nearly alike."""
TRUSTED = ("blend", *FORMS, "ridge")
"""Most trusted first."""
UNMATCHED = ("blend", "ridge")
"""Heads that do without a base router of the same models."""
ALPHAS = np.logspace(-2, 4, 13)
PULL, SCALE_PULL, LEAST_SCALE = 200.0, 10.0, 0.1
SURE = 3.0
"""Standard errors by which another head has to lead the blend. Two took the base router by luck in a sixth of the pilots of 100 and
200 rows (MMLU, GSM8K), and lost .02 of APGR with it."""
SPREAD = 1e-6
"""Standard deviation below which scores say nothing: they come in single precision."""
Floats = NDArray[np.float64]


def held_out(
    head: str, own: Floats, inputs: Floats, unseen: Floats | None, quality: NDArray[np.float32], fold: NDArray[np.intp]
) -> Floats:
    """(n, m) what a head predicts for rows that it has not seen.

    head: one of the names in TRUSTED.
    own: (n, m) the base router's scores.
    inputs: (n, d) of the ridge.
    unseen: (n, m) the pilot routers' predictions, out of fold, which the blend alone needs; else None.
    quality: (n, m) measured, NaN where unknown.
    fold: (n,) which rows are left out together.
    """
    fitted = own.copy()
    for f in np.unique(fold) if head != "none" else ():
        train, test = fold != f, fold == f
        if head == "blend":
            assert unseen is not None
            known = Blend.fit(own[train], unseen[train], quality[train], fold[train])
            fitted[test] = known.apply(own[test], unseen[test])
        elif head == "ridge":
            weights, intercept = fit_ridge(inputs[train], quality[train])
            fitted[test] = np.clip(inputs[test] @ weights + intercept, 0, 1)
        else:
            fitted[test] = fit_calibration(own[train], quality[train], head).apply(own[test])
    return fitted


def clear_winner(compared: Mapping[str, Floats], quality: NDArray[np.float32]) -> str:
    """The first head, unless another leads clearly. compared: head → (n, m) from `held_out`, most trusted first.

    Of the forms of the base router's score the one with the least squared error is taken: they rank nearly alike, and a promise
    needs the scale of quality.
    """
    truth = quality.astype(np.float64)
    winner = clearly_best({head: pair_merit(predicted, truth) for head, predicted in compared.items()}, SURE)
    if winner not in FORMS:
        return winner
    return min((head for head in FORMS if head in compared), key=lambda head: _squared_error(compared[head], truth))


@dataclass(frozen=True, slots=True)
class Blend:
    """See the file's head."""

    intercept: Floats
    """(m,)"""
    weights: Floats
    """(2,) of the base router's scores and of the pilot routers'."""

    @classmethod
    def fit(cls, own: Floats, unseen: Floats, quality: NDArray[np.float32], fold: NDArray[np.intp]) -> Self:
        """own, unseen, quality: (n, m), NaN where unknown; fold: (n,)."""
        rows = ~np.isnan(quality).any(axis=1)
        weights = np.array([0.0, 1.0])
        if rows.any():
            x = np.stack([_contrasts(each[rows], fold[rows]) for each in (own, unseen)], axis=1)
            y = _contrasts(quality[rows].astype(np.float64), fold[rows])
            spread = x.std(axis=0)
            pull = np.sqrt(PULL * quality.shape[1]) * np.diag(np.maximum(spread, SPREAD))
            from scipy.optimize import nnls

            weights = nnls(np.vstack([x, pull]), np.concatenate([y, pull @ weights]))[0] * (spread > SPREAD)
            # The mix is held back towards the pilot; its scale need not be, and quality has to come out on that of quality.
            mixed = x @ weights
            own_rows = SCALE_PULL * quality.shape[1] * mixed.var()
            if own_rows > SPREAD**2:
                weights = weights * max(LEAST_SCALE, (mixed @ y + own_rows) / (mixed @ mixed + own_rows))
        known = ~np.isnan(quality)
        told = np.where(known, weights[0] * own + weights[1] * unseen, np.nan)
        return cls(np.nanmean(quality, axis=0).astype(np.float64) - np.nanmean(told, axis=0), weights)

    @classmethod
    def of_pilot_alone(cls, m: int) -> Self:
        """The pilot routers' predictions as they are, for m models."""
        return cls(np.zeros(m), np.array([0.0, 1.0]))

    def apply(self, own: NDArray[Any], pilot: NDArray[Any]) -> Floats:
        """(n, m) expected quality, from both routers' (n, m)."""
        result: Floats = np.clip(self.intercept + self.weights[0] * own + self.weights[1] * pilot, 0, 1)
        return result


def _contrasts(values: Floats, fold: NDArray[np.intp]) -> Floats:
    """(n m,) each value less the row's mean over models, less the mean of that in its fold."""
    apart = values - values.mean(axis=1, keepdims=True)
    for f in np.unique(fold):
        apart[fold == f] -= apart[fold == f].mean(axis=0)
    result: Floats = apart.ravel()
    return result


def fit_ridge(
    inputs: NDArray[np.float64], quality: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Weights (b + d, m) and intercepts (m,), a ridge per model on its known rows, penalty by leave-one-out."""
    return regress_each(inputs, quality, lambda x, y: ridge(x, y, ALPHAS))


def criterion(fitted: NDArray[np.float64], quality: NDArray[np.float32]) -> float:
    """Exact APGR of a pair, stronger by mean quality; else, or where both are equally good, minus the squared error."""
    both = ~np.isnan(quality).any(axis=1)
    if quality.shape[1] == 2 and both.any():
        weak, strong = np.argsort(quality[both].mean(axis=0), kind="stable")
        gain = fitted[both, strong] - fitted[both, weak]
        value = float(apgr(gain, quality[both, weak], quality[both, strong]))
        if not np.isnan(value):
            return value
    return -_squared_error(fitted, quality)


def _squared_error(fitted: Floats, quality: NDArray[Any]) -> float:
    return float(np.nanmean(np.square(fitted - quality)))
