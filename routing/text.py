"""The text a router sees of a request: one function for the batch job, the trainer and the server.

A router judges the question, not the frame around it. So system prompts are left out, and what all prompts of a set have in
common at their start or end (a shared instruction) is stripped: an encoder that reads 256 tokens would see nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIN_AFFIX_CHARS = 48
"""Shorter common starts ("What is the ") are part of the questions, not an instruction."""
MIN_AFFIX_PROMPTS = 20
"""With fewer different prompts a common start may be chance."""


def message_text(message: Mapping[str, Any]) -> str:
    """Text of one chat message; of a list of content parts, the text parts joined."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(str(p.get("text", "")) for p in content if isinstance(p, Mapping) and p.get("type") == "text")
    return ""


def router_text(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the router reads: the user's turns, oldest first, one blank line between."""
    return "\n\n".join(message_text(m) for m in messages if m.get("role") == "user")


@dataclass(frozen=True, slots=True)
class Frame:
    """The common start and end of a set of prompts."""

    prefix: str = ""
    suffix: str = ""

    def inner(self, text: str) -> str:
        """`text` without the frame; unchanged where it has none, or where nothing would be left."""
        inner = text.removeprefix(self.prefix).removesuffix(self.suffix).strip()
        return inner or text


def find_frame(texts: Sequence[str]) -> Frame:
    """The instruction that all `texts` share, cut back to whole words. Empty for few or unlike texts. O(total length)."""
    distinct = sorted(set(texts))
    if len(distinct) < MIN_AFFIX_PROMPTS:
        return Frame()
    prefix = os.path.commonprefix([distinct[0], distinct[-1]])
    suffix = os.path.commonprefix([t[::-1] for t in distinct])[::-1]
    prefix = prefix[: max(prefix.rfind(" "), prefix.rfind("\n")) + 1]
    starts = [i for i in (suffix.find(" "), suffix.find("\n")) if i >= 0]
    suffix = suffix[min(starts) :] if starts else ""
    return Frame(prefix if len(prefix) >= MIN_AFFIX_CHARS else "", suffix if len(suffix) >= MIN_AFFIX_CHARS else "")


def whole(text: str) -> str:
    """`text` with what UTF-8 cannot hold replaced by a question mark: half of a surrogate pair, legal in JSON, which tokenizers,
    hashes, Parquet and pages all refuse."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")
