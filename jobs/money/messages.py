"""What is said between the governor and those who call it: senders' totals and wants, what they may do, how the run stands.

All of it is frozen and travels through Ray as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal

from jobs.money.excess import Excess


@dataclass(frozen=True, slots=True)
class Report:
    """One sender's totals since its start, so that a report told twice or not at all does no harm."""

    cost_usd: float = 0.0
    lost_usd: float = 0.0
    returned_usd: float = 0.0
    answered: int = 0
    rejected: int = 0
    failed: int = 0
    left: int = 0
    """Rows not asked to the end: budget, or the lane stopped."""
    requests: int = 0
    limited: int = 0
    """429 replies."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    beyond: int = 0
    """Replies that cost more than was reserved for them."""
    beyond_usd: float = 0.0
    """Their dollars above that."""
    uncharged: int = 0
    """Answers that do not say what they cost, in a job that books what the provider says."""
    empty: int = 0
    """Answers that were paid for and say nothing; of the rejected."""
    full_rate: int = 0
    """Answers that were served, and charged, in the standard tier although flex was asked for."""
    in_flight: int = 0
    """Now, not a total."""

    @staticmethod
    def total(reports: Iterable[Report]) -> Report:
        """Field by field, over senders."""
        told = [Report(), *reports]
        return Report(*(sum(getattr(each, count.name) for each in told) for count in fields(Report)))


@dataclass(frozen=True, slots=True)
class Ask:
    """What a sender wants; the default wants nothing."""

    tokens: Sequence[float] = ()
    """Estimated tokens of the next requests, in order; empty where the model has no limits."""
    corrected_tokens: float = 0.0
    """Tokens used beyond earlier estimates."""
    need_usd: float = 0.0
    """Dollars without which the next request cannot go."""
    want_usd: float = 0.0
    free_usd: float = 0.0
    """Dollars the sender has and has not reserved."""
    stated_limits: tuple[float | None, float | None] = (None, None)
    """Requests and tokens a minute that the provider says it allows."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What every reservation of a model has to reckon with."""

    excess: Excess = field(default_factory=Excess)
    """How far its replies have gone beyond their bounds, whoever read them."""
    capped: bool = False
    """There is a cap on the run's dollars."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What a sender may do next; the default lets it do nothing."""

    requests: int = 0
    """How many of the requests asked for may go, from the first."""
    usd: float = 0.0
    """Dollars it has more than before."""
    wait_s: float = 0.0
    """Ask again for requests after this."""
    exhausted: bool = False
    """`need_usd` will never be had in this session."""
    tight: bool = False
    """Give back what is free."""
    rated: bool = False
    """Requests have to be asked for, also where the job file sets no limit: the provider does."""
    paused_s: float = 0.0
    terms: Terms = Terms()
    stopped: str = ""
    """Why nobody may send any more; "" while all is well."""


# How the run stands -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Dollars:
    """The run's dollars, all models and all sessions together."""

    cap_usd: float | None
    spent_usd: float
    lost_usd: float
    """What brought nothing, `stranded_usd` included."""
    stranded_usd: float
    """Granted to processes that died before they could say what they used."""
    reserved_usd: float
    """Granted to senders that live, and neither paid nor given back."""


@dataclass(frozen=True, slots=True)
class LaneSums:
    """What is shown of the rows that a lane has settled in this session."""

    settled: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0
    empty: int = 0
    """Answers that say nothing; of the errors."""


StopKind = Literal["", "lane_down", "user"]
"""Why a lane is stopped: it broke down, or somebody wanted it so; "" while it is not."""


@dataclass(frozen=True, slots=True)
class ModelState:
    """One model in this session."""

    totals: Report
    """Summed over its senders."""
    requests_per_minute: float | None
    """The rate in force; None where there is none."""
    reserved_usd: float
    paused_s: float
    """Seconds for which a 429 still keeps its senders waiting."""
    stopped: str
    """Why nobody may send any more, one line with the fix; "" while all is well."""
    stop_kind: StopKind
    short_of_money: bool
    """A sender wanted dollars that will not come."""
    gone_batches: int
    """Batches that the provider knows no more."""
    gone_usd: float
    """Dollars that count as lost with them."""
    excess: Excess = field(default_factory=Excess)
    """How far replies have gone beyond what was reserved for their requests, in this session and before."""
    key_trouble: str = ""
    """Why its api_key_command gave no new key when one was wanted last."""

    @property
    def sums(self) -> LaneSums:
        told = self.totals
        return LaneSums(
            settled=told.answered + told.rejected,
            errors=told.rejected + told.failed,
            prompt_tokens=told.prompt_tokens,
            completion_tokens=told.completion_tokens,
            cost_usd=told.cost_usd,
            empty=told.empty,
        )


@dataclass(frozen=True, slots=True)
class GovernorState:
    """All that the governor tells of a run that goes on."""

    dollars: Dollars
    models: Mapping[str, ModelState]
