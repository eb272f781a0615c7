"""Rates that the provider states or that are found by trying: kept, used, and let go again."""

import random

import pytest

from jobs.lanes.providers.waits import stated_limits
from jobs.money.rate_limiter import CUT, RateLimiter


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def served(limiter: RateLimiter, clock: Clock, seconds: float) -> int:
    """Requests a busy sender gets through in this time."""
    total, end = 0, clock.now + seconds
    while clock.now < end:
        admission = limiter.admit([1.0] * 500)
        total += admission.requests
        clock.now += max(0.05, min(admission.wait_s, end - clock.now))
    return total


def test_a_stated_limit_is_kept_as_if_it_were_the_users() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    assert not limiter.rated and limiter.admit([1.0] * 1000).requests == 1000
    limiter.state(600, None)
    assert limiter.rated and limiter.requests_per_minute == pytest.approx(594)
    assert 0.95 * 600 <= served(limiter, clock, 60) <= 600
    stricter = RateLimiter(300, clock=clock)
    stricter.state(600, None)
    assert stricter.requests_per_minute == 300, "the user's own limit stands where it is the lower one"


def test_a_429_cuts_the_rate_and_it_grows_back() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    limiter.pause(2.0, answered_per_s=50.0)
    assert limiter.admit([1.0]).requests == 0 and limiter.paused_s == pytest.approx(2.0)
    limiter.pause(2.0, answered_per_s=5.0)  # one that was under way: no second cut
    clock.now += 2.1
    assert limiter.requests_per_minute is None or limiter.requests_per_minute >= CUT * 50 * 60 - 1
    first = served(limiter, clock, 10) / 10
    assert CUT * 50 - 1 <= first <= 50
    later = served(limiter, clock, 30) / 30
    assert later > 50, "with no more 429 it grows beyond where it was cut"


def test_a_429_in_a_slow_start_is_soon_forgotten() -> None:
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    limiter.pause(1.0, answered_per_s=0.5)
    assert served(limiter, clock, 90) > 300, "one every two seconds would be 45"


def test_refusals_at_random_do_not_starve_the_lane() -> None:
    """Every second request is refused, whatever is sent: answers are a matter of Retry-After alone."""
    clock, chance = Clock(), random.Random(0)
    limiter, answered, began = RateLimiter(clock=clock), [], Clock.now
    for _ in range(int(300 / 0.05)):
        clock.now += 0.05
        for _ in range(limiter.admit([1.0] * 8).requests):
            if chance.random() < 0.5:
                answered.append(clock.now)
            else:
                since = max(limiter.cut_at, began, clock.now - 30)
                span = clock.now - since
                limiter.pause(0.2, sum(t >= since for t in answered) / span if span >= 1 else None)
    assert len(answered) > 2 * 300
    assert sum(t > clock.now - 60 for t in answered) > 60, "and they do not die away"


def test_against_a_provider_without_headers_nearly_all_of_its_rate_is_used() -> None:
    """A provider that allows 20 a second and says 429 beyond: additive increase, multiplicative decrease."""
    clock = Clock()
    limiter = RateLimiter(clock=clock)
    level, allowed, refused, answered = 20.0, 20.0, 0, []
    for _ in range(int(300 / 0.05)):
        clock.now += 0.05
        level = min(20.0, level + 0.05 * allowed)
        for _ in range(limiter.admit([1.0] * 3).requests):
            if level >= 1:
                level -= 1
                answered.append(clock.now)
            else:
                refused += 1
                since = max(limiter.cut_at, Clock.now, clock.now - 30)
                span = clock.now - since
                limiter.pause(0.5, sum(t >= since for t in answered) / span if span >= 1 else None)
    assert len(answered) >= 0.85 * 300 * allowed and refused <= 0.03 * len(answered)


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({"x-ratelimit-limit-requests": "500", "x-ratelimit-limit-tokens": "30000"}, (500, 30000)),
        ({"x-ratelimit-limit-requests": "nonsense"}, (None, None)),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "inf"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_headers_are_read_and_nonsense_is_not(headers: dict[str, str], limits: tuple[float | None, ...]) -> None:
    assert stated_limits(headers) == limits
