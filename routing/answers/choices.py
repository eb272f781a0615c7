"""Which of several options a text commits to: by its letter, its number, or its own words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from routing.answers.wording import normal, undotted

_LETTER = r"(?:\\(?:text|mathrm|mathbf)\{)?[(\[]?([A-Z])(?![\w'’])"
_CHOICE_MARKS = (
    re.compile(rf"(?i:\banswer(?:\s(?:is|would be|should be)\b:?|:))\s*(?i:(?:option|choice)\s)?{_LETTER}"),
    re.compile(rf"\\boxed\{{{_LETTER}"),
    re.compile(rf"(?i:\b(?:option|choice))\s{_LETTER}\s?(?i:is\s(?:the\s)?correct)"),
)
_LINE = re.compile(r"^[^\S\n]*[(\[]?([A-Z])(?:[)\]]|[.:](?=\s|$)|[^\S\n]*$)", re.MULTILINE)
_PARENTHESISED = re.compile(r"\(([A-Z])\)")
_OPTION = re.compile(r"^\s*[(\[]?([A-Za-z])(?:[)\]]\s*|[.:](?:\s+|$)|\s*$)(.*)$", re.DOTALL)


_SAID_FIRST = re.compile(r"\A\s*(?:the\s)?(?:correct\s)?(?:answer|option|choice)(?:\sis)?\b[:\s]*", re.IGNORECASE)
"""Before a gold letter: "Option B", "Answer: (B)"."""
_SMALL = (
    re.compile(r"(?i:\banswer(?:\sis)?:?)\s*\(([a-z])\)"),
    re.compile(r"\A\s*(?:\(([a-z])\)|([a-z])\))(?=\s)"),
)
"""Letters that are written small, in brackets."""
_NUMBER = r"[(\[]?(\d{1,2})(?![\w/%]|[.,]\d)"
_NUMBER_MARKS = (
    re.compile(rf"(?i:\banswer(?:\s(?:is|would be|should be)\b:?|:))\s*(?i:(?:option|choice|number)\s)?{_NUMBER}"),
    re.compile(rf"\\boxed\{{{_NUMBER}"),
)
_NUMBER_LINE = re.compile(r"^[^\S\n]*[(\[]?(\d{1,2})(?:[)\]]|[.:](?=\s|$)|[^\S\n]*$)", re.MULTILINE)


def multiple_choice(answer: str, gold: str) -> float:
    """gold: `B`, `(B)`, `Option B`, `B. text of the option`, the text alone, or the number of an option that has one."""
    option = _OPTION.match(gold) or _OPTION.match(_SAID_FIRST.sub("", gold))
    letter, text = (option[1].upper(), normal(option[2])) if option else ("", undotted(normal(gold)))
    chosen = chosen_letter(answer)
    if letter and chosen:
        return float(letter == chosen)
    named = _OPTION.match(answer)
    if text and text in (undotted(normal(answer)), normal(named[2]) if named else None):
        return 1.0
    return float(text.isdecimal() and text == chosen_number(answer))


def counted_choice(first: int) -> Callable[[str, str], float]:
    """`multiple_choice` with gold that counts the lettered options: `first` is A. Other gold is as it is there."""

    def matcher(answer: str, gold: str) -> float:
        number = undotted(normal(gold))
        if not number.removeprefix("-").isdecimal():
            return multiple_choice(answer, gold)
        place = int(number) - first
        return float(chosen_letter(answer) == chr(ord("A") + place)) if 0 <= place < 26 else math.nan

    return matcher


def chosen_number(answer: str) -> str | None:
    """The number of the option that an answer commits to, where options are numbered; as `chosen_letter` does letters."""
    plain = answer.replace("*", "").replace("\\(", "").replace("\\)", "")
    alone = undotted(normal(plain))
    if alone.isdecimal():
        return alone
    for mark in _NUMBER_MARKS:
        if found := mark.findall(plain):
            return str(int(found[-1]))
    lines = _NUMBER_LINE.findall(plain)
    return str(int(lines[0])) if len(lines) == 1 else None


def chosen_letter(answer: str) -> str | None:
    """The option that an answer commits to, "A" to "Z", or None: a lone letter, a mark ("the answer is B", \\boxed{B}), a
    single line that starts with one, the last "(B)". The last of a kind counts.
    """
    plain = answer.replace("*", "").replace("\\(", "").replace("\\)", "")
    alone = normal(plain)
    if len(alone) == 1 and "a" <= alone <= "z":
        return alone.upper()
    for mark in _CHOICE_MARKS:
        found = mark.findall(plain)
        if found:
            return str(found[-1])
    lines = _LINE.findall(plain)
    # Several such lines repeat the options of the question, and none of them is the answer.
    if len(lines) == 1:
        return str(lines[0])
    found = _PARENTHESISED.findall(plain)
    if found:
        return str(found[-1])
    small = next((each for mark in _SMALL if (each := mark.search(plain))), None)
    return next(letter for letter in small.groups() if letter).upper() if small else None
