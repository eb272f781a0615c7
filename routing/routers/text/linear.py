"""Linear router: one ridge regression per model on text vectors and structure counts, penalty chosen by leave-one-out.

Fit: one SVD of the (n, k + s) matrix per model, seconds for thousands of rows. Predict: a sparse product, bounded by
making the n-grams (0.5 ms a prompt). The projection is folded into the weights, so an artifact is 66 KB per
model. Words and structure with a ridge are the strongest cheap router on a pilot of a few hundred rows. Legend: n
prompts, m models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from routing.data.training_data import TrainingData, as_outcomes
from routing.routers.text.base import Floats, LinearTextRouter, regress_each

ALPHAS = np.logspace(-3, 3, 13)


class LinearRouter(LinearTextRouter):
    """Per-model ridge, clipped to [0, 1]; the rows a model has no quality for do not count for it.

    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        8,192 buckets.
    n_components: default 256; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.1; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the rows and start of the projection.
    """

    name: ClassVar[str] = "linear"

    def __init__(
        self,
        features: Mapping[str, Any] | None = None,
        n_components: int = 256,
        structure_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        self._use_space(features, n_components, structure_weight, seed, 2**13)

    def fit(self, data: TrainingData) -> Self:
        """A ridge per model on its known rows; the penalty, one of ALPHAS, leaves one row out best. Raises RoutingError for no
        rows, or a model without a known quality.
        """
        outcomes = as_outcomes(data)
        self._start_fit(outcomes)
        vectors = self._space.fit(outcomes.prompts).astype(np.float64)
        return self._keep(*regress_each(vectors, outcomes.quality, ridge))


def ridge(x: Floats, y: Floats, alphas: Floats = ALPHAS) -> tuple[Floats, float]:
    """Coefficients (d,) and intercept of the ridge of `y` (n,) on `x` (n, d) whose penalty leaves one row out best."""
    from sklearn.linear_model import RidgeCV

    fitted = RidgeCV(alphas).fit(x, y)
    return fitted.coef_, fitted.intercept_
