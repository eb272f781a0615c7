"""What `headgate evaluate` and `headgate train` have found, as records; `to_json` makes what `--json` prints and the files hold.

A measured figure is an `Interval`, null where it has no meaning; JSON has null for an end that is not known, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version

from jobs.evaluation.curves import ReferenceCurves, RouterCurves
from routing.data.contamination import THRESHOLD
from routing.metrics.trials import CONTRACT, Intervals, intervals_json

FORMAT = 1
VALIDATED = (*CONTRACT, "aiq_gain", "best_quality")
"""What the card of a trained router has of its held-out rows."""


@dataclass(frozen=True, slots=True)
class Overlap:
    """How near training prompts are to test prompts."""

    contaminated: int
    """Training rows left out: equal to a test prompt, or nearly so."""
    similarity: float
    """RouteLLM's benchmark-data similarity, of what is kept."""

    def to_json(self) -> dict[str, object]:
        return {**asdict(self), "threshold": THRESHOLD, "features": "hashed n-grams"}


@dataclass(frozen=True, slots=True)
class SingleModel:
    """One model for all rows of the table."""

    quality: float
    cost_usd: float | None
    """Dollars a row; None where the table has no cost."""


@dataclass(frozen=True, slots=True)
class RouterResult:
    """A router's line."""

    intervals: Intervals
    fit_s: float
    """Seconds of training, mean over folds."""
    predict_rows_per_s: float | None
    chosen: str | None = None
    """What a router that chooses among others took in the last fold; None for one that has no choice."""
    seen: bool = False
    """Whether it was trained on rows of this set, as far as its card tells: its figures are no test then."""

    def to_json(self) -> dict[str, object]:
        pace = {"fit_s": self.fit_s, "predict_rows_per_s": self.predict_rows_per_s}
        chosen = {} if self.chosen is None else {"chosen": self.chosen}
        return {**intervals_json(self.intervals), **pace, **chosen, "seen": self.seen}


@dataclass(frozen=True, slots=True)
class SetResult:
    """All routers and baselines on one set."""

    routers: Mapping[str, RouterResult]
    """By what the user wrote, in that order."""
    baselines: Mapping[str, Intervals]
    """random, length, category mean (where categories are known), zero, oracle."""
    name: str
    models: tuple[str, ...]
    is_pair: bool
    """Whether `models` are weak and strong, in this order."""
    rows: int
    train_rows: int
    """Of the first fold; 0 where nothing was trained."""
    test_rows: int
    seeds: tuple[int, ...]
    single_models: Mapping[str, SingleModel]
    overlap: Overlap | None
    """Of training data from elsewhere."""
    notes: tuple[str, ...]
    curves: Mapping[str, RouterCurves]
    """By router as in `routers`; "random (baseline)", "length (baseline)" and "category mean" too."""
    references: ReferenceCurves

    @property
    def weak(self) -> str | None:
        return self.models[0] if self.is_pair else None

    @property
    def strong(self) -> str | None:
        return self.models[1] if self.is_pair else None

    def to_json(self, with_curves: bool = True) -> dict[str, object]:
        drawn = {name: each.to_json() for name, each in self.curves.items()}
        found: dict[str, object] = {
            "routers": {name: each.to_json() for name, each in self.routers.items()},
            "baselines": {name: intervals_json(each) for name, each in self.baselines.items()},
            "name": self.name,
            "models": list(self.models),
            "weak": self.weak,
            "strong": self.strong,
            "rows": self.rows,
            "train_rows": self.train_rows,
            "test_rows": self.test_rows,
            "seeds": list(self.seeds),
            "single_models": {name: asdict(each) for name, each in self.single_models.items()},
            "training": self.overlap and self.overlap.to_json(),
            "notes": list(self.notes),
        }
        return found | ({"curves": {**drawn, "zero": self.references.to_json()}} if with_curves else {})


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Every set by itself and, where several share two models or more, all of them as one table."""

    outcomes: tuple[str, ...]
    train: tuple[str, ...]
    """Paths as typed."""
    sets: Mapping[str, SetResult]
    pooled: SetResult | None = None

    @property
    def shown(self) -> list[SetResult]:
        """One table or section each: the sets, the pooled one last."""
        return [*self.sets.values(), *([self.pooled] if self.pooled is not None else [])]

    def to_json(self, with_curves: bool = True) -> dict[str, object]:
        """evaluation.json; without curves what `--json` prints. One set's keys stand beside the header's."""
        header = {
            "format": FORMAT,
            "headgate": version("headgate"),
            "outcomes": list(self.outcomes),
            "train": list(self.train),
        }
        if len(self.outcomes) == 1:
            (only,) = self.sets.values()
            return header | only.to_json(with_curves)
        pooled = self.pooled and self.pooled.to_json(with_curves)
        sets = {name: each.to_json(with_curves) for name, each in self.sets.items()}
        return header | {"routers": pooled["routers"] if pooled else {}, "pooled": pooled, "sets": sets}


@dataclass(frozen=True, slots=True)
class Validation:
    """A trained router on the rows held out from its training."""

    intervals: Intervals
    rows: int

    def to_json(self) -> dict[str, object]:
        found = intervals_json(self.intervals)
        return {**{name: found[name] for name in VALIDATED}, "rows": self.rows}


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """What a router was fitted on, and what that took."""

    rows: int
    kind: str
    """outcomes or preferences."""
    paths: tuple[str, ...]
    weights: tuple[float, ...]
    """One a path; none: all 1."""
    fingerprint: str
    validation_rows: int
    fit_s: float
    trained_at: str
    """UTC, ISO 8601."""
    overlap: Overlap | None = None
    """With the prompts of --held-out."""

    def to_json(self) -> dict[str, object]:
        return {
            "rows": self.rows,
            "kind": self.kind,
            "paths": list(self.paths),
            "weights": list(self.weights) or None,
            "fingerprint": self.fingerprint,
            "validation_rows": self.validation_rows,
            "fit_s": self.fit_s,
            "trained_at": self.trained_at,
            **(self.overlap.to_json() if self.overlap else {}),
        }


@dataclass(frozen=True, slots=True)
class TrainResult:
    """A router that was trained and saved."""

    router: str
    artifact: str
    """Where it is: a folder or URI."""
    models: tuple[str, ...]
    validation: Validation | None
    """None where nothing was held out, or nothing of it could be measured."""
    training: TrainedOn
    versions: Mapping[str, str]
    notes: tuple[str, ...] = ()

    def card(self) -> dict[str, object]:
        """The metrics that are saved with the router."""
        return {
            "validation": self.validation and self.validation.to_json(),
            "training": self.training.to_json(),
            "versions": dict(self.versions),
            "notes": list(self.notes),
        }

    def to_json(self) -> dict[str, object]:
        """What `headgate train --json` prints."""
        return {"router": self.router, "artifact": self.artifact, "models": list(self.models), **self.card()}
