"""A reply's bytes as one JSON value, whatever is around it: byte order marks, keep-alives, server-sent events.

Providers and gateways send events (`data: {…}`) also where no stream was asked for, comments and blank lines while a request waits,
and `data: [DONE]` behind a whole reply. The pieces of a stream are put together to the reply that they are pieces of. A stream
that breaks off is none. Cost: one pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from jobs.lanes.chat import JsonObject

_LINES = re.compile(r"\r\n|\n|\r")
"""Ends of lines in a stream: others, such as U+2028, are text."""
_FIELDS = ("data:", "event:", "id:", "retry:")
_TEXTS = (
    "content", "reasoning_content", "reasoning", "refusal", "reasoning_text", "reasoning_details", "thinking", "thinking_blocks",
    "thinking_content",
)  # fmt: skip
"""Parts of a message that come in pieces."""
_DONE = "[DONE]"


def decoded(raw: bytes) -> Any:
    """The JSON value of a body. Raises ValueError where there is none, or where a stream breaks off; RecursionError."""
    text = raw.decode(json.detect_encoding(raw), "surrogatepass").lstrip("\ufeff \t\r\n")
    while text.startswith(":"):  # comments: a keep-alive
        text = text[_line_end(text) :].lstrip("\ufeff \t\r\n")
    if text.startswith(_FIELDS):
        return _assembled(text)
    value, end = json.JSONDecoder().raw_decode(text)
    for line in _LINES.split(text[end:]):
        rest = line.strip(" \t\0")
        if rest and not rest.startswith(":") and rest.removeprefix("data:").strip() != _DONE:
            raise ValueError("there is more behind the JSON")
    return value


def _line_end(text: str) -> int:
    found = _LINES.search(text)
    return len(text) if found is None else found.end()


def _assembled(text: str) -> JsonObject:
    """The reply that these events are pieces of."""
    body: JsonObject = {}
    choices: dict[int, JsonObject] = {}
    done = False
    for name, value in _events(text):
        if value == _DONE:
            done = True
            continue
        if not isinstance(value, dict):
            continue
        if name == "error":
            body["error"] = value.get("error") or value
        # What stands beside the choices: of the last piece that says so.
        body |= {key: part for key, part in value.items() if key != "choices" and part is not None}
        groq = value.get("x_groq")
        if isinstance(groq, dict) and isinstance(groq.get("usage"), dict):
            body["usage"] = groq["usage"]
        pieces = value.get("choices")
        for piece in pieces if isinstance(pieces, list) else []:
            if isinstance(piece, dict):
                index = piece.get("index")
                _add(choices.setdefault(index if isinstance(index, int) else 0, {}), piece)
    if choices:
        body["choices"] = [{"index": index} | choices[index] for index in sorted(choices)]
    if not done and not body.get("error") and not all(choice.get("finish_reason") for choice in choices.values()):
        raise ValueError("the stream breaks off")
    return body


def _events(text: str) -> Iterator[tuple[str, Any]]:
    """(name, value) of each event: "" and JSON's value, or the text [DONE]. Raises ValueError for what is neither."""
    name, lines = "", list[str]()
    for line in [*_LINES.split(text), ""]:
        if line.startswith("data:"):
            lines.append(line[5:].strip())
        elif line.startswith("event:"):
            name = line[6:].strip()
        elif not line.strip():
            yield from ((name, value) for value in _values(lines))
            name, lines = "", []
        elif not line.startswith((":", "id:", "retry:")):
            lines.append(line)  # a value that somebody broke over lines


def _values(lines: list[str]) -> list[Any]:
    """Of the data lines between two blank ones: a value each, or one value in all."""
    lines = [line for line in lines if line]
    try:
        return [line if line == _DONE else json.loads(line) for line in lines]
    except ValueError:
        return [json.loads("\n".join(lines))]


def _add(choice: JsonObject, piece: Mapping[str, Any]) -> None:
    """Put a piece to the choice that it is of."""
    delta = piece.get("delta")
    if not isinstance(delta, dict):
        delta = piece.get("message")
    message = choice.setdefault("message", {"role": "assistant", "content": None})
    for key, part in delta.items() if isinstance(delta, dict) else ():
        if key in _TEXTS:
            message[key] = _joined(message.get(key), part)
        elif key == "tool_calls" and isinstance(part, list):
            _add_calls(message.setdefault("tool_calls", []), part)
        elif part is not None:
            message[key] = part
    for key, part in piece.items():
        if key == "logprobs" and isinstance(part, dict) and isinstance(part.get("content"), list):
            told = choice.setdefault("logprobs", {"content": []})
            told["content"] = [*told["content"], *part["content"]]
        elif key not in ("delta", "message", "index", "logprobs") and part is not None:
            choice[key] = part


def _joined(before: Any, part: Any) -> Any:
    """Two pieces of a text, or of a list of parts."""
    if part is None or before is None:
        return before if part is None else part
    if isinstance(before, str) and isinstance(part, str):
        return before + part
    as_parts = [value if isinstance(value, list) else [{"type": "text", "text": value}] for value in (before, part)]
    return as_parts[0] + as_parts[1]


def _add_calls(calls: list[Any], pieces: list[Any]) -> None:
    """Pieces of tool calls, to the calls of the same index."""
    for piece in pieces:
        if not isinstance(piece, dict):
            continue
        index = piece.get("index")
        known = [call for call in calls if index is not None and call.get("index") == index]
        if not known:
            calls.append(dict(piece))
            continue
        call, function = known[0], piece.get("function")
        if isinstance(function, dict):
            own = call.get("function")
            own = call["function"] = dict(own) if isinstance(own, dict) else {}
            for key, part in function.items():
                if isinstance(part, str):
                    own[key] = str(own.get(key) or "") + part
        for key, part in piece.items():
            if key not in ("index", "function") and part and not call.get(key):
                call[key] = part
