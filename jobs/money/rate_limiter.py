"""Requests and tokens per minute of one model, shared by all its senders. O(1) a call.

Each limit is a token bucket that holds a quarter of a second's worth. So small a bucket spreads the sending evenly: no burst
overruns the provider's window, whatever its length. Tokens are taken by estimate and corrected when the answer tells how many
there were; a bucket can fall below zero by that, and then everybody waits.

The rate is the least of three: the job file's, the one that the provider states in its `x-ratelimit-limit-*` headers, and one that
is found by trying. A 429 pauses all senders until its Retry-After has passed, and cuts the found rate to CUT of what was being
answered. From there the rate grows as in CUBIC (Ha, Rhee and Xu 2008): back to where it was in BACK_S seconds, flat around that
point, and ever faster beyond it, so that a cut that was too deep is soon undone.

Some 429 replies do not depend on our rate: others use the same limit up, or the server refuses at random. A cut then loses answers
in proportion and saves no refusals. Where a second 429 shows that, the old rate is restored, and for BLIND_S nothing is cut: only
Retry-After is kept.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

BURST_S = 0.25
PAUSE_WITHOUT_HEADER_S = 1.0
CUT = 0.85
BACK_S = 12.0
CUT_AGAIN_S = 3.0
"""429 replies this soon after a cut were sent before it."""
BLIND_S = 60.0
LEAST_S = 1 / 60
DEBT_S = 60.0
"""A provider's window is a minute: what was used beyond the limit is forgotten by then."""
STATED_SHARE = 0.99
"""Of a rate that the provider states: its clock is not ours."""


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

    def limit(self, rate_s: float) -> None:
        """Another rate from now on. Call after `refill`."""
        if rate_s == self.rate_s:
            return
        was_open = self.rate_s == math.inf
        self.rate_s = rate_s
        self.size = math.inf if rate_s == math.inf else max(1.0, rate_s * BURST_S)
        self.level = self.size if was_open else min(self.level, self.size)

    def take(self, amount: float) -> None:
        """Below zero where need be, and everybody waits; never by more than DEBT_S can fill."""
        if self.rate_s != math.inf:
            self.level = max(self.level - amount, -DEBT_S * self.rate_s)

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may go. One larger than the bucket waits until the bucket is full, then overdraws."""
        if self.rate_s == math.inf:
            return 0.0
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
        self._own = {"requests": self._requests.rate_s, "tokens": self._tokens.rate_s}
        self._stated = {"requests": math.inf, "tokens": math.inf}
        self._top_s, self._grown_s = math.inf, 0.0
        """Rate at which the last cut was made, and seconds without a pause since."""
        self._before = (math.inf, math.inf)
        """Before the last cut: the rate in force, and answers a second."""
        self.cut_at = -math.inf
        """When it was made, or could have been."""
        self._blind_until = -math.inf
        self._paused_until = -math.inf

    def admit(self, tokens: Sequence[float]) -> Admission:
        """Admit the first few requests, given the estimated tokens of each, in order."""
        now = self._clock()
        if now < self._paused_until:
            return Admission(0, self._paused_until - now)
        self._refill(now)
        admitted = 0
        for need in tokens:
            wait_s = max(self._requests.wait_s(1), self._tokens.wait_s(need))
            if wait_s > 1e-6:
                return Admission(admitted, wait_s)
            self._requests.take(1)
            self._tokens.take(need)
            admitted += 1
        return Admission(admitted, 0.0)

    def correct(self, tokens: float) -> None:
        """Tokens used beyond the estimates (below them where negative) since the last correction."""
        self._tokens.take(tokens)
        self._tokens.level = min(self._tokens.size, self._tokens.level)

    def state(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """What the provider says it allows (None: it does not say)."""
        for name, per_minute in (("requests", requests_per_minute), ("tokens", tokens_per_minute)):
            if per_minute is not None and per_minute > 0:
                self._stated[name] = STATED_SHARE * per_minute / 60
        self._refill(self._clock())

    def pause(self, retry_after_s: float | None, answered_per_s: float | None = None) -> None:
        """A 429 came: nobody sends until this has passed. `answered_per_s`: since `cut_at`, where that is known."""
        now = self._clock()
        if answered_per_s and now - self.cut_at > CUT_AGAIN_S and now >= self._blind_until:
            self._refill(now)
            self._cut(answered_per_s, now)
        if now - self.cut_at > CUT_AGAIN_S or now < self._paused_until:
            self.cut_at = now
        pause_s = PAUSE_WITHOUT_HEADER_S if retry_after_s is None else retry_after_s
        self._paused_until = max(self._paused_until, now + pause_s)

    def _cut(self, answered_per_s: float, now: float) -> None:
        """Cut the found rate to CUT of what is being answered; or undo the last cut, where it took answers instead of refusals."""
        allowed, (before, answered_before) = self._requests.rate_s, self._before
        if allowed < before < math.inf:
            rate_share, answered_share = allowed / before, answered_per_s / answered_before
            took_answers = answered_share < (1 + rate_share) / 2  # they fell with the rate, rather than not at all
        else:
            took_answers = False
        if took_answers:
            self._top_s, self._grown_s, self._before = before, BACK_S, (math.inf, math.inf)
            self._blind_until = now + BLIND_S
        else:
            self._top_s, self._grown_s = max(min(answered_per_s, allowed), LEAST_S), 0.0
            self._before = (allowed, answered_per_s)

    def _refill(self, now: float) -> None:
        """Fill the buckets up to now, and set their rates for what comes."""
        self._grown_s += max(0.0, now - max(self._requests.filled_at, self._paused_until))
        self._requests.refill(now)
        self._tokens.refill(now)
        self._requests.limit(min(self._own["requests"], self._stated["requests"], self._found_s))
        self._tokens.limit(min(self._own["tokens"], self._stated["tokens"]))

    @property
    def _found_s(self) -> float:
        """The rate found by trying, requests a second."""
        return float(self._top_s * (1 + (1 - CUT) * (self._grown_s / BACK_S - 1) ** 3))

    @property
    def rated(self) -> bool:
        """Senders have to ask before each request."""
        return min(self._requests.rate_s, self._tokens.rate_s) < math.inf

    @property
    def requests_per_minute(self) -> float | None:
        """The rate in force; None where there is none."""
        return None if self._requests.rate_s == math.inf else 60 * self._requests.rate_s

    @property
    def paused_s(self) -> float:
        """Seconds the pause still lasts; 0 where there is none."""
        return max(0.0, self._paused_until - self._clock())
