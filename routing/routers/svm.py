"""Linear support vector regression per model, on text vectors and structure counts (RouterBench's SVM router).

Squared epsilon-insensitive loss, which is fitted in the primal by liblinear without randomness and, unlike the plain
one, leads to means of right-or-wrong outcomes rather than to their medians (0 or 1 for nearly every prompt). The
penalty is chosen by 3-fold cross-validation on at most `CHOICE_ROWS` rows. Fit: about a second a model at thousands
of rows. Predict and artifact as the linear router's, which usually does as well in less time. Legend: n prompts, m
models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold
from sklearn.svm import LinearSVR

from routing.errors import RoutingError
from routing.routers.base import Router, TrainingData, as_outcomes
from routing.routers.space import TextSpace

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CHOICE_ROWS = 3000
FOLDS = 3


class SVMRouter(Router):
    """Per-model linear SVR, clipped to [0, 1]; the rows a model has no quality for do not count for it.

    `epsilon`: errors below it are free. `c`: inverse penalty, None to choose it.
    """

    name: ClassVar[str] = "svm"

    def __init__(
        self,
        c: float | None = None,
        epsilon: float = 0.05,
        features: Mapping[str, Any] | None = None,
        n_components: int = 256,
        structure_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        if (c is not None and c <= 0) or epsilon < 0:
            raise RoutingError(
                f"router 'svm': c is {c!r}, epsilon {epsilon!r}; c must be positive, epsilon not negative"
            )
        self.c, self.epsilon = c, epsilon
        self.features = dict(features or {"kind": "hashed", "n_features": 2**13})
        self.n_components, self.structure_weight, self.seed = n_components, structure_weight, seed
        self._space = TextSpace(self.features, n_components, structure_weight, seed)

    def fit(self, data: TrainingData) -> Self:
        outcomes = as_outcomes(data)
        means = self._start_fit(outcomes)
        vectors = self._space.fit(outcomes.prompts).astype(np.float64)
        weights = np.zeros((vectors.shape[1], len(means)))
        intercept = means.copy()
        for j in range(len(means)):
            known = ~np.isnan(outcomes.quality[:, j])
            y = outcomes.quality[known, j].astype(np.float64)
            if known.sum() < FOLDS or np.ptp(y) == 0:
                continue
            x = vectors[known]
            svr = self._regressor(self.c or self._choose(x, y)).fit(x, y - means[j])
            weights[:, j], intercept[j] = svr.coef_, means[j] + np.ravel(svr.intercept_)[0]
        self.weights_ = self._space.collapse(weights).astype(np.float32)
        self.intercept_ = intercept
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        self._require_models()
        if not len(prompts):
            return np.empty((0, len(self.models_)), np.float32)
        fitted = self._space.linear(prompts, self.weights_.astype(np.float64)) + self.intercept_
        return np.clip(fitted, 0, 1).astype(np.float32)

    def hyperparameters(self) -> dict[str, Any]:
        return {
            "c": self.c,
            "epsilon": self.epsilon,
            "features": self.features,
            "n_components": self.n_components,
            "structure_weight": self.structure_weight,
            "seed": self.seed,
        }

    def state(self) -> dict[str, NDArray[Any]]:
        self._require_models()
        return {"weights": self.weights_, "intercept": self.intercept_, **self._space.state(projection=False)}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._space.load_state(arrays, projection=False)
        self.weights_ = arrays["weights"].reshape(-1, len(self.models_))
        self.intercept_ = arrays["intercept"].reshape(len(self.models_))

    def _regressor(self, c: float) -> LinearSVR:
        # The bias is a column of constants under the penalty; the larger it is, the less that matters.
        return LinearSVR(
            epsilon=self.epsilon,
            C=c,
            loss="squared_epsilon_insensitive",
            dual=False,
            intercept_scaling=10,
            max_iter=2000,
            random_state=self.seed,
        )

    def _choose(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """The penalty with the least squared error over the folds."""
        rows = np.random.default_rng(self.seed).permutation(len(y))[:CHOICE_ROWS]
        errors = np.zeros(len(PENALTIES))
        for train, test in KFold(FOLDS).split(rows):
            mean = y[rows[train]].mean()
            for i, c in enumerate(PENALTIES):
                svr = self._regressor(c).fit(x[rows[train]], y[rows[train]] - mean)
                errors[i] += np.square(svr.predict(x[rows[test]]) + mean - y[rows[test]]).sum()
        return PENALTIES[int(np.argmin(errors))]
