"""Pilot-calibrated: any router, recalibrated or refitted on a small sample (pilot) of the set at hand.

Five heads compete by cross-validation inside the pilot. The most trusted, "blend" (heads.py), joins the base router's
score with what routers/auto.py trusts most with some hundred rows: a Gaussian process and a forest, and a forest that sees
the base router's sentence encoder, averaged, fitted on the pilot. The others change less: the base router as it is;
isotonic and Platt maps of its scores (`routing.routers.calibrated.calibration`); a ridge on them with text vectors and
structure counts of the prompt. One of these is taken only where it leads by two standard errors (`auto.clearly_best`):
the best of five on some hundred rows is mostly luck. The base router is asked once for the pilot's prompts; a fit costs
`n_folds` + 1 of the pilot's routers, half a minute for a thousand rows. Predict: the base router, plus some 0.7 ms a
prompt where the blend won. Legend: n prompts, m models of the pilot, b models of the base router, d dimensions of text
and structure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.outcomes import Outcomes, split_by_prompt
from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.cache import FeatureCache, active_cache, using
from routing.routers.auto import AutoRouter
from routing.routers.base import Router, read_card
from routing.routers.calibrated.calibration import METHODS, Calibration, fit_calibration
from routing.routers.calibrated.heads import TRUSTED, UNMATCHED, Blend, clear_winner, criterion, fit_ridge, held_out
from routing.routers.registry import create, load
from routing.routers.text.base import TextRouter

HEADS = ("none", *METHODS, "ridge", "blend")
MIN_PILOT = 20
"""Rows below which a pilot cannot choose between heads; the base router then stays as it is."""


class CalibratedRouter(TextRouter):
    """A base router under a head fitted on a pilot.

    `fit_pilot(base, pilot)` takes a fitted router of any class. `fit` makes both from one table: it fits `base` on a share 1 -
    `pilot_share` of the prompts and the head on the rest. The artifact holds the base router's own in the folder `base`.

    base: default "linear"; registry name of the router that `fit` makes.
    base_hyperparameters: its arguments; default None, its own defaults.
    head: default "auto", to choose; or one of HEADS.
    pilot_share: default 0.3; within (0, 1), share of the prompts that `fit` keeps for the head.
    n_folds: default 5, at least 2; of the cross-validation inside the pilot.
    features: JSON spec of the text features of the head "ridge", see `routing.features.registry.make_features`; default None,
        hashed n-grams in 8,192 buckets.
    n_components: default 128; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.1; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the split, the folds and the pilot's routers.
    """

    name: ClassVar[str] = "calibrated"
    keeps_projection: ClassVar[bool] = False

    base_: Router
    head_: str
    calibration_: Calibration | None
    """Of the heads isotonic and platt."""
    pilot_router_: Router
    """Of the head blend: fitted on the pilot, without the base router."""
    blend_: Blend
    """Of the head blend: how both are joined."""
    pilot_scores_: dict[str, float]
    """Head → what it scored in cross-validation (APGR, or minus the squared error); empty where none was compared."""
    held_out_: NDArray[np.float64] | None
    """(n, m) for the pilot's rows, what the head that was taken predicts where it was fitted without them; None where none was
    compared. Not in the artifact."""

    def __init__(
        self,
        base: str = "linear",
        base_hyperparameters: Mapping[str, Any] | None = None,
        head: str = "auto",
        pilot_share: float = 0.3,
        n_folds: int = 5,
        features: Mapping[str, Any] | None = None,
        n_components: int = 128,
        structure_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        if head not in ("auto", *HEADS):
            raise RoutingError(f"router 'calibrated': head is {head!r}; known are auto, {', '.join(HEADS)}")
        if not 0 < pilot_share < 1 or n_folds < 2:
            raise RoutingError("router 'calibrated': pilot_share must be between 0 and 1, n_folds at least 2")
        self.base, self.base_hyperparameters = base, dict(base_hyperparameters or {})
        self.head, self.pilot_share, self.n_folds = head, pilot_share, n_folds
        self._use_space(features, n_components, structure_weight, seed, 2**13)
        self._base_digest = b""

    def fit(self, data: TrainingData) -> Self:
        """Fit the base router and the head on two parts of the data; too few rows for both, and the base has all and stays as
        it is.

        Raises RoutingError for no rows, a model without a known quality, or a base that cannot be made.
        """
        outcomes = as_outcomes(data)
        self._start_fit(outcomes)
        base = create(self.base, **self.base_hyperparameters)
        try:
            rest, held = split_by_prompt(outcomes, fraction=1 - self.pilot_share, seed=self.seed)
        except RoutingError:
            rest = held = np.arange(len(outcomes))  # one distinct prompt: no split, and nothing to calibrate either
        learnt, pilot, head = outcomes.select(rest), outcomes.select(held), self.head
        # Every model has to be known on both sides, and a head that is fitted needs rows.
        if len(pilot) < MIN_PILOT or not all(_all_known(part.quality) for part in (learnt, pilot)):
            learnt, pilot, head = outcomes, outcomes, "none"
        self._fit_head(base.fit(learnt), pilot, head)
        self._start_fit(outcomes)  # the artifact's card is about all of the data, not the pilot alone
        return self

    def fit_pilot(self, base: Router, pilot: TrainingData) -> Self:
        """Fit the head for a fitted `base` on the pilot, rows that `base` has not been trained on.

        The models are the pilot's. Each is matched to the base router's model of that name; a pair to another pair in
        its order (weak, strong), unless a name that both share says otherwise. Raises RoutingError for no rows, a
        model without known quality, or models that cannot be matched with a head that needs it.
        """
        outcomes = as_outcomes(pilot)
        self._start_fit(outcomes)
        self._fit_head(base, outcomes, self.head)
        self.completion_tokens_ = {**base.completion_tokens_, **self.completion_tokens_}
        return self

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        return self.predict_from(self.base_.predict(prompts), prompts)

    def predict_from(self, scores: NDArray[np.float32], prompts: Sequence[str]) -> NDArray[np.float32]:
        """`predict` where the base router has been asked already: scores (n, b), its predictions for the prompts."""
        if not len(prompts):
            return np.empty((0, len(self.models_)), np.float32)
        if self.head_ != "ridge":
            own = scores[:, self.columns_]
            if self.head_ == "blend":
                return self.blend_.apply(own, self.pilot_router_.predict(prompts)).astype(np.float32)
            return own if self.calibration_ is None else self.calibration_.apply(own)
        fitted = self._space.linear(prompts, self.weights_.astype(np.float64)) + self.intercept_
        standard = (scores.astype(np.float64) - self.score_mean_) * self.score_scale_
        # Summed score by score: a matrix product would sum in another order for another number of prompts.
        for i in range(standard.shape[1]):
            fitted += standard[:, i, None] * self.score_weights_[i]
        result: NDArray[np.float32] = np.clip(fitted, 0, 1).astype(np.float32)
        return result

    def save(self, directory: str | Path, metrics: Mapping[str, object] | None = None) -> None:
        """Write the base router's artifact into `base`, and the head's into `pilot` where it is a router; this one seals them
        by their digests."""
        self._require_models()
        self.base_.save(Path(directory) / "base")
        if self.head_ == "blend":
            self.pilot_router_.save(Path(directory) / "pilot")
        self._base_digest = self._digests(directory)
        super().save(directory, {"head": self.head_, "pilot": self.pilot_scores_, **(metrics or {})})

    @property
    def pairwise(self) -> bool:  # type: ignore[override]
        """Win rates only where those of the base router are passed on as they are."""
        return getattr(self, "head_", "none") == "none" and bool(getattr(self, "base_", Router).pairwise)

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read all artifacts. Raises RoutingError where one is missing, damaged, or not of the others."""
        router = super().load(directory)
        router.base_ = load(Path(directory) / "base")
        if router.head_ == "blend":
            router.pilot_router_ = load(Path(directory) / "pilot")
        if router._digests(directory) != router._base_digest:
            raise RoutingError(
                f"router artifact {directory}: base/ or pilot/ is another router's; copy the whole folder again"
            )
        router.pilot_scores_ = dict(read_card(directory)["metrics"].get("pilot") or {})
        return router

    def state(self) -> dict[str, NDArray[Any]]:
        """`base_digest` (bytes that seal the inner artifacts' cards), `head` (1,) position in HEADS, and the head's own: of
        "ridge" `weights` (d, m), `intercept` (m,), `score_weights` (b, m), `score_mean` and `score_scale` (b,), and the
        space's; of "blend" `columns` (m,), `intercept` (m,), `score_weights` (2,); else `columns` (m,) and the
        calibration's. Raises RoutingError where unfitted.
        """
        self._require_models()
        arrays: dict[str, NDArray[Any]] = {
            "base_digest": np.frombuffer(self._base_digest, np.uint8),
            "head": np.array([HEADS.index(self.head_)], np.int32),
        }
        if self.head_ == "ridge":
            own = {"weights": self.weights_, "intercept": self.intercept_, "score_weights": self.score_weights_}
            scaling = {"score_mean": self.score_mean_, "score_scale": self.score_scale_}
            return {**arrays, **own, **scaling, **super().state()}
        if self.head_ == "blend":
            joined = {"intercept": self.blend_.intercept, "score_weights": self.blend_.weights}
            return {**arrays, "columns": self.columns_, **joined}
        return {**arrays, "columns": self.columns_, **(self.calibration_.arrays() if self.calibration_ else {})}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`; `load` reads the inner artifacts. Raises KeyError or ValueError for arrays that are missing or
        misshapen.
        """
        m = len(self.models_)
        self._base_digest = arrays["base_digest"].tobytes()
        self.head_ = HEADS[int(arrays["head"].reshape(1)[0])]
        self.calibration_ = None
        if self.head_ != "ridge":
            self.columns_ = arrays["columns"].reshape(m)
            if self.head_ == "blend":
                self.blend_ = Blend(arrays["intercept"].reshape(m), arrays["score_weights"].reshape(2))
            elif self.head_ != "none":
                self.calibration_ = Calibration.from_arrays(self.head_, arrays)
            return
        super().load_state(arrays)
        self.weights_ = arrays["weights"].reshape(-1, m)
        self.intercept_ = arrays["intercept"].reshape(m)
        self.score_mean_ = arrays["score_mean"].reshape(-1)
        self.score_scale_ = arrays["score_scale"].reshape(len(self.score_mean_))
        self.score_weights_ = arrays["score_weights"].reshape(len(self.score_mean_), m)

    def _fit_head(self, base: Router, pilot: Outcomes, head: str) -> None:
        """Choose a head where asked to, and fit it on all of the pilot."""
        self.base_ = base
        scores = base.predict(pilot.prompts).astype(np.float64)
        columns = _columns(base.models_, pilot.models)
        matched = TRUSTED if columns is not None else UNMATCHED
        candidates = matched if head == "auto" else (head,)
        if not set(candidates) <= set(matched):
            raise RoutingError(
                f"router 'calibrated': the base router knows {', '.join(base.models_)}, the pilot"
                f" {', '.join(pilot.models)}; head {head!r} needs the same models (`with_models`), {' and '.join(UNMATCHED)} do not"
            )
        self.columns_ = np.array(columns if columns is not None else [0] * len(pilot.models), np.int32)
        spread = scores.std(axis=0)
        self.score_mean_ = scores.mean(axis=0)
        self.score_scale_ = np.where(spread > 1e-6, 1 / np.maximum(spread, 1e-6), 0.0)
        vectors = np.zeros((len(pilot), 0))
        if "ridge" in candidates:
            vectors = self._space.fit(pilot.prompts).astype(np.float64)
        inputs = np.hstack([(scores - self.score_mean_) * self.score_scale_, vectors])
        own = scores[:, self.columns_] if columns is not None else np.zeros(pilot.quality.shape)
        fold = self._folds(pilot)
        # What the blend is fitted on, and what it is compared by.
        unseen = self._unseen(pilot, fold) if fold is not None and "blend" in candidates else None
        compared = {}
        if fold is not None and len(candidates) > 1:
            compared = {name: held_out(name, own, inputs, unseen, pilot.quality, fold) for name in candidates}
        self.pilot_scores_ = {name: criterion(predicted, pilot.quality) for name, predicted in compared.items()}
        if compared:
            self.head_ = clear_winner(compared, pilot.quality)
        else:  # nothing to choose by: what changes least
            self.head_ = "none" if "none" in candidates else candidates[0]
        self.held_out_ = compared.get(self.head_)
        self.calibration_ = None
        if self.head_ == "ridge":
            weights, self.intercept_ = fit_ridge(inputs, pilot.quality)
            b = scores.shape[1]
            self.score_weights_ = weights[:b]
            self.weights_ = self._space.collapse(weights[b:]).astype(np.float32)
        elif self.head_ == "blend":
            self.pilot_router_ = self._pilot_router().fit(pilot)
            self.blend_ = Blend.of_pilot_alone(len(pilot.models))
            if fold is not None and unseen is not None:
                self.blend_ = Blend.fit(own, unseen, pilot.quality, fold)
        elif self.head_ != "none":
            self.calibration_ = fit_calibration(own, pilot.quality, self.head_)

    def _digests(self, directory: str | Path) -> bytes:
        """Of the cards of the artifacts inside this one, which in turn hold the digests of their weights."""
        inside = ("base", "pilot") if self.head_ == "blend" else ("base",)
        cards = [Path(directory) / name / "router.json" for name in inside]
        return b"".join(hashlib.sha256(card.read_bytes()).digest() for card in cards)

    def _pilot_router(self) -> AutoRouter:
        return AutoRouter(encoder=_encoder_of(self.base_), n_folds=0, seed=self.seed)

    def _folds(self, pilot: Outcomes) -> NDArray[np.intp] | None:
        """(n,) fold of each row, equal prompts in one; None where the pilot is too small to tell heads apart."""
        numbers: dict[str, int] = {}
        group = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in pilot.prompts], np.intp)
        if len(pilot) < MIN_PILOT or len(numbers) < self.n_folds:
            return None
        fold: NDArray[np.intp] = np.random.default_rng(self.seed).permutation(len(numbers))[group] % self.n_folds
        return fold if all(_all_known(pilot.quality[fold != f]) for f in range(self.n_folds)) else None

    def _unseen(self, pilot: Outcomes, fold: NDArray[np.intp]) -> NDArray[np.float64]:
        """(n, m) what the pilot's routers say of rows that they were not fitted on."""
        result = np.empty(pilot.quality.shape)
        with using(active_cache() or FeatureCache()):
            for f in range(self.n_folds):
                train, test = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
                known = self._pilot_router().fit(pilot.select(train))
                result[test] = known.predict([pilot.prompts[i] for i in test])
        return result


def _encoder_of(base: Router) -> Mapping[str, Any] | None:
    """Spec of the sentence encoder that a router sees, itself or through those it stands for; None for none."""
    arguments = base.hyperparameters()
    for spec in (arguments.get("encoder"), arguments.get("features")):
        if isinstance(spec, Mapping) and spec.get("kind") == "encoder":
            return spec
    inside = [*getattr(base, "chosen_", ()), *([base.base_] if hasattr(base, "base_") else [])]
    return next((spec for router in inside if (spec := _encoder_of(router)) is not None), None)


def _columns(base: Sequence[str], models: Sequence[str]) -> list[int] | None:
    """Column of the base router for each model; None where they cannot be matched."""
    if set(models) <= set(base):
        return [base.index(name) for name in models]
    if len(base) != 2 or len(models) != 2:
        return None
    # A pair by its order, unless the one name that both share says otherwise.
    crossed = base[0] == models[1] or base[1] == models[0]
    return [1, 0] if crossed else [0, 1]


def _all_known(quality: NDArray[np.float32]) -> bool:
    """Whether every model has a known quality."""
    return bool((~np.isnan(quality)).any(axis=0).all())
