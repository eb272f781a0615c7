"""OpenAI batch lines: what of a line and its body is asked as it stands, is the row's error, or is the job's to say.

Never is a field left out in silence. What the job file decides for all rows (which model, which tier, whole answers) and what
cannot be kept of an answer is counted by kind, and the plan says so: see NOTES. What would ask for something else than a chat
completion, or cost what no count of tokens tells, is the row's error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jobs.errors import InputError
from jobs.spec.job import JobSpec

LINE_FIELDS = ("custom_id", "method", "url", "body")
NOTES = {
    "model": "name a model that the job does not have: the job's own models answer them",
    "stream": "ask for a stream: their answers come whole",
    "service_tier": "ask for a service tier: that of the job's models goes",
    "n": "ask for several answers: all are paid, and the first is kept",
    "logprobs": "ask for log-probabilities: responses/ does not keep them",
}
"""What is said of rows in the plan, by the field of their bodies."""
SET_BY_THE_JOB = ("model", "stream", "stream_options", "service_tier")
COSTS_MORE = {
    "web_search_options": "searches",
    "search_parameters": "searches",
    "plugins": "plugins",
    "models": "other models",
    "audio": "spoken answers",
}
"""Fields whose use is charged beside or above the model's tokens → what it is charged for."""
TOOLS = ("function", "custom")
"""Types of tools that the caller runs; the provider's own are charged by the call."""
CHAT = "/chat/completions"


class BodyError(Exception):
    """Why a line cannot be asked."""


@dataclass(frozen=True, slots=True)
class BatchLine:
    """A line that can be asked."""

    messages: Any
    """As they stand in the body, not looked at."""
    params: dict[str, Any]
    """Fields of the body that go into the request."""
    noted: tuple[str, ...]
    """Which of NOTES are true of it."""


def own_names(spec: JobSpec) -> frozenset[str]:
    """What a body may call the job's models."""
    return frozenset(
        name for alias, model in spec.models.items() for name in (alias, model.model, model.source) if name is not None
    )


def read_line(columns: Mapping[str, Any], body: Mapping[str, Any], names: frozenset[str]) -> BatchLine:
    """columns: of the line, its body parsed in `body`. names: `own_names`. Raises BodyError."""
    _check_line(columns)
    given = {name: value for name, value in body.items() if value is not None}
    if "messages" not in given:
        other = next((name for name in ("input", "prompt") if name in given), "")
        raise BodyError(f"body.messages is null{f', body.{other} is not' if other else ''}; {_ALONE}")
    for name, what in COSTS_MORE.items():
        if given.get(name):
            raise BodyError(
                f"body.{name}: {what} are charged beside the model's tokens, which no plan or cap counts; remove it"
            )
    modalities = given.get("modalities")
    if modalities is not None and modalities != ["text"]:
        raise BodyError("body.modalities: text alone is kept of an answer; make it [text], or remove it")
    tools = given.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise BodyError("body.tools is not a list")
    for tool in tools or []:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if kind not in TOOLS:
            raise BodyError(
                f"body.tools: one of type {kind!r} runs at the provider, and is charged by the call; remove it"
            )
    noted = tuple(name for name in NOTES if _is_noted(name, given, names))
    params = {name: value for name, value in given.items() if name not in ("messages", *SET_BY_THE_JOB)}
    return BatchLine(given["messages"], params, noted)


_ALONE = f"of OpenAI's endpoints /v1{CHAT} alone is asked"


def check_first(errors: Iterable[str]) -> None:
    """errors: of the first lines, "" for one that can be asked. Raises InputError where all of them ask another endpoint."""
    found = dict.fromkeys(errors)
    if found and all(error.endswith(_ALONE) for error in found):
        raise InputError(f"input.path: {next(iter(found))}; so do all of the first lines")


def check_custom_id(custom_id: Any) -> None:
    """Raises BodyError: an answer without one could not be put to its question."""
    if custom_id is None or custom_id == "":
        raise BodyError("custom_id is missing; every line needs one of its own")
    if not isinstance(custom_id, str | int) or isinstance(custom_id, bool):
        raise BodyError("custom_id is not text")


def _check_line(columns: Mapping[str, Any]) -> None:
    url, method = columns.get("url"), columns.get("method")
    if url is not None and not (isinstance(url, str) and url.split("?")[0].rstrip("/").endswith(CHAT)):
        raise BodyError(f"url is {str(url)[:60]!r}; {_ALONE}")
    if method is not None and not (isinstance(method, str) and method.upper() == "POST"):
        raise BodyError(f"method is {str(method)[:20]!r}; it must be POST")


def _is_noted(name: str, given: Mapping[str, Any], names: frozenset[str]) -> bool:
    value = given.get(name)
    match name:
        case "model":
            return value is not None and not (isinstance(value, str) and value in names)
        case "service_tier":
            return value not in (None, "auto", "default")
        case "n":
            return value is not None and value != 1
        case _:
            return bool(value)


def count_noted(lines: Iterable[tuple[str, ...]]) -> dict[str, int]:
    """Field → rows of which its note is true."""
    return dict(Counter(name for noted in lines for name in noted))


def body_notes(counts: Iterable[Mapping[str, int]]) -> list[str]:
    """What the plan says of the rows; counts: `count_noted` of each part of the input."""
    total = sum((Counter(each) for each in counts), Counter[str]())
    return [f"input: {total[name]:,} rows {says}" for name, says in NOTES.items() if total[name]]
