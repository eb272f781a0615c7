"""A reply of chat completions as a `Completion`, or why it is none. No network."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jobs.lanes.chat import JsonObject
from jobs.lanes.providers.body import decoded
from jobs.lanes.providers.errors import ProviderError, error_inside, read_error, squashed
from jobs.lanes.providers.words import EMPTY_FINISH, FAILED_FINISH, FILTERED_FINISH, UNKNOWN, status_of
from jobs.lanes.usage import Usage, guessed_usage, read_usage, usage_object

_OF_A_REPLY = {"choices", "usage", "object", "model", "error", "system_fingerprint"}
"""Keys of which an API of chat completions writes at least one."""


class ReplyError(ValueError):
    """A reply with status 200 that holds no answer. The message says what is wrong with it, never what is in it."""

    def __init__(
        self, message: str, usage: Usage | None = None, error: ProviderError | None = None, *, foreign: bool = False
    ) -> None:
        super().__init__(message)
        self.usage = usage
        """Where the provider told what it charges for the reply."""
        self.error = error
        """Where the reply says of a failure, in spite of its status."""
        self.foreign = foreign
        """Nothing that an API of chat completions sends: a web page, nothing at all, another service's JSON."""


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
    thought: bool = False
    """The model has thought, in a place beside the text (`reasoning_content` and the like)."""
    opened: bool = False
    """Its prompt ended inside a block of thinking, so that the text begins in one."""


_THOUGHTS = (
    "reasoning_content", "reasoning", "reasoning_details", "reasoning_text", "thinking", "thinking_blocks", "thinking_content",
)  # fmt: skip
"""Where servers put what a model thought: texts, or lists of parts."""
_THOUGHT_PARTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_content", "thought", "think")
"""Types of the parts of a content that are thoughts."""


def parse_completion(raw: bytes, request: Mapping[str, Any]) -> Completion:
    """The answer in a reply's bytes. Raises ReplyError where there is none in it.

    An empty text is one too (jobs.lanes.emptiness says where that is no answer), and so is a refusal or a tool call (their JSON
    is the text then). Token counts that the provider left out, or that are more than `request` could hold, are estimated (4 bytes
    a token) and say so. A `request` without a limit of tokens is not the one that was sent: counts are believed then.
    """
    body = _body(raw)
    told = usage_object(body)
    usage = read_usage(told, request)
    if (error := error_inside(body)) is not None:
        raise ReplyError("the reply is an error", usage, error)
    choices = body.get("choices")
    if not isinstance(choices, list) or not choices:
        raise ReplyError("the reply has no choices", usage, foreign=not body.keys() & _OF_A_REPLY)
    choice = choices[0]
    if isinstance(choice, dict) and (error := _broken_off(choice)) is not None:
        raise ReplyError("the reply is an error", usage, error)
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(message, dict):
        raise ReplyError("the reply's choice has no message", usage)
    content, refusal = message.get("content"), message.get("refusal")
    thought = "".join(_texts_in(message.get(name)) for name in _THOUGHTS)
    if isinstance(content, list):  # some servers answer in parts
        thought += "".join(_texts_in(part) for part in content if _is_thought(part))
        content = "".join(_part_text(part) for part in content if not _is_thought(part))
    if content is not None and not isinstance(content, str):
        raise ReplyError("the reply's content is not text", usage)
    refusal = refusal if isinstance(refusal, str) else ""
    calls = message.get("tool_calls") or message.get("function_call")
    reason = choice.get("finish_reason")
    reason = reason if isinstance(reason, str) else ""
    if content is None and not any((refusal, calls, reason, thought)):
        raise ReplyError("the reply's message has no content", usage)
    text = content if content and content.strip() else refusal or (json.dumps(calls) if calls else content or "")
    if usage is None or (text and not usage.completion_tokens):  # no tokens make no text
        usage = guessed_usage(told, request, text + thought, len(choices))
    tier = body.get("service_tier")
    return Completion(
        text,
        reason,
        usage,
        tier if isinstance(tier, str) else "",
        refusal,
        _logprobs(choice),
        thought=bool(thought.strip()),
    )


def _is_thought(part: Any) -> bool:
    return isinstance(part, dict) and (part.get("type") in _THOUGHT_PARTS or part.get("thought") is True)


def _part_text(part: Any) -> str:
    """Of a part of a content: `{"type": "text", "text": …}`, the older shape with a `value` in it, or the text itself."""
    text = part.get("text") if isinstance(part, dict) else part
    text = text.get("value") if isinstance(text, dict) else text
    return text if isinstance(text, str) else ""


def _texts_in(value: Any, depth: int = 6) -> str:
    """All texts of a thought, in whatever parts it comes; one that is encrypted counts as a text too."""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and depth:
        return "".join(_texts_in(part, depth - 1) for part in value)
    if isinstance(value, dict) and depth:
        names = ("text", "thinking", "reasoning", "content", "summary", "data", "value")
        return "".join(_texts_in(value.get(name), depth - 1) for name in names)
    return ""


def _body(raw: bytes) -> JsonObject:
    """The reply as an object; an array is one where it holds an error. Raises ReplyError."""
    try:
        body = decoded(raw)
    except (ValueError, RecursionError):
        text = raw.strip(b"\xef\xbb\xbf\xff\xfe \t\r\n\0")
        if text.startswith((b"{", b"[", b"data:", b"event:", b":")):  # one that breaks off
            raise ReplyError("the reply is not valid JSON") from None
        said = read_error(text)
        if text[:1] != b"<" and status_of(said) != UNKNOWN:
            raise ReplyError("the reply is an error", None, said) from None
        raise ReplyError("the reply is not valid JSON", foreign=True) from None
    if isinstance(body, list) and (error := error_inside(body)) is not None:
        raise ReplyError("the reply is an error", None, error)
    if not isinstance(body, dict):
        raise ReplyError("the reply is not a JSON object", foreign=True)
    return body


def _broken_off(choice: Mapping[str, Any]) -> ProviderError | None:
    """What a `finish_reason` says that is no end of an answer: the provider failed, or held the answer back."""
    told = choice.get("native_finish_reason"), choice.get("finish_reason")
    names = [squashed(name) for name in told if isinstance(name, str)]
    if (reason := next((name for name in reversed(names) if name in FAILED_FINISH), None)) is not None:
        return ProviderError(f"finish_reason {told[1] or told[0]!r}", "", "", FAILED_FINISH[reason])
    message = choice.get("message")
    said = ("content", "refusal", "tool_calls", "function_call")
    is_empty = message is None or (isinstance(message, dict) and not any(message.get(key) for key in said))
    if is_empty and any(name in EMPTY_FINISH for name in names[-1:]):
        return ProviderError(f"finish_reason {told[1]!r}, no answer", "", "")
    if is_empty and any(name in FILTERED_FINISH for name in names):
        return ProviderError(
            f"finish_reason {told[1]!r}, no answer", "content_filter", "", 400, frozenset({"contentfilter"})
        )
    return None


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
