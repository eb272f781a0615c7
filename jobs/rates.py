"""Requests and tokens per minute of one model: a token bucket that holds a quarter of a second's worth.

So small a bucket spreads the sending evenly: the provider's own window, whatever its length, is never overrun by a
burst. Tokens are taken by estimate and corrected when the answer says how many there were; the level may go below zero
then and everybody waits. A 429 pauses all senders of the model until its Retry-After has passed. O(1) a call.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BURST_S = 0.25
PAUSE_WITHOUT_HEADER_S = 1.0


@dataclass(frozen=True, slots=True)
class Admission:
    """How many of the asked-for requests may go now, and when to ask again for the others."""

    requests: int
    wait_s: float


class _Bucket:
    """Level of one limit. Starts with one burst; holds at most one."""

    def __init__(self, per_minute: int | None, now: float) -> None:
        self.rate_s = math.inf if per_minute is None else per_minute / 60
        self.size = math.inf if per_minute is None else max(1.0, self.rate_s * BURST_S)
        self.level = self.size
        self.filled_at = now

    def refill(self, now: float) -> None:
        if self.rate_s != math.inf:
            self.level = min(self.size, self.level + (now - self.filled_at) * self.rate_s)
        self.filled_at = now

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may go. One larger than the bucket waits until the bucket is full, then overdraws."""
        return max(0.0, (min(amount, self.size) - self.level) / self.rate_s)


class RateLimiter:
    """The limits of one model, shared by all its senders. None: no limit."""

    def __init__(
        self,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        now = clock()
        self._requests, self._tokens = _Bucket(requests_per_minute, now), _Bucket(tokens_per_minute, now)
        self._paused_until = -math.inf

    def admit(self, tokens: Sequence[float]) -> Admission:
        """Admit the first few requests, given the estimated tokens of each, in order."""
        now = self._clock()
        if now < self._paused_until:
            return Admission(0, self._paused_until - now)
        self._requests.refill(now)
        self._tokens.refill(now)
        admitted = 0
        for need in tokens:
            wait_s = max(self._requests.wait_s(1), self._tokens.wait_s(need))
            if wait_s > 1e-6:
                return Admission(admitted, wait_s)
            self._requests.level -= 1
            self._tokens.level -= need
            admitted += 1
        return Admission(admitted, 0.0)

    def correct(self, tokens: float) -> None:
        """Tokens used beyond the estimates (below them where negative) since the last correction."""
        self._tokens.level = min(self._tokens.size, self._tokens.level - tokens)

    def pause(self, retry_after_s: float | None) -> None:
        """A 429 came: nobody sends until this has passed."""
        pause_s = PAUSE_WITHOUT_HEADER_S if retry_after_s is None else retry_after_s
        self._paused_until = max(self._paused_until, self._clock() + pause_s)

    @property
    def paused_s(self) -> float:
        """Seconds the pause still lasts; 0 where there is none."""
        return max(0.0, self._paused_until - self._clock())
