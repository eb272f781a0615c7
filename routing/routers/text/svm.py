"""Linear support vector regression per model, on text vectors and structure counts (RouterBench's SVM router).

Squared epsilon-insensitive loss, which is fitted in the primal by liblinear without randomness and, unlike the plain
one, leads to means of right-or-wrong outcomes rather than to their medians (0 or 1 for nearly every prompt). The
penalty is chosen by 3-fold cross-validation on at most `CHOICE_ROWS` rows. Fit: about a second a model at thousands
of rows. Predict and artifact as the linear router's, which usually does as well in less time. Legend: n prompts, m
models.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np

from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.routers.text.base import Floats, LinearTextRouter, regress_each

PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
CHOICE_ROWS = 3000
FOLDS = 3


class SVMRouter(LinearTextRouter):
    """Per-model linear SVR, clipped to [0, 1]; the rows a model has no quality for do not count for it.

    c: default None, chosen among PENALTIES by cross-validation; inverse penalty, above 0.
    epsilon: default 0.05; errors of quality below it are free.
    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        8,192 buckets.
    n_components: default 256; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.1; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the projection and of the folds.
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
        self._use_space(features, n_components, structure_weight, seed, 2**13)

    def fit(self, data: TrainingData) -> Self:
        """A support vector regression per model on its known rows. Raises RoutingError for no rows, or a model without a known
        quality.
        """
        outcomes = as_outcomes(data)
        self._start_fit(outcomes)
        vectors = self._space.fit(outcomes.prompts).astype(np.float64)
        return self._keep(*regress_each(vectors, outcomes.quality, self._regress))

    def _regress(self, x: Floats, y: Floats) -> tuple[Floats, float]:
        mean = y.mean()
        svr = self._regressor(self.c or self._choose(x, y)).fit(x, y - mean)
        return svr.coef_, mean + np.ravel(svr.intercept_)[0]

    def _regressor(self, c: float) -> Any:
        from sklearn.svm import LinearSVR

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

    def _choose(self, x: Floats, y: Floats) -> float:
        """The penalty with the least squared error over the folds."""
        from sklearn.model_selection import KFold

        rows = np.random.default_rng(self.seed).permutation(len(y))[:CHOICE_ROWS]
        errors = np.zeros(len(PENALTIES))
        for train, test in KFold(FOLDS).split(rows):
            mean = y[rows[train]].mean()
            for i, c in enumerate(PENALTIES):
                svr = self._regressor(c).fit(x[rows[train]], y[rows[train]] - mean)
                errors[i] += np.square(svr.predict(x[rows[test]]) + mean - y[rows[test]]).sum()
        return PENALTIES[int(np.argmin(errors))]
