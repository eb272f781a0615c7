"""What buckets tell the driver, as records that add up: a run's totals are those of its buckets together.

Counts, dollars and tokens by model (`ModelTotals`), errors by kind and slow calls (`BucketTotals`), and what the rows say of
the run's quality (`RunEvidence`): rows of the sample one by one, since every interval is made from them, all others as counts
and sums. They travel through Ray as they are and are written nowhere.
Legend: n sampled rows, m models, f features of a prompt's form.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.features.structure import STRUCTURE
from routing.pilot.folds import FOLD_NAMES

REPORT = FOLD_NAMES.index("report")
"""Rows of the other folds taught the router or chose the cut: they say nothing of how well either did."""


@dataclass(frozen=True, slots=True)
class ModelTotals:
    """Money, tokens and calls of one model, and what it was not asked."""

    cost_usd: float = 0.0
    lost_usd: float = 0.0
    gpu_s: float = 0.0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    requests: int = 0
    answers: int = 0
    """Paid for; those that say nothing are among them."""
    empty: int = 0
    reused: int = 0
    """Answers of earlier runs: this run paid nothing for them, and measured nothing."""
    asked_bytes: int = 0
    """Prompt bytes of the leaders it answered in this run."""
    unasked_bytes: int = 0
    unasked: int = 0
    """Leaders it did not answer in this run."""
    by_purpose: Mapping[str, float] = field(default_factory=dict)
    """Purpose → dollars."""

    def __add__(self, other: ModelTotals) -> ModelTotals:
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        ours, theirs = pairs.pop("by_purpose")
        return ModelTotals(
            **{name: mine + yours for name, (mine, yours) in pairs.items()},
            by_purpose={name: ours.get(name, 0.0) + theirs.get(name, 0.0) for name in {**ours, **theirs}},
        )


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """Rows of responses/ with one error."""

    error: str
    rows: int
    ids: tuple[Any, ...]
    """Of the first few."""


@dataclass(frozen=True, slots=True)
class SlowCall:
    """A call that took long."""

    id: Any
    model: str
    latency_s: float


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows of the sample that can be asked."""

    row_key: NDArray[np.int64]
    fold: NDArray[np.int64]
    route: NDArray[np.int64]
    told: NDArray[np.bool_]
    """Rows that have something to compare an answer with."""
    prompt_bytes: NDArray[np.float64]
    """0 for copies."""
    is_leader: NDArray[np.bool_]
    predicted: NDArray[np.float64]
    """(n, m)."""
    quality: NDArray[np.float64]
    """(n, m); NaN where it cannot be told."""
    paid_usd: NDArray[np.float64]
    """(n, m); 0 for copies, NaN where this run has no answer of the model."""

    @property
    def reported(self) -> NDArray[np.bool_]:
        """Rows of the report fold that every model has a known quality of."""
        return np.asarray((self.fold == REPORT) & self.told & np.isfinite(self.quality).all(axis=1))

    @staticmethod
    def together(parts: Sequence[SampledRows]) -> SampledRows:
        """All of them, in the order of the row keys, which says nothing of the answers."""
        order = np.argsort(np.concatenate([part.row_key for part in parts]), kind="stable")
        columns = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(SampledRows)}
        return SampledRows(**{name: values[order] for name, values in columns.items()})


@dataclass(frozen=True, slots=True)
class PolicyQuality:
    """How good the answers are that the policy wanted."""

    told: int = 0
    """Rows whose quality can be told."""
    open: int = 0
    """Those of them that are still open."""
    outside: int = 0
    """Known ones outside the sample."""
    values: Counter[float] = field(default_factory=Counter)
    """Quality → rows that are known to have it."""

    def __add__(self, other: PolicyQuality) -> PolicyQuality:
        values = self.values + other.values
        return PolicyQuality(self.told + other.told, self.open + other.open, self.outside + other.outside, values)


@dataclass(frozen=True, slots=True)
class GroupTotals:
    """Rows that have something in common."""

    rows: int = 0
    strong: int = 0
    """Routed to the strong model."""
    told: int = 0
    """Rows whose quality can be told."""
    known: int = 0
    """Those of them whose quality is known."""
    quality: float = 0.0
    """Its sum over these."""

    def __add__(self, other: GroupTotals) -> GroupTotals:
        return GroupTotals(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True, slots=True)
class Example:
    """A sampled row that was routed wrong."""

    id: Any
    prompt: str | None
    """The start of it."""
    score: float
    route: int
    """Ladder index."""
    quality: tuple[float, ...]
    """m."""
    answers: tuple[str | None, ...]
    """m, the start of each."""


@dataclass(frozen=True, slots=True)
class FormTotals:
    """What the prompts look like: `routing.features.structure.structure` of some rows."""

    rows: int
    sums: NDArray[np.float64]
    """(f,)."""
    squares: NDArray[np.float64]
    """(f,) sums of squares."""


@dataclass(frozen=True, slots=True)
class RunEvidence:
    """What rows say of the run's quality and dollars: those of a bucket, or of all."""

    strata_rows: NDArray[np.int64]
    """(m,) per route: rows outside the sample whose quality can be told."""
    strata_predicted: NDArray[np.float64]
    """(m, m) per route: sums of their predictions."""
    sampled: SampledRows
    own_usd: NDArray[np.float64]
    """(m,) dollars of the rows that were routed to a model and that it answered."""
    elsewhere: NDArray[np.int64]
    """(m, 3) of the rows outside the sample that are not among these: their number, how many are leaders, and the prompt bytes of
    the leaders."""
    policy: PolicyQuality
    categories: dict[str, GroupTotals]
    lengths: dict[str, GroupTotals]
    """Least prompt bytes → rows."""
    over_routed: tuple[Example, ...]
    under_routed: tuple[Example, ...]
    form: FormTotals

    @classmethod
    def together(cls, parts: Sequence[RunEvidence], m: int) -> RunEvidence:
        """Of all these rows. No part: of none."""
        parts = parts or [_nothing(m)]

        def total(name: str) -> Any:
            return np.sum([getattr(part, name) for part in parts], axis=0)

        forms = [part.form for part in parts]
        return cls(
            strata_rows=total("strata_rows"),
            strata_predicted=total("strata_predicted"),
            sampled=SampledRows.together([part.sampled for part in parts]),
            own_usd=total("own_usd"),
            elsewhere=total("elsewhere"),
            policy=sum((part.policy for part in parts), start=PolicyQuality()),
            categories=_groups_together([part.categories for part in parts]),
            lengths=_groups_together([part.lengths for part in parts]),
            over_routed=tuple(row for part in parts for row in part.over_routed),
            under_routed=tuple(row for part in parts for row in part.under_routed),
            form=FormTotals(
                sum(form.rows for form in forms),
                np.sum([form.sums for form in forms], axis=0),
                np.sum([form.squares for form in forms], axis=0),
            ),
        )


def _groups_together(parts: Sequence[dict[str, GroupTotals]]) -> dict[str, GroupTotals]:
    total: dict[str, GroupTotals] = {}
    for part in parts:
        for name, group in part.items():
            total[name] = total.get(name, GroupTotals()) + group
    return total


def _nothing(m: int) -> RunEvidence:
    nobody, of_models = np.zeros(0, np.int64), np.zeros((0, m))
    unseen, nowhere = np.zeros(0, bool), np.zeros(0)
    rows = SampledRows(
        row_key=nobody, fold=nobody, route=nobody, told=unseen, prompt_bytes=nowhere, is_leader=unseen,
        predicted=of_models, quality=of_models, paid_usd=of_models,
    )  # fmt: skip
    form = FormTotals(0, np.zeros(len(STRUCTURE)), np.zeros(len(STRUCTURE)))
    return RunEvidence(
        strata_rows=np.zeros(m, np.int64), strata_predicted=np.zeros((m, m)), sampled=rows, own_usd=np.zeros(m),
        elsewhere=np.zeros((m, 3), np.int64), policy=PolicyQuality(), categories={}, lengths={}, over_routed=(),
        under_routed=(), form=form,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class BucketTotals:
    """What the report adds up over all buckets."""

    rows: int
    errors: int
    open: int
    copied: int
    """Rows with another row's answer."""
    given: Counter[str]
    """Model → rows that have its answer."""
    routed: Counter[str]
    """Model → rows that the plan gives it."""
    models: dict[str, ModelTotals]
    histogram: dict[str, NDArray[np.int64]]
    """Model → (HISTOGRAM_BINS,) rows routed to it by router score."""
    errors_by_kind: tuple[ErrorKind, ...]
    slowest: tuple[SlowCall, ...]
    evidence: RunEvidence
