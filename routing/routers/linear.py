"""Linear router: one ridge regression per model on text vectors and structure counts, penalty chosen by leave-one-out.

Fit: one SVD of the (n, k + s) matrix per model, seconds for thousands of rows. Predict: a sparse product, bounded by
making the n-grams (0.5 ms a prompt). The projection is folded into the weights, so an artifact is 66 KB per
model. Words and structure with a ridge are the strongest cheap router on a pilot of a few hundred rows. Legend: n
prompts, m models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV

from routing.routers.base import Router, TrainingData, as_outcomes
from routing.routers.space import TextSpace

ALPHAS = np.logspace(-3, 3, 13)


class LinearRouter(Router):
    """Per-model ridge, clipped to [0, 1]; the rows a model has no quality for do not count for it."""

    name: ClassVar[str] = "linear"

    def __init__(
        self,
        features: Mapping[str, Any] | None = None,
        n_components: int = 256,
        structure_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
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
            # Nothing to explain in constant quality, and leave-one-out needs three rows to say anything.
            if known.sum() < 3 or np.ptp(y) == 0:
                continue
            ridge = RidgeCV(ALPHAS).fit(vectors[known], y)
            weights[:, j], intercept[j] = ridge.coef_, ridge.intercept_
        # Rounded here, not on saving: a loaded router predicts exactly what the fitted one does.
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
