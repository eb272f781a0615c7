"""Quality of every model, predicted again once the weak model has answered: what a cascade cuts by.

Two Gaussian processes with additive kernels (routing/features/kernels.py), fitted on a pilot that all models answered: the weak
model's quality from the prompt's words, the marks of its answer (features.py, checks.py) and its signals
(log-probabilities, agreement of further answers, the router's scores); the other models' from the prompt alone, words and
form. Words of the answer make it worse at pilot sizes (MMLU-Pro, 1,000 rows: APGR .553 with, .559 without). Then a linear
map joins them, per model: q_j ~ 1 + w + s_j + w s_j + r_j, fitted on the leave-one-out predictions of both, which a
Gaussian process has in closed form. The product matters: where the weak answer is wrong, the stronger model's chance is
what the prompt says; where it is right, there is little to gain.

Cost: a fit O(N^3), under a minute for 1,000 rows; a prediction about 2 ms, most of it features of the answer. A pilot of
fewer than MIN_ROWS rows, or one where the weak model is always right or always wrong, teaches nothing (RoutingError).
Legend: n rows, N pilot rows, m models in ladder order (the weak one first), k words, d marks, g signals.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from routing.answers.checks import answer_checks
from routing.answers.features import RESPONSE, response_features
from routing.errors import RoutingError
from routing.features.kernels import Blocks, Floats, kernel_sum, marginal_likelihood_weights, solve
from routing.features.space import TextSpace

MIN_ROWS = 60
MAX_ROWS = 3000
"""Pilot rows that are fitted on; more cost minutes and move little."""
ML_ROWS = 600
CLIP = 4.0
BLOCK = 256
RIDGE = 3.0
"""Rows' worth of pull towards the mean in the joining map."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of rows that the weak model has answered."""

    prompts: Sequence[str]
    """n, as the router reads them."""
    responses: Sequence[str | None]
    """n answers of the weak model; None where it has none."""
    scores: NDArray[np.floating[Any]]
    """(n, m) the router's own predictions, by a router that was not trained on these rows."""
    finish_reasons: Sequence[str | None] | None = None
    log_probabilities: NDArray[np.floating[Any]] | None = None
    """(n, 2) mean and least; NaN where unknown."""
    agreement: NDArray[np.floating[Any]] | None = None
    """(n,) share of further answers that say the same; NaN where unknown."""
    marks: NDArray[np.floating[Any]] | None = None
    """(n, d) `answer_marks` of these rows, where they are made already."""

    def __len__(self) -> int:
        return len(self.prompts)

    def select(self, rows: NDArray[Any]) -> Evidence:
        """The rows at these positions."""
        index = np.arange(len(self))[rows]

        def part(array: NDArray[np.floating[Any]] | None) -> NDArray[np.floating[Any]] | None:
            return None if array is None else array[index]

        reasons = self.finish_reasons
        return Evidence(
            prompts=[self.prompts[i] for i in index],
            responses=[self.responses[i] for i in index],
            scores=self.scores[index],
            finish_reasons=None if reasons is None else [reasons[i] for i in index],
            log_probabilities=part(self.log_probabilities),
            agreement=part(self.agreement),
            marks=part(self.marks),
        )


class AnswerHead:
    """See the file's head. `loo_` after `fit`: (N, m) what it would say of each pilot row without having seen it."""

    def __init__(self, n_components: int = 128, seed: int = 0) -> None:
        self.n_components, self.seed = n_components, seed

    def fit(self, evidence: Evidence, measured: NDArray[np.floating[Any]]) -> Self:
        """measured: (N, m) quality without NaN. Raises RoutingError for too few rows, or weak answers that are all alike."""
        quality: Floats = np.asarray(measured, np.float64)
        if quality.shape != (len(evidence), evidence.scores.shape[1]) or not np.isfinite(quality).all():
            raise RoutingError(f"answer head: quality must be {(len(evidence), evidence.scores.shape[1])} without NaN")
        if len(evidence) < MIN_ROWS or np.ptp(quality[:, 0]) == 0:
            raise RoutingError(
                f"answer head: {len(evidence)} rows with weak answers {'all alike' if len(evidence) >= MIN_ROWS else ''} teach"
                f" nothing; it takes {MIN_ROWS} with right ones and wrong ones"
            )
        if len(evidence) > MAX_ROWS:
            rows = np.sort(np.random.default_rng(self.seed).permutation(len(evidence))[:MAX_ROWS])
            evidence, quality = evidence.select(rows), quality[rows]
        self._space = TextSpace(
            {"kind": "hashed", "n_features": 2**12, "characters": False}, self.n_components, 1.0, self.seed
        )
        words, form = self._prompt(evidence, self._space.fit(evidence.prompts))
        self._scalers = [
            _Scaler(words, whole=True), _Scaler(form), _Scaler(_marks(evidence)), _Scaler(_signals(evidence)),
        ]  # fmt: skip
        blocks = self._blocks(evidence, words, form)
        self._weak = _Process(self._of_weak(blocks), quality[:, :1], self.seed)
        self._others = _Process(blocks[:2], quality[:, 1:], self.seed)
        scores = np.asarray(evidence.scores, np.float64)
        self._score_mean = scores.mean(axis=0)
        self._maps, self.loo_ = [], np.empty(quality.shape)
        for j in range(quality.shape[1]):
            inputs = self._inputs(j, self._weak.loo[:, 0], self._others.loo, scores)
            fitted, self.loo_[:, j] = _linear(inputs, quality[:, j])
            self._maps.append(fitted)
        self.loo_ = np.clip(self.loo_, 0, 1)
        return self

    def predict(self, evidence: Evidence) -> NDArray[np.float32]:
        """(n, m) expected quality. Row i depends on row i alone."""
        result = np.empty((len(evidence), len(self._maps)), np.float32)
        for start in range(0, len(evidence), BLOCK):
            part = evidence.select(np.arange(start, min(start + BLOCK, len(evidence))))
            words, form = self._prompt(part, self._space.transform(part.prompts))
            blocks = self._blocks(part, words, form)
            weak, others = self._weak.predict(self._of_weak(blocks))[:, 0], self._others.predict(blocks[:2])
            scores = np.asarray(part.scores, np.float64)
            for j, fitted in enumerate(self._maps):
                inputs = self._inputs(j, weak, others, scores)
                result[start : start + len(part), j] = np.clip(inputs @ fitted[1:] + fitted[0], 0, 1)
        return result

    def _prompt(self, evidence: Evidence, joined: NDArray[np.float32]) -> tuple[Floats, Floats]:
        """Words (n, k) and form (n, s) of the prompts, from what the space made of them."""
        n_counts = len(self._space.structure_mean_)
        form = self._space.features.form(self._space.inner(evidence.prompts))
        return joined[:, :-n_counts].astype(np.float64), np.hstack([joined[:, -n_counts:], form]).astype(np.float64)

    def _blocks(self, evidence: Evidence, words: Floats, form: Floats) -> Blocks:
        raw = [words, form, _marks(evidence), _signals(evidence)]
        return [scaler(block) for scaler, block in zip(self._scalers, raw, strict=True)]

    @staticmethod
    def _of_weak(blocks: Blocks) -> Blocks:
        return [blocks[0], blocks[2], blocks[3]]

    def _inputs(self, j: int, weak: Floats, others: Floats, scores: Floats) -> Floats:
        """(n, 2 or 4) of the joining map."""
        own = scores[:, j] - self._score_mean[j]
        if j == 0:
            return np.stack([weak, own], axis=1)
        return np.stack([weak, others[:, j - 1], weak * others[:, j - 1], own], axis=1)


class _Scaler:
    """Centres a block; to mean squared length 1 as a whole, or column by column."""

    def __init__(self, block: Floats, whole: bool = False) -> None:
        self.centre = block.mean(axis=0)
        spread = block.std(axis=0)
        if whole:
            length = float(np.sqrt(np.square(block - self.centre).sum(axis=1).mean()))
            self.scale = np.full(block.shape[1], 1 / length if length > 1e-6 else 0.0)
            self.clip = np.inf
        else:
            moving = spread > 1e-6
            self.scale = np.where(moving, 1 / np.maximum(spread, 1e-6), 0.0) / np.sqrt(max(1, moving.sum()))
            self.clip = CLIP / np.sqrt(max(1, moving.sum()))

    def __call__(self, block: Floats) -> NDArray[np.float32]:
        scaled: NDArray[np.float32] = np.clip((block - self.centre) * self.scale, -self.clip, self.clip).astype(
            np.float32
        )
        return scaled


class _Process:
    """One Gaussian process for targets that share their kernels."""

    def __init__(self, blocks: Blocks, y: Floats, seed: int) -> None:
        """blocks: of N rows; y: (N, t)."""
        n = len(y)
        self.blocks, self.mean = blocks, y.mean(axis=0)
        residual = y - self.mean
        spread = residual.std(axis=0)
        varied = spread > 1e-6
        self.alpha = np.zeros(y.shape)
        self.loo = np.tile(self.mean, (n, 1))
        self.weights = np.zeros(0)
        if not varied.any():
            return
        rows = np.sort(np.random.default_rng(seed).permutation(n)[:ML_ROWS])
        unit = residual[:, varied] / spread[varied]
        self.weights, noise = marginal_likelihood_weights([block[rows] for block in blocks], unit[rows])
        gram = kernel_sum(blocks, blocks, self.weights).astype(np.float64)
        gram[np.diag_indices_from(gram)] += noise
        inverse = solve(gram, np.eye(n))
        solved = inverse @ residual[:, varied]
        self.alpha[:, varied] = solved
        # Rasmussen & Williams (2006), equation 5.12.
        self.loo[:, varied] += residual[:, varied] - solved / np.diag(inverse)[:, None]

    def predict(self, blocks: Blocks) -> Floats:
        if not len(self.weights):
            return np.tile(self.mean, (len(blocks[0]), 1))
        return np.asarray(self.mean + kernel_sum(blocks, self.blocks, self.weights) @ self.alpha)


def answer_marks(
    prompts: Sequence[str], responses: Sequence[str | None], finish_reasons: Sequence[str | None] | None = None
) -> NDArray[np.float32]:
    """(n, d) the form of each answer, and how it fits its prompt. Row i depends on row i alone."""
    form = response_features(prompts, responses, finish_reasons)
    told = [i for i, name in enumerate(RESPONSE) if "log-probability" not in name]
    return np.hstack([form[:, told], answer_checks(prompts, responses)])


def _marks(evidence: Evidence) -> Floats:
    made = evidence.marks
    if made is None:
        made = answer_marks(evidence.prompts, evidence.responses, evidence.finish_reasons)
    return np.asarray(made, np.float64)


def _signals(evidence: Evidence) -> Floats:
    """(n, g): the router's scores, log-probabilities, agreement; 0 and a mark where unknown."""
    columns = [np.asarray(evidence.scores, np.float64)]
    if evidence.log_probabilities is not None:
        told = np.maximum(np.asarray(evidence.log_probabilities, np.float64), -30)
        columns += [np.nan_to_num(told / (1, 10)), np.isnan(told[:, :1])]
    if evidence.agreement is not None:
        agreement = np.asarray(evidence.agreement, np.float64)[:, None]
        columns += [np.nan_to_num(agreement), np.isnan(agreement)]
    return np.hstack(columns).astype(np.float64)


def _linear(inputs: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Intercept and weights (1 + p,) of a ridge on standardised inputs, and its leave-one-out predictions (N,)."""
    centre, spread = inputs.mean(axis=0), inputs.std(axis=0)
    scale = np.where(spread > 1e-9, 1 / np.maximum(spread, 1e-9), 0.0)
    x = (inputs - centre) * scale
    gram = x.T @ x + RIDGE * np.eye(x.shape[1])
    weights = np.linalg.solve(gram, x.T @ (y - y.mean()))
    leverage = 1 / len(y) + np.einsum("ij,ji->i", x, np.linalg.solve(gram, x.T))
    fitted = y.mean() + x @ weights
    loo = y - (y - fitted) / np.maximum(1 - leverage, 1e-6)
    return np.concatenate([[y.mean() - (centre * scale) @ weights], weights * scale]), loo
