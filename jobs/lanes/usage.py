"""How many tokens a reply says it used, in the shapes that providers write, and whether to believe it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jobs.lanes.chat import max_completion_tokens, request_tokens_bound

SERVERS_OWN_TOKENS = 65_536
"""Most that a server is believed to count beyond what a request can hold: its own chat template, instructions and tools, or
reasoning that its limit leaves out. A larger count is broken."""
LONGEST_CONTEXT = 2**21
"""For prompts with parts that are not text: a document's tokens are not bounded by its bytes."""
_INT32_MAX = 2**31 - 1


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


def read_usage(value: Any, request: Mapping[str, Any]) -> Usage | None:
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


def estimated_tokens(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass")) // 4 + 1
