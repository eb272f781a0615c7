"""The bodies of OpenAI's chat completions API: requests checked, answers, chunks and errors built.

Only what the replay needs: field names, nesting and error codes are the provider's own, so that a client cannot tell.
Pure functions, no network.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MAX_COPIES = 128
# One encoder for all: json.dumps makes a new one at every call with options, 10 % of the handler's time.
_encode = json.JSONEncoder(separators=(",", ":")).encode


class ApiError(Exception):
    """A request that gets an error body: HTTP `status`, `code` and type as OpenAI names them."""

    def __init__(self, status: int, code: str, message: str, kind: str = "invalid_request_error") -> None:
        super().__init__(message)
        self.status, self.code, self.kind = status, code, kind

    def body(self) -> bytes:
        return error_body(str(self), self.kind, self.code)


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What of a request's body matters here."""

    model: str
    messages: Sequence[Mapping[str, Any]]
    max_tokens: int | None
    n: int
    stream: bool
    stream_usage: bool
    tier: str = ""
    """The service tier asked for."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """What is answered; token counts as they stand in `usage` and in /stats, over all n copies."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    tier: str = ""
    """The service tier it is served in; "" where none was asked for."""


def parse_request(raw: bytes) -> ChatRequest:
    """Raises ApiError(400) where the body is not a chat request. Messages never carry the prompt back."""
    try:
        body = json.loads(raw)
    # Broken JSON and broken UTF-8 are ValueErrors; ten thousand nested brackets are a RecursionError.
    except (ValueError, RecursionError):
        raise _bad("invalid_json", "We could not parse the JSON body of your request.") from None
    if not isinstance(body, dict):
        raise _bad("invalid_json", "The body of the request must be a JSON object.")
    model, messages = body.get("model"), body.get("messages")
    if not isinstance(model, str) or not model:
        raise _bad("missing_required_parameter", "you must provide a model parameter")
    if not isinstance(messages, list) or not messages:
        raise _bad(
            "missing_required_parameter", "Missing required parameter: 'messages' (a list of one message or more)."
        )
    for place, message in enumerate(messages):
        if not _is_message(message):
            raise _bad("invalid_type", f"Invalid 'messages[{place}]': give a role, and content as text or text parts.")
    given = body.get("max_completion_tokens")
    max_tokens = given if given is not None else body.get("max_tokens")
    if max_tokens is not None and not _is_count(max_tokens):
        raise _bad("integer_below_min_value", "Invalid 'max_tokens' or 'max_completion_tokens': give an integer >= 1.")
    n = 1 if body.get("n") is None else body["n"]
    if not _is_count(n) or n > MAX_COPIES:
        raise _bad("invalid_value", f"Invalid 'n': give an integer from 1 to {MAX_COPIES}.")
    stream_options = body.get("stream_options")
    usage = isinstance(stream_options, dict) and stream_options.get("include_usage") is True
    tier = body.get("service_tier")
    return ChatRequest(
        model, messages, max_tokens, n, stream=body.get("stream") is True, stream_usage=usage,
        tier=tier if isinstance(tier, str) else "",
    )  # fmt: skip


def completion_body(request: ChatRequest, answer: ChatAnswer, ordinal: int) -> bytes:
    """The chat.completion object of one answer, n times the same choice."""
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        for index in range(request.n)
    ]
    head = _head(request.model, ordinal, "chat.completion")
    if answer.tier:
        head["service_tier"] = answer.tier
    return _dump(head | {"choices": choices, "usage": _usage(answer)})


def empty_body(request: ChatRequest, answer: ChatAnswer, ordinal: int) -> bytes:
    """The fault `empty`: well-formed, without a choice, and with nothing in usage's completion tokens."""
    nothing = ChatAnswer("", "stop", answer.prompt_tokens, 0)
    return _dump(_head(request.model, ordinal, "chat.completion") | {"choices": [], "usage": _usage(nothing)})


def chunks(request: ChatRequest, answer: ChatAnswer, ordinal: int, n_pieces: int = 4) -> Iterator[bytes]:
    """The server-sent events of one answer: role, text in `n_pieces`, finish reason, usage where asked for, [DONE]."""
    head = _head(request.model, ordinal, "chat.completion.chunk")
    step = max(1, -(-len(answer.text) // n_pieces))
    pieces = [answer.text[at : at + step] for at in range(0, len(answer.text), step)]
    deltas: list[tuple[dict[str, str], str | None]] = [({"role": "assistant", "content": ""}, None)]
    deltas += [({"content": piece}, None) for piece in pieces]
    deltas += [({}, answer.finish_reason)]
    for delta, reason in deltas:
        for index in range(request.n):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield b"data: " + _dump(head | {"choices": [choice]}) + b"\n\n"
    if request.stream_usage:
        yield b"data: " + _dump(head | {"choices": [], "usage": _usage(answer)}) + b"\n\n"
    yield b"data: [DONE]\n\n"


def models_body(models: tuple[str, ...]) -> bytes:
    """The list object of GET /v1/models."""
    data = [{"id": model, "object": "model", "created": 0, "owned_by": "headgate-replay"} for model in models]
    return _dump({"object": "list", "data": data})


def error_body(message: str, kind: str, code: str) -> bytes:
    """OpenAI's error object."""
    return _dump({"error": {"message": message, "type": kind, "param": None, "code": code}})


def _head(model: str, ordinal: int, kind: str) -> dict[str, object]:
    return {"id": f"chatcmpl-replay-{ordinal}", "object": kind, "created": int(time.time()), "model": model}


def _usage(answer: ChatAnswer) -> dict[str, object]:
    return {
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.completion_tokens,
        "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def _is_message(message: object) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        return False
    content = message.get("content")
    if content is None or isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict) and (part.get("type") != "text" or isinstance(part.get("text"), str)) for part in content
    )


def _is_count(value: object) -> bool:
    # bool is an int in Python, and `"n": true` is not a count.
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _bad(code: str, message: str) -> ApiError:
    return ApiError(400, code, message)


def _dump(value: object) -> bytes:
    return _encode(value).encode("ascii")
