"""Calibration: monotone maps from a router's score to the quality that was seen, one per model.

* isotonic: least squares among all non-decreasing maps (pool adjacent violators, O(n log n)); needs some hundred rows.
* platt: a logistic curve, two numbers per model (Platt 1999, with its smoothed targets); for small pilots.

Equal scores are pooled first, so ties never depend on the order of rows. Between the steps of an isotonic fit the map
is linear, with a slight slope where it is flat (`TILT`): scores that differ stay in order, and a curve drawn from them
loses nothing. Legend: n rows, m models, k knots.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError

Method: TypeAlias = Literal["isotonic", "platt"]
METHODS: tuple[Method, ...] = ("isotonic", "platt")
TILT = 1e-3
"""Share of a straight line in an isotonic map: tells float32 scores apart, moves no value by more than 0.001."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A non-decreasing map of score to expected quality in [0, 1] for each of m models."""

    method: Method
    knots: tuple[Floats, ...]
    """Per model (2, k): ascending scores and their qualities, linear between and flat outside (isotonic); or (2, 1):
    slope and intercept of the log odds (platt)."""

    def apply(self, scores: NDArray[Any]) -> NDArray[np.float32]:
        """Scores (n, m) to qualities (n, m). Raises RoutingError for another number of models."""
        if scores.ndim != 2 or scores.shape[1] != len(self.knots):
            raise RoutingError(f"calibration: it is for {len(self.knots)} models, the scores are {scores.shape}")
        result = np.empty(scores.shape, np.float32)
        for j, (first, second) in enumerate(self.knots):
            column = scores[:, j].astype(np.float64)
            if self.method == "isotonic":
                result[:, j] = np.interp(column, first, second)
            else:
                result[:, j] = _sigmoid(first[0] * column + second[0])
        return result

    def arrays(self) -> dict[str, NDArray[Any]]:
        """For an artifact; `from_arrays` is the inverse."""
        return {"knots": np.concatenate(self.knots, axis=1), "n_knots": np.array([k.shape[1] for k in self.knots])}

    @classmethod
    def from_arrays(cls, method: str, arrays: Mapping[str, NDArray[Any]]) -> Calibration:
        """Raises KeyError or ValueError for arrays that are missing or misshapen, or an unknown method."""
        stops = np.cumsum(arrays["n_knots"].reshape(-1))
        knots = arrays["knots"].reshape(2, int(stops[-1]))
        parts = tuple(np.ascontiguousarray(part) for part in np.split(knots, stops[:-1], axis=1))
        return cls(check_method(method), parts)


def check_method(method: str) -> Method:
    """The method of that name. Raises RoutingError for an unknown one."""
    for known in METHODS:
        if method == known:
            return known
    raise RoutingError(f"calibration: method is {method!r}; known are {', '.join(METHODS)}")


def fit_calibration(scores: NDArray[Any], quality: NDArray[Any], method: str = "isotonic") -> Calibration:
    """Map each column of `scores` (n, m) to the same column of `quality` (n, m), 0..1, NaN where unknown.

    Raises RoutingError for an unknown method, shapes that differ, a score that is not finite, or a model without a
    known quality.
    """
    method = check_method(method)
    if scores.shape != quality.shape or scores.ndim != 2:
        raise RoutingError(f"calibration: scores are {scores.shape}, qualities {quality.shape}; they must be alike")
    if not np.isfinite(scores).all():
        raise RoutingError("calibration: a score is not a finite number")
    known = ~np.isnan(quality)
    if not known.any(axis=0).all():
        raise RoutingError("calibration: a model has no known quality; leave it out (`with_models`)")
    fit = _isotonic if method == "isotonic" else _platt
    columns = zip(scores.T.astype(np.float64), quality.T.astype(np.float64), known.T, strict=True)
    return Calibration(method, tuple(fit(score[here], target[here]) for score, target, here in columns))


def _isotonic(score: Floats, target: Floats) -> Floats:
    """Knots (2, k) of the least-squares non-decreasing map."""
    from sklearn.isotonic import IsotonicRegression

    model = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(score, target)
    x, y = model.X_thresholds_.astype(np.float64), model.y_thresholds_.astype(np.float64)
    # Nothing to keep in order where scores or targets do not vary.
    if len(x) > 1 and np.ptp(target) > 0:
        line = (x - x[0]) / (x[-1] - x[0])
        y = (1 - TILT) * y + TILT * line
    return np.stack([x, y])


def _platt(score: Floats, target: Floats) -> Floats:
    """Slope and intercept (2, 1) of the log odds; slope 0 where a higher score does not go with higher quality."""
    mean, spread = target.mean(), score.std()
    flat = np.array([[0.0], [_log_odds(mean)]])
    if np.ptp(target) == 0 or spread == 0:
        return flat
    # A graded target is a share y of rights and 1 - y of wrongs; Platt's smoothing is one more of each by prior counts.
    n_right, n_wrong = target.sum(), (1 - target).sum()
    right, wrong = (n_right + 1) / (n_right + 2), 1 / (n_wrong + 2)
    smooth = target * right + (1 - target) * wrong
    x = np.concatenate([score, score])[:, None] / spread
    label = np.repeat([1, 0], len(score))
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1e4, max_iter=1000).fit(x, label, np.concatenate([smooth, 1 - smooth]))
    slope = float(model.coef_[0, 0]) / spread
    return np.array([[slope], [float(model.intercept_[0])]]) if slope > 0 else flat


def _log_odds(share: float) -> float:
    # 0 and 1 have none; 1e-9 is below what float32 tells from them.
    share = min(max(float(share), 1e-9), 1 - 1e-9)
    return float(np.log(share / (1 - share)))


def _sigmoid(log_odds: Floats) -> Floats:
    result: Floats = 1 / (1 + np.exp(-np.clip(log_odds, -500, 500)))
    return result
