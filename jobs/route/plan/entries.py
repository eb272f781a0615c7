"""What the pilot and the cascade leave in the run's manifest. The stages write it; the plan, the report and routers' data read it.

An entry is part of a plan's fingerprint: `to_json` of what `from_json` read is the same JSON, or the run would be planned anew.
So what an earlier version did not write stays unwritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from routing.pilot.rank_choice import RankChoice


@dataclass(frozen=True, slots=True)
class JudgeEntry:
    """What the judge of a pilot was asked, and how far it agrees with itself."""

    model: str
    mode: str
    rows: int
    """Of the sample, that it judged."""
    verdicts: int
    """Asked for."""
    failed: int
    """Of those asked for: without an answer, or with one that holds no verdict."""
    self_agreement: dict[str, float | int | None]
    """`routing.answers.llm_judge.Agreement`; None for what cannot be told."""


@dataclass(frozen=True, slots=True)
class PilotEntry:
    """`_headgate/pilot-<fingerprint>.json`."""

    rows: int
    """Of the sample."""
    folds: dict[str, int]
    """Fold → its rows."""
    folder: str | None
    """Of the run, with sample, quality, router and predictions."""
    head: str
    """What was fitted on the router's scores; "none" where the router is left as it is."""
    why: str | None = None
    """There is no head."""
    scores: dict[str, float] | None = None
    """Head → its error in cross-validation."""
    fit_rows: int | None = None
    rank_by: dict[str, RankChoice] | None = None
    """Kind of policy → the order of its cut that did best."""
    judge: JudgeEntry | None = None

    @property
    def predictions(self) -> str:
        """Folder of the head's predictions, "" where the router's own stand."""
        return f"{self.folder}/predicted" if self.head != "none" and self.folder else ""

    def to_json(self) -> dict[str, Any]:
        return _without_none(asdict(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PilotEntry:
        ranks, judge = data.get("rank_by"), data.get("judge")
        return cls(
            rows=data["rows"], folds=data["folds"], folder=data.get("folder"), head=data["head"], why=data.get("why"),
            scores=data.get("scores"), fit_rows=data.get("fit_rows"),
            rank_by=None if ranks is None else {kind: RankChoice(**choice) for kind, choice in ranks.items()},
            judge=None if judge is None else JudgeEntry(**judge),
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class CascadeEntry:
    """`_headgate/cascade-<fingerprint>.json`."""

    used: bool
    """False where the pilot taught no head: the job is planned as if it had no cascade."""
    why: str | None = None
    """It is not used."""
    fit_rows: int | None = None
    signals: Sequence[str] | None = None
    """What of the weak answers was looked at."""
    straight_rows: int | None = None
    """Rows that go up unasked."""
    band_rows: int | None = None
    """Rows near the cut, which were answered several times."""
    samples: int | None = None
    """Further answers of each of these."""
    error: dict[str, float] | None = None
    """Mean squared error of the weak model's predicted quality: of its mean, before its answer and after it."""

    def to_json(self) -> dict[str, Any]:
        return _without_none(asdict(self))

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> CascadeEntry:
        return cls(**{field.name: data[field.name] for field in fields(cls) if field.name in data})


def _without_none(data: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if value is not None}
