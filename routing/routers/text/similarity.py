"""Similarity-weighted ranking: a Bradley-Terry model of tiers per prompt, battles weighted by similarity to the prompt.

RouteLLM (arXiv 2406.18665, section 4.2.1): battle i weighs gamma^(1 + S(q, q_i)), gamma = 10; P(strong beats weak) = sigmoid(R_s -
R_w) in natural units, = 1 / (1 + 10^((Elo_w - Elo_s) / 400)). RouteLLM refits a logistic regression over all battles
for every query. Only the weighted tier-by-tier win counts matter to it, so here a block of queries costs one matrix
product with the N distinct prompts, one sparse product with their wins, and a few Newton steps on k coefficients:
O(n (N d + battles + k^3)), 14,000 queries against 7,000 prompts in seconds. Prefer it for battles of many models;
for outcomes of a few models kNN says the same more sharply. Legend: n queries, N distinct training prompts, d
dimensions, k tiers, m models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from routing.data.preferences import Preferences
from routing.data.tiers import Tiers, bradley_terry, make_tiers, ratings, win_rates
from routing.data.training_data import TrainingData
from routing.errors import RoutingError
from routing.features.neighbours import unit_rows
from routing.routers.base import check_models
from routing.routers.text.base import TextRouter

BLOCK = 32
"""Queries per matrix product; short blocks are padded to it, so that a query's sums do not depend on its batch."""
SOLVED = 1024
"""Queries whose Bradley-Terry models are solved side by side."""
NORMALISE = ("code", "paper")


class SimilarityRouter(TextRouter):
    """Win rates from tiers whose strengths are fitted anew for every prompt.

    models: m names to give win rates for, weakest first; default (), all of the training data. "tier-0" (the strongest) to
        "tier-9" stand for whole tiers.
    gamma: default 10, the paper's; 1 to 1e12, how much more the most similar battle weighs than one of similarity 0.
    normalise: default "code", the cosine over its maximum over the training prompts, for this query; "paper": over the training
        prompt's own maximum over the set, which is its cosine with itself, so that S is the plain cosine.
    n_tiers: default 10, at least 2; tiers that the models of the data are grouped in; with no more models each is its own.
    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        4,096 buckets.
    n_components: default 128; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0, the texts alone; standard deviation of a structure count beside text vectors of length 1; 0
        leaves the form out.
    seed: default 0; of the rows and start of the projection.
    """

    name: ClassVar[str] = "similarity"
    pairwise: ClassVar[bool] = True

    def __init__(
        self,
        models: Sequence[str] = (),
        gamma: float = 10.0,
        normalise: str = "code",
        n_tiers: int = 10,
        features: Mapping[str, Any] | None = None,
        n_components: int = 128,
        structure_weight: float = 0.0,
        seed: int = 0,
    ) -> None:
        if normalise not in NORMALISE:
            raise RoutingError(f"router 'similarity': normalise is {normalise!r}; it must be one of {NORMALISE}")
        # Weights are gamma^(S - 1), which is gamma^(1 + S) up to a factor: 1e-24 at gamma = 1e12 still is a float32.
        if not 1 <= gamma <= 1e12 or not isinstance(n_tiers, int) or n_tiers < 2:
            raise RoutingError(
                f"router 'similarity': gamma is {gamma!r} and n_tiers {n_tiers!r}; they must be 1 to 1e12 and at least 2"
            )
        self.models, self.gamma, self.normalise, self.n_tiers = list(check_models(models)), gamma, normalise, n_tiers
        self._use_space(features, n_components, structure_weight, seed)

    def fit(self, data: TrainingData) -> Self:
        """Group the models into tiers, and keep the distinct prompts' vectors with who won on each. O(battles).

        Raises RoutingError for no battles, or a model that the data does not have.
        """
        battles = self._start_pairs(data, self.models, self.n_tiers)
        tiers = make_tiers(ratings(battles), self.n_tiers) if len(battles) else Tiers(((self.models_[0],),))
        self.tier_of_ = np.array([tiers.tier_of(name) for name in self.models_], np.int32)
        self.k_ = len(tiers.groups)
        position = {prompt: row for row, prompt in enumerate(dict.fromkeys(battles.prompts or data.prompts))}
        # Half precision: half the artifact, and rounded now so that a loaded router has the same similarities.
        self.vectors_ = unit_rows(self._space.fit(list(position))).astype(np.float16)
        rows = np.array([position[prompt] for prompt in battles.prompts], np.intp)
        self.wins_ = _wins(battles, tiers, rows, len(position))
        self._prepare()
        return self

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        n, k = len(prompts), self.k_
        queries = unit_rows(self._space.transform(prompts))
        result = np.empty((n, len(self.models_)), np.float32)
        for first in range(0, n, SOLVED):
            some = queries[first : first + SOLVED]
            wins = np.concatenate([self._weighted(some[at : at + BLOCK]) for at in range(0, len(some), BLOCK)])
            strength = bradley_terry(wins.reshape(-1, k, k), start=self._overall)
            result[first : first + SOLVED] = win_rates(strength[:, self.tier_of_])
        return result

    def _weighted(self, queries: NDArray[np.float32]) -> NDArray[np.float64]:
        """Weighted tier-by-tier wins, (up to BLOCK, k * k)."""
        padded = np.zeros((queries.shape[1], BLOCK), np.float32)
        padded[:, : len(queries)] = queries.T
        similarity = self._dense @ padded
        if self.normalise == "code":
            highest = similarity.max(axis=0)
            # A query like nothing seen (highest <= 0, as for an empty prompt) would turn the order round: all alike.
            similarity *= np.where(highest > 1e-6, 1 / np.maximum(highest, 1e-6), 0)
        # Far below the maximum a negative cosine over a tiny one would overflow; S is a cosine, so it is kept in -1..1.
        np.clip(similarity, -1, 1, out=similarity)
        similarity -= 1
        similarity *= np.float32(math.log(self.gamma))
        weights = np.exp(similarity, out=similarity)
        wins: NDArray[np.float64] = (self._cells @ weights)[:, : len(queries)].T
        # To as many battles as there are: no maximum moves, and the ridge means the same for every query and gamma.
        total = wins.sum(axis=1, keepdims=True)
        return wins * (self._n_battles / np.where(total > 0, total, 1))

    def state(self) -> dict[str, NDArray[Any]]:
        """`vectors` (N, k + s) half precision, `tier_of` (m,), `n_tiers` (1,), the wins as a sparse table (`cells`, `rows`,
        `wins`), and the space's.
        """
        own: dict[str, NDArray[Any]] = {
            "vectors": self.vectors_,
            "tier_of": self.tier_of_,
            "n_tiers": np.array([self.k_], np.int32),
            "cells": self.wins_.row.astype(np.int32),
            "rows": self.wins_.col.astype(np.int32),
            "wins": self.wins_.data,
        }
        return {**super().state(), **own}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen, or a tier out of range."""
        super().load_state(arrays)
        self.tier_of_ = arrays["tier_of"].reshape(len(self.models_))
        self.k_ = int(arrays["n_tiers"][0])
        self.vectors_ = arrays["vectors"]
        size = (self.k_**2, len(self.vectors_))
        self.wins_ = sp.coo_array((arrays["wins"], (arrays["cells"], arrays["rows"])), shape=size)
        if self.tier_of_.max() >= self.k_ or self.tier_of_.min() < 0:
            raise ValueError("a model's tier is out of range")
        self._prepare()

    def _prepare(self) -> None:
        self._dense = self.vectors_.astype(np.float32)
        # In double precision: 100,000 weights of up to gamma^2 are summed one after another.
        self._cells = sp.csr_array(self.wins_, dtype=np.float64)
        self._n_battles = float(self._cells.sum())
        self._overall = bradley_terry(np.asarray(self._cells.sum(axis=1)).reshape(self.k_, self.k_))


def _wins(battles: Preferences, tiers: Tiers, rows: NDArray[np.intp], n_prompts: int) -> sp.coo_array:
    """(k * k, N): how often tier i beat tier j on each prompt, at cell i k + j; a tie is half a win for both.

    Battles inside a tier say nothing about its strength and are left out; their prompts stay, for the maximum of S.
    """
    k = len(tiers.groups)
    tier = {name: number for number, group in enumerate(tiers.groups) for name in group}
    a, b = (np.array([tier[name] for name in names], np.intp) for names in (battles.model_a, battles.model_b))
    cells = np.concatenate([a * k + b, b * k + a])
    share = np.concatenate([battles.winner, 1 - battles.winner]).astype(np.float32)
    keep = (cells // k != cells % k) & (share > 0)
    table = sp.coo_array((share[keep], (cells[keep], np.tile(rows, 2)[keep])), shape=(k * k, n_prompts))
    table.sum_duplicates()
    return table
