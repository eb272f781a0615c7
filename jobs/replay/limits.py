"""Requests per minute as a token bucket, with OpenAI's x-ratelimit headers.

The bucket starts full and refills evenly; a request that is turned away takes nothing. O(1) a request.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable


class RequestLimit:
    """`per_minute` requests a minute over time, at most `burst` (default: a minute's worth) at once."""

    def __init__(self, per_minute: int, burst: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._rate_s = per_minute / 60
        self._size = float(burst or per_minute)
        self._level = self._size
        self._clock = clock
        self._filled_at = clock()

    def take(self) -> bool:
        """Takes one request's place; False where there is none."""
        self._refill()
        # The tolerance lets a client in that waited exactly as long as it was told.
        if self._level < 1 - 1e-6:
            return False
        self._level -= 1
        return True

    def headers(self) -> dict[str, str]:
        """For every response: the limit, what is left now, and when the bucket is full again."""
        self._refill()
        return {
            "x-ratelimit-limit-requests": str(self._per_minute),
            "x-ratelimit-remaining-requests": str(max(0, int(self._level + 1e-6))),
            "x-ratelimit-reset-requests": duration((self._size - self._level) / self._rate_s),
        }

    def retry_headers(self) -> dict[str, str]:
        """For a 429: Retry-After in whole seconds (RFC 9110), and retry-after-ms as OpenAI's clients read it."""
        self._refill()
        wait_s = max(0.0, (1 - self._level) / self._rate_s)
        return {"Retry-After": str(math.ceil(wait_s)), "retry-after-ms": str(math.ceil(wait_s * 1000))}

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(self._size, self._level + (now - self._filled_at) * self._rate_s)
        self._filled_at = now


def duration(seconds: float) -> str:
    """Seconds as OpenAI writes them: 120ms, 8.64s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"
