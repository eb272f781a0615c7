"""Requests as they are sent, replies as they come, and the bounds between: one case for each shape providers send."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.lanes.chat import (
    IMAGE_TOKENS,
    RequestError,
    answer_key,
    build_request,
    max_completion_tokens,
    prompt_tokens_bound,
    request_tokens_bound,
)
from jobs.lanes.faults import clean, diagnose
from jobs.lanes.providers.errors import read_error
from jobs.lanes.providers.waits import retry_after_s
from jobs.lanes.replies import ReplyError, parse_completion
from jobs.lanes.usage import SERVERS_OWN_TOKENS
from jobs.spec.models import ModelSpec
from jobs.storage.keys import content_key

MODEL = ModelSpec.model_validate({"engine": "openai", "model": "gpt-4o-2024-08-06", "service_tier": "flex"})
MESSAGES = [{"role": "user", "content": "héllo"}]
SAMPLING = {"temperature": 0, "max_tokens": 100}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


def build(
    sampling: dict[str, Any] = SAMPLING, body: dict[str, Any] | None = None, schema: Any = None
) -> dict[str, Any]:
    return build_request(MODEL, "gpt-4o", sampling, schema, MESSAGES, body)


def test_the_request_is_openais() -> None:
    assert build(schema={"json_schema": SCHEMA}) == {
        "model": "gpt-4o-2024-08-06",
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 100,
        "service_tier": "flex",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
        },
    }
    bare = ModelSpec.model_validate({"engine": "openai"})
    assert build_request(bare, "alias", SAMPLING, None, MESSAGES)["model"] == "alias"


def test_a_rows_own_parameters_win_but_the_model() -> None:
    request = build(
        body={"model": "other", "messages": [], "stream": True, "temperature": 1, "max_tokens": 7, "top_p": None}
    )
    assert (request["model"], request["messages"]) == ("gpt-4o-2024-08-06", MESSAGES)
    assert (request["temperature"], request["max_tokens"]) == (1, 7)
    assert not {"stream", "top_p"} & set(request)


@pytest.mark.parametrize(
    ("sampling", "body", "expected"),
    [
        ({"max_tokens": 5}, None, {"max_tokens": 5}),
        ({"max_completion_tokens": 5}, None, {"max_completion_tokens": 5}),
        ({"max_completion_tokens": 5}, {"max_tokens": 9}, {"max_tokens": 9}),
        ({"max_tokens": 5}, {"max_completion_tokens": 9}, {"max_completion_tokens": 9}),
    ],
)
def test_one_limit_of_tokens(sampling: dict[str, Any], body: dict[str, Any] | None, expected: dict[str, int]) -> None:
    request = build(sampling, body)
    assert {name: request[name] for name in ("max_tokens", "max_completion_tokens") if name in request} == expected
    assert max_completion_tokens(request) == next(iter(expected.values()))


def test_choices_multiply_the_answer() -> None:
    assert max_completion_tokens(build(body={"n": 3})) == 300


@pytest.mark.parametrize(
    "body", [{"max_tokens": "many"}, {"max_tokens": 0}, {"max_tokens": True}, {"n": -1}, {"n": 1.5}]
)
def test_a_row_that_makes_no_request(body: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match="whole number"):
        build(body=body)


def test_bounds() -> None:
    assert prompt_tokens_bound(MESSAGES) == 6 + 8
    parts = [{"type": "text", "text": "abc"}, {"type": "image_url", "image_url": {"url": "https://x/y.png"}}]
    assert IMAGE_TOKENS < prompt_tokens_bound([{"role": "user", "content": parts}]) < IMAGE_TOKENS + 200
    tools = [{"type": "function", "function": {"name": "f" * 500}}]
    assert request_tokens_bound(build(body={"tools": tools})) > request_tokens_bound(build()) + 500


@given(st.lists(st.text(max_size=60), min_size=1, max_size=5))
def test_the_bound_covers_all_bytes(texts: list[str]) -> None:
    messages = [{"role": "user", "content": text} for text in texts]
    assert prompt_tokens_bound(messages) >= sum(len(text.encode("utf-8", "surrogatepass")) for text in texts)


def test_keys() -> None:
    base = answer_key(build())
    assert len(base) == 16
    assert answer_key(dict(reversed(build().items()))) == base
    assert answer_key(build(body={"user": "someone", "metadata": {"a": "b"}})) == base
    others = [
        {"temperature": 1, "max_tokens": 100},
        {"temperature": 0, "max_tokens": 101},
        {"temperature": 0, "max_tokens": 100, "seed": 1},
    ]
    assert (
        len({base, *(answer_key(build(other)) for other in others), answer_key(build(schema={"json_schema": SCHEMA}))})
        == 5
    )
    assert content_key("ab", "c") != content_key("a", "bc")


def reply(message: Any = None, usage: Any = None, **choice: Any) -> bytes:
    body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop", **choice}]}
    return json.dumps(body | ({"usage": usage} if usage is not None else {})).encode()


USAGE = {
    "prompt_tokens": 10,
    "completion_tokens": 5,
    "total_tokens": 15,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def test_a_whole_reply() -> None:
    got = parse_completion(reply({"role": "assistant", "content": "yes"}, USAGE), build())
    assert (got.text, got.finish_reason, got.refusal) == ("yes", "stop", "")
    usage = got.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens, usage.reasoning_tokens) == (10, 5, 4, 3)
    assert usage.source == "provider"


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"content": ""}, ""),
        ({"content": None}, ""),
        ({"content": None, "refusal": "I cannot"}, "I cannot"),
        ({"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}, "ab"),
        ({"content": None, "tool_calls": [{"id": "1"}]}, '[{"id": "1"}]'),
    ],
)
def test_what_counts_as_an_answer(message: dict[str, Any], text: str) -> None:
    assert parse_completion(reply(message, USAGE), build()).text == text


def test_whole_floats_are_counts_and_more_than_the_request_could_hold_is_none() -> None:
    def usage(prompt: Any, completion: Any, request: dict[str, Any]) -> Any:
        raw = reply({"content": "yes"}, {"prompt_tokens": prompt, "completion_tokens": completion})
        found = parse_completion(raw, request).usage
        return (found.prompt_tokens, found.completion_tokens) if found.source == "provider" else None

    request = build()
    assert usage(12.0, 3.0, request) == (12, 3)
    for broken in (12.5, 2**31 - 1, 2.0**31, 1e300, 14 + SERVERS_OWN_TOKENS + 1):
        assert usage(broken, 3, request) is None
    assert usage(14 + SERVERS_OWN_TOKENS, 100 + SERVERS_OWN_TOKENS, request) is not None
    assert usage(20, 101 + SERVERS_OWN_TOKENS, request) is None
    document = request | {"messages": [{"role": "user", "content": [{"type": "file", "file": {"file_id": "f"}}]}]}
    assert usage(200_000, 3, document) is not None, "its bytes are elsewhere"
    assert usage(200_000, 3, {"messages": []}) is not None, "not the request that was sent"


def test_missing_usage_is_estimated_and_says_so() -> None:
    for usage in (
        None,
        {},
        {"prompt_tokens": 3},
        {"prompt_tokens": "three", "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
    ):
        got = parse_completion(reply({"content": "x" * 40}, usage), build()).usage
        assert (got.source, got.completion_tokens) == ("estimated", 11)
        assert got.prompt_tokens > 0


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b'{"choices": [', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[]", "not a JSON object"),
        (b'{"choices": []}', "no choices"),
        (b'{"choices": {}}', "no choices"),
        (b"{}", "no choices"),
        (b'{"choices": [null]}', "no message"),
        (b'{"choices": [{"message": "hi"}]}', "no message"),
        (b'{"choices": [{"message": {"content": 3}}]}', "not text"),
        (b'{"choices": [{"message": {}}]}', "no content"),
    ],
)
def test_replies_without_an_answer(raw: bytes, why: str) -> None:
    with pytest.raises(ReplyError, match=why):
        parse_completion(raw, build())


def test_an_empty_reply_tells_what_it_costs() -> None:
    with pytest.raises(ReplyError) as caught:
        parse_completion(json.dumps({"choices": [], "usage": USAGE}).encode(), build())
    assert caught.value.usage is not None
    assert caught.value.usage.prompt_tokens == 10


def diagnosis(status: int, error: Any = None, headers: dict[str, str] | None = None) -> Any:
    raw = json.dumps({"error": error}).encode() if error is not None else b""
    return diagnose(status, headers or {}, read_error(raw), "gpt", "gpt-4o", "OPENAI_API_KEY")


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, {"message": "bad", "code": "invalid_value"}, "row"),
        (422, {"message": "bad"}, "row"),
        (413, {"message": "too large"}, "row"),
        (
            400,
            {"message": "This model's maximum context length is 10 tokens", "code": "context_length_exceeded"},
            "row",
        ),
        (401, {"message": "no", "code": "invalid_api_key"}, "lane"),
        (403, {"message": "no"}, "lane"),
        (404, {"message": "The model `x` does not exist", "code": "model_not_found"}, "lane"),
        (404, {"message": "The model `x` does not exist.", "type": "NotFoundError", "code": 404}, "lane"),
        (404, None, "lane"),
        (404, {"message": "no such prompt", "code": "prompt_not_found"}, "row"),
        (307, None, "lane"),
        (429, {"message": "slow down", "code": "rate_limit_exceeded"}, "limited"),
        (429, {"message": "quota", "type": "insufficient_quota", "code": "insufficient_quota"}, "lane"),
        (429, {"message": "quota", "type": "insufficient_quota", "code": None}, "lane"),
        (408, None, "retry"),
        (409, None, "retry"),
        (500, None, "retry"),
        (529, None, "retry"),
        (599, None, "retry"),
    ],
)
def test_diagnoses(status: int, error: Any, kind: str) -> None:
    got = diagnosis(status, error)
    assert got.kind == kind
    if kind == "lane":
        assert got.message.startswith("models.gpt")


def test_only_refused_forms_count_towards_the_lane() -> None:
    assert diagnosis(400, {"message": "max_tokens is too large"}).repeated_means_lane
    too_long = diagnosis(400, {"message": "…", "code": "context_length_exceeded"})
    assert not too_long.repeated_means_lane
    assert too_long.message.startswith("context_length_exceeded")
    assert not diagnosis(404, {"message": "", "code": "prompt_not_found"}).repeated_means_lane


def test_errors_in_other_forms() -> None:
    assert read_error(b'{"object": "error", "message": "m", "type": "T", "code": 400}').message == "m"
    assert read_error(b'{"detail": "d"}').message == "d"
    assert read_error(b'{"error": "e"}').message == "e"
    assert read_error(b"<html>502</html>").message == "<html>502</html>"
    assert read_error(b"[1]").message == ""


def test_retry_after() -> None:
    assert retry_after_s({"Retry-After": "2"}) == 2
    assert retry_after_s({"Retry-After": "2", "retry-after-ms": "150"}) == 0.15
    assert retry_after_s({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}) == 0
    assert retry_after_s({"Retry-After": "99999999"}) == 600
    for value in ("soon", "", "nan"):
        assert retry_after_s({"Retry-After": value}) is None
    assert retry_after_s({}) is None


def test_messages_carry_neither_key_nor_prompt() -> None:
    key, prompt = "abcdef0123456789", "My secret diary says that the treasure is under the old oak tree."
    text = clean(
        f"bad key {key} or sk-proj-12345678\n in 'the treasure is under the old oak tree' " + "z" * 500, key, prompt
    )
    assert key not in text
    assert "12345678" not in text
    assert "treasure is under" not in text
    assert "\n" not in text
    assert len(text) <= 300
    assert clean("prefix short one suffix", "", "short one") == "prefix [prompt] suffix"
    assert clean("the model is gone", "", "a") == "the model is gone"
