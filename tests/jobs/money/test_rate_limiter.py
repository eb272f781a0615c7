"""Requests and tokens a minute are kept in every window, used, corrected, and paused by a 429."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.money.rate_limiter import RateLimiter


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.integers(6, 30_000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 300)), min_size=1, max_size=60),
)
def test_no_window_sees_more_than_the_rate_and_one_burst(per_minute: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    limiter = RateLimiter(per_minute, clock=clock)
    admitted = [(clock.now, 0)]
    for wait_s, n in steps:
        clock.now += wait_s
        admitted.append((clock.now, limiter.admit([1.0] * n).requests))
    burst = max(1.0, per_minute / 240)
    for i in range(len(admitted)):
        for j in range(i, len(admitted)):
            window_s = admitted[j][0] - admitted[i][0]
            assert sum(n for _, n in admitted[i : j + 1]) <= burst + window_s * per_minute / 60 + 1e-3


def test_the_rate_is_used() -> None:
    clock = Clock()
    limiter = RateLimiter(600, clock=clock)
    total = 0
    while clock.now < 160:
        admission = limiter.admit([1.0] * 50)
        total += admission.requests
        clock.now += max(admission.wait_s, 0.05)
    assert 0.98 * 600 <= total <= 603


def test_tokens_are_corrected() -> None:
    clock = Clock()
    limiter = RateLimiter(None, 6000, clock=clock)  # 100 a second, 25 at once
    assert limiter.admit([10, 10, 10]).requests == 2
    limiter.correct(105)
    assert limiter.admit([10]).wait_s == pytest.approx(1.1)
    clock.now += 1.1
    assert limiter.admit([10]).requests == 1
    clock.now += 10
    assert limiter.admit([1000]).requests == 1, "larger than the bucket: when it is full"
    assert limiter.admit([1]).wait_s > 9


def test_a_429_pauses() -> None:
    clock = Clock()
    limiter = RateLimiter(None, None, clock=clock)
    limiter.pause(2.0)
    assert limiter.admit([1.0]).requests == 0
    clock.now += 1.5
    assert limiter.paused_s == pytest.approx(0.5)
    limiter.pause(0.1)
    clock.now += 0.4
    assert limiter.admit([1.0]).requests == 0
    clock.now += 0.2
    assert limiter.admit([1.0]).requests == 1


def test_a_debt_is_forgotten_when_the_providers_window_is() -> None:
    clock = Clock()
    limiter = RateLimiter(None, 6000, clock=clock)
    limiter.correct(2**31)
    assert limiter.admit([10]).wait_s <= 61
    clock.now += 61
    assert limiter.admit([2**31]).requests == 1, (
        "one request alone over the limit: the provider refuses it, or it passes"
    )
    assert limiter.admit([10]).wait_s <= 61
