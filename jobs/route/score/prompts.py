"""From an input record to a request: the row's messages, its own parameters, its id, and what the router reads.

Four ways to say what a prompt is (a prompt column, a messages column, a template over columns, OpenAI batch lines) end here in
the same thing: a list of chat messages.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from jobs.errors import SpecError
from jobs.route.score.fields.bodies import LINE_FIELDS, BodyError, check_custom_id, own_names, read_line
from jobs.route.score.fields.gold import GoldReading, options_column
from jobs.route.score.fields.template import PromptTemplate
from jobs.route.score.formats.arrow_values import objects_of
from jobs.route.score.formats.record import NOT_UTF8, InputColumns, Record
from jobs.route.score.values.nulls import is_null, without_nulls
from jobs.spec.job import JobSpec
from routing.text import router_text, whole

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ChatMessage = dict[str, Any]
"""As chat APIs take it: role, content, and whatever else the input says."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One row, ready to be scored and asked; with `error` set it will not be asked."""

    id: Any
    messages: list[ChatMessage]
    body: dict[str, Any]
    """Generation parameters of this row alone (OpenAI batch lines)."""
    gold: str | None
    error: str = ""
    noted: tuple[str, ...] = ()
    """What the plan says of it: keys of jobs.route.score.fields.bodies.NOTES."""

    @property
    def text(self) -> str:
        """What the router reads."""
        return router_text(self.messages)


class PromptReader:
    """Turns records into prompts as one job file says. Built once at the border, where it checks the columns."""

    def __init__(self, spec: JobSpec, columns: Sequence[str]) -> None:
        """`columns`: those of the input. Raises SpecError for a column that is named but not there."""
        self.spec = spec
        self.kind = self._kind(spec, columns)
        self._template = PromptTemplate(spec.template or "") if self.kind == "template" else None
        self.gold_column = spec.quality.gold.column if spec.quality.gold else None
        named = {"input.id": spec.input.id, "quality.gold.column": self.gold_column}
        named |= {"input.prompt": self._prompt_column, "input.messages": self._messages_column}
        named |= {f"input.keep[{i}]": name for i, name in enumerate(spec.input.keep)}
        if self._template is not None:
            shadowing = [name for name in self._template.globals if name in columns]
            named |= {f"template variable {name}": name for name in (*self._template.variables, *shadowing)}
        for field, column in named.items():
            if column is not None and column not in columns:
                raise SpecError(f"{field}: the input has no column {column!r} (it has: {', '.join(columns)[:200]})")
        if self.kind == "batch" and "body" not in columns:
            raise SpecError(f"input.format: openai_batch lines have a body (the input has: {', '.join(columns)[:200]})")
        batch = [name for name in LINE_FIELDS if self.kind == "batch" and name in columns]
        self.options_column = options_column(spec, columns)
        self.gold_reading = GoldReading()
        """How gold is read; `jobs.route.preflight` finds it out."""
        named["options"] = self.options_column
        self.columns = sorted({c for c in named.values() if c is not None}.union(batch))
        self._own_names = own_names(spec)

    @staticmethod
    def _kind(spec: JobSpec, columns: Sequence[str]) -> str:
        given = {"template": spec.template, "prompt": spec.input.prompt, "messages": spec.input.messages}
        for kind, value in given.items():
            if value is not None:
                return kind
        if spec.input.format == "openai_batch" or {"custom_id", "body"} <= set(columns):
            return "batch"
        for kind in ("messages", "prompt"):
            if kind in columns:
                return kind
        raise SpecError(
            f"input.prompt: missing; name the column that holds the prompt (the input has: {', '.join(columns)[:200]})"
        )

    @property
    def _prompt_column(self) -> str | None:
        return (self.spec.input.prompt or "prompt") if self.kind == "prompt" else None

    @property
    def _messages_column(self) -> str | None:
        return (self.spec.input.messages or "messages") if self.kind == "messages" else None

    def reading_gold(self, reading: GoldReading) -> PromptReader:
        """This reader, reading gold so."""
        other = copy.copy(self)
        other.gold_reading = reading
        return other

    def options(self, record: Record) -> Any:
        """What the row's own column of options holds, None where there is none."""
        return record.columns.get(self.options_column) if self.options_column else None

    def read(self, record: Record) -> Prompt:
        """One record's prompt; what is wrong with it is its `error`, never an exception."""
        columns = record.columns
        identity = columns.get(self.spec.input.id or ("custom_id" if self.kind == "batch" else ""))
        error = record.error
        noted: tuple[str, ...] = ()
        gold: str | None = None
        messages: list[ChatMessage] = []
        body: dict[str, Any] = {}
        if not error:
            try:
                messages, body, noted = self._messages(record)
                gold = _gold_text(columns.get(self.gold_column), self.gold_column) if self.gold_column else None
            except (_BadRowError, BodyError) as bad:
                error, messages, body = str(bad), [], {}
            except RecursionError:
                error, messages, body = "the prompt is nested too deeply", [], {}
        if self.spec.system and messages and messages[0].get("role") not in ("system", "developer"):
            messages = [{"role": "system", "content": self.spec.system}, *messages]
        if messages and gold is not None and self.gold_reading.first is not None:
            gold = self.gold_reading.letter(gold, router_text(messages), self.options(record))
        return Prompt(None if is_null(identity) else identity, messages, body, gold, error, () if error else noted)

    def _messages(self, record: Record) -> tuple[list[ChatMessage], dict[str, Any], tuple[str, ...]]:
        columns = record.columns
        if self.kind == "prompt":
            return [{"role": "user", "content": _prompt_text(columns, str(self._prompt_column))}], {}, ()
        if self._template is not None:
            try:
                text = self._template.render(columns)
            except Exception as error:  # noqa: BLE001 - user code: whatever it raises is this row's error
                raise _BadRowError(f"template: {type(error).__name__}: {error}") from None
            if not text.strip():
                raise _BadRowError("template: the prompt is empty")
            return [{"role": "user", "content": text}], {}, ()
        if self.kind == "messages":
            return _chat(columns.get(str(self._messages_column)), str(self._messages_column)), {}, ()
        body = _json(columns.get("body"), "body")
        if not isinstance(body, dict):
            raise _BadRowError("body is null" if body is None else "body is not an object")
        if self.spec.input.id is None:
            check_custom_id(columns.get("custom_id"))
        line = read_line(columns, body, self._own_names)
        # A Parquet struct has every field; in JSON a null may mean something, in a schema's enum say.
        params = line.params if record.stored is None else without_nulls(line.params)
        return _chat(line.messages, "body.messages"), params, line.noted


class _BadRowError(Exception):
    """Why one row cannot be asked."""


def _prompt_text(columns: InputColumns, name: str) -> str:
    value = columns.get(name)
    if is_null(value):
        raise _BadRowError(f"{name} is null" if name in columns else f"column {name!r} is missing")
    if isinstance(value, bytes):
        raise _BadRowError(f"column {name!r} is {NOT_UTF8}")
    if not isinstance(value, str):
        raise _BadRowError(f"{name} is {_kind_of(value)}, not text")
    if not value.strip():
        raise _BadRowError(f"{name} is empty")
    return value


def _json(value: Any, name: str) -> Any:
    if isinstance(value, bytes):
        raise _BadRowError(f"column {name!r} is {NOT_UTF8}")
    if not isinstance(value, str):
        return objects_of(value)
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        raise _BadRowError(f"{name} is not valid JSON") from None


def _chat(value: Any, name: str) -> list[ChatMessage]:
    """Check chat messages: a non-empty list of objects with a known role and some content."""
    value = _json(value, name)
    if is_null(value):
        raise _BadRowError(f"{name} is null")
    if not isinstance(value, list) or not value:
        raise _BadRowError(f"{name} is {'empty' if value == [] else _kind_of(value)}; it must be a list of messages")
    messages = []
    for position, message in enumerate(value):
        if not isinstance(message, dict) or message.get("role") not in ROLES:
            raise _BadRowError(f"{name}[{position}] needs a role of {', '.join(ROLES[:4])}, and content")
        clean = message if _is_plain(message) else without_nulls(message)
        if _is_plain(clean):
            clean = {"role": clean["role"], "content": clean["content"]}  # in one order
        content = clean.get("content")
        if not isinstance(content, str | list) and "tool_calls" not in clean:
            raise _BadRowError(f"{name}[{position}].content is {_kind_of(content)}, not text")
        if isinstance(content, list) and not all(isinstance(part, dict | str) for part in content):
            raise _BadRowError(f"{name}[{position}].content has a part that is no object")
        messages.append(clean)
    if not any(m["role"] in ("user", "tool", "function") and m.get("content") for m in messages):
        raise _BadRowError(f"{name} has no user message with content")
    return messages


def canonical(messages: list[ChatMessage], text: str) -> str:
    """JSON text that is equal for equal chats, whatever the order of their fields. text: the messages' own."""
    if all(map(_is_plain, messages)):
        return text
    return whole(json.dumps(messages, ensure_ascii=False, sort_keys=True))


def _is_plain(message: ChatMessage) -> bool:
    """Nothing but a role and text."""
    return len(message) == 2 and isinstance(message.get("content"), str)


def _kind_of(value: Any) -> str:
    kinds = {
        type(None): "null",
        bool: "a boolean",
        int: "a number",
        float: "a number",
        dict: "an object",
        list: "a list",
        str: "text",
    }
    return kinds.get(type(value), type(value).__name__)


def _gold_text(value: Any, name: str) -> str | None:
    """Reference answers are compared as text: numbers, lists and objects as JSON, dates and the like as they print."""
    if is_null(value):
        return None
    if isinstance(value, bytes):
        raise _BadRowError(f"column {name!r} is {NOT_UTF8}")
    if isinstance(value, bool | int | float | list | dict):
        return json.dumps(value, default=str)
    return whole(format(value, "f") if isinstance(value, Decimal) else str(value))
