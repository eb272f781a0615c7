"""k nearest neighbours: the mean quality of the k training prompts most similar (cosine) to each prompt.

Well-tuned kNN ties or beats most learned routers (arXiv 2505.12601): the bar. Exact search by blocked matrix
products, O(n N (k + s)) for N training rows: about 0.5 ms a prompt at N = 14,000 on one core. A million
training rows stay within the memory of their float16 vectors (`routing.features.neighbours`). Legend: n prompts, m
models, N training rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.neighbours import NeighbourIndex, unit_rows
from routing.routers.text.base import TextRouter


class KNNRouter(TextRouter):
    """Mean known quality over the k nearest; a model none of them knows gets its mean over all training rows.

    k: default 40, RouterBench's; neighbours looked at, all there are where they are fewer.
    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        4,096 buckets.
    n_components: default 128; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.2; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the rows and start of the projection.
    """

    name: ClassVar[str] = "knn"

    def __init__(
        self,
        k: int = 40,
        features: Mapping[str, Any] | None = None,
        n_components: int = 128,
        structure_weight: float = 0.2,
        seed: int = 0,
    ) -> None:
        if not isinstance(k, int) or k < 1:
            raise RoutingError(f"router 'knn': k is {k!r}; it must be a whole number of at least 1")
        self.k = k
        self._use_space(features, n_components, structure_weight, seed)

    def fit(self, data: TrainingData) -> Self:
        """Keep the training rows' vectors, in half precision, and qualities. O(N (k + s)); raises RoutingError as every `fit`
        does.
        """
        outcomes = as_outcomes(data)
        self.mean_quality_ = self._start_fit(outcomes).astype(np.float32)
        # Half precision: half the artifact, and rounded now so that a loaded router has the same neighbours.
        self.vectors_ = unit_rows(self._space.fit(outcomes.prompts)).astype(np.float16)
        self.quality_ = outcomes.quality.astype(np.float32)
        self.index_ = NeighbourIndex(self.vectors_)
        return self

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        nearest = self.index_.nearest(unit_rows(self._space.transform(prompts)), self.k)
        quality = self.quality_[nearest.rows]
        known = ~np.isnan(quality)
        count = known.sum(axis=1)
        total = np.where(known, quality, 0).sum(axis=1)
        return np.where(count > 0, total / np.maximum(count, 1), self.mean_quality_).astype(np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        """`vectors` (N, k + s) half precision, `quality` (N, m) with NaN, `mean_quality` (m,), and the space's."""
        own: dict[str, NDArray[Any]] = {
            "vectors": self.vectors_,
            "quality": self.quality_,
            "mean_quality": self.mean_quality_,
        }
        return {**super().state(), **own}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        super().load_state(arrays)
        m = len(self.models_)
        self.quality_ = arrays["quality"].reshape(-1, m)
        self.vectors_ = arrays["vectors"].reshape(len(self.quality_), -1)
        self.mean_quality_ = arrays["mean_quality"].reshape(m)
        self.index_ = NeighbourIndex(self.vectors_)
