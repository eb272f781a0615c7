"""Whatever a server sends, with whatever status: a diagnosis of one line without key or prompt, and an error is never an answer."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.journal.refused import reason_of
from jobs.lanes.faults import MESSAGE_CHARS, clean, diagnose, diagnose_inside, foreign
from jobs.lanes.providers.errors import read_error
from jobs.lanes.providers.waits import RETRY_AFTER_LIMIT_S, retry_after_s, stated_limits
from jobs.lanes.replies import Completion, ReplyError, parse_completion

KEY, PROMPT = "sk-0123456789abcdef", "a prompt that is nobody's business at all"
REQUEST = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 50}
WORDS = st.sampled_from(
    [KEY, PROMPT, f"Incorrect key {KEY}", f"flagged: {PROMPT}", "rate limit", "try again in 1.2s", "¹", "١٢", "content policy",
     "no endpoints found",
     "Provider returned error", '{"error": {"message": "inner"}}', "[{", "429", "0", "nan", "34s", "\ud800", "\u2028\r\n", ""]
)  # fmt: skip
KEYS = st.sampled_from(
    ["error", "errors", "message", "detail", "code", "type", "status", "metadata", "raw", "innererror", "details", "retryDelay",
     "headers",
     "loc", "msg", "reasons", "choices", "usage", "finish_reason", "base_resp", "status_code", "promptFeedback", "retry_after", "x"]
)  # fmt: skip
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 10**20) | st.floats() | WORDS | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=12,
)
BODIES = VALUES.map(lambda value: json.dumps(value).encode())
RAW = (
    BODIES | st.binary(max_size=80) | BODIES.map(lambda raw: b"\xef\xbb\xbf\n" + raw)
    | BODIES.map(lambda raw: b"data: " + raw + b"\n\n")
    | st.lists(BODIES, max_size=4).map(lambda all_: b"".join(b"data: " + raw + b"\n\n" for raw in all_) + b"data: [DONE]\n\n")
    | BODIES.map(lambda raw: b"<html><title>" + raw + b"</title>") | WORDS.map(lambda text: text.encode("utf-16", "surrogatepass"))
)  # fmt: skip
HEADERS = st.dictionaries(
    st.sampled_from(
        ["Retry-After", "retry-after-ms", "x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "X-RateLimit-Reset",
         "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests", "anthropic-ratelimit-tokens-limit"]
    ),
    st.sampled_from(["1,000", "6m0s", "1e309", "-1", "inf", "nan", "1741305600000", "2026-13-45T00:00:00Z", "0"])
    | st.text(max_size=12),
    max_size=4,
)  # fmt: skip
MANY = settings(max_examples=200, deadline=None)


def shown(message: str) -> str:
    said = clean(message, KEY, PROMPT)
    assert said and "\n" not in said and len(said) <= MESSAGE_CHARS
    assert KEY not in said and PROMPT not in said
    reason_of(said)
    return said


@MANY
@given(status=st.integers(300, 599), raw=RAW, headers=HEADERS)
def test_any_refusal_is_one_line(status: int, raw: bytes, headers: dict[str, str]) -> None:
    error = read_error(raw)
    found = diagnose(status, headers, error, "gpt", "m", key_env="KEY")
    shown(found.message)
    assert found.kind in ("row", "lane", "limited", "retry")
    for wait_s in (found.retry_after_s, error.wait_s, retry_after_s(headers)):
        assert wait_s is None or 0 <= wait_s <= RETRY_AFTER_LIMIT_S
    assert all(limit is None or 1 <= limit <= 1e10 for limit in stated_limits(headers))


def said_of(raw: bytes) -> Completion | None:
    try:
        return parse_completion(raw, REQUEST)
    except ReplyError as unusable:
        shown(str(unusable))
        if unusable.error is not None:
            shown(diagnose_inside({}, unusable.error, "gpt", "m", key_env="KEY").message)
        shown(foreign(raw, "gpt", "http://x/v1").message)
    return None


@MANY
@given(raw=RAW)
def test_any_reply_is_an_answer_or_one_line(raw: bytes) -> None:
    said_of(raw)


@MANY
@given(
    message=st.sampled_from(["overloaded", "no credit", "bad picture"]),
    code=st.sampled_from([None, 400, "429", 502, "server_error", "x"]),
    where=st.sampled_from(["body", "choice", "text", "array", "event", "finish"]),
    text=st.sampled_from(["", "half", None]), more=VALUES,
    has_usage=st.booleans(),
)  # fmt: skip
def test_an_error_in_a_200_is_never_an_answer(
    message: str, code: Any, where: str, text: str | None, more: Any, has_usage: bool
) -> None:
    error: Any = {"message": message} | ({"code": code} if code is not None else {}) | {"metadata": more}
    choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    body: Any = {"id": "x", "choices": [choice]} | (
        {"usage": {"prompt_tokens": 3, "completion_tokens": 1}} if has_usage else {}
    )
    if where == "choice":
        choice["error"] = error
    elif where == "finish":
        choice["finish_reason"] = "error"
    else:
        body["error"] = message if where == "text" else error
    raw = json.dumps([{"error": error}] if where == "array" else body).encode()
    assert said_of(b"data: " + raw + b"\n\ndata: [DONE]\n\n" if where == "event" else raw) is None


@MANY
@given(
    text=st.text(st.characters(exclude_categories=["Cs"]), max_size=40), cuts=st.lists(st.integers(0, 40), max_size=4)
)
def test_any_text_survives_being_sent_in_pieces(text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[low:high] for low, high in pairwise(edges)]
    chunks = [{"choices": [{"index": 0, "delta": {"content": piece}}]} for piece in pieces]
    chunks += [{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}]
    raw = "".join(f"data: {json.dumps(each, ensure_ascii=False)}\n\n" for each in chunks) + "data: [DONE]\n\n"
    found = said_of(raw.encode())
    assert found is not None and found.text == text
