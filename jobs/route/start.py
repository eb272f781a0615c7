"""What one start of a job carries from stage to stage: the job file and its flags, and what was found at the border."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from jobs.placement.turns import Placement
from jobs.route.score.prompts import ChatMessage
from jobs.route.score.stage import ScorePlan
from jobs.spec.job import JobSpec
from jobs.storage.manifest import InputFile


@dataclass
class Job:
    """One start of a job: what was checked at the border, and what is being held."""

    spec: JobSpec
    allow_code: bool = False
    limit: int | None = None
    live: bool | None = None
    """Progress as a panel, as lines, or by the kind of standard error."""
    session: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%S") + "-" + secrets.token_hex(3))
    stopping: threading.Event = field(default_factory=threading.Event)
    checks: dict[str, str] = field(default_factory=dict)
    contexts: dict[str, int | None] = field(default_factory=dict)
    """Model → longest prompt + answer in tokens, where known."""
    examples: tuple[list[ChatMessage], ...] = ()
    """Chats of the first rows that can be asked, to try models with before anything is spent."""
    border_notes: list[str] = field(default_factory=list)
    """What the checks before the first write found that the plan has to say: models and data are taken otherwise than they came."""
    notes: list[str] = field(default_factory=list)
    """What the report says about this start beside its figures."""
    placement: Placement = field(init=False)
    """Who may run when on the cluster."""
    turns: list[list[str]] = field(default_factory=list)
    """Models that run on the cluster: who side by side, who after whom."""
    places: list[str] = field(default_factory=list)
    """Where router and models will run, as far as a plan has to say something about it."""

    def __post_init__(self) -> None:
        self.placement = Placement(self.spec.payees, self.spec.placement_timeout_s, self.stopping)


@dataclass(frozen=True, slots=True)
class Border:
    """What the checks before the first write found."""

    files: list[InputFile]
    score: ScorePlan
    marks: dict[str, str]
    router_card: dict[str, Any]
    router_columns: list[int]
    earlier: list[str]
    """Runs whose answers count."""
