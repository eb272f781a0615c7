"""Gaussian process regression with additive kernels on words, form and (where given) a sentence encoder.

Targets are the common difficulty of a prompt (mean residual over models) and every model's contrast to it, with kernel
weights of their own: what separates two models is another and weaker signal than what makes a prompt hard, and a cut
needs the former alone. Weights come from the marginal likelihood (Rasmussen & Williams, 2006, chapter 5) under a weak
prior: no grid, no folds.

Cost: weights on at most `ML_ROWS` rows, seconds; an exact solve up to `max_basis` rows, O(N^3), 12 s at N = 7,000 on
two cores; past it subset of regressors, O(N M^2). Predict: O(M (k + s + d)), 0.3 ms a prompt at M = 7,000. Past
100,000 rows an MLP is cheaper and as good. Legend: n prompts, m models, N training rows, M basis rows, k words, s form
counts, d encoder dimensions, t targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.kernels import Blocks, Floats, kernel_sum, marginal_likelihood_weights, n_kernels, solve
from routing.features.registry import make_features
from routing.routers.text.base import TextRouter

MIN_ROWS = 10
"""Fewer rows say nothing beyond each model's mean."""
ML_ROWS = 800
"""Rows the kernels are weighted on; more change APGR by less than its spread over seeds."""
SPARSE_BASIS = 3000
"""Basis rows beyond `max_basis` training rows."""
BLOCK = 64
"""Prompts per matrix product, short blocks padded: BLAS sums every row the same way, alone and in a batch."""
CLIP = 4.0
"""Standard deviations at which a form count ends: no straight line is trusted further out."""
NEARLY_ALL = 0.95
"""A model known in so many of the rows shares the solve of all models; its gaps count as no contrast."""


class GaussianProcessRouter(TextRouter):
    """Expected quality = model's mean + common difficulty + model's contrast, moved into [0, 1] with gains intact.

    features: hashed spec of the words, see `routing.features.registry.make_features`; default None, 4,096 buckets.
    encoder: spec of a sentence encoder beside the words; default None, none.
    n_components: default 128; k, directions that the words are projected on.
    max_basis: default 8000, at least MIN_ROWS; training rows up to which the solve is exact.
    seed: default 0; of the projection, of the rows that weigh the kernels, and of the basis rows.
    """

    name: ClassVar[str] = "gp"

    def __init__(
        self,
        features: Mapping[str, Any] | None = None,
        encoder: Mapping[str, Any] | None = None,
        n_components: int = 128,
        max_basis: int = 8000,
        seed: int = 0,
    ) -> None:
        if not isinstance(max_basis, int) or max_basis < MIN_ROWS:
            raise RoutingError(f"router 'gp': max_basis is {max_basis!r}; it must be a whole number from {MIN_ROWS} on")
        self._use_space(features, n_components, 1.0, seed)
        self.encoder = dict(encoder) if encoder else None
        self.max_basis = max_basis
        self._encoder = make_features(self.encoder) if self.encoder else None

    def fit(self, data: TrainingData) -> Self:
        """Weigh the kernels by marginal likelihood, once for the difficulty and once for the contrasts, and solve for all rows.

        Fewer than MIN_ROWS rows give every model its mean. Raises RoutingError for no rows, or a model without a known quality.
        """
        outcomes = as_outcomes(data)
        self.mean_quality_ = self._start_fit(outcomes)
        blocks = self._fit_blocks(outcomes.prompts)
        n, m = outcomes.quality.shape
        rng = np.random.default_rng(self.seed)
        size = n if n <= self.max_basis else min(SPARSE_BASIS, self.max_basis)
        basis, sample = np.sort(rng.permutation(n)[:size]), np.sort(rng.permutation(n)[:ML_ROWS])
        self.basis_ = [block[basis].astype(np.float16) for block in blocks]
        self.weights_ = np.zeros((2, n_kernels(len(blocks))))
        self.alpha_ = np.zeros((size, 1 + m), np.float32)
        if n < MIN_ROWS:
            return self
        common, contrast = residual_targets(outcomes.quality - self.mean_quality_)
        for part, (y, first) in enumerate(((common, 0), (contrast, 1))):
            known = ~np.isnan(y)
            y = np.where(known, y, 0.0)
            spread = y.std(axis=0)
            places = np.flatnonzero(spread > 1e-6)
            if not len(places):
                continue
            unit = y[sample][:, places] / spread[places]
            self.weights_[part], noise = marginal_likelihood_weights([b[sample] for b in blocks], unit)
            known[:, known.mean(axis=0) >= NEARLY_ALL] = True
            # Models known in the same rows are one solve; mostly that is all of them.
            for pattern in np.unique(known[:, places], axis=1).T:
                same = places[(known[:, places] == pattern[:, None]).all(axis=0)]
                rows = np.flatnonzero(pattern)
                self.alpha_[:, first + same] = self._solve(
                    blocks, basis, rows, y[np.ix_(rows, same)], self.weights_[part], noise
                )
        return self

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        result = np.empty((len(prompts), len(self.models_)), np.float32)
        blocks = self._scaled(self._raw(prompts, self._space.transform(prompts)))
        basis = [block.astype(np.float32) for block in self.basis_]
        for start in range(0, len(prompts), BLOCK):
            n = min(BLOCK, len(prompts) - start)
            padded = [np.zeros((BLOCK, block.shape[1]), np.float32) for block in blocks]
            for target, block in zip(padded, blocks, strict=True):
                target[:n] = block[start : start + n]
            common = kernel_sum(padded, basis, self.weights_[0]) @ self.alpha_[:, :1]
            contrast = kernel_sum(padded, basis, self.weights_[1]) @ self.alpha_[:, 1:]
            result[start : start + n] = within_unit(self.mean_quality_ + common[:n] + contrast[:n])
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        """`mean_quality` (m,), `weights` (2, K) of the kernels, `alpha` (M, 1 + m), per block j `basis_j` (M, width) half
        precision with `centre_j` and `scale_j` (width,), and the space's.
        """
        own: dict[str, NDArray[Any]] = {
            "mean_quality": self.mean_quality_,
            "weights": self.weights_,
            "alpha": self.alpha_,
            **{f"basis_{j}": block for j, block in enumerate(self.basis_)},
            **{f"centre_{j}": centre for j, centre in enumerate(self.centre_)},
            **{f"scale_{j}": scale for j, scale in enumerate(self.scale_)},
        }
        return {**super().state(), **own}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        super().load_state(arrays)
        m, count = len(self.models_), 2 if self.encoder is None else 3
        self.mean_quality_ = arrays["mean_quality"].reshape(m)
        self.weights_ = arrays["weights"].reshape(2, n_kernels(count))
        self.alpha_ = arrays["alpha"].reshape(-1, 1 + m)
        self.basis_ = [arrays[f"basis_{j}"].reshape(len(self.alpha_), -1) for j in range(count)]
        self.centre_ = [arrays[f"centre_{j}"].reshape(block.shape[1]) for j, block in enumerate(self.basis_)]
        self.scale_ = [arrays[f"scale_{j}"].reshape(block.shape[1]) for j, block in enumerate(self.basis_)]

    def _fit_blocks(self, prompts: Sequence[str]) -> Blocks:
        """Learn the scaling; the blocks of the training prompts, rounded to the half precision they are kept in."""
        raw = self._raw(prompts, self._space.fit(prompts))
        self.centre_ = [block.mean(axis=0) for block in raw]
        self.scale_ = []
        for j, (block, centre) in enumerate(zip(raw, self.centre_, strict=True)):
            spread = block.std(axis=0)
            if j == 1:  # counts have no common unit; a count that never varies says nothing
                self.scale_.append(np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0))
            else:  # directions of words and meaning keep their proportions
                length = float(np.sqrt(np.square(block - centre).sum(axis=1).mean()))
                self.scale_.append(np.full(len(spread), 1 / length if length > 1e-6 else 0.0))
        return [block.astype(np.float16).astype(np.float32) for block in self._scaled(raw)]

    def _raw(self, prompts: Sequence[str], joined: NDArray[np.float32]) -> list[Floats]:
        """Words (n, k), form (n, s) and, with an encoder, meaning (n, d)."""
        inner = self._space.inner(prompts)
        n_counts = len(self._space.structure_mean_)
        form = np.concatenate([joined[:, -n_counts:], self._space.features.form(inner)], axis=1)
        blocks = [joined[:, :-n_counts], form]
        if self._encoder is not None:
            blocks.append(np.asarray(self._encoder.transform(inner), np.float32))
        return [block.astype(np.float64) for block in blocks]

    def _scaled(self, raw: list[Floats]) -> Blocks:
        """Centred, of mean squared length 1 over the training rows (form: at most)."""
        blocks = [(b - centre) * scale for b, centre, scale in zip(raw, self.centre_, self.scale_, strict=True)]
        blocks[1] = np.clip(blocks[1], -CLIP, CLIP) / np.sqrt(blocks[1].shape[1])
        return [block.astype(np.float32) for block in blocks]

    def _solve(
        self,
        blocks: Blocks,
        basis: NDArray[np.intp],
        rows: NDArray[np.intp],
        y: Floats,
        weights: Floats,
        noise: float,
    ) -> Floats:
        """Coefficients of the basis rows, (M, t), for targets `y` at `rows`."""
        alpha = np.zeros((len(basis), y.shape[1]))
        at = [block[rows] for block in blocks]
        if len(basis) == len(blocks[0]):
            gram = kernel_sum(at, at, weights).astype(np.float64)
            gram[np.diag_indices_from(gram)] += noise
            alpha[rows] = solve(gram, y)
            return alpha
        anchors = [block[basis] for block in blocks]
        inner = noise * kernel_sum(anchors, anchors, weights).astype(np.float64)
        for start in range(0, len(rows), 4096):
            cross = kernel_sum([a[start : start + 4096] for a in at], anchors, weights).astype(np.float64)
            inner += cross.T @ cross
            alpha += cross.T @ y[start : start + 4096]
        # float32 kernels of near duplicates are indefinite by their rounding.
        inner[np.diag_indices_from(inner)] += 1e-6 * np.trace(inner) / len(inner)
        return solve(inner, alpha)


def within_unit(quality: Floats) -> Floats:
    """Rows (n, m) moved into [0, 1] as a whole, so that differences between models stay; clipped where they exceed 1."""
    low, high = quality.min(axis=1, keepdims=True), quality.max(axis=1, keepdims=True)
    moved: Floats = np.clip(quality - np.maximum(high - 1, 0) + np.maximum(-low, 0), 0, 1)
    return moved


def residual_targets(residual: Floats) -> tuple[Floats, Floats]:
    """Mean residual over the known models, (n, 1), and every model's difference to it, (n, m); NaN where unknown."""
    known = ~np.isnan(residual)
    count = known.sum(axis=1, keepdims=True)
    common = np.where(known, residual, 0.0).sum(axis=1, keepdims=True) / np.maximum(count, 1)
    # Alone in its row a model says nothing of differences.
    contrast = np.where(known & (count > 1), residual - common, np.nan)
    return np.where(count > 0, common, np.nan), contrast
