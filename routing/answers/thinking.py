"""What a reasoning model wrote before its answer, told from the answer itself.

Models think in a block at the start of their text, between marks of their makers (`PAIRS`), in channels (gpt-oss), or
under a heading (Granite). A chat template may write the opening mark itself, so that only the closing one is in the text.
Whoever looks at an answer (gold, schema, judge, agreement, features) looks at `behind_thinking` of it.

Only what stands at the start counts: a text that speaks of such marks is an answer. A closing mark without an opening
one is taken for the end of a thought unless it is spoken of: in quotes or code, after an opening mark of its own, or
within a sentence ("the </think> tag"). Linear in the text; a text without marks costs a microsecond.
"""

from __future__ import annotations

import re
from itertools import islice

MAX_MARKS, MAX_BLOCKS, NEAR_CHARS = 50, 20, 200
"""Closing marks of a text, and blocks, that are looked at, and how far around a mark: nobody means more, and some models loop."""
PAIRS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<thoughts>", "</thoughts>"),
    ("<reasoning>", "</reasoning>"),
    ("<antthinking>", "</antthinking>"),
    ("<seed:think>", "</seed:think>"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|start_thinking|>", "<|end_thinking|>"),
    ("<|think|>", "<|/think|>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<unused94>", "<unused95>"),
    ("<|channel>", "<channel|>"),
    ("here is my thought process:", "here is my response:"),
    ("here's my thought process:", "here's my response:"),
)
"""Opening and closing marks, in lower case: they are looked for in any case."""
_CLOSED_BY = dict(PAIRS)
_ASKED_FOR = ("<reasoning>", "<thought>", "<thoughts>")
"""Marks that prompts ask for too: where nothing follows such a block, it is the answer."""
_SPOKEN = tuple(mark for mark in _CLOSED_BY if mark[0].isalpha())
"""Marks that are plain words: without their opening one they mean nothing."""
_OPENED = re.compile("|".join(re.escape(opening) for opening in _CLOSED_BY if opening not in _SPOKEN), re.IGNORECASE)
_OPENING = re.compile(rf"\s*(?P<mark>{'|'.join(map(re.escape, _CLOSED_BY))})", re.IGNORECASE)
_CLOSING = re.compile("|".join(re.escape(c) for o, c in PAIRS if o not in _SPOKEN), re.IGNORECASE)
_ABOUT_IT = re.compile(
    r"[ \t]+(?:is|are|was|were|tags?|tokens?|blocks?|elements?|marks?|markers?|opens|starts|begins|means|and|or|stands"
    r"|belongs|comes|must|should)\b"
)
"""What follows an opening mark that a text speaks of."""
_QUOTES_BEFORE, _QUOTES_AFTER = "`'\"“‘«(", "`'\"”’»)"
_WRAPPERS = re.compile(
    r"\A(?:<(?P<tag>answer|output|response|solution)>(?P<inner>.*)</(?P=tag)>"
    r"|<\|begin_of_solution\|>(?P<solution>.*?)(?:<\|end_of_solution\|>)?"
    r"|<\|start_response\|>(?P<response>.*?)(?:<\|end_response\|>)?)\s*\Z",
    re.IGNORECASE | re.DOTALL,
)
"""Around the whole of an answer behind a thought, as some models are taught to write."""
_FINAL = re.compile(r"<\|channel\|>\s*final[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>")
_CHANNEL = re.compile(r"\A\s*(?:<\|start\|>\s*assistant\s*)?<\|channel\|>")
_END = re.compile(r"<\|(?:end|return|call)\|>")
_BARE_CHANNEL = re.compile(r"\A\s*analysis(?=\S)")
_BARE_FINAL = re.compile(r"assistant\s?(?:commentary)?\s?final(?:\s?json)?")
"""gpt-oss's channels where the special tokens have been dropped: `analysisThe user asks …assistantfinal42`."""


def behind_thinking(text: str, unwrap: bool = True) -> str:
    """The answer in a text: what follows the block of thinking at its start, "" where that block never ends.

    A text without such a block is returned as it is. unwrap: of `<answer>…</answer>` behind a thought, what is in it.
    """
    found = _split(text)
    if found is None:
        return text
    return _unwrapped(found[1]) if unwrap else found[1].strip()


def has_thought(text: str) -> bool:
    """Whether a text starts with a block of thinking in which something stands."""
    found = _split(text)
    return found is not None and bool(found[0].strip())


def is_within_thinking(text: str) -> bool:
    """Whether a text that began inside a block of thinking, which its prompt had opened, never leaves it."""
    return _split(text) is None


def opens_thinking(prompt: str) -> bool:
    """Whether a rendered prompt ends inside a block of thinking: what the model writes next begins in it."""
    end = prompt.rstrip()[-40:].lower()
    return any(end.endswith(opening) for opening in _CLOSED_BY if opening not in _SPOKEN)


def _split(text: str) -> tuple[str, str] | None:
    """(thought, answer); None for a text without a thought."""
    channels = _channels(text)
    if channels is not None:
        return channels
    opened = _opening(text, 0)
    if opened is None:
        last = _lone_closing(text)
        return None if last is None else (text[: last[0]], text[last[1] :])
    thought, behind = "", 0
    for _ in range(MAX_BLOCKS):  # some think more than once before they answer
        mark, start = opened
        end = _closing(text, mark, start)
        if end is None:
            return thought + text[start:], ""
        thought, behind = thought + text[start : end[0]], end[1]
        following = _opening(text, behind)
        if following is None:
            break
        opened = following
    rest = text[behind:]
    return None if mark in _ASKED_FOR and not rest.strip() else (thought, rest)


def _opening(text: str, at: int) -> tuple[str, int] | None:
    """The mark that stands at this place, but for white space, and where its thought begins."""
    found = _OPENING.match(text, at)
    if found is None or _ABOUT_IT.match(text, found.end()):
        return None
    return found["mark"].lower(), found.end()


def _closing(text: str, mark: str, start: int) -> tuple[int, int] | None:
    """Where the thought ends and the answer begins: the first closing mark that is not spoken of, else the first one."""
    first = None
    for found in islice(re.compile(re.escape(_CLOSED_BY[mark]), re.IGNORECASE).finditer(text, start), MAX_MARKS):
        first = first or found.span()
        if not _is_quoted(text, *found.span()) and not _is_in_a_sentence(text, *found.span()):
            return found.span()
    return first


def _lone_closing(text: str) -> tuple[int, int] | None:
    """The first closing mark of a text without an opening one, where it ends a thought and is not spoken of."""
    for found in islice(_CLOSING.finditer(text), MAX_MARKS):
        low, high = found.span()
        if not _is_quoted(text, low, high) and not _is_in_a_sentence(text, low, high):
            return None if _OPENED.search(text, 0, low) else (low, high)
    return None


def _is_quoted(text: str, low: int, high: int) -> bool:
    """In quotes, in brackets, or in code."""
    before, after = text[low - 1 : low], text[high : high + 1]
    if before and after and before in _QUOTES_BEFORE and after in _QUOTES_AFTER:
        return True
    return text.count("```", 0, low) % 2 == 1 and text.find("```", high) >= 0


def _is_in_a_sentence(text: str, low: int, high: int) -> bool:
    """ "the </think> tag closes it": blanks and words on both sides. A thought ends in a line of its own, or at its last word."""
    before = text[max(text.rfind("\n", 0, low) + 1, low - NEAR_CHARS) : low]
    after = text[high : high + NEAR_CHARS].partition("\n")[0]
    if not before.strip() or not before[-1].isspace():
        return False
    follows = after.strip()
    return not follows or after[0] in ".,;:!?)" or (after[0].isspace() and follows[0].islower())


def _unwrapped(answer: str) -> str:
    found = _WRAPPERS.match(answer.strip())
    if found is None:
        return answer.strip()
    return next((part for name in ("inner", "solution", "response") if (part := found[name]) is not None), "").strip()


def _channels(text: str) -> tuple[str, str] | None:
    """gpt-oss writes its thoughts into a channel of their own, and its answer into `final`."""
    if _CHANNEL.match(text):
        final = list(_FINAL.finditer(text))
        if not final:
            return text, ""
        answer = _END.split(text[final[-1].end() :])[0]
        return text[: final[0].start()], answer
    if _BARE_CHANNEL.match(text) and (found := list(_BARE_FINAL.finditer(text))):
        return text[: found[-1].start()], text[found[-1].end() :]
    return None
