"""How long a provider says to wait, and how much it says it allows, in every form that is in use.

Durations: seconds (`34`, `2.5`), with units (`250ms`, `6m0s`, `1h2m3.5s`), dates (RFC 9110, RFC 3339), epochs in seconds or
milliseconds. Trusted in this order: `retry-after-ms`, `Retry-After`, what the body says, and the reset of a limit that is used
up, which may be when a whole bucket is full again. No wait is longer than RETRY_AFTER_LIMIT_S, whatever is said.
"""

from __future__ import annotations

import datetime
import email.utils
import math
import re
import time
from collections.abc import Mapping
from typing import Any

RETRY_AFTER_LIMIT_S = 600.0
MOST_A_MINUTE = 1e10
"""Above it a stated limit limits nobody."""
_UNITS_S = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(
    r"(\d+(?:\.\d*)?|\.\d+)\s*(ns|us|µs|milliseconds?|ms|seconds?|secs?|s|minutes?|mins?|m|hours?|h|days?|d)"
)
_IN_WORDS = re.compile(
    r"(?:again|retry|wait)\b[^.\n]{0,40}?\b(?:in|after|for|wait)\s+((?:[\d.]+\s*[a-zµ]+\s*)+)", re.IGNORECASE
)
_EPOCH_S, _EPOCH_MS = 1e9, 1e12
_REQUESTS = (
    "x-ratelimit-limit-requests", "anthropic-ratelimit-requests-limit", "x-ratelimit-limit-req-minute",
    "x-ratelimit-limit-requests-minute",
)  # fmt: skip
_TOKENS = (
    "x-ratelimit-limit-tokens", "anthropic-ratelimit-tokens-limit", "x-ratelimit-limit-tokens-minute",
    "x-ratelimit-limit-tokens-per-minute",
)  # fmt: skip


def seconds_of(value: Any, unit_s: float = 1.0) -> float | None:
    """A wait in seconds, from 0 to RETRY_AFTER_LIMIT_S; None for what is not understood. `unit_s`: of a bare number."""
    if isinstance(value, Mapping):  # protobuf's Duration as an object
        value = value.get("seconds")
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    found = _from_text(value.strip().strip('"'), unit_s) if isinstance(value, str) else _from_number(value, unit_s)
    if found is None or found != found:  # NaN
        return None
    return min(max(found, 0.0), RETRY_AFTER_LIMIT_S)


def _from_text(text: str, unit_s: float) -> float | None:
    try:
        return _from_number(float(text), unit_s)
    except ValueError:
        pass
    if (parts := _duration_s(text.lower().removeprefix("pt"))) is not None:
        return parts
    try:
        when = datetime.datetime.fromisoformat(text.replace("Z", "+00:00"))
        if when.tzinfo is None:
            when = when.replace(tzinfo=datetime.UTC)
        return when.timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        pass
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, TypeError, OverflowError, OSError):
        return None


def _from_number(value: float, unit_s: float) -> float | None:
    """Seconds from now, or the epoch at which the wait is over."""
    try:
        number = float(value)
    except OverflowError:
        return RETRY_AFTER_LIMIT_S
    if unit_s == 1.0 and number >= _EPOCH_S and number < math.inf:
        return (number / 1000 if number >= _EPOCH_MS else number) - time.time()
    return number * unit_s


def _duration_s(text: str) -> float | None:
    """`1m30s`, `250 ms`, `2 minutes 5 seconds`; None for anything else."""
    total, place = 0.0, 0
    while place < len(text):
        part = _PART.match(text, place)
        if part is None:
            return None
        total += float(part[1]) * (
            _UNITS_S.get(part[2]) or _UNITS_S["ms" if part[2].startswith("mill") else part[2][0]]
        )
        place = part.end()
        while place < len(text) and text[place] in " ,":
            place += 1
    return total if text else None


def wait_in_words(message: str) -> float | None:
    """Of "Please try again in 1.2s", "retry after 34 seconds"; None where a message does not say."""
    found = _IN_WORDS.search(message[:2000])
    if found is None:
        return None
    words = found[1].strip().lower()
    whole = _PART.match(words)
    longest = None
    while whole is not None:
        longest = words[: whole.end()]
        whole = _PART.match(words, whole.end() + (words[whole.end() : whole.end() + 1] == " "))
    return None if longest is None else seconds_of(longest)


def retry_after_s(headers: Mapping[str, str], in_body: float | None = None) -> float | None:
    """Seconds that a refusal says to wait; None where nothing says so. `in_body`: what its body says."""
    told = {name.lower(): value for name, value in headers.items()}
    for name, unit_s in (("retry-after-ms", 1e-3), ("x-ms-retry-after-ms", 1e-3), ("retry-after", 1.0)):
        wait_s = seconds_of(told[name], unit_s) if told.get(name) else None
        if wait_s is not None:
            return wait_s
    return in_body if in_body is not None else reset_s(told)


def reset_s(headers: Mapping[str, Any]) -> float | None:
    """When the limits that are used up start anew, by `x-ratelimit-reset…` and its kin. Names in lower case."""
    waits = []
    for name, value in headers.items():
        if "ratelimit" not in name or "reset" not in name:
            continue
        left = headers.get(name.replace("reset", "remaining"))
        if left is not None and number_of(left) != 0:
            continue
        wait_s = seconds_of(value)
        if wait_s is not None:
            waits.append(wait_s)
    return max(waits, default=None)


def stated_limits(headers: Mapping[str, str]) -> tuple[float | None, float | None]:
    """(requests, tokens) a minute that the provider says it allows; None where it does not say, or nothing that can be meant."""
    told = {name.lower(): value for name, value in headers.items()}

    def first(names: tuple[str, ...]) -> float | None:
        for name in names:
            value = number_of(told.get(name))
            if value is not None and 1 <= value <= MOST_A_MINUTE:
                return value
        return None

    return first(_REQUESTS), first(_TOKENS)


def number_of(value: Any) -> float | None:
    """`1000`, `1,000`, `1_000`, `30k`: a count as headers write it; None for anything else."""
    if not isinstance(value, str):
        return None
    text = value.strip().strip('"').lower()
    factor = {"k": 1e3, "m": 1e6}.get(text[-1:], 1.0)
    digits = text.rstrip("km") if factor != 1.0 else text
    if re.fullmatch(r"\d{1,3}(?:[,_' ]\d{3})+(?:\.\d+)?", digits):
        digits = re.sub(r"[,_' ]", "", digits)
    try:
        number = float(digits) * factor
    except ValueError:
        return None
    return number if math.isfinite(number) else None
