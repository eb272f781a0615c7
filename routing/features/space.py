"""The vector space that kNN and linear work in: weighted n-grams projected to few dimensions, or an encoder, plus
structure.

Lines that recur in many training prompts (few-shot examples, instructions) are left out first. Hashed n-grams are
weighted by rarity (idf), scaled to unit length and projected on their leading singular vectors (latent semantic
analysis; Halko's randomised SVD on at most `FIT_ROWS` rows); standardised structure counts follow, scaled by
`structure_weight`, which sets how much less they are shrunk than words. Sparse products sum each row on its own, so a
row's vector does not depend on its batch, to the bit. Legend: n prompts, d hashed features, k components, s
structure counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.features.boilerplate import find_boilerplate, without_boilerplate
from routing.features.registry import make_features
from routing.features.structure import STRUCTURE

FIT_ROWS = 3000
"""Rows the projection is learned on; more cost minutes and move APGR by less than its spread over seeds."""


class TextSpace:
    """Prompts to dense vectors of k + s dimensions (an encoder's width in place of k).

    features: JSON spec, see `routing.features.registry.make_features`.
    n_components: k at most, at least 1; fewer where there are fewer rows.
    structure_weight: standard deviation of a structure count over the training prompts, at least 0.
    seed: of the rows that the projection is learnt on, and of its start.
    """

    def __init__(self, features: Mapping[str, Any], n_components: int, structure_weight: float, seed: int) -> None:
        if n_components < 1 or structure_weight < 0:
            raise RoutingError("router: n_components must be at least 1 and structure_weight not negative")
        self.features = make_features(features)
        self.n_components, self.structure_weight, self.seed = n_components, structure_weight, seed

    def fit(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """Learn boilerplate, weights and projection; the vectors of `prompts`, (n, k + s)."""
        self.boilerplate_ = find_boilerplate(prompts)
        prompts = self.inner(prompts)
        counts = self.features.structure(prompts).astype(np.float64)
        spread = counts.std(axis=0)
        self.structure_mean_ = counts.mean(axis=0)
        # A count that never varies says nothing in training and must not explode on the first prompt that differs.
        self.structure_scale_ = np.where(spread > 1e-6, self.structure_weight / np.maximum(spread, 1e-6), 0.0)
        vectors: Any = self.features.transform(prompts)
        if not self.features.sparse:
            return self._joined(np.asarray(vectors, np.float64), counts)
        n, d = vectors.shape
        document_count = np.bincount(vectors.indices, minlength=d)
        self.idf_ = np.log((1 + n) / (1 + document_count)) + 1
        weighted = self._weighted(vectors)
        rows = np.random.default_rng(self.seed).permutation(n)[:FIT_ROWS]
        k = min(self.n_components, len(rows) - 1)
        self.components_ = np.zeros((0, d), np.float16)
        if k > 0:
            from sklearn.utils.extmath import randomized_svd

            _, _, components = randomized_svd(weighted[np.sort(rows)], k, n_iter=3, random_state=self.seed)
            # Half precision halves the artifact; rounded here so that a loaded router sees the same space.
            self.components_ = components.astype(np.float16)
        return self._joined(self._projected(weighted), counts)

    def inner(self, prompts: Sequence[str]) -> list[str]:
        """The prompts without the boilerplate of the training prompts: what features are made of."""
        return without_boilerplate(prompts, self.boilerplate_)

    def transform(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, k + s) float32."""
        prompts = self.inner(prompts)
        counts = self.features.structure(prompts).astype(np.float64)
        vectors = self.features.transform(prompts)
        if not self.features.sparse:
            return self._joined(np.asarray(vectors, np.float64), counts)
        return self._joined(self._projected(self._weighted(vectors)), counts)

    def linear(self, prompts: Sequence[str], weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """`transform(prompts) @ weights` (n, m) for `collapse`d weights, without ever making the k dimensions."""
        prompts = self.inner(prompts)
        counts = self.features.structure(prompts).astype(np.float64)
        vectors = self.features.transform(prompts)
        structure = sp.csr_matrix((counts - self.structure_mean_) * self.structure_scale_)
        text = self._weighted(vectors) if self.features.sparse else np.asarray(vectors, np.float64)
        width = weights.shape[0] - len(STRUCTURE)
        result: NDArray[np.float64] = text @ weights[:width] + structure @ weights[width:]
        return result

    def collapse(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights on the k + s dimensions (k + s, m) as weights on the d + s features: (d + s, m)."""
        if not self.features.sparse:
            return weights
        k = len(self.components_)
        return np.concatenate([self.components_.T.astype(np.float64) @ weights[:k], weights[k:]])

    def state(self, projection: bool) -> dict[str, NDArray[Any]]:
        """Fitted arrays; without the (k, d) projection where the user of the space has collapsed it."""
        arrays: dict[str, NDArray[Any]] = {
            "structure_mean": self.structure_mean_,
            "structure_scale": self.structure_scale_,
        }
        if len(self.boilerplate_):
            arrays["boilerplate"] = self.boilerplate_
        if self.features.sparse:
            arrays["idf"] = self.idf_
            if projection:
                arrays["components"] = self.components_
        return arrays

    def load_state(self, arrays: Mapping[str, NDArray[Any]], projection: bool) -> None:
        """Inverse of `state`. Raises KeyError or ValueError where arrays are missing or misshapen."""
        self.boilerplate_ = arrays.get("boilerplate", np.zeros(0, np.uint64)).reshape(-1).astype(np.uint64)
        self.structure_mean_ = arrays["structure_mean"].reshape(len(STRUCTURE))
        self.structure_scale_ = arrays["structure_scale"].reshape(len(STRUCTURE))
        if self.features.sparse:
            d = self.features.transform([""]).shape[1]
            self.idf_ = arrays["idf"].reshape(d)
            if projection:
                self.components_ = arrays["components"].reshape(-1, d)

    def _weighted(self, vectors: sp.csr_matrix) -> sp.csr_matrix:
        """Times idf, rows scaled to unit length (an empty row stays zero)."""
        weighted = vectors.astype(np.float64)
        weighted.data *= self.idf_[weighted.indices]
        squares = sp.csr_matrix((np.square(weighted.data), weighted.indices, weighted.indptr), shape=weighted.shape)
        norms = np.sqrt(squares @ np.ones(squares.shape[1]))
        weighted.data /= np.repeat(np.where(norms > 0, norms, 1.0), np.diff(weighted.indptr))
        return weighted

    def _projected(self, weighted: sp.csr_matrix) -> NDArray[np.float64]:
        result: NDArray[np.float64] = weighted @ self.components_.T.astype(np.float64)
        return result

    def _joined(self, text: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float32]:
        structure = (counts - self.structure_mean_) * self.structure_scale_
        joined: NDArray[np.float32] = np.concatenate([text, structure], axis=1).astype(np.float32)
        return joined
