"""One row as an OpenAI chat-completions request, and what came back as a `Completion`. No network.

The body sent is exactly `build_request`'s. A row's own parameters (OpenAI batch lines) win over the job's, except the
model and the service tier, which say what it costs. Before sending, a request is bounded from above: a token is at
least one byte of UTF-8, plus `MESSAGE_TOKENS` a message for roles and separators. Dollars are reserved by that bound;
what is paid is what the provider's `usage` says.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jobs.spec.models import NOT_SAMPLING, ModelSpec
from jobs.storage.keys import digest16
from routing.pricing import MESSAGE_TOKENS
from routing.pricing import prompt_tokens_bound as text_tokens_bound

JsonObject = dict[str, Any]
"""A JSON object as it goes over the wire: a request, a reply, a message, the parameters of either."""
IMAGE_TOKENS = 50_000
"""Bound for one part that is not text: the most tiles at the highest price per tile of OpenAI's vision models."""
_NOT_IN_ANSWER = ("service_tier", "user", "metadata", "store", "safety_identifier", "prompt_cache_key", "logprobs")
_NOT_IN_PROMPT = ("messages", "metadata", "logit_bias", "stop", "prediction", "modalities")
_INT32_MAX = 2**31 - 1


class RequestError(ValueError):
    """The row's own parameters make no request: the row is rejected unasked. The message is its error."""


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
    """Most tokens the answer to `request` may have, over all its choices; those of a prediction that proves wrong are paid too."""
    limit = int(request.get("max_completion_tokens") or request["max_tokens"])
    if prediction := request.get("prediction"):
        limit += len(json.dumps(prediction))
    return limit * int(request.get("n") or 1)


def prompt_tokens_bound(messages: Sequence[Mapping[str, Any]]) -> int:
    """Upper bound on the prompt tokens of `messages`: bytes of all texts, 8 a message, 50,000 a picture."""
    total = 0
    texts = []
    for message in messages:
        content = message.get("content")
        if isinstance(content, list):
            others = [part for part in content if not isinstance(part, str) and not isinstance(part.get("text"), str)]
            total += sum(IMAGE_TOKENS + _beside_a_picture(part) for part in others)
            message = {**message, "content": [part for part in content if part not in others]}
        texts.append(message)
    return total + text_tokens_bound(texts)


def _beside_a_picture(part: Any) -> int:
    """Bytes of a part that is not text; of a picture that stands in it whole, the rest."""
    picture = part.get("image_url") if isinstance(part, Mapping) else None
    url = picture.get("url") if isinstance(picture, Mapping) else picture
    in_it = len(url) if isinstance(url, str) and url.startswith("data:image/") else 0
    return len(json.dumps(part)) - in_it


def request_tokens_bound(request: Mapping[str, Any]) -> int:
    """Upper bound on the prompt tokens of a whole request: tools, schema, documents and the like are part of the prompt."""
    more = [
        value
        for name, value in request.items()
        if name not in _NOT_IN_PROMPT and isinstance(value, list | dict) and value
    ]
    return prompt_tokens_bound(request["messages"]) + sum(len(json.dumps(value)) + MESSAGE_TOKENS for value in more)


def answer_key(request: Mapping[str, Any]) -> bytes:
    """16 bytes over all of a request that can change its answer: model, messages, sampling, schema."""
    counted = {name: value for name, value in request.items() if name not in _NOT_IN_ANSWER}
    return digest16(json.dumps(counted, sort_keys=True, separators=(",", ":")))
