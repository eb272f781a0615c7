"""A real judge for cascades: the chance that an answer is right, from the answer's text and the prompt.

One logistic regression per model on response features (routing/answers/features.py), structure of the prompt, the
prompt router's own score, and agreement with the answers of the models asked before it, which is the strongest sign
where answers are short. The penalty is chosen by cross-validation over prompts. Fit: a second per thousand rows and
model; judge: bounded by the features, about 1 ms an answer of 1,500 characters.
Prefer an LLM judge where its calls are cheap next to the strong model's. Legend: n rows, m models, d features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from routing.answers.agreement import agreement_with_earlier
from routing.answers.features import RESPONSE, extracted_answers, response_features
from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.structure import STRUCTURE, structure
from routing.routers.base import Router

INVERSE_PENALTIES = (0.001, 0.01, 0.1, 1.0)
N_FEATURES = len(RESPONSE) + len(STRUCTURE) + 3
"""And the prompt's score, agreement with earlier answers, and whether there was one to agree with."""


class ResponseJudge(Router):
    """Per-model P(answer is right); a `Router` for its artifact only: what it knows before an answer is a base rate.

    order: model names in the order a cascade asks them (agreement looks back along it); default None, that of the outcomes'
        columns.
    n_folds: default 5, at least 2; of the cross-validation that chooses the penalty, over prompts.
    seed: default 0; of the folds.
    """

    name: ClassVar[str] = "response_judge"

    def __init__(self, order: Sequence[str] | None = None, n_folds: int = 5, seed: int = 0) -> None:
        if n_folds < 2:
            raise RoutingError(f"response judge: n_folds is {n_folds}; it must be at least 2")
        self.order = None if order is None else list(order)
        self.n_folds, self.seed = n_folds, seed

    def fit(self, data: TrainingData, prompt_scores: NDArray[np.floating[Any]] | None = None) -> Self:
        """Learn from recorded answers. Raises RoutingError without responses, or for an `order` that is not the outcomes'
        models.

        data: outcomes with responses.
        prompt_scores: (n, m) the prompt router's predictions for rows it was not trained on (out of fold), or the judge learns
            to trust it too far; None where there is none.
        """
        outcomes = as_outcomes(data)
        self.mean_quality_ = self._start_fit(outcomes).astype(np.float32)
        if outcomes.responses is None:
            raise RoutingError("response judge: the outcomes hold no responses to learn from")
        if self.order is not None and sorted(self.order) != sorted(self.models_):
            raise RoutingError(f"response judge: order must name {', '.join(self.models_)}, each once")
        m = len(self.models_)
        self.with_scores_ = np.array([prompt_scores is not None])
        self.center_, self.scale_ = np.zeros((m, N_FEATURES)), np.zeros((m, N_FEATURES))
        self.weights_, self.intercept_ = np.zeros((m, N_FEATURES)), np.zeros(m)
        folds = self._folds(outcomes.prompts)
        for j, features in enumerate(self._features(outcomes.prompts, outcomes.responses, prompt_scores)):
            known = ~np.isnan(outcomes.quality[:, j])
            x, y = features[known], outcomes.quality[known, j].astype(np.float64)
            share = np.clip(y.mean(), 0.5 / len(y), 1 - 0.5 / len(y))
            self.intercept_[j] = np.log(share / (1 - share))
            if np.ptp(y) == 0:
                continue
            spread = x.std(axis=0)
            self.center_[j] = x.mean(axis=0)
            self.scale_[j] = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
            standard = self._standard(x, j)
            fitted = _logistic(standard, y, _penalty(standard, y, folds[known]))
            self.weights_[j], self.intercept_[j] = fitted.coef_[0], fitted.intercept_[0]
        return self

    def judge(
        self,
        prompts: Sequence[str],
        responses: NDArray[np.object_],
        prompt_scores: NDArray[np.floating[Any]] | None = None,
    ) -> NDArray[np.float32]:
        """P(right) of each answer, (n, m); responses: (n, m), columns as in `models_`, None where not asked.

        Column j depends on the answers of the models up to j in `order` alone, so the scores of a full table are those
        a cascade in that order sees. Raises RoutingError for other columns, or prompt_scores given to one of fit and
        judge only.
        """
        m = len(self._require_models())
        if responses.shape != (len(prompts), m):
            raise RoutingError(f"response judge: responses have shape {responses.shape}, not {(len(prompts), m)}")
        if bool(self.with_scores_[0]) != (prompt_scores is not None):
            raise RoutingError("response judge: give prompt_scores to both fit and judge, or to neither")
        result = np.empty((len(prompts), m), np.float32)
        for j, features in enumerate(self._features(prompts, responses, prompt_scores)):
            result[:, j] = 1 / (1 + np.exp(-(self._standard(features, j) @ self.weights_[j] + self.intercept_[j])))
        return result

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """The models' base rates: all this judge knows before it sees an answer; see `judge`."""
        self._require_models()
        return np.tile(self.mean_quality_, (len(prompts), 1))

    def state(self) -> dict[str, NDArray[Any]]:
        """`center`, `scale` and `weights` (m, N_FEATURES), `intercept` and `mean_quality` (m,), `with_scores` (1,)."""
        self._require_models()
        return {
            "center": self.center_,
            "scale": self.scale_,
            "weights": self.weights_,
            "intercept": self.intercept_,
            "mean_quality": self.mean_quality_,
            "with_scores": self.with_scores_.astype(np.uint8),
        }

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        shape = len(self.models_), N_FEATURES
        self.center_, self.scale_, self.weights_ = (arrays[k].reshape(shape) for k in ("center", "scale", "weights"))
        self.intercept_, self.mean_quality_ = (arrays[k].reshape(shape[0]) for k in ("intercept", "mean_quality"))
        self.with_scores_ = arrays["with_scores"].reshape(1).astype(np.bool_)

    def _features(
        self, prompts: Sequence[str], responses: NDArray[np.object_], prompt_scores: NDArray[Any] | None
    ) -> list[NDArray[np.float64]]:
        """One (n, N_FEATURES) per model."""
        n, m = responses.shape
        order = [self.models_.index(name) for name in self.order or self.models_]
        answers = extracted_answers(responses)
        agree = np.zeros((n, m))
        agree[:, order] = agreement_with_earlier(answers[:, order])
        form = structure(prompts)
        scores = np.zeros((n, m)) if prompt_scores is None else np.asarray(prompt_scores, np.float64)
        if scores.shape != (n, m):
            raise RoutingError(f"response judge: prompt_scores have shape {scores.shape}, not {(n, m)}")
        return [
            np.column_stack(
                [
                    response_features(prompts, responses[:, j].tolist()),
                    form,
                    scores[:, j],
                    agree[:, j],
                    np.equal(answers[:, order[: order.index(j)]], answers[:, j : j + 1]).any(axis=1),
                ]
            ).astype(np.float64)
            for j in range(m)
        ]

    def _standard(self, features: NDArray[np.float64], j: int) -> NDArray[np.float64]:
        result: NDArray[np.float64] = np.clip((features - self.center_[j]) * self.scale_[j], -5, 5)
        return result

    def _folds(self, prompts: Sequence[str]) -> NDArray[np.intp]:
        """(n,) fold of each row; equal prompts share one."""
        numbers: dict[str, int] = {}
        group = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in prompts], np.intp)
        of_group = np.random.default_rng(self.seed).permutation(len(numbers)) % self.n_folds
        result: NDArray[np.intp] = of_group[group]
        return result


def _logistic(x: NDArray[np.float64], y: NDArray[np.float64], inverse_penalty: float) -> LogisticRegression:
    """Fractional quality q counts as q of a right and 1 - q of a wrong answer."""
    partly = (y > 0) & (y < 1)
    rows = np.concatenate([x, x[partly]])
    labels = np.concatenate([y > 0, np.zeros(partly.sum(), np.bool_)])
    weights = np.concatenate([np.where(partly, y, 1.0), 1 - y[partly]])
    return LogisticRegression(C=inverse_penalty, solver="newton-cholesky").fit(rows, labels, weights)


def _penalty(x: NDArray[np.float64], y: NDArray[np.float64], folds: NDArray[np.intp]) -> float:
    """The inverse penalty of the least log loss out of fold; the strongest where a fold cannot be fitted."""
    losses = np.zeros(len(INVERSE_PENALTIES))
    for fold in np.unique(folds):
        train, test = folds != fold, folds == fold
        if not train.any() or np.ptp(y[train]) == 0:
            return INVERSE_PENALTIES[0]
        for i, inverse_penalty in enumerate(INVERSE_PENALTIES):
            right = np.clip(_logistic(x[train], y[train], inverse_penalty).predict_proba(x[test])[:, 1], 1e-6, 1 - 1e-6)
            losses[i] -= (y[test] * np.log(right) + (1 - y[test]) * np.log(1 - right)).sum()
    return INVERSE_PENALTIES[int(losses.argmin())]
