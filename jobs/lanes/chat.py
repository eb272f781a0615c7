"""One row as an OpenAI chat-completions request, and what came back as a `Completion`. No network.

The body sent is exactly `build_request`'s. A row's own parameters (OpenAI batch lines) win over the job's, except the
model and the service tier, which say what it costs. Before sending, a request is bounded from above: a token is at
least one byte of UTF-8, plus `MESSAGE_TOKENS` a message for roles and separators. Dollars are reserved by that bound;
what is paid is what the provider's `usage` says.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from jobs.spec.models import NOT_SAMPLING, ModelSpec
from jobs.storage.keys import digest16
from routing.pricing import MESSAGE_TOKENS
from routing.pricing import prompt_tokens_bound as text_tokens_bound

JsonObject = dict[str, Any]
"""A JSON object as it goes over the wire: a request, a reply, a message, the parameters of either."""
IMAGE_TOKENS = 50_000
"""Bound for one part that is not text: the most tiles at the highest price per tile of OpenAI's vision models."""
_NOT_IN_ANSWER = ("service_tier", "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "logprobs")
SERVERS_OWN_TOKENS = 65_536
"""Most that a server is believed to count beyond what a request can hold: its own chat template, instructions and tools, or
reasoning that its limit leaves out. A larger count is broken."""
LONGEST_CONTEXT = 2**21
"""For prompts with parts that are not text: a document's tokens are not bounded by its bytes."""
_INT32_MAX = 2**31 - 1


class RequestError(ValueError):
    """The row's own parameters make no request: the row is rejected unasked. The message is its error."""


class ReplyError(ValueError):
    """A reply with status 200 that holds no answer. The message says what is wrong with it, never what is in it."""

    def __init__(self, message: str, usage: Usage | None = None) -> None:
        super().__init__(message)
        self.usage = usage
        """Where the provider told what it charges for the reply."""


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


@dataclass(frozen=True, slots=True)
class Completion:
    """The first choice of a reply."""

    text: str
    """ "" where the model said nothing."""
    finish_reason: str
    usage: Usage
    tier: str = ""
    """The service tier it was served in, and is charged at; "" where the provider does not tell."""
    refusal: str = ""
    """What the model said instead of answering, where the provider tells refusals apart."""
    logprobs: tuple[float, float] | None = None
    """Mean and least log-probability of its tokens, where the provider tells."""


def build_request(
    model: ModelSpec,
    alias: str,
    sampling: Mapping[str, Any],
    response_format: Mapping[str, Any] | None,
    messages: Sequence[Mapping[str, Any]],
    body: Mapping[str, Any] | None = None,
) -> JsonObject:
    """Body of POST /chat/completions.

    `sampling`: merged, with max_tokens or max_completion_tokens (reasoning models want the latter). `body`: the row's
    own parameters. Raises RequestError where the row's limit of tokens or number of choices is not a count.
    """
    own = {name: value for name, value in (body or {}).items() if name not in NOT_SAMPLING and value is not None}
    request: JsonObject = {"model": model.model or alias, "messages": list(messages), **sampling}
    if response_format is not None:
        request["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": response_format["json_schema"], "strict": True},
        }
    if model.service_tier:
        request["service_tier"] = model.service_tier
    if "max_completion_tokens" in own or "max_tokens" in own:
        request.pop("max_completion_tokens", None)
        request.pop("max_tokens", None)
    request |= own
    if "max_completion_tokens" in request:
        request.pop("max_tokens", None)
    for name in ("max_completion_tokens", "max_tokens", "n"):
        value = request.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= _INT32_MAX):
            raise RequestError(f"body.{name} is not a whole number above 0")
    return request


def max_completion_tokens(request: Mapping[str, Any]) -> int:
    """Most tokens the answer to `request` may have, over all its choices."""
    limit = request.get("max_completion_tokens") or request["max_tokens"]
    return int(limit) * int(request.get("n") or 1)


def prompt_tokens_bound(messages: Sequence[Mapping[str, Any]]) -> int:
    """Upper bound on the prompt tokens of `messages`: bytes of all texts, 8 a message, 50,000 a picture."""
    total = 0
    texts = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            others = [part for part in content if not isinstance(part, str) and not isinstance(part.get("text"), str)]
            total += sum(IMAGE_TOKENS + len(json.dumps(part)) for part in others)
            message = {**message, "content": [part for part in content if part not in others]}
        texts.append(message)
    return total + text_tokens_bound(texts)


def request_tokens_bound(request: Mapping[str, Any]) -> int:
    """Upper bound on the prompt tokens of a whole request: tools and schema are part of the prompt."""
    more = (request.get(name) for name in ("tools", "functions", "response_format") if request.get(name))
    return prompt_tokens_bound(request["messages"]) + sum(len(json.dumps(value)) + MESSAGE_TOKENS for value in more)


def answer_key(request: Mapping[str, Any]) -> bytes:
    """16 bytes over all of a request that can change its answer: model, messages, sampling, schema."""
    counted = {name: value for name, value in request.items() if name not in _NOT_IN_ANSWER}
    return digest16(json.dumps(counted, sort_keys=True, separators=(",", ":")))


def parse_completion(raw: bytes, request: Mapping[str, Any]) -> Completion:
    """The answer in a reply's bytes. Raises ReplyError where there is none in it.

    An empty text is an answer; so is a refusal or a tool call (their JSON is the text then). Token counts that the provider
    left out, or that are more than `request` could hold, are estimated (4 bytes a token) and say so. A `request` without a
    limit of tokens is not the one that was sent: counts are believed then.
    """
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        raise ReplyError("the reply is not valid JSON") from None
    if not isinstance(body, dict):
        raise ReplyError("the reply is not a JSON object")
    usage = _usage(body.get("usage"), request)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ReplyError("the reply has no choices", usage)
    choice = choices[0]
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ReplyError("the reply's choice has no message", usage)
    content, refusal = message.get("content"), message.get("refusal")
    if isinstance(content, list):  # some servers answer in parts
        content = "".join(str(part.get("text") or "") for part in content if isinstance(part, dict))
    if content is not None and not isinstance(content, str):
        raise ReplyError("the reply's content is not text", usage)
    refusal = refusal if isinstance(refusal, str) else ""
    calls = message.get("tool_calls")
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else ""
    if content is None and not refusal and not calls and not reason:
        raise ReplyError("the reply's message has no content", usage)
    text = content if content is not None else refusal or (json.dumps(calls) if calls else "")
    if usage is None:
        usage = Usage(_estimate(json.dumps(request["messages"])), _estimate(text) * len(choices), source="estimated")
    tier = body.get("service_tier")
    return Completion(text, reason, usage, tier if isinstance(tier, str) else "", refusal, _logprobs(choice))


def _logprobs(choice: Mapping[str, Any]) -> tuple[float, float] | None:
    """Mean and least of a choice's `logprobs.content`; None where there is none, or a token without a number."""
    found = choice.get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    if not isinstance(content, list) or not content:
        return None
    values: list[Any] = [token.get("logprob") if isinstance(token, dict) else None for token in content]
    if not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        return None
    return mean_and_least(values)


def mean_and_least(logprobs: Sequence[float]) -> tuple[float, float] | None:
    """Of an answer's tokens; None without any. Never below -1e4, which is how some servers write minus infinity."""
    if not logprobs:
        return None
    bounded = [max(float(value), -1e4) for value in logprobs]
    return math.fsum(bounded) / len(bounded), min(bounded)


def _usage(value: Any, request: Mapping[str, Any]) -> Usage | None:
    if not isinstance(value, dict):
        return None
    prompt, completion = _count(value.get("prompt_tokens")), _count(value.get("completion_tokens"))
    if prompt is None or completion is None or _is_broken(prompt, completion, request):
        return None
    return Usage(
        prompt,
        completion,
        _detail(value.get("prompt_tokens_details"), "cached_tokens", prompt),
        _detail(value.get("completion_tokens_details"), "reasoning_tokens", completion),
    )


def _is_broken(prompt: int, completion: int, request: Mapping[str, Any]) -> bool:
    """Counts that the request could not come to, whatever a server adds of its own."""
    if max(prompt, completion) <= SERVERS_OWN_TOKENS or not request.keys() & {"max_tokens", "max_completion_tokens"}:
        return False
    is_text = all(isinstance(message.get("content"), str | None) for message in request["messages"])
    most_prompt = request_tokens_bound(request) + (SERVERS_OWN_TOKENS if is_text else LONGEST_CONTEXT)
    return prompt > most_prompt or completion > max_completion_tokens(request) + SERVERS_OWN_TOKENS


def _detail(details: Any, name: str, whole: int) -> int | None:
    """A part of a count, never more than the whole."""
    part = _count(details.get(name)) if isinstance(details, dict) else None
    return None if part is None else min(part, whole)


def _count(value: Any) -> int | None:
    if isinstance(value, float) and value.is_integer():  # JavaScript and Lua gateways: 12.0
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _INT32_MAX else None


def _estimate(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1
