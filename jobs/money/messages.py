"""What senders and the governor tell each other: totals, what the next requests need, what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


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
    full_rate: int = 0
    """Answers that were served, and charged, in the standard tier although flex was asked for."""
    in_flight: int = 0
    """Now, not a total."""


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
class Lease:
    """What it gets."""

    requests: int = 0
    usd: float = 0.0
    wait_s: float = 0.0
    """Ask again for requests after this."""
    exhausted: bool = False
    """`need_usd` will never be had in this session."""
    tight: bool = False
    """Give back what is free."""
    rated: bool = False
    """Requests have to be asked for, also where the job file sets no limit: the provider does."""
    paused_s: float = 0.0
    capped: bool = False
    """There is a cap on the run's dollars."""
    stopped: str = ""
    """Why nobody may send any more; "" while all is well."""
