"""Category mean: a baseline that knows how good each model is at each kind of prompt, and nothing else.

Quality per category and model, shrunk towards the model's overall mean as if it had seen `strength` more rows of that
mean; `strength` is chosen per model by leave-one-out squared error, which has a closed form. The category of a row is
its `dataset` in training. A prompt seen in training has its category again; any other prompt the category whose
centroid is nearest (cosine). Where the category of every row is known, `category_scores` uses it directly: on
RouteLLM's MMLU subject means of one half score APGR .689 on the other. Fit O(n), predict O(n c (k + s)). Legend: n
prompts, m models, c categories.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.outcomes import Outcomes
from routing.data.training_data import TrainingData, as_outcomes
from routing.features.neighbours import NeighbourIndex, unit_rows
from routing.routers.text.base import TextRouter

STRENGTHS = np.concatenate([np.logspace(-1, 3, 25), [1e9]])
"""Rows' worth of overall mean; the last one leaves no difference between categories."""


class CategoryRouter(TextRouter):
    """Shrunken mean quality of the prompt's category.

    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        4,096 buckets.
    n_components: default 128; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.2; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the rows and start of the projection.
    """

    name: ClassVar[str] = "category"

    def __init__(
        self,
        features: Mapping[str, Any] | None = None,
        n_components: int = 128,
        structure_weight: float = 0.2,
        seed: int = 0,
    ) -> None:
        self._use_space(features, n_components, structure_weight, seed)

    def fit(self, data: TrainingData) -> Self:
        """Learn each category's mean quality per model, its centroid, and which category every training prompt is in.

        Every row of `data` has its `dataset` as category. Raises RoutingError for no rows, or a model without a known quality.
        """
        outcomes = as_outcomes(data)
        self._start_fit(outcomes)
        self.categories_, category = _categories(outcomes.datasets)
        self.category_quality_ = _table(outcomes, category, len(self.categories_) + 1)
        # Where a prompt stands in two categories, the first row counts.
        self.seen_, first = np.unique(_digests(outcomes.prompts), return_index=True)
        self.seen_category_ = category[first].astype(np.int32)
        vectors = unit_rows(self._space.fit(outcomes.prompts))
        centroids = np.zeros((len(self.categories_), vectors.shape[1]))
        np.add.at(centroids, category, vectors)
        self.index_ = NeighbourIndex(unit_rows(centroids).astype(np.float16))
        return self

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        digests = _digests(prompts)
        at = np.minimum(np.searchsorted(self.seen_, digests), len(self.seen_) - 1)
        category = self.seen_category_[at].astype(np.intp)
        fresh = np.flatnonzero(self.seen_[at] != digests)
        if len(fresh):
            vectors = unit_rows(self._space.transform([prompts[i] for i in fresh]))
            category[fresh] = self.index_.nearest(vectors, 1).rows[:, 0]
        result: NDArray[np.float32] = self.category_quality_[category]
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        """`categories` (JSON bytes), `category_quality` (c + 1, m) with the overall mean last, `seen` (N,) digests of the
        training prompts, `seen_category` (N,), `centroids` (c, k + s), and the space's.
        """
        own: dict[str, NDArray[Any]] = {
            "categories": np.frombuffer(json.dumps(self.categories_.tolist()).encode(), np.uint8),
            "category_quality": self.category_quality_,
            "seen": self.seen_,
            "seen_category": self.seen_category_,
            "centroids": self.index_.vectors,
        }
        return {**super().state(), **own}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        super().load_state(arrays)
        self.categories_ = np.asarray(json.loads(arrays["categories"].tobytes()), dtype=object).astype(str)
        c = len(self.categories_)
        self.category_quality_ = arrays["category_quality"].reshape(c + 1, len(self.models_))
        self.seen_ = arrays["seen"].reshape(-1)
        self.seen_category_ = arrays["seen_category"].reshape(len(self.seen_))
        self.index_ = NeighbourIndex(arrays["centroids"].reshape(c, -1))


def category_scores(train: Outcomes, test: Outcomes) -> NDArray[np.float32]:
    """Expected quality of the rows of `test`, (n, m) with the models of `train`, from their `datasets` column alone.

    A baseline for evaluation: it knows the category that a prompt alone may not show. Every model must have a known
    quality in `train`.
    """
    names, category = _categories(train.datasets)
    # One more category, without rows: its shrunken mean is the overall mean, which unknown names get.
    table = _table(train, category, len(names) + 1)
    return table[_positions(names, test.datasets)]


def shrunken_means(quality: NDArray[Any], category: NDArray[np.intp], n_categories: int) -> NDArray[np.float64]:
    """One model's mean quality per category (n_categories,), shrunk by the strength that predicts left-out rows best.

    `quality` (n,), NaN where unknown; at least one known. A row left out is predicted by (sum - y + s mean) / (count -
    1 + s) of its category.
    """
    known = ~np.isnan(quality)
    y, group = quality[known].astype(np.float64), category[known]
    count = np.bincount(group, minlength=n_categories).astype(np.float64)
    total = np.bincount(group, y, n_categories)
    mean = y.mean()
    errors = [np.square((total[group] - y + s * mean) / (count[group] - 1 + s) - y).sum() for s in STRENGTHS]
    strength = STRENGTHS[int(np.argmin(errors))]
    result: NDArray[np.float64] = (total + strength * mean) / (count + strength)
    return result


def _categories(datasets: Sequence[str]) -> tuple[NDArray[np.str_], NDArray[np.intp]]:
    """The distinct names in order (c,), and the position of each row's among them (n,)."""
    names, category = np.unique(np.asarray(datasets, dtype=object).astype(str), return_inverse=True)
    return names, category


def _positions(names: NDArray[np.str_], datasets: Sequence[str]) -> list[int]:
    """Position of each row's category; c for one that is not among them."""
    position = {name: i for i, name in enumerate(names.tolist())}
    return [position.get(name, len(position)) for name in datasets]


def _table(outcomes: Outcomes, category: NDArray[np.intp], n_categories: int) -> NDArray[np.float32]:
    """Shrunken means of every model (n_categories, m)."""
    columns = [shrunken_means(column, category, n_categories) for column in outcomes.quality.T]
    return np.stack(columns, axis=1).astype(np.float32)


def _digests(prompts: Sequence[str]) -> NDArray[np.uint64]:
    """64-bit hashes of the prompts (n,)."""
    words = b"".join(blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest() for text in prompts)
    return np.frombuffer(words, "<u8")
