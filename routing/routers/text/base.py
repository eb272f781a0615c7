"""What routers on a `TextSpace` share: their settings, prediction in chunks, and the linear ones' collapsed weights.

A subclass passes its settings to `_use_space`, learns from `self._space.fit(prompts)` and predicts one chunk at a time,
so the memory of a prediction does not grow with the number of prompts: at most `CHUNK_ROWS` of them and `CHUNK_CHARS`
characters, 0.3 GB of n-grams. Row i depends on prompt i alone, so the cuts do not show. Legend: n prompts, m models, k + s
dimensions of the space, d hashed features.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.features.space import TextSpace
from routing.routers.base import Router

CHUNK_ROWS = 8192
"""Prompts predicted at once, at most."""
CHUNK_CHARS = 4_000_000
"""Characters predicted at once (one prompt more at most): 300 prompts of a long context, 8,192 of 490 characters."""
Floats = NDArray[np.float64]


class TextRouter(Router):
    """A router whose inputs are vectors of a `TextSpace`."""

    keeps_projection: ClassVar[bool] = True
    """False where the projection is folded into the router's own weights and not saved."""

    def _use_space(
        self,
        features: Mapping[str, Any] | None,
        n_components: int,
        structure_weight: float,
        seed: int,
        n_features: int = 2**12,
    ) -> None:
        """Keep the settings and make the space; `n_features`: hashed buckets where no `features` are given."""
        self.features = dict(features or {"kind": "hashed", "n_features": n_features})
        self.n_components, self.structure_weight, self.seed = n_components, structure_weight, seed
        self._space = TextSpace(self.features, n_components, structure_weight, seed)

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32 in [0, 1], in chunks of bounded memory. Raises RoutingError for a router that is not fitted."""
        result = np.empty((len(prompts), len(self._require_models())), np.float32)
        for rows in chunks(prompts):
            result[rows] = self._predict_chunk(prompts[rows])
        return result

    @abstractmethod
    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """`predict` for at least one prompt, few enough to hold all their vectors."""

    def state(self) -> dict[str, NDArray[Any]]:
        """The space's arrays, see `routing.features.space.TextSpace.state`; subclasses add theirs. Raises RoutingError where
        unfitted.
        """
        self._require_models()
        return self._space.state(self.keeps_projection)

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        self._space.load_state(arrays, self.keeps_projection)


class LinearTextRouter(TextRouter):
    """A score per model that is linear in the vectors, kept as weights on the d + s features themselves.

    The artifact is 66 KB per model, and predicting costs what making the n-grams costs: 0.5 ms a prompt.
    """

    keeps_projection: ClassVar[bool] = False

    def _keep(self, weights: Floats, intercept: Floats) -> Self:
        """Take over the weights on the space's dimensions (k + s, m) and the intercepts (m,)."""
        # Rounded here, not on saving: a loaded router predicts exactly what the fitted one does.
        self.weights_ = self._space.collapse(weights).astype(np.float32)
        self.intercept_ = intercept
        return self

    def _scores(self, prompts: Sequence[str]) -> Floats:
        """(n, m)."""
        return self._space.linear(prompts, self.weights_.astype(np.float64)) + self.intercept_

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        return np.clip(self._scores(prompts), 0, 1).astype(np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """`weights` (d + s, m), `intercept` (m,), and the space's without its projection."""
        return {**super().state(), "weights": self.weights_, "intercept": self.intercept_}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        super().load_state(arrays)
        self.weights_ = arrays["weights"].reshape(-1, len(self.models_))
        self.intercept_ = arrays["intercept"].reshape(len(self.models_))


def regress_each(
    inputs: Floats, quality: NDArray[np.float32], regress: Callable[[Floats, Floats], tuple[Any, Any]]
) -> tuple[Floats, Floats]:
    """Weights (d, m) and intercepts (m,) of one regression per model on the rows that know its quality.

    `inputs` (n, d), `quality` (n, m); `regress(x, y)` gives coefficients and intercept. A model of constant quality, or of
    fewer than the three rows that cross-validation needs to say anything, gets its mean.
    """
    m = quality.shape[1]
    weights, intercept = np.zeros((inputs.shape[1], m)), np.zeros(m)
    for j in range(m):
        known = ~np.isnan(quality[:, j])
        y = quality[known, j].astype(np.float64)
        intercept[j] = y.mean()
        if len(y) >= 3 and np.ptp(y) > 0:
            weights[:, j], intercept[j] = regress(inputs[known], y)
    return weights, intercept


def chunks(prompts: Sequence[str]) -> Iterator[slice]:
    """Consecutive slices that cover `prompts`, each within the limits."""
    start = size = 0
    for row, prompt in enumerate(prompts):
        if row - start == CHUNK_ROWS or size >= CHUNK_CHARS:
            yield slice(start, row)
            start, size = row, 0
        size += len(prompt)
    if start < len(prompts):
        yield slice(start, len(prompts))
