"""Whatever a usage object holds: nothing is booked below what it says in the shape of its provider, and always some dollars."""

from __future__ import annotations

import json
import math
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from jobs.lanes.base import LaneContext
from jobs.lanes.openai.booking import Booking, answer_usd
from jobs.lanes.replies import parse_completion
from jobs.lanes.usage import SERVERS_OWN_TOKENS
from jobs.money.messages import Terms
from jobs.money.sender import Allowance
from jobs.spec.models import Limits, ModelSpec
from routing.pricing import Price

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "content": "what is it"}], "max_tokens": 16}
PRICES = [Price(1.0, 4.0, 0.1), Price(3.0, 15.0), Price(1.0, 4.0, 2.0), Price(0.0, 0.0), Price(5.0, 1.0, 0.5)]
"""Also those where cached tokens, or the prompt's, are the dear ones."""
COUNT = st.integers(0, 3000) | st.integers(-2, 2**33) | st.sampled_from([0, 1, 2**20, 2**31 - 1, 2**31, 2**63, 10**400])
ANY = st.one_of(
    COUNT, COUNT, COUNT.map(str), COUNT.filter(lambda n: n < 2**53).map(float), st.floats(), st.booleans(), st.none(),
    st.text(max_size=4), st.lists(st.integers(), max_size=2),
)  # fmt: skip


def counted(value: Any) -> int:
    """A count as a plain reader would take it, where a request of this size can come to it; else 0."""
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) < 10:
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    sound = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= SERVERS_OWN_TOKENS
    return value if sound else 0


def least_usd(price: Price, prompt: int, cached: int, completion: int, total: int) -> float:
    """A total says nothing of the completion without a prompt."""
    cached, total = min(cached, prompt), total if prompt else 0
    per_cached = (
        price.input_usd_per_million
        if price.cached_input_usd_per_million is None
        else price.cached_input_usd_per_million
    )
    usd = cached * min(per_cached, price.input_usd_per_million) + (prompt - cached) * price.input_usd_per_million
    return (usd + max(completion, total - prompt) * price.output_usd_per_million) / 1e6


def booked_usd(usage: Any, price: Price, capped: bool, model_price: Any = None, text: str = "yes") -> float:
    model = ModelSpec.model_validate({"engine": "openai", "model": "m", "price": model_price})
    context = LaneContext("gpt", model, {"max_tokens": 16}, None, price, "out", "s1", "local")
    allowance = Allowance(None, "gpt", "one", Limits())  # type: ignore[arg-type]  # nothing is asked of it here
    allowance.terms = Terms(capped=capped)
    reply = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}], "usage": usage}
    completion = parse_completion(json.dumps(reply).encode(), REQUEST)
    usd = answer_usd(context, Booking(context, allowance).known(completion, REQUEST, {}).usage)
    assert isinstance(usd, float) and 0 <= usd < math.inf
    return usd


def shape(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=dict.fromkeys(names, ANY))


CHAT = shape("prompt_tokens", "completion_tokens", "total_tokens")
DETAILS = st.fixed_dictionaries(
    {},
    optional={
        "prompt_tokens_details": st.one_of(ANY, shape("cached_tokens", "audio_tokens")),
        "completion_tokens_details": st.one_of(ANY, shape("reasoning_tokens")),
        "cost": ANY,
        "cost_details": st.one_of(ANY, shape("upstream_inference_cost")),
    },
)
A_PRICE = st.sampled_from(PRICES)


@settings(max_examples=300, deadline=None)
@given(CHAT, DETAILS, A_PRICE, st.booleans())
@example({"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 399}, {}, PRICES[0], True)
@example({"prompt_tokens": 0, "completion_tokens": 5000, "total_tokens": 5000}, {}, PRICES[0], True)
@example(
    {"prompt_tokens": 20, "completion_tokens": 5}, {"prompt_tokens_details": {"cached_tokens": 900}}, PRICES[0], True
)
def test_openai(chat: dict[str, Any], details: dict[str, Any], price: Price, capped: bool) -> None:
    names = ("prompt_tokens", "completion_tokens", "total_tokens")
    prompt, completion, total = (counted(chat.get(name)) for name in names)
    parts = details.get("prompt_tokens_details")
    cached = counted(parts.get("cached_tokens")) if isinstance(parts, dict) else 0
    assert booked_usd(chat | details, price, capped) >= least_usd(price, prompt, cached, completion, total) - 1e-15


@settings(max_examples=150, deadline=None)
@given(CHAT, shape("prompt_cache_hit_tokens", "prompt_cache_miss_tokens"), A_PRICE, st.booleans())
def test_deepseek(chat: dict[str, Any], cache: dict[str, Any], price: Price, capped: bool) -> None:
    prompt, completion, total = (
        counted(chat.get(name)) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
    )
    hit = counted(cache.get("prompt_cache_hit_tokens"))
    assert booked_usd(chat | cache, price, capped) >= least_usd(price, prompt, hit, completion, total) - 1e-15


@settings(max_examples=150, deadline=None)
@given(
    shape("input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens"),
    A_PRICE,
    st.booleans(),
)
def test_anthropic(usage: dict[str, Any], price: Price, capped: bool) -> None:
    """Cache counts are beside the others; what is written is paid for no less than other prompt tokens."""
    read, written = (counted(usage.get(f"cache_{kind}_input_tokens")) for kind in ("read", "creation"))
    prompt = counted(usage.get("input_tokens")) + read + written
    if prompt > SERVERS_OWN_TOKENS:
        prompt = read = 0
    least = least_usd(price, prompt, read, counted(usage.get("output_tokens")), 0)
    assert booked_usd(usage, price, capped) >= least - 1e-15


@settings(max_examples=150, deadline=None)
@given(
    shape("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "cachedContentTokenCount", "totalTokenCount"),
    A_PRICE, st.booleans(),
)  # fmt: skip
def test_gemini(usage: dict[str, Any], price: Price, capped: bool) -> None:
    prompt, cached = (counted(usage.get(name)) for name in ("promptTokenCount", "cachedContentTokenCount"))
    told = [counted(usage.get(name)) for name in ("candidatesTokenCount", "thoughtsTokenCount")]
    completion = sum(told) if sum(told) <= SERVERS_OWN_TOKENS else 0
    least = least_usd(price, prompt, cached, completion, counted(usage.get("totalTokenCount")))
    assert booked_usd(usage, price, capped) >= least - 1e-15


@settings(max_examples=150, deadline=None)
@given(ANY, ANY, st.booleans())
def test_a_charge_that_is_none_is_priced_by_its_tokens(cost: Any, upstream: Any, capped: bool) -> None:
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 5,
        "cost": cost,
        "cost_details": {"upstream_inference_cost": upstream},
    }
    charged, by_tokens = booked_usd(usage, PRICES[0], capped, "provider"), booked_usd(usage, PRICES[0], capped)
    assert by_tokens == (20 * 1.0 + 5 * 4.0) / 1e6
    numbers = [n for n in (cost, upstream) if isinstance(n, int | float) and not isinstance(n, bool) and 0 <= n <= 1e6]
    assert charged == by_tokens if not numbers else charged in (*map(float, numbers), float(sum(numbers)))


@settings(max_examples=100, deadline=None)
@given(
    st.recursive(ANY, lambda inner: st.dictionaries(st.text(max_size=20), inner, max_size=3), max_leaves=8),
    st.booleans(),
)
def test_any_json_at_all_is_some_dollars(usage: Any, capped: bool) -> None:
    assert booked_usd(usage, PRICES[0], capped) > 0
