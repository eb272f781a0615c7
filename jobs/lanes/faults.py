"""What an HTTP reply that is no answer means: the row's fault, the lane's, too much at once, or worth another try.

One table of rules, after OpenAI's error codes and what vLLM and gateways send. Pure functions. Messages made here are
one line, cut short, without the key and without the prompt: they end in the journal, in logs and on the screen.
"""

from __future__ import annotations

import email.utils
import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

MESSAGE_CHARS = 300
RETRY_AFTER_LIMIT_S = 600.0
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"}
_RETRIED = {408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_NO_SUCH_ROW = {"prompt_not_found"}
"""Codes of a 404 that speaks of the row; any other speaks of the model or the address."""
_TOO_LARGE = re.compile(r"request too large|must be reduced", re.IGNORECASE)
"""A 429 that waiting does not help: the request alone passes the limit of tokens a minute."""
_WINDOW = 24


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What to do about one failed attempt."""

    kind: Literal["row", "lane", "limited", "retry"]
    """row: final for the row. lane: nobody should send. limited: 429, wait. retry: try again."""
    message: str
    retry_after_s: float | None = None
    repeated_means_lane: bool = False
    """The same message many times in a row says that the request's form, not the row, is refused."""


@dataclass(frozen=True, slots=True)
class ProviderError:
    """The error object of a reply, as far as there is one."""

    message: str
    code: str
    kind: str


def read_error(raw: bytes) -> ProviderError:
    """OpenAI's {"error": {"message", "type", "code"}}, vLLM's flat form, FastAPI's {"detail"}, or the text itself."""
    try:
        body: Any = json.loads(raw)
    except (ValueError, RecursionError):
        return ProviderError(raw[:2000].decode("utf-8", "replace"), "", "")
    if isinstance(body, dict):
        error = body.get("error", body)
        if isinstance(error, str):
            return ProviderError(error, "", "")
        if isinstance(error, dict):
            message = error.get("message") or error.get("detail") or ""
            code, kind = error.get("code"), error.get("type")
            return ProviderError(
                message if isinstance(message, str) else json.dumps(message),
                code if isinstance(code, str) else "",
                kind if isinstance(kind, str) else "",
            )
    return ProviderError("", "", "")


def diagnose(
    status: int, headers: Mapping[str, str], error: ProviderError, alias: str, model: str, key_env: str
) -> Diagnosis:
    """The rule for a reply with a status other than 200. Lane diagnoses name the field of the job file and the fix."""
    said = f"HTTP {status}" + (f" {error.code}" if error.code else "") + (f": {error.message}" if error.message else "")
    if _QUOTA_CODES & {error.code, error.kind}:
        return Diagnosis(
            "lane", f"models.{alias}: the account's quota is used up; add credit or raise its limit ({said})"
        )
    if status == 402:
        return Diagnosis("lane", f"models.{alias}: the account is out of credit; add some ({said})")
    if status == 401:
        return Diagnosis("lane", f"models.{alias}: the key in ${key_env} is refused; set a valid one ({said})")
    if status == 403:
        return Diagnosis(
            "lane", f"models.{alias}: the key in ${key_env} may not use model {model!r}; grant it access ({said})"
        )
    if status == 404 and error.code in _NO_SUCH_ROW:
        return Diagnosis("row", said)
    if status == 404:
        return Diagnosis(
            "lane", f"models.{alias}.model: {model!r} is not served there; mend the name or base_url ({said})"
        )
    if 300 <= status < 400:
        return Diagnosis(
            "lane", f"models.{alias}.base_url: redirects elsewhere; give the address it redirects to ({said})"
        )
    if status == 405:
        return Diagnosis("lane", f"models.{alias}.base_url: takes no chat completions; it should end in /v1 ({said})")
    if status == 429 and _TOO_LARGE.search(error.message):
        return Diagnosis("row", said, repeated_means_lane=True)
    if status == 429:
        return Diagnosis("limited", said, retry_after_s(headers))
    if status in _RETRIED or status >= 500:
        return Diagnosis("retry", said, retry_after_s(headers))
    if error.code == "context_length_exceeded" or "maximum context length" in error.message:
        return Diagnosis("row", f"context_length_exceeded: {said}")
    return Diagnosis("row", said, repeated_means_lane=True)


def stated_limits(headers: Mapping[str, str]) -> tuple[float | None, float | None]:
    """(requests, tokens) a minute that the provider says it allows, from `x-ratelimit-limit-*`; None where it does not say."""

    def number(name: str) -> float | None:
        try:
            value = float(headers[name])
        except (KeyError, ValueError):
            return None
        return value if 0 < value < math.inf else None

    return number("x-ratelimit-limit-requests"), number("x-ratelimit-limit-tokens")


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Seconds of retry-after-ms, or of Retry-After (a number or a date); None where absent or not understood."""
    for name, unit in (("retry-after-ms", 1000.0), ("Retry-After", 1.0)):
        value = headers.get(name)
        if not value:
            continue
        try:
            seconds = float(value) / unit
        except ValueError:
            try:
                seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
            except (ValueError, TypeError, OverflowError):
                continue
        if seconds == seconds:  # not NaN
            return min(max(seconds, 0.0), RETRY_AFTER_LIMIT_S)
    return None


_KEYS: set[str] = set()
"""Keys that this process has had: a reply may name one that has been replaced since."""


def never_say(key: str) -> None:
    """`clean` takes this key out of every message from now on."""
    if len(key) > 3:
        _KEYS.add(key)


def clean(message: str, key: str = "", prompt: str = "") -> str:
    """`message` on one line, at most 300 characters, without the key and without pieces of the prompt."""
    for each in sorted({key, *_KEYS}, key=len, reverse=True):
        if each:
            message = message.replace(each, "[key]")
    message = re.sub(r"\b(?:sk|pk|key|Bearer)[-_ ][\w*.-]{6,}", "[key]", message)
    if prompt:
        message = _without(message, prompt)
    message = " ".join("".join(char if char.isprintable() else " " for char in message).split())
    return message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…"


def _without(message: str, prompt: str) -> str:
    """Cut every run of `_WINDOW` characters or more that also stands in the prompt; a short prompt is cut whole.

    Such a run holds a whole aligned piece of half its length: only around those the message is looked at closely.
    """
    if len(prompt) < _WINDOW:
        return message.replace(prompt, "[prompt]") if len(prompt) >= 8 else message
    message, half = message[:1000], _WINDOW // 2
    near = [at for at in range(0, len(message), half) if message[at : at + half] in prompt]
    kept, place = [], 0
    while place < len(message):
        end = place + _WINDOW
        suspect = any(place <= at and at + half <= end for at in near)
        if suspect and end <= len(message) and message[place:end] in prompt:
            while end < len(message) and message[place : end + 1] in prompt:
                end += 1
            kept.append("[prompt]")
            place = end
        else:
            kept.append(message[place])
            place += 1
    return "".join(kept)
