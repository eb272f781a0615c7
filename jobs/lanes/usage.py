"""How many tokens a reply says it used and what it says was charged, in the shapes that providers write; and whether to believe it.

Servers agree on the names of two counts and on little else. What is read here, whatever its case (`promptTokenCount`):

* prompt and completion under the names of chat completions, responses, Gemini, Cohere (`billed_units`, `tokens`) and Ollama;
* reasoning that `completion_tokens` leaves out (xAI, Gemini): the completion is total - prompt wherever total is larger, and where
  no total says so, a part that is more than the whole is not a part of it;
* cached tokens in `prompt_tokens_details`, beside the counts (DeepSeek, Moonshot), or outside of them (Anthropic), where they are
  prompt tokens too. Of several that differ the least counts, but a 0 beside another for nothing: gateways fill in zeros;
* dollars: `cost` with `cost_details` (OpenRouter), `cost.total_cost` (Perplexity), `cost_in_usd_ticks` (xAI), `estimated_cost`.

A count may be a whole float or decimal digits. A prompt of no tokens does not exist: such counts are as good as none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jobs.lanes.chat import JsonObject, max_completion_tokens, request_tokens_bound

SERVERS_OWN_TOKENS = 2**20
"""Most that a server is believed to count beyond what a request can hold: its own chat template, instructions, what its tools
found, or reasoning that its limit leaves out: the longest context of any model. A larger count is broken."""
LONGEST_CONTEXT = 2**21
"""For prompts with parts that are not text: a document's tokens are not bounded by its bytes."""
_INT32_MAX = 2**31 - 1
_DIGITS = re.compile(r"\s*(\d{1,10})(?:\.0*)?\s*", re.ASCII)
_HUMP = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_PROMPT = ("prompt_tokens", "prompt_token_count", "prompt_eval_count")
_INPUT = ("input_tokens", "input_token_count")
_COMPLETION = ("completion_tokens", "output_tokens", "output_token_count", "generated_token_count", "eval_count")
_TOTAL = ("total_tokens", "total_token_count")
_CACHE_READ = ("cache_read_input_tokens", "cache_read_tokens")
_CACHE_WRITE = ("cache_creation_input_tokens", "cache_write_input_tokens", "cache_write_tokens")
_CACHED = ("cached_tokens", "cached_content_token_count", "prompt_cache_hit_tokens", "num_cached_tokens")
_CACHED_MORE = ("cached_input_tokens", "cache_read")
_REASONING = ("reasoning_tokens", "thoughts_token_count", "reasoning")
_PROMPT_DETAILS = ("prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details")
_COMPLETION_DETAILS = ("completion_tokens_details", "output_tokens_details", "output_token_details")
_USD = ("cost", "total_cost", "cost_usd", "total_cost_usd", "estimated_cost")
_TICKS_PER_USD = 1e10
MOST_USD = 1e6
"""A reply that says it cost more is broken."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one reply."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None
    """Of the prompt tokens."""
    reasoning_tokens: int | None = None
    """Of the completion tokens."""
    source: Literal["provider", "estimated", "bound"] = "provider"
    charged_usd: float | None = None
    """What the provider says it charged; None where it does not say, or nothing that can be believed."""
    told: tuple[int, int] = (0, 0)
    """Of a guess: prompt and completion tokens as far as the reply does tell them, which it is not below."""


@dataclass(frozen=True, slots=True)
class _Counts:
    """What a usage object tells; None for what it does not."""

    prompt: int | None = None
    completion: int | None = None
    total: int | None = None
    cached: int | None = None
    reasoning: int | None = None
    answer: int | None = None
    """The completion as it is told, whatever the total says."""


def usage_object(body: Mapping[str, Any]) -> JsonObject:
    """The usage object of a reply, wherever it stands in it; empty where there is none."""
    choices, groq = body.get("choices"), body.get("x_groq")
    choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    places = [body.get("usage"), body.get("usageMetadata"), body.get("usage_metadata")]
    places += [groq.get("usage") if isinstance(groq, dict) else None, choice.get("usage")]
    found = next((place for place in places if isinstance(place, dict) and place), {})
    gateway = _at(choice, "message", "provider_metadata", "gateway") or _at(body, "provider_metadata", "gateway")
    if "cost" not in found and gateway is not None and (usd := _usd(_number(gateway.get("cost")))) is not None:
        return {**found, "cost": usd}
    return found


def read_usage(value: Any, request: Mapping[str, Any]) -> Usage | None:
    """The counts of a usage object; None where it does not tell both, or not so that they can be believed.

    request: the one that was sent; one without a limit of tokens is not, and all counts are believed then.
    """
    if not isinstance(value, dict):
        return None
    most_prompt, most_completion = _most_possible(request)
    counts = _counts(_sound(value, most_prompt + most_completion - SERVERS_OWN_TOKENS))
    prompt, completion = counts.prompt, counts.completion
    if not prompt or completion is None or prompt > most_prompt or completion > most_completion:
        return None
    return Usage(
        prompt,
        completion,
        None if counts.cached is None else min(counts.cached, prompt),
        None if counts.reasoning is None else min(counts.reasoning, completion),
        charged_usd=_charged_usd(_snake(value)),
    )


def guessed_usage(value: Any, request: Mapping[str, Any], text: str, n_choices: int) -> Usage:
    """The usage of an answer that does not tell it: by its bytes, and no less than what it does tell.

    value: its usage object, for what is left of it. text: of its first choice.
    """
    usage = value if isinstance(value, dict) else {}
    most_prompt, most_completion = _most_possible(request)
    counts = _counts(_sound(usage, most_prompt + most_completion - SERVERS_OWN_TOKENS))
    told = max(n for n in (0, counts.prompt) if n is not None and n <= most_prompt)
    prompt = max(told, estimated_tokens(json.dumps(request["messages"])))
    answers = (0, counts.answer, counts.completion, (counts.total or 0) - prompt)
    answer = max(n for n in answers if n is not None and n <= most_completion)
    return Usage(
        prompt,
        max(answer, estimated_tokens(text) * n_choices),
        source="estimated",
        charged_usd=_charged_usd(_snake(usage)),
        told=(told, answer),
    )


def within(usage: Usage, prompt_bound: int, max_tokens: int, text: str = "") -> Usage:
    """The usage of a reply whose request is not at hand, but its bounds: what such a request cannot come to is not believed.

    text: of the answer.
    """
    counts = usage.told if usage.source == "estimated" else (usage.prompt_tokens, usage.completion_tokens)
    most = prompt_bound + SERVERS_OWN_TOKENS, max_tokens + SERVERS_OWN_TOKENS
    told = tuple(n if n <= limit else 0 for n, limit in zip(counts, most, strict=True))
    if usage.source == "provider" and told == counts:
        return usage
    guess = usage.completion_tokens if usage.completion_tokens <= most[1] else estimated_tokens(text)
    return Usage(
        max(told[0], prompt_bound // 4 + 1),
        max(told[1], guess),
        source="estimated",
        charged_usd=usage.charged_usd,
        told=(told[0], told[1]),
    )


def header_usd(headers: Mapping[str, str]) -> float | None:
    """What LiteLLM's proxy says in a header that a reply cost."""
    return _usd(_number(headers.get("x-litellm-response-cost")))


def estimated_tokens(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1


# Counts -------------------------------------------------------------------------------------------------------------


def _counts(usage: Mapping[str, Any]) -> _Counts:
    total = _most(usage, *_TOTAL)
    answer, reasoning = _completion(usage)
    prompt, cached = _prompt(usage, total, answer)
    if prompt is None and total is not None and answer is not None:
        prompt = max(0, total - answer)
    completion = answer
    if total is not None and prompt is not None and total - prompt > (answer or 0):
        completion = total - prompt
    elif reasoning is not None and answer is not None and reasoning > answer:
        completion = answer + reasoning
    elif completion is None and total is not None and prompt == total:
        completion = 0
    return _Counts(prompt, completion, total, cached, reasoning, answer)


def _completion(usage: Mapping[str, Any]) -> tuple[int | None, int | None]:
    """Completion tokens as they are told, and those of them, or beside them, that are reasoning."""
    told = [_most(usage, *_COMPLETION), *(_most(units, *_COMPLETION) for units in _units(usage))]
    answer = next((n for n in told if n is not None), None)
    details = [usage, *_dicts(usage, _COMPLETION_DETAILS)]
    reasoning = _largest(_most(place, *_REASONING) for place in details)
    candidates, thoughts = _most(usage, "candidates_token_count"), _most(usage, "thoughts_token_count")
    if candidates is not None or (thoughts is not None and answer is None):
        answer = max(answer or 0, (candidates or 0) + (thoughts or 0))
    return answer, reasoning


def _prompt(usage: Mapping[str, Any], total: int | None, completion: int | None) -> tuple[int | None, int | None]:
    """Prompt tokens, cached ones included, and how many of them were cached."""
    chat, given = _most(usage, *_PROMPT), _most(usage, *_INPUT)
    if chat is None and given is None:
        chat = next((n for units in _units(usage) if (n := _most(units, *_INPUT)) is not None), None)
    read, written = _most(usage, *_CACHE_READ) or 0, _most(usage, *_CACHE_WRITE) or 0
    told = [_most(place, name) for place in (usage, *_dicts(usage, _PROMPT_DETAILS)) for name in _CACHED + _CACHED_MORE]
    cached, beside = _least_above_0(told), read + written
    if beside and not cached:  # nothing says that they are among the others
        if chat and (beside > chat or total == chat + (completion or 0) + beside):
            chat += beside
        if given is not None or chat is None:
            given = (given or 0) + beside
    prompt = _largest((chat, given))
    hit, missed = _most(usage, "prompt_cache_hit_tokens"), _most(usage, "prompt_cache_miss_tokens")
    if not prompt and hit is not None and missed is not None:
        prompt = hit + missed
    if prompt is not None:
        prompt += _most(usage, "tool_use_prompt_token_count") or 0
    return prompt, _least_above_0([*told, _most(usage, *_CACHE_READ)])


def _most_possible(request: Mapping[str, Any]) -> tuple[int, int]:
    """Most prompt and completion tokens that the request could come to, whatever a server adds of its own."""
    if not request.keys() & {"max_tokens", "max_completion_tokens"}:
        return _INT32_MAX, _INT32_MAX
    is_text = all(isinstance(message.get("content"), str | None) for message in request["messages"])
    own = SERVERS_OWN_TOKENS if is_text else LONGEST_CONTEXT
    most = request_tokens_bound(request) + own, max_completion_tokens(request) + SERVERS_OWN_TOKENS
    return min(most[0], _INT32_MAX), min(most[1], _INT32_MAX)


def _sound(usage: Mapping[str, Any], most: int) -> JsonObject:
    """The object without counts that are larger than all tokens of the request could be."""
    return {
        name: _sound(value, most) if isinstance(value, dict) else value
        for name, value in _snake(usage).items()
        if (_count(value) or 0) <= most
    }


def _units(usage: Mapping[str, Any]) -> Iterator[JsonObject]:
    """Cohere's counts: those that are billed first."""
    return _dicts(usage, ("billed_units", "tokens"))


def _most(usage: Mapping[str, Any], *names: str) -> int | None:
    """The largest count under these names; gateways fill in zeros under those that they do not use."""
    return _largest(_count(usage.get(name)) for name in names)


def _largest(counts: Iterable[int | None]) -> int | None:
    return max((n for n in counts if n is not None), default=None)


def _least_above_0(counts: Iterable[int | None]) -> int | None:
    told = [n for n in counts if n is not None]
    return min((n for n in told if n), default=0 if told else None)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # JavaScript and Lua gateways: 12.0
        value = int(value)
    if isinstance(value, str) and (digits := _DIGITS.fullmatch(value)):
        value = int(digits[1])
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT32_MAX else None


# Dollars ------------------------------------------------------------------------------------------------------------


def _charged_usd(usage: Mapping[str, Any]) -> float | None:
    """Dollars in a usage object. With a key of one's own (`is_byok`) the gateway's fee is one part, and the provider's price
    another; without, that price is told too, and is in the cost."""
    cost = usage.get("cost")
    paid = _first_usd(usage, _USD) if not isinstance(cost, dict) else _first_usd(_snake(cost), _USD)
    if paid is None and (ticks := _number(usage.get("cost_in_usd_ticks"))) is not None:
        paid = _usd(ticks / _TICKS_PER_USD)
    details = next(_dicts(usage, ("cost_details",)), {})
    upstream, own_key = _usd(details.get("upstream_inference_cost")), usage.get("is_byok")
    if paid is None:
        return upstream if upstream is not None else _first_usd(details, _USD)
    if upstream is not None and (own_key is True or (own_key is not False and paid < upstream)):
        return paid + upstream
    return paid


def _first_usd(place: Mapping[str, Any], names: tuple[str, ...]) -> float | None:
    return next((usd for name in names if (usd := _usd(place.get(name))) is not None), None)


def _usd(value: Any) -> float | None:
    """A number of dollars; None for text, and for what no reply costs."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if 0 <= value <= MOST_USD else None


def _number(value: Any) -> float | None:
    """A number, also one written as text."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None


# JSON ---------------------------------------------------------------------------------------------------------------


def _dicts(usage: Mapping[str, Any], names: tuple[str, ...]) -> Iterator[JsonObject]:
    """The objects under these names."""
    return (value for name in names if isinstance(value := usage.get(name), dict))


def _at(place: Any, *names: str) -> JsonObject | None:
    """The object at the end of a way through objects."""
    for name in names:
        place = place.get(name) if isinstance(place, dict) else None
    return place if isinstance(place, dict) else None


def _snake(value: Mapping[str, Any]) -> JsonObject:
    """The object with its names as in `total_tokens`, however they are written: `totalTokens`."""
    plain = {name: each for name, each in value.items() if name.islower()}
    return {_HUMP.sub("_", name).lower(): each for name, each in value.items()} | plain
