"""What an HTTP reply that is no answer means: the row's fault, the lane's, too much at once, or worth another try.

One table of rules, after OpenAI's error codes and what vLLM and gateways send. A status alone does not say whose fault it is: a
403 may be about what a prompt says, a 404 about its picture, a 400 about the key. Pure functions. Messages made here are one line,
cut short, without the key and without the prompt: they end in the journal, in logs and on the screen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from jobs.lanes.providers.errors import ProviderError, read_error
from jobs.lanes.providers.waits import retry_after_s
from jobs.lanes.providers.words import (
    is_about_content,
    is_about_the_key,
    is_about_the_row,
    is_no_endpoint,
    is_out_of_credit,
    is_too_long,
    is_unknown_model,
    status_of,
)

MESSAGE_CHARS = 300
_QUOTA_CODES = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "access_terminated"}
_RETRIED = {408, 409, 425, 500, 502, 503, 504, 520, 521, 522, 523, 524, 529}
_NO_SUCH_ROW = {"prompt_not_found"}
"""Codes of a 404 that speaks of the row; any other speaks of the model or the address."""
_TOO_LARGE = re.compile(r"request too large|must be reduced", re.IGNORECASE)
"""A 429 that waiting does not help: the request alone passes the limit of tokens a minute."""
_WINDOW = 24
_ESCAPED = re.compile(r"\\+(?:u([0-9a-fA-F]{4})|([nrt\"/]))")
"""Once or more often: gateways put one provider's JSON into their own."""
TOO_LONG = "context_length_exceeded"
"""How the error begins of a row whose prompt does not fit the model."""


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What to do about one failed attempt."""

    kind: Literal["row", "lane", "limited", "retry"]
    """row: final for the row. lane: nobody should send. limited: 429, wait. retry: try again."""
    message: str
    retry_after_s: float | None = None
    repeated_means_lane: bool = False
    """Where the model has answered nobody, the same message many times says that the request's form, not the row, is refused."""


def diagnose(
    status: int,
    headers: Mapping[str, str],
    error: ProviderError,
    alias: str,
    model: str,
    key_env: str,
    *,
    inside: bool = False,
) -> Diagnosis:
    """The rule for a reply with a status other than 200. Lane diagnoses name the field of the job file and the fix.

    inside: the error stands in a reply that says 200; `status` is what it amounts to (`diagnose_inside`).
    """
    code = error.code or (error.kind if inside else "")
    said = (f"error {status} in a reply with HTTP 200" if inside else f"HTTP {status}") + (f" {code}" if code else "")
    said += f": {error.message}" if error.message else ""
    if _QUOTA_CODES & {error.code, error.kind} or (status in (400, 403, 429) and is_out_of_credit(error)):
        return Diagnosis(
            "lane", f"models.{alias}: the account's quota is used up; add credit or raise its limit ({said})"
        )
    if status == 402:
        return Diagnosis("lane", f"models.{alias}: the account is out of credit; add some ({said})")
    if status == 401 or (400 <= status < 500 and status != 429 and is_about_the_key(error)):
        return Diagnosis("lane", f"models.{alias}: the key in ${key_env} is refused; set a valid one ({said})")
    if is_no_endpoint(error):
        return Diagnosis("lane", f"models.{alias}.base_url: takes no chat completions; it should end in /v1 ({said})")
    if is_about_content(status, error):
        return Diagnosis("row", said)
    if status == 429 and _TOO_LARGE.search(error.message):
        return Diagnosis("row", said, repeated_means_lane=True)
    if status == 429:
        return Diagnosis("limited", said, retry_after_s(headers, error.wait_s))
    if is_too_long(status, error):
        return Diagnosis("row", f"{TOO_LONG}: {said}")
    if is_about_the_row(status, error):
        return Diagnosis("row", said, repeated_means_lane=True)
    if status in _RETRIED or status >= 500:
        return Diagnosis("retry", said, retry_after_s(headers, error.wait_s))
    return _of_the_lane(status, error, said, alias, model, key_env) or Diagnosis("row", said, repeated_means_lane=True)


def _of_the_lane(
    status: int, error: ProviderError, said: str, alias: str, model: str, key_env: str
) -> Diagnosis | None:
    """What concerns every request alike: the key's rights, the model's name, the address; None for what does not."""
    if status == 403:
        return Diagnosis(
            "lane", f"models.{alias}: the key in ${key_env} may not use model {model!r}; grant it access ({said})"
        )
    if status == 404 and error.code in _NO_SUCH_ROW:
        return Diagnosis("row", said)
    if status == 404 and "policy" in error.message.lower():
        return Diagnosis(
            "lane",
            f"models.{alias}: the account's data policy leaves no endpoint for {model!r}; change one of them ({said})",
        )
    if status == 404 or (status in (400, 422) and is_unknown_model(error)):
        return Diagnosis(
            "lane", f"models.{alias}.model: {model!r} is not served there; mend the name or base_url ({said})"
        )
    if 300 <= status < 400:
        return Diagnosis(
            "lane", f"models.{alias}.base_url: redirects elsewhere; give the address it redirects to ({said})"
        )
    if status == 405:
        return Diagnosis("lane", f"models.{alias}.base_url: takes no chat completions; it should end in /v1 ({said})")
    return None


def diagnose_inside(
    headers: Mapping[str, str], error: ProviderError, alias: str, model: str, key_env: str
) -> Diagnosis:
    """The rule for an error in a reply with status 200: that of the status which its code amounts to."""
    return diagnose(status_of(error), headers, error, alias, model, key_env=key_env, inside=True)


def is_too_long_error(error: str) -> bool:
    """Whether a row's error says that its prompt does not fit the model: an API's by `TOO_LONG`, or an engine's own words."""
    return error.startswith((TOO_LONG, "prompt too long")) or is_too_long(400, ProviderError(error, "", ""))


def foreign(raw: bytes, alias: str, url: str) -> Diagnosis:
    """A reply with status 200 to the first requests that no API of chat completions would send: another service answers there."""
    said = read_error(raw).message.strip()
    what = f"answers {said!r}" if said else "answers with nothing" if not raw.strip() else "answers something else"
    return Diagnosis(
        "lane", f"models.{alias}.base_url: {url} {what} and no chat completion; mend it: it should end in /v1"
    )


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
        plain = _ESCAPED.sub(_unescaped, message)
        message = _without(_without(plain, prompt), _ESCAPED.sub(_unescaped, prompt))  # a batch's prompt is JSON itself
    message = " ".join("".join(char if char.isprintable() else " " for char in message).split())
    return message if len(message) <= MESSAGE_CHARS else message[: MESSAGE_CHARS - 1] + "…"


def _unescaped(escape: re.Match[str]) -> str:
    """A character as JSON within a text writes it: a prompt that is repeated so is to be found all the same."""
    return chr(int(escape[1], 16)) if escape[1] else {"n": "\n", "t": "\t", "r": "\r"}.get(escape[2], escape[2])


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
