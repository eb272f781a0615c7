"""Prompt length: the baseline that costs nothing and must be shown (APGR .584 on RouteLLM's MMLU, .599 on GSM8K).

Unfitted: the longer the prompt, the more the later models gain over the earlier ones. Fitted: least squares of each
model's quality on log(1 + characters), so any gain between two models is monotone in length, with direction and size
learned. O(n). Legend: n prompts, m models, weakest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.training_data import TrainingData, as_outcomes
from routing.routers.base import Router, check_models

HALF_LENGTH = 400.0
"""Characters at which the unfitted router sees no difference: between the means of GSM8K (240) and MMLU (466)."""


class LengthRouter(Router):
    """Expected quality from the number of characters alone.

    models: m names, weakest first; default (), those of the data it is fitted on.
    """

    name: ClassVar[str] = "length"
    needs_training: ClassVar[bool] = False

    def __init__(self, models: Sequence[str] = ()) -> None:
        self.models = list(check_models(models))
        self.coefficients_: NDArray[np.float64] | None = None
        if self.models:
            self.models_ = tuple(self.models)

    def fit(self, data: TrainingData) -> Self:
        """Least squares of each model's known quality on log(1 + characters). Raises RoutingError as every `fit` does."""
        outcomes = as_outcomes(data)
        means = self._start_fit(outcomes)
        x = np.log1p(_lengths(outcomes.prompts))
        # (2, m): intercept and slope. Rows a model has no quality for do not count for it.
        self.coefficients_ = np.zeros((2, len(means)))
        for j, mean in enumerate(means):
            known = ~np.isnan(outcomes.quality[:, j])
            centred = x[known] - x[known].mean()
            spread = (centred**2).sum()
            slope = (centred * outcomes.quality[known, j]).sum() / spread if spread > 0 else 0.0
            self.coefficients_[:, j] = mean - slope * x[known].mean(), slope
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32 in [0, 1]. Unfitted: a rank by length, no quality. Raises RoutingError where no models are known."""
        m = len(self._require_models())
        lengths = _lengths(prompts)[:, None]
        if self.coefficients_ is not None:
            fitted = self.coefficients_[0] + self.coefficients_[1] * np.log1p(lengths)
            return np.asarray(np.clip(fitted, 0, 1), np.float32)
        win_rate = lengths / (lengths + HALF_LENGTH)
        # The weakest gets 1 - win rate, the strongest the win rate, the ladder between lies evenly between them.
        rung = np.linspace(0, 1, m) if m > 1 else np.ones(1)
        return np.asarray((1 - rung) * (1 - win_rate) + rung * win_rate, np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """`coefficients` (2, m), intercepts and slopes; nothing where it is unfitted."""
        return {} if self.coefficients_ is None else {"coefficients": self.coefficients_}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises ValueError for misshapen coefficients."""
        if "coefficients" in arrays:
            self.coefficients_ = np.asarray(arrays["coefficients"], np.float64).reshape(2, len(self.models_))


def _lengths(prompts: Sequence[str]) -> NDArray[np.float64]:
    return np.fromiter(map(len, prompts), np.float64, len(prompts))
