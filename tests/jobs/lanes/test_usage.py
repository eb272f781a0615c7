"""Token counts in the shapes that providers write them, and what any of them is booked at least."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.lanes.replies import ReplyError, parse_completion
from jobs.lanes.usage import SERVERS_OWN_TOKENS, Usage

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "what is it"}], "max_tokens": 16}


def read(usage: Any, text: str = "yes", **body: Any) -> Usage:
    choice = {"message": {"content": text}, "finish_reason": "stop"}
    reply = {"choices": [choice], **({} if usage is None else {"usage": usage}), **body}
    return parse_completion(json.dumps(reply).encode(), REQUEST).usage


def chat(prompt: Any, completion: Any, total: Any = None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": total, **more}


def reasoning(n: Any) -> dict[str, Any]:
    return {"completion_tokens_details": {"reasoning_tokens": n}}


SHAPES: dict[str, tuple[dict[str, Any], tuple[int, int, int | None, int | None]]] = {
    # (prompt, completion, cached, reasoning)
    "OpenAI": (chat(20, 30, 50, **reasoning(12), prompt_tokens_details={"cached_tokens": 8}), (20, 30, 8, 12)),
    "xAI": (chat(12, 1, 399, **reasoning(386)), (12, 387, None, 386)),
    "Gemini, compatible": (chat(20, 198, 623), (20, 603, None, None)),
    "Vertex, compatible": (chat(2181, 57, 2518, reasoning_tokens=280), (2181, 337, None, 280)),
    "nothing but reasoning": (chat(21, 0, 81, **reasoning(60)), (21, 60, None, 60)),
    "reasoning beside, without a total": (chat(12, 1, **reasoning(386)), (12, 387, None, 386)),
    "reasoning beside, left out of the total": (chat(108, 3256, 3364, reasoning_tokens=73248), (108, 76504, None, 73248)),
    "a total of nothing": (chat(20, 10, 0), (20, 10, None, None)),
    "a total that cannot be": (chat(20, 10, 2**31 - 1), (20, 10, None, None)),
    "no completion": ({"prompt_tokens": 20, "total_tokens": 32}, (20, 12, None, None)),
    "no prompt": ({"completion_tokens": 12, "total_tokens": 32}, (20, 12, None, None)),
    "responses": (
        {"input_tokens": 75, "input_tokens_details": {"cached_tokens": 64}, "output_tokens": 40, "total_tokens": 115,
         "output_tokens_details": {"reasoning_tokens": 32}},
        (75, 40, 64, 32),
    ),
    "zeros under the names not used": (
        chat(0, 0, 115, input_tokens=75, output_tokens=40, prompt_tokens_details=None), (75, 40, None, None),
    ),
    "DeepSeek": (chat(100, 7, 107, prompt_cache_hit_tokens=64, prompt_cache_miss_tokens=36), (100, 7, 64, None)),
    "DeepSeek, hit and miss alone": (
        {"completion_tokens": 7, "prompt_cache_hit_tokens": 64, "prompt_cache_miss_tokens": 36}, (100, 7, 64, None),
    ),
    "Moonshot": (chat(100, 7, 107, cached_tokens=64), (100, 7, 64, None)),
    "Anthropic": (
        {"input_tokens": 3, "cache_creation_input_tokens": 12304, "cache_read_input_tokens": 0, "output_tokens": 550},
        (12307, 550, 0, None),
    ),
    "Anthropic, read": (
        {"input_tokens": 3, "cache_creation_input_tokens": 5, "cache_read_input_tokens": 100, "output_tokens": 7},
        (108, 7, 100, None),
    ),
    "Anthropic, nothing new": (
        {"input_tokens": 0, "cache_creation_input_tokens": None, "cache_read_input_tokens": 9, "output_tokens": 7},
        (9, 7, 9, None),
    ),
    "Anthropic behind LiteLLM": (
        chat(98805, 5120, 103925, cache_read_input_tokens=66360, cache_creation_input_tokens=32435, **reasoning(1710),
             prompt_tokens_details={"cached_tokens": 66360, "cache_creation_tokens": 32435}),
        (98805, 5120, 66360, 1710),
    ),
    "LiteLLM, streamed": (
        chat(2459, 23, 2482, cache_read_input_tokens=2455, prompt_tokens_details={"cached_tokens": 0}),
        (2459, 23, 2455, None),
    ),
    "cache beside the prompt under its chat name": (chat(3, 5, 108, cache_read_input_tokens=100), (103, 5, 100, None)),
    "Bedrock": (
        {"inputTokens": 5, "outputTokens": 7, "totalTokens": 112, "cacheReadInputTokens": 100}, (105, 7, 100, None),
    ),
    "Gemini": (
        {"promptTokenCount": 20, "candidatesTokenCount": 198, "thoughtsTokenCount": 405, "cachedContentTokenCount": 16,
         "totalTokenCount": 623, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 20}]},
        (20, 603, 16, 405),
    ),
    "Gemini, thoughts alone": ({"promptTokenCount": 21, "thoughtsTokenCount": 60, "totalTokenCount": 81}, (21, 60, None, 60)),
    "Gemini, with tools": (
        {"promptTokenCount": 20, "toolUsePromptTokenCount": 300, "candidatesTokenCount": 5, "totalTokenCount": 325},
        (320, 5, None, None),
    ),
    "Cohere": (
        {"billed_units": {"input_tokens": 5, "output_tokens": 418}, "tokens": {"input_tokens": 71, "output_tokens": 418}},
        (5, 418, None, None),
    ),
    "Cohere, tokens alone": ({"tokens": {"input_tokens": 71.0, "output_tokens": 418.0}}, (71, 418, None, None)),
    "text": (chat("20", "30.0", "50"), (20, 30, None, None)),
    "floats": (chat(20.0, 30.0, 50.0), (20, 30, None, None)),
    "details of nothing": (
        chat(20, 30, 50, prompt_tokens_details={"cached_tokens": None}, completion_tokens_details=None), (20, 30, None, None),
    ),
    "more cached than there is": (chat(20, 30, 50, prompt_tokens_details={"cached_tokens": 900}), (20, 30, 20, None)),
    "a cache count of -1": (chat(20, 30, 50, prompt_tokens_details={"cached_tokens": -1}), (20, 30, None, None)),
    "five times the limit": (chat(20, 160_000, 160_020), (20, 160_000, None, None)),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_counts_are_read_in_every_shape(shape: str) -> None:
    usage, expected = SHAPES[shape]
    got = read(usage)
    assert got.source == "provider"
    assert (got.prompt_tokens, got.completion_tokens, got.cached_tokens, got.reasoning_tokens) == expected


def test_counts_are_found_where_they_stand() -> None:
    counts = {"promptTokenCount": 20, "candidatesTokenCount": 5}
    assert read(None, usageMetadata=counts).prompt_tokens == 20
    assert read(None, x_groq={"id": "req_1", "usage": chat(20, 5, 25)}).prompt_tokens == 20
    assert read({}, x_groq={"usage": chat(20, 5, 25)}).prompt_tokens == 20
    in_choice = {"message": {"content": "yes"}, "usage": chat(20, 5, 25)}
    assert read(None, choices=[in_choice]).prompt_tokens == 20


@pytest.mark.parametrize(
    "usage",
    [
        chat(0, 0, 0),
        chat(-1, 5, 4),
        chat(True, True, 2),
        chat(20, 0, 20),
        chat("many", "few"),
        chat("", "9" * 5000),
        chat(20.5, 30.5),
        chat(2**31 - 1, 5),
        chat(20, 2**32 - 1),
        [20, 5],
        "20",
    ],
    ids=lambda usage: str(usage)[:60],
)
def test_counts_that_cannot_be_are_none(usage: Any) -> None:
    """A text came of no tokens, a prompt of none, or more tokens than any model holds."""
    assert read(usage).source == "estimated"


def test_a_guess_is_not_below_what_is_told() -> None:
    guess = read(chat(0, 400, 400))  # a server that cannot count prompts
    assert guess.source == "estimated" and guess.completion_tokens == 400 and guess.prompt_tokens > 0
    assert read({"prompt_tokens": 2000}).prompt_tokens == 2000
    assert read({"total_tokens": 2000}).completion_tokens > 1900


CHARGES: list[tuple[dict[str, Any], float | None]] = [
    ({"cost": 0.0123}, 0.0123),
    ({"cost": 0}, 0.0),
    ({"cost": 0.02, "cost_details": {"upstream_inference_cost": None}}, 0.02),
    ({"cost": 0.02, "cost_details": {"upstream_inference_cost": 0.02}}, 0.02),
    ({"cost": 0.02, "is_byok": False, "cost_details": {"upstream_inference_cost": 0.03}}, 0.02),
    ({"cost": 0, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.036}}, 0.036),
    ({"cost": 0.002, "is_byok": True, "cost_details": {"upstream_inference_cost": 0.036}}, 0.038),
    ({"cost": 0.002, "cost_details": {"upstream_inference_cost": 0.036}}, 0.038),
    ({"cost_details": {"upstream_inference_cost": 0.036}}, 0.036),
    ({"cost": {"input_tokens_cost": 0.001, "request_cost": 0.005, "total_cost": 0.006}}, 0.006),
    ({"cost_in_usd_ticks": 232_856_000}, 0.0232856),
    ({"estimated_cost": 4e-05}, 4e-05),
    ({"cost": -1.0}, None),
    ({"cost": True}, None),
    ({"cost": "0.02"}, None),
    ({"cost": math.nan}, None),
    ({"cost": math.inf}, None),
    ({"cost": 1e300}, None),
    ({"cost": {}}, None),
    ({"cost": None}, None),
    ({"cost": 0.02, "cost_details": {"upstream_inference_cost": -5}}, 0.02),
    ({}, None),
]


@pytest.mark.parametrize(("charge", "usd"), CHARGES, ids=str)
def test_what_was_charged_is_read_or_ignored(charge: dict[str, Any], usd: float | None) -> None:
    got = read(chat(20, 5, 25) | charge).charged_usd
    assert got == (None if usd is None else pytest.approx(usd))


def test_a_gateways_own_word_is_read() -> None:
    message = {"content": "yes", "provider_metadata": {"gateway": {"cost": "0.0045405"}}}
    assert read(chat(20, 5, 25), choices=[{"message": message}]).charged_usd == pytest.approx(0.0045405)


COUNT = st.integers(0, 2000) | st.integers(-2, 2**33) | st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**63, 10**400])
ANY = st.one_of(
    COUNT,
    COUNT.map(str),
    st.floats(),
    st.booleans(),
    st.none(),
    st.text(max_size=4),
    st.lists(st.integers(), max_size=2),
)
DETAILS = st.one_of(ANY, st.dictionaries(st.sampled_from(["cached_tokens", "reasoning_tokens", "x"]), ANY, max_size=2))
CHAT_NAMES = ("prompt_tokens", "completion_tokens", "total_tokens", "input_tokens", "output_tokens", "reasoning_tokens")
CACHE_NAMES = ("prompt_cache_hit_tokens", "prompt_cache_miss_tokens", "cache_read_input_tokens", "cached_tokens")
MORE_NAMES = ("cache_creation_input_tokens", "promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount")
NAMES = (*CHAT_NAMES, *CACHE_NAMES, *MORE_NAMES, "totalTokenCount", "cost", "estimated_cost")
USAGES = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(NAMES, ANY)
    | dict.fromkeys(("prompt_tokens_details", "completion_tokens_details", "billed_units", "cost_details"), DETAILS),
)


def counted(value: Any) -> int:
    """A count as a plain reader would take it, where a request of this size can come to it; else 0."""
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SERVERS_OWN_TOKENS
    return value if sound else 0


@settings(max_examples=400, deadline=None)
@given(USAGES)
@example({"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 20, "cache_read_input_tokens": 2})
def test_no_count_is_lost_whatever_a_usage_object_holds(usage: dict[str, Any]) -> None:
    try:
        got = read(usage)
    except ReplyError:
        pytest.fail("the answer is there whatever its usage says")
    prompt, completion = counted(usage.get("prompt_tokens")), counted(usage.get("completion_tokens"))
    total = counted(usage.get("total_tokens"))
    assert got.prompt_tokens >= prompt
    assert got.completion_tokens >= completion
    assert got.prompt_tokens + got.completion_tokens >= total
    for count in (got.prompt_tokens, got.completion_tokens):
        assert isinstance(count, int) and 0 < count < 2**31
    for part, whole in (
        (got.cached_tokens, got.prompt_tokens),
        (got.reasoning_tokens, got.completion_tokens),
    ):
        assert part is None or 0 <= part <= whole
    assert got.charged_usd is None or 0 <= got.charged_usd < math.inf
