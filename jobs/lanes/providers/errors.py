"""What the body of a reply says went wrong, in the shapes that providers, gateways and proxies write.

OpenAI's {"error": {"message", "type", "code"}}, vLLM's flat form, FastAPI's {"detail"}, Google's arrays and details, OpenRouter's
metadata, Azure's inner errors, JSON inside of a message, pages in HTML or XML, plain text. Words of the request that a provider
repeats beside its message (`input`, `flagged_input`) are never read. Pure functions; whatever the bytes, they raise nothing.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.lanes.providers.body import decoded
from jobs.lanes.providers.waits import reset_s, seconds_of, wait_in_words

TEXT_CHARS = 2000
"""Of a body that is no JSON, or of one message: more than is ever shown."""
DEPTH = 10
_MESSAGES = (
    "message", "msg", "detail", "error_msg", "error_message", "errorMessage", "error_description", "status_msg", "faultstring",
    "Message", "description", "title", "reason",
)  # fmt: skip
_INSIDE = (
    "error", "errors", "fault", "detail", "innererror", "inner_error", "metadata", "raw", "details", "base_resp", "exception",
    "message", "body", "Error", "response", "provider_specific_fields", "promptFeedback", "prompt_feedback", "status",
)  # fmt: skip
"""Where more of an error may stand."""
_NAMES = (
    "code", "type", "status", "reason", "error_type", "error_code", "__type", "Code", "object", "errorCode", "kind", "domain",
    "blockReason", "block_reason", "status_code",
)  # fmt: skip
_STATUSES = ("code", "status", "status_code", "statusCode", "http_status", "error_code", "errorCode", "http_code")
_WAITS = ("retryDelay", "retry_after", "retry_after_seconds", "retryAfter", "retry_delay", "estimated_time")
_FILTERED = ("flagged_input", "moderation", "content_filter_result", "content_filter_results")
_OF_AN_ANSWER = ("choices", "usage", "model", "id", "object", "delta", "logprobs", "finish_reason")
"""Parts of a reply, or of a choice, beside an error that stands in it."""
_NOT_A_CODE = {"error", "none", "null", "unknown", ""}
_TAG = re.compile(r"<[^>]*>")
_TITLES = (
    re.compile(r"<title[^>]*>(.*?)</title>", re.IGNORECASE | re.DOTALL),
    re.compile(r"<h1[^>]*>(.*?)</h1>", re.IGNORECASE | re.DOTALL),
    re.compile(r"<message[^>]*>(.*?)</message>", re.IGNORECASE | re.DOTALL),
)
_XML_CODE = re.compile(r"<code[^>]*>\s*([\w.]+)\s*</code>", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class ProviderError:
    """The error object of a reply, as far as there is one."""

    message: str
    code: str
    kind: str
    status: int | None = None
    """The HTTP status that the body itself tells."""
    names: frozenset[str] = frozenset()
    """All codes, types and reasons in it, in lower case without marks: `ratelimitexceeded`."""
    wait_s: float | None = None
    """How long it says to wait."""


def read_error(raw: bytes) -> ProviderError:
    """What a body with a status other than 200 says."""
    try:
        body = decoded(raw)
    except (ValueError, RecursionError):
        return _of_text(_text(raw))
    return error_of(body)


def error_of(body: Any) -> ProviderError:
    """The same, of its JSON."""
    if isinstance(body, str):
        return _of_text(body)
    if isinstance(body, list):
        body = next((each for each in body if isinstance(each, dict)), {})
    if not isinstance(body, dict):
        return ProviderError("", "", "")
    parts = list(_parts(body))
    message = _message(body)
    code = next((code for part in parts if (code := _name(part.get("code")))), "")
    kind = next((kind for part in parts if (kind := _name(part.get("type")))), "")
    return ProviderError(message, code, kind, _status(parts), _names(parts), _wait_s(parts, message))


def is_page(raw: bytes) -> bool:
    """Nothing at all, or a page in HTML or XML: no API says that."""
    return raw.strip(b"\xef\xbb\xbf \t\r\n\0")[:1] in (b"", b"<")


def squashed(name: str) -> str:
    """A code without case and marks: RESOURCE_EXHAUSTED and ResourceExhausted are one."""
    return re.sub(r"[\W_]+", "", name).lower()


def _text(raw: bytes) -> str:
    part = raw[: 16 * TEXT_CHARS]
    for encoding in ("utf-8-sig", "utf-16") if part[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig",):
        try:
            return part.decode(encoding)
        except ValueError:
            continue
    return part.decode("utf-8", "replace") if len(raw) > len(part) else part.decode("latin-1")


def _of_text(text: str) -> ProviderError:
    """Of a page: its title; of anything else: itself."""
    if text.lstrip("\ufeff \t\r\n")[:1] == "<":
        code = _XML_CODE.search(text)
        title = next((found[1] for pattern in _TITLES if (found := pattern.search(text)) and found[1].strip()), None)
        message = text[:TEXT_CHARS] if title is None else html.unescape(_TAG.sub(" ", title)).strip()
        name = code[1] if code else ""
        return ProviderError(message[:TEXT_CHARS], name, "", None, frozenset({squashed(name)} - {""}))
    return ProviderError(text[:TEXT_CHARS], "", "", None, frozenset(), wait_in_words(text))


def _parts(value: Any, depth: int = DEPTH) -> Iterator[Mapping[str, Any]]:
    """The objects that an error is made of, the outer ones first but for one that is only the wrapping of another."""
    if isinstance(value, str):
        value = _nested(value)
    if isinstance(value, list):
        for each in value[:8]:
            yield from _parts(each, depth)
    elif isinstance(value, dict) and depth:
        if isinstance(value.get("error"), dict):
            yield from _parts(value["error"], depth - 1)
            yield value
        else:
            yield value
            yield from _parts(value.get("error"), depth - 1)
        for key in _INSIDE[1:]:
            if key in value:
                yield from _parts(value[key], depth - 1)


def _nested(text: str) -> Any:
    """JSON that stands in a text; None where none does."""
    text = text.strip()
    if text[:1] not in ("{", "["):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _message(value: Any, depth: int = DEPTH) -> str:
    """The words for people, those of an inner error behind a message that only says that there is one; "" without any."""
    if not depth:
        return ""
    if isinstance(value, str):
        inner = _nested(value)
        return value[:TEXT_CHARS] if inner is None else _message(inner, depth - 1)
    if isinstance(value, list):
        said = [_message(each, depth - 1) for each in value[:3]]
        return "; ".join(dict.fromkeys(text for text in said if text))
    if not isinstance(value, dict):
        return ""
    for key in ("error", "errors", "fault", "Error"):
        if value.get(key) and (said_inside := _message(value[key], depth - 1)):
            return said_inside
    words = next((text for key in _MESSAGES if value.get(key) and (text := _message(value[key], depth - 1))), "")
    where = value.get("loc")
    if words and isinstance(where, list):  # FastAPI: which field
        words = f"{'.'.join(str(each) for each in where[:4])}: {words}"
    for key in ("metadata", "raw", "innererror", "base_resp", "exception", "response", "body"):
        inside = _message(value[key], depth - 1) if value.get(key) else ""
        if inside and inside not in words:
            words = f"{words}: {inside}" if words else inside
    return words[:TEXT_CHARS]


def _name(value: Any) -> str:
    """A code as text; "" for a number, or for none."""
    return value[:80] if isinstance(value, str) and not value.strip().isdecimal() else ""


def _status(parts: list[Mapping[str, Any]]) -> int | None:
    """The first HTTP status of an error that stands in a body, as a number or as digits."""
    for part in parts:
        for key in _STATUSES:
            value = part.get(key)
            if isinstance(value, str) and value.isascii() and value.strip().isdigit() and len(value) < 9:
                value = int(value)
            if isinstance(value, float) and value.is_integer():
                value = int(value)
            if isinstance(value, int) and not isinstance(value, bool) and 300 <= value < 600:
                return value
    return None


def _names(parts: list[Mapping[str, Any]]) -> frozenset[str]:
    found = {squashed(part[key]) for part in parts for key in _NAMES if isinstance(part.get(key), str)}
    for part in parts:
        found |= {key.replace("_", "") for key in _FILTERED if part.get(key) and _is_filtered(part[key])}
        if isinstance(part.get("reasons"), list) and part["reasons"]:
            found.add("moderation")
    return frozenset(name[:80] for name in found - _NOT_A_CODE)


def _is_filtered(told: Any) -> bool:
    """Azure tells the result of every filter: whether one of them has caught something. Others name what was caught."""
    if not isinstance(told, dict):
        return bool(told)
    return any(isinstance(each, dict) and each.get("filtered") is True for each in told.values())


def _wait_s(parts: list[Mapping[str, Any]], message: str) -> float | None:
    """Google's RetryInfo, gateways' fields, a provider's headers that a gateway repeats, or the message itself."""
    for part in parts:
        for key in _WAITS:
            wait_s = seconds_of(part.get(key))
            if wait_s is not None:
                return wait_s
    if (wait_s := wait_in_words(message)) is not None:
        return wait_s
    for part in parts:
        headers = part.get("headers")
        if isinstance(headers, dict):
            lower = {str(name).lower(): value for name, value in headers.items()}
            wait_s = seconds_of(lower.get("retry-after"))
            wait_s = reset_s(lower) if wait_s is None else wait_s
            if wait_s is not None:
                return wait_s
    return None


# An error inside of a reply that says 200 -------------------------------------------------------------------------


def error_inside(body: Any) -> ProviderError | None:
    """The error in the body of a reply with status 200; None where it says of none.

    Beside an answer only what says so plainly counts: an `error` that is more than empty, one of a choice, a `finish_reason` of a
    failure. Where there is no answer, whatever an error body may look like.
    """
    if isinstance(body, list):
        body = next((each for each in body if isinstance(each, dict) and each.get("error")), None)
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    has_choices = isinstance(choices, list) and bool(choices)
    first = choices[0] if isinstance(choices, list) and choices else None
    for holder in (body, first if isinstance(first, dict) else {}):
        if _says_something(holder.get("error")):
            own = {key: value for key, value in holder.items() if key not in _OF_AN_ANSWER}
            return error_of(own if isinstance(own.get("message"), str) else own | {"message": None})
    if has_choices:
        return None
    base = body.get("base_resp")
    failed = (
        body.get("object") == "error" or body.get("type") == "error" or body.get("success") is False
        or (isinstance(base, dict) and base.get("status_code") not in (None, 0))
        or any(_says_something(body.get(key)) for key in ("errors", "detail", "fault", "error_msg", "Error", "errorMessage"))
        or any(isinstance(body.get(key), dict) and body[key] for key in ("promptFeedback", "prompt_feedback"))
        or (_status([body]) is not None and bool(_message(body)))
        or (bool(_name(body.get("code"))) and _says_something(body.get("message")))
    )  # fmt: skip
    return error_of(body) if failed else None


def _says_something(error: Any) -> bool:
    """Some gateways write `"error": null`, {} or {"code": 0, "message": ""} beside an answer."""
    if isinstance(error, dict):
        code = error.get("code")
        return bool(_message(error)) or (
            code not in (None, 0, 200, "0", "200", "") and squashed(str(code)) not in ("ok", "success")
        )
    if isinstance(error, list):
        return any(_says_something(each) for each in error)
    return error is True or (isinstance(error, str) and error.strip() not in ("", "null", "none"))
