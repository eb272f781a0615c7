"""How long to wait and how much is allowed, in the forms that providers write."""

from __future__ import annotations

import email.utils
import json
import time
from datetime import UTC, datetime, timedelta

import pytest

from jobs.lanes.faults import diagnose
from jobs.lanes.providers.errors import read_error
from jobs.lanes.providers.waits import RETRY_AFTER_LIMIT_S, retry_after_s, seconds_of, stated_limits, wait_in_words


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("34", 34), ("2.5", 2.5), ("0", 0), ("250ms", 0.25), ("2.5s", 2.5), ("34s", 34), ("1m30s", 90), ("6m0s", 360),
        ("1m", 60), ("0h1m2.5s", 62.5), ("1.5m", 90), ("100us", 1e-4), ("1m 30s", 90), ("2 minutes", 120), ("1 second", 1),
        ('"12"', 12), (" 7 ", 7), (5, 5), (0.5, 0.5), ({"seconds": 21}, 21), ({"seconds": "21", "nanos": 5}, 21), ("PT30S", 30),
        ("-5", 0), ("1e400", 600), ("inf", 600), ("99999999", 600), ("3h", 600), ("9999999999999999999", 600), (1e30, 600),
        ("nan", None), ("soon", None), ("", None), (None, None), (True, None), ([], None), ("5 parsecs", None), ("ms", None),
    ],
)  # fmt: skip
def test_durations(value: object, seconds: float | None) -> None:
    assert seconds_of(value) == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize("shift_s", [20, 90])
def test_points_in_time(shift_s: int) -> None:
    when = datetime.now(UTC) + timedelta(seconds=shift_s)
    for value in (
        email.utils.format_datetime(when, usegmt=True), when.isoformat(), when.isoformat().replace("+00:00", "Z"),
        str(int(when.timestamp())), str(int(when.timestamp() * 1000)), when.timestamp() * 1000,
    ):  # fmt: skip
        wait_s = seconds_of(value)
        assert wait_s is not None and shift_s - 3 < wait_s <= shift_s + 1, value
    assert seconds_of("2020-01-01T00:00:00Z") == 0 and seconds_of(str(int(time.time()) - 5)) == 0


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"Retry-After": "1m30s"}, 90),
        ({"retry-after": "250ms"}, 0.25),
        ({"Retry-After": "2.5s", "x-ratelimit-reset-requests": "6m0s"}, 2.5),
        ({"retry-after-ms": "150", "Retry-After": "1"}, 0.15),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"x-ratelimit-reset-requests": "6m0s"}, 360),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12ms", "x-ratelimit-remaining-tokens": "9",
          "x-ratelimit-reset-tokens": "6m0s"}, 0.012),
        ({"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-tokens": "0",
          "x-ratelimit-reset-tokens": "7.66s"}, 7.66),
        ({"X-RateLimit-Remaining": "5", "X-RateLimit-Reset": "60"}, None),
        ({"Retry-After": "later"}, None),
    ],
)  # fmt: skip
def test_headers(headers: dict[str, str], wait_s: float | None) -> None:
    assert retry_after_s(headers) == wait_s


def test_resets_as_dates_and_epochs() -> None:
    soon = datetime.now(UTC) + timedelta(seconds=30)
    anthropic = {"anthropic-ratelimit-requests-remaining": "0", "anthropic-ratelimit-requests-reset": soon.isoformat()}
    openrouter = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(soon.timestamp() * 1000))}
    for headers in (anthropic, openrouter):
        wait_s = retry_after_s(headers)
        assert wait_s is not None and 27 < wait_s <= 31


@pytest.mark.parametrize(
    ("headers", "limits"),
    [
        ({"x-ratelimit-limit-requests": "1,000", "x-ratelimit-limit-tokens": "2,000,000"}, (1000, 2e6)),
        ({"X-RateLimit-Limit-Requests": "60", "X-RateLimit-Limit-Tokens": "30k"}, (60, 30000)),
        ({"anthropic-ratelimit-requests-limit": "50", "anthropic-ratelimit-tokens-limit": "40000"}, (50, 40000)),
        ({"x-ratelimit-limit-req-minute": "30", "x-ratelimit-limit-tokens-minute": "500000"}, (30, 500000)),
        ({"x-ratelimit-limit-requests": "0", "x-ratelimit-limit-tokens": "-1"}, (None, None)),
        ({"x-ratelimit-limit-requests": "1e300", "x-ratelimit-limit-tokens": "nan"}, (None, None)),
        ({"x-ratelimit-limit-requests": "unlimited", "x-ratelimit-limit-tokens": "0.001"}, (None, None)),
        ({"x-ratelimit-limit-requests": "1_000"}, (1000, None)),
    ],
)
def test_stated_limits(headers: dict[str, str], limits: tuple[float | None, float | None]) -> None:
    assert stated_limits(headers) == limits


@pytest.mark.parametrize(
    ("message", "wait_s"),
    [
        (
            "Rate limit reached for gpt-4o on tokens per min: Limit 30000. Please try again in 1.2s. Visit https://x",
            1.2,
        ),
        ("Please try again in 6m0s.", 360),
        ("Please try again in 20ms", 0.02),
        ("Please retry after 34 seconds.", 34),
        ("please wait for 2 minutes and try again", 120),
        ("Please retry in 24.306s.", 24.306),
        ("Requests to this API have exceeded the rate limit. Retry after 7 seconds now", 7),
        ("try again later", None),
        ("retry in a while", None),
    ],
)
def test_waits_in_words(message: str, wait_s: float | None) -> None:
    assert wait_in_words(message) == wait_s


@pytest.mark.parametrize(
    ("body", "wait_s"),
    [
        (b'[{"error": {"code": 429, "message": "Quota", "status": "RESOURCE_EXHAUSTED", "details": [{"@type": "type.googleapis.com'
         b'/google.rpc.QuotaFailure"}, {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34s"}]}}]', 34),
        (b'{"error": {"message": "slow", "code": 429, "metadata": {"retry_after_seconds": 3}}}', 3),
        (b'{"error": {"message": "Please try again in 1.5s.", "type": "tokens", "code": "rate_limit_exceeded"}}', 1.5),
        (b'{"error": "busy", "retry_after": 2.5}', 2.5),
        (b'{"error": {"message": "busy"}}', None),
    ],
)  # fmt: skip
def test_bodies(body: bytes, wait_s: float | None) -> None:
    got = diagnose(429, {}, read_error(body), "gpt", "m", key_env="KEY")
    assert (got.kind, got.retry_after_s) == ("limited", wait_s)
    assert diagnose(429, {"Retry-After": "9"}, read_error(body), "gpt", "m", key_env="KEY").retry_after_s == 9


def test_an_epoch_in_the_headers_that_a_gateway_repeats() -> None:
    at = int((time.time() + 40) * 1000)
    headers = {"X-RateLimit-Limit": "20", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(at)}
    body = json.dumps({"error": {"message": "Rate limit exceeded", "code": 429, "metadata": {"headers": headers}}})
    wait_s = read_error(body.encode()).wait_s
    assert wait_s is not None and 37 < wait_s <= 41 <= RETRY_AFTER_LIMIT_S
