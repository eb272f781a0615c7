"""Chats as the text that a model here continues: its chat template, and what is done for templates that do not take all roles.

Templates are programs of the models' makers. Some raise on a system message (Gemma), some leave it out in silence, many want
user and assistant by turns. A system text that a template does not take stands in front of the next user turn; where it
still refuses, messages of one role in a row are joined. Both are said in the plan. Whatever else a template refuses is
the row's error, or the job's where it refuses every request that was looked at.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from jobs.lanes.chat import JsonObject

Messages = Sequence[Mapping[str, Any]]
_PROBE = "headgate-looks-for-this"
_JOINT = "\n\n"


def chat_text(message: Mapping[str, Any]) -> JsonObject:
    """A message as chat templates of text models take it: text parts joined, OpenAI's role `developer` as `system`.

    Raises ValueError for a part that is not text.
    """
    content = message.get("content")
    if isinstance(content, list):
        kinds = {str(part.get("type")) for part in content if isinstance(part, Mapping)} - {"text"}
        if kinds or not all(isinstance(part, Mapping) for part in content):
            raise ValueError(
                f"a message has content of type {', '.join(map(str, kinds)) or 'unknown'}; this engine takes text"
            )
        texts = [part.get("text") or "" for part in content]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a message has a part whose text is no text")
        content = "".join(texts)
    role = "system" if message["role"] == "developer" else message["role"]
    return {**message, "role": role, "content": "" if content is None else content}


class ChatTemplate:
    """A model's chat template, with the variables that the job sets."""

    def __init__(self, tokenizer: Any, variables: Mapping[str, Any] | None = None) -> None:
        """variables: `sampling.chat_template_kwargs`."""
        self.tokenizer, self.variables = tokenizer, dict(variables or {})
        self.parts = False
        """It reads contents as lists of parts (models that take pictures), and would leave a plain text out in silence."""
        self.takes_text = self._takes_text()
        self.system: Literal["takes", "refuses", "ignores"] = self._looked_at()

    def render(self, messages: Messages, variables: Mapping[str, Any] | None = None) -> str:
        """The text the model continues. Raises ValueError, in one line, where the template refuses the messages.

        variables: the row's own, over the job's.
        """
        return self._render(messages, variables)[0]

    def notes(self, chats: Sequence[Messages]) -> list[str]:
        """What is done otherwise than these requests say. Raises ValueError where all of them are refused."""
        if chats and not self.takes_text:
            raise ValueError("the model's chat template leaves the user's text out")
        changed = {"system": False, "turns": False}
        refused = []
        for messages in chats:
            try:
                turns = self._render(messages)[1]
            except ValueError as error:
                refused.append(str(error))
                continue
            has_system = any(message["role"] in ("system", "developer") for message in messages)
            changed["system"] |= has_system and all(turn["role"] != "system" for turn in turns)
            changed["turns"] |= len(turns) < sum(message["role"] not in ("system", "developer") for message in messages)
        if refused and len(refused) == len(chats):
            raise ValueError(refused[0])
        made = []
        if changed["system"]:
            how = "leaves a system message out" if self.system == "ignores" else "takes no system message"
            made.append(f"its chat template {how}: the text stands in front of the next user turn")
        if changed["turns"]:
            made.append(
                "its chat template wants users and assistants by turns: messages of one role in a row are joined"
            )
        if refused:
            made.append(f"{len(refused)} of the first {len(chats)} requests would be errors: {refused[0]}")
        return made + self._unused()

    def _unused(self) -> list[str]:
        text = str(self.tokenizer.chat_template)
        return [
            f"sampling.chat_template_kwargs.{name} changes nothing: its chat template does not read it"
            for name in self.variables
            if not re.search(rf"\b{re.escape(name)}\b", text)
        ]

    def _takes_text(self) -> bool:
        """Whether a user's text comes out, as it is or in parts; a template that fails on it will say so by itself."""
        found: list[str | None] = []
        for parts in (False, True):
            self.parts = parts
            try:
                found.append(self._apply([{"role": "user", "content": _PROBE}], self.variables))
            except ValueError:
                found.append(None)
            if found[-1] is not None and _PROBE in found[-1]:
                return True
        self.parts = False
        return found[0] is None

    def _looked_at(self) -> Literal["takes", "refuses", "ignores"]:
        """What it makes of a system message."""
        user, system = {"role": "user", "content": "hello"}, {"role": "system", "content": _PROBE}
        try:
            self._apply([user], self.variables)
        except ValueError:
            return "takes"  # it refuses for a reason of its own, which will come out
        try:
            text = self._apply([system, user], self.variables)
        except ValueError:
            return "refuses"
        return "takes" if _PROBE in text else "ignores"

    def _render(self, messages: Messages, variables: Mapping[str, Any] | None = None) -> tuple[str, list[JsonObject]]:
        """The text, and the turns that it was made of."""
        both = {**self.variables, **(variables or {})}
        chat = [chat_text(message) for message in messages]
        if self.system != "takes":
            chat = _folded(chat)
        try:
            return self._apply(chat, both), chat
        except _RefusedError:
            turns = _by_turns(_folded(chat))
            if turns == chat:
                raise
            try:
                return self._apply(turns, both), turns
            except ValueError:
                pass
            raise

    def _apply(self, chat: Sequence[JsonObject], variables: Mapping[str, Any]) -> str:
        import jinja2

        if self.parts:
            chat = [{**turn, "content": [{"type": "text", "text": turn["content"]}]} for turn in chat]
        try:
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **variables)
        except ValueError:
            raise
        except jinja2.TemplateError as error:
            raise _RefusedError(f"the model's chat template refuses these messages: {_line(error)}") from None
        except Exception as error:  # noqa: BLE001 - a template is a program, and messages are anybody's: whatever it trips over
            raise ValueError(
                f"the model's chat template fails on these messages ({type(error).__name__}: {_line(error)})"
            ) from None
        if not all(name in str(text) for name in _called(chat)):
            raise ValueError("the model's chat template leaves out tool_calls; ask a model that has tools")
        return str(text)


class _RefusedError(ValueError):
    """The template itself said no."""


def _called(messages: Messages) -> Iterator[str]:
    """Names of the functions that earlier turns have called."""
    for message in messages:
        for call in message.get("tool_calls") or []:
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping):
                yield str(function.get("name"))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _folded(chat: Sequence[JsonObject]) -> list[JsonObject]:
    """Without system messages: their texts stand in front of the next user turn."""
    turns: list[JsonObject] = []
    waiting: list[str] = []
    for message in chat:
        if message["role"] == "system":
            waiting += [message["content"]] if message["content"].strip() else []
        elif message["role"] == "user" and waiting:
            turns.append({**message, "content": _JOINT.join([*waiting, message["content"]])})
            waiting = []
        else:
            turns.append(message)
    return [*turns, {"role": "user", "content": _JOINT.join(waiting)}] if waiting else turns


def _by_turns(chat: Sequence[JsonObject]) -> list[JsonObject]:
    """Messages of one role in a row as one."""
    turns: list[JsonObject] = []
    for message in chat:
        last = turns[-1] if turns else None
        plain = message.keys() <= {"role", "content", "name"} and message["role"] in ("user", "assistant")
        if (
            last is not None
            and plain
            and last["role"] == message["role"]
            and last.keys() <= {"role", "content", "name"}
        ):
            turns[-1] = {**last, "content": _JOINT.join([last["content"], message["content"]])}
        else:
            turns.append(message)
    return turns
