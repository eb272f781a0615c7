"""How many rows the next batch may take: the limits of a file, and the provider's queue, whose room is learnt.

A provider counts the prompt tokens of all batches that wait. They are estimated from bytes until answers tell how many tokens a
byte has. A batch that is refused because the queue is full halves what is sent; one that ends lets it grow again.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np

from jobs.lanes.base import LaneContext
from jobs.lanes.openai_batch.results import Outcome
from jobs.lanes.openai_batch.rows import MAX_FILE_BYTES, MAX_REQUESTS, Pending

QUEUE_WAIT_POLLS, QUEUE_WAIT_LIMIT_S, QUEUE_LIMIT_S = 5, 300.0, 24 * 3600.0
"""A queue found full is tried again after so many polls, then after twice as long, and given up after a day."""
FAILED_BATCHES = 3
"""So many batches in a row that failed as a whole mean that the next one will, too."""
TOKENS_PER_BYTE = 1 / 3
"""Prompt tokens per byte of the bound until answers tell better: English text has a quarter."""


class BatchQueue:
    """What one model's provider takes, as far as it is known."""

    def __init__(self, context: LaneContext, poll_s: float) -> None:
        self._alias = context.alias
        self._allowed_tokens = float(context.model.limits.enqueued_tokens or np.inf)
        self._limit_tokens, self._tokens_per_byte = self._allowed_tokens, TOKENS_PER_BYTE
        self._first_wait_s = self._wait_s = QUEUE_WAIT_POLLS * poll_s
        self._full_until = self._full_since = 0.0
        self._failed_in_a_row = 0

    def tokens(self, bound: int) -> float:
        """Prompt tokens that rows take in the provider's queue, estimated. bound: the most they can have."""
        return float(bound * self._tokens_per_byte)

    def fitting(self, pendings: Iterable[Pending], waiting_tokens: float, any_waits: bool) -> int:
        """How many rows, from the first, one file may hold now. waiting_tokens: of the batches that run, if `any_waits`."""
        if time.monotonic() < self._full_until:
            return 0
        room = self._limit_tokens - waiting_tokens
        n, n_bytes, bounds = 0, 0, 0
        for pending in pendings:
            n_bytes += pending.n_bytes
            bounds += pending.file_row.bound
            # One row alone is tried, whatever our estimate of it.
            too_long = bounds * self._tokens_per_byte > room and (n or any_waits)
            if n == MAX_REQUESTS or n_bytes > MAX_FILE_BYTES or too_long:
                break
            n += 1
        return n

    def failed(self, outcome: Outcome, tokens: float, other_tokens: float) -> None:
        """A batch of `tokens` failed as a whole, at no cost: wait for room in the queue, or give the lane up (`outcome.fault`)."""
        if not outcome.queue_full:
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= FAILED_BATCHES and not outcome.fault:
                outcome.fault = (
                    f"models.{self._alias}: {FAILED_BATCHES} batches in a row failed ({outcome.error}); try again later"
                )
            return
        now = time.monotonic()
        self._full_since = self._full_since or now
        self._limit_tokens = min(self._limit_tokens, other_tokens + tokens / 2)
        self._full_until = now + self._wait_s
        self._wait_s = min(QUEUE_WAIT_LIMIT_S, 2 * self._wait_s)
        if now - self._full_since > QUEUE_LIMIT_S:
            outcome.fault = (
                f"models.{self._alias}.limits.enqueued_tokens: the provider's queue has been full for 24 h "
                f"({outcome.error}); lower it, or ask for a higher limit"
            )

    def ended(self, outcome: Outcome) -> None:
        """A batch was read: better estimates of prompt tokens, and room again in a queue that was found full."""
        self._failed_in_a_row, self._full_since, self._wait_s = 0, 0.0, self._first_wait_s
        if outcome.bound_tokens:
            self._tokens_per_byte = max(0.02, outcome.used_tokens / outcome.bound_tokens) * 1.05
        self._limit_tokens = min(self._allowed_tokens, 1.25 * self._limit_tokens)
