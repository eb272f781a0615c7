"""Replies as servers send them: marks, keep-alives, events where JSON was asked for. What comes out is what was meant."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.lanes.providers.body import decoded
from jobs.lanes.replies import ReplyError, parse_completion

REQUEST = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 100}
WHOLE = {
    "id": "x", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": "yes"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}  # fmt: skip
JSON = json.dumps(WHOLE).encode()
KEPT_ALIVE = b": OPENROUTER PROCESSING\n\n: OPENROUTER PROCESSING\n\n"


def chunk(delta: dict[str, Any] | None = None, reason: str | None = None, **more: Any) -> dict[str, Any]:
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": reason}]
    return {"id": "c", "object": "chat.completion.chunk", "model": "m", "choices": choices, **more}


def events(*values: Any, end: str = "\n", done: bool = True) -> bytes:
    texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return "".join(f"data: {text}{end}{end}" for text in [*texts, *(["[DONE]"] if done else [])]).encode()


STREAM = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "y"}),
    chunk({"content": "es"}),
    chunk({}, "stop"),
]
USAGE = chunk(None, usage={"prompt_tokens": 9, "completion_tokens": 3})


@pytest.mark.parametrize(
    "raw",
    [
        JSON, b"\xef\xbb\xbf" + JSON, b"\n\n\n   \r\n" + JSON, b"\n\xef\xbb\xbf\n" + JSON, JSON + b"\n\n", KEPT_ALIVE + JSON,
        JSON + b"\n\ndata: [DONE]\n\n", JSON + b"data: [DONE]", JSON.decode().encode("utf-16"), b"data: " + JSON + b"\n\n",
        events(WHOLE), events(*STREAM, USAGE), events(*STREAM, USAGE, end="\r\n"), KEPT_ALIVE + events(*STREAM, USAGE),
        events(*STREAM, USAGE, done=False), b"\xef\xbb\xbf" + events(*STREAM, USAGE), events("", *STREAM, "null", USAGE),
        events(*STREAM[:-1], STREAM[-1] | {"usage": USAGE["usage"]}), 
        events(*STREAM, chunk(None, x_groq={"usage": USAGE["usage"]})),
        events(*STREAM, USAGE).replace(b"\n\n", b"\n"), events(*STREAM, USAGE).replace(b"data: ", b"event: message\ndata:"),
        b"event: hermes.tool.progress\ndata: {\"pct\": 3}\n\n" + events(*STREAM, USAGE),
        b"id: 1\nretry: 100\n" + events(*STREAM[:2]) .replace(b"data: [DONE]\n\n", b": ping\n\n") + events(*STREAM[2:], USAGE),
    ],
)  # fmt: skip
def test_the_same_answer_however_it_is_wrapped(raw: bytes) -> None:
    got = parse_completion(raw, REQUEST)
    assert (got.text, got.finish_reason) == ("yes", "stop")
    assert (got.usage.prompt_tokens, got.usage.completion_tokens, got.usage.source) == (9, 3, "provider")


def test_texts_with_line_separators_stay_whole() -> None:
    text = "one\u2028two\u0085three\x0bfour"
    raw = "data: " + json.dumps(chunk({"content": text}, "stop"), ensure_ascii=False) + "\n\ndata: [DONE]\n\n"
    assert parse_completion(raw.encode(), REQUEST).text == text


def test_reasoning_refusals_calls_and_logprobs_are_put_together() -> None:
    call = {"index": 0, "id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a"'}}
    more = {"index": 0, "function": {"arguments": ": 1}"}}
    told = [{"token": "a", "logprob": -0.5}, {"token": "b", "logprob": -1.5}]
    pieces = [
        chunk({"reasoning_content": "th", "tool_calls": [call]}),
        chunk({"reasoning_content": "ink", "tool_calls": [more]}, "tool_calls"),
    ]  # fmt: skip
    message = decoded(events(*pieces))["choices"][0]["message"]
    assert message["reasoning_content"] == "think"
    assert message["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a": 1}'}
    pieces = [chunk({"content": token["token"]}) for token in told]
    for piece, token in zip(pieces, told, strict=True):
        piece["choices"][0]["logprobs"] = {"content": [token]}
    got = parse_completion(events(*pieces, chunk({}, "length")), REQUEST)
    assert (got.text, got.logprobs, got.finish_reason) == ("ab", (-1.0, -1.5), "length")


def test_several_choices_stay_apart() -> None:
    first, second = chunk({"content": "a"}, "stop"), chunk({"content": "b"}, "stop")
    second["choices"][0]["index"] = 1
    assert [choice["message"]["content"] for choice in decoded(events(second, first))["choices"]] == ["a", "b"]


@pytest.mark.parametrize(
    "raw",
    [
        events(*STREAM[:-1], done=False), events(*STREAM)[:-40], b"data: {\"choices\": [{\"del", JSON[:-5], JSON + b"more",
        b"data: not json\n\n", b"\xff\xfe", b"{'a': 1}",
    ],
)  # fmt: skip
def test_what_breaks_off_is_no_answer(raw: bytes) -> None:
    with pytest.raises(ReplyError) as refused:
        parse_completion(raw, REQUEST)
    assert refused.value.error is None and not str(refused.value).isupper()


@pytest.mark.parametrize(
    "raw",
    [
        events(
            *STREAM[:2],
            {"error": {"code": 502, "message": "upstream died"}, "choices": [{"delta": {}, "finish_reason": "error"}]},
        ),
        events(*STREAM[:2], {"error": {"code": 502, "message": "upstream died"}}, done=False),
        events(*STREAM[:2]) + b'event: error\ndata: {"message": "upstream died", "code": 502}\n\n',
        b'data: {"error": "upstream died"}\n\n',
        b'[{"error": {"code": 502, "message": "upstream died"}}]',
    ],
)
def test_an_error_among_the_events_is_the_replys(raw: bytes) -> None:
    with pytest.raises(ReplyError) as refused:
        parse_completion(raw, REQUEST)
    assert refused.value.error is not None and refused.value.error.message == "upstream died"


@pytest.mark.parametrize("reason", ["error", "network_error", "insufficient_system_resource", "ERROR", "abort"])
def test_an_answer_that_broke_off_is_none_and_keeps_what_it_used(reason: str) -> None:
    body = {"choices": [{"message": {"content": "half an ans"}, "finish_reason": reason}], "usage": WHOLE["usage"]}
    with pytest.raises(ReplyError) as refused:
        parse_completion(json.dumps(body).encode(), REQUEST)
    assert refused.value.error is not None and refused.value.usage is not None


@pytest.mark.parametrize(
    "reason", ["content_filter", "SAFETY", "PROHIBITED_CONTENT", "sensitive", "guardrail_intervened"]
)
def test_an_empty_answer_that_was_held_back_is_a_refusal(reason: str) -> None:
    body: dict[str, Any] = {"choices": [{"message": {"content": None}, "finish_reason": reason}]}
    for message in ({"content": None}, {"content": ""}, None):
        body["choices"][0]["message"] = message
        with pytest.raises(ReplyError) as refused:
            parse_completion(json.dumps(body).encode(), REQUEST)
        assert refused.value.error is not None and refused.value.error.code == "content_filter"
    body["choices"][0]["message"] = {"content": "as far as it came"}
    assert parse_completion(json.dumps(body).encode(), REQUEST).text == "as far as it came"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  \n",
        b"<!doctype html><title>App</title>",
        b"OK",
        b"[]",
        b"{}",
        b'"hi"',
        b"3",
        b'{"status": "ok"}',
        b"null",
    ],
)
def test_what_no_such_api_sends_is_foreign(raw: bytes) -> None:
    with pytest.raises(ReplyError) as refused:
        parse_completion(raw, REQUEST)
    assert refused.value.foreign and refused.value.error is None


@pytest.mark.parametrize("reason", ["MALFORMED_FUNCTION_CALL", "OTHER", "unknown"])
def test_an_empty_answer_with_the_reason_of_a_failure_is_none(reason: str) -> None:
    body: dict[str, Any] = {"choices": [{"message": {"content": ""}, "finish_reason": reason}]}
    with pytest.raises(ReplyError) as refused:
        parse_completion(json.dumps(body).encode(), REQUEST)
    assert refused.value.error is not None
    body["choices"][0]["message"]["content"] = "yes"
    assert parse_completion(json.dumps(body).encode(), REQUEST).text == "yes"
