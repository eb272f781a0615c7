"""Does an answer fit its own prompt: its choice with the options, its numbers with each other?

A small model that reckons 3.2 and picks the nearest option, or argues for one thing and ticks another, is mostly wrong;
and so is one whose equations do not hold. Signs that need no knowledge of the subject, and the strongest ones in the text
of an answer: the weak model's correctness on MMLU-Pro, from prompt and form of the answer, has an AUC of .67, with these
.70 (1,000 rows to learn from).

`answer_checks` reads options ("A. …" lines) from the prompt and the chosen one from the answer, and recalculates what is written as
"12 * (3 + 4) = 84". Without options or numbers the columns are 0. Pure text; about 0.5 ms an answer of 1,000 characters.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.answers.features import extracted_answers
from routing.answers.thinking import behind_thinking

CHECKS = (
    "log options",
    "chosen is an option",
    "chosen option stands in the text",
    "share of the others that do",
    "words of the chosen option used",
    "and beyond the best other",
    "share of others not used more",
    "words of it used at the end",
    "and beyond the best other there",
    "chosen option has a number",
    "its number is reached at the end",
    "its number is reached",
    "share of the others' numbers reached",
    "another's number is reached instead",
    "its number is not reached",
    "length of the option / of the others",
    "log equations recalculated",
    "share that hold",
    "some do not hold",
    "last equation holds",
    "share of the prompt's numbers used",
    "log numbers not in the prompt",
    "last number is new",
)
"""Names of the columns of `answer_checks`."""
N_OPTION_CHECKS = 16
END_CHARS = 300
MAX_NUMBERS = 400
MAX_EQUATIONS = 60
_OPTION = re.compile(r"(?m)^\s*\(?([A-Z])[.):]\s+(.*)$")
_NUMBER = re.compile(r"\d+(?:,\d{3})*(?:\.\d+)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(r"[a-z0-9]+")
_VERDICT = re.compile(r"\bthe answer is\b|####", re.IGNORECASE)
_EQUATION = re.compile(r"([-+*/×÷x().,$%\d \t]{3,80}?)=\s*\$?\s*(-?\d+(?:,\d{3})*(?:\.\d+)?)")
_OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def answer_checks(prompts: Sequence[str], responses: Sequence[str | None]) -> NDArray[np.float32]:
    """(n, len(CHECKS)) of order one; row i depends on prompt i and answer i alone. An answer that is not there is all 0."""
    texts = np.empty(len(responses), object)
    texts[:] = [text and behind_thinking(text) for text in responses]
    letters = extracted_answers(texts)
    rows = np.zeros((len(prompts), len(CHECKS)), np.float32)
    for row, prompt, text, letter in zip(rows, prompts, texts.tolist(), letters.tolist(), strict=True):
        if text:
            row[:N_OPTION_CHECKS] = _option_checks(prompt, text, letter)
            row[N_OPTION_CHECKS:] = _number_checks(prompt, text)
    return rows


def _option_checks(prompt: str, text: str, letter: str | None) -> list[float]:
    options = dict(_OPTION.findall(prompt))
    found = [0.0] * N_OPTION_CHECKS
    found[0] = float(np.log1p(len(options)))
    if letter not in options or len(options) < 2:
        return found
    verdict = _VERDICT.search(text)
    argument = (text[: verdict.start()] if verdict else text).lower()
    stem = set(_WORD.findall(prompt[: prompt.find(f"{next(iter(options))}.")].lower()))
    own, others = options[letter], [option for key, option in options.items() if key != letter]
    used, at_end = set(_WORD.findall(argument)), set(_WORD.findall(argument[-END_CHARS:]))
    mine, theirs = _share(own, used, stem), [_share(option, used, stem) for option in others]
    mine_end, theirs_end = _share(own, at_end), [_share(option, at_end) for option in others]
    numbers = _numbers(argument)
    own_number, other_numbers = _numbers(own)[:1], [n[0] for option in others if (n := _numbers(option))]
    reached_end = bool(own_number) and _among(own_number[0], numbers[-3:])
    found[1:9] = [
        1.0, float(own.lower().strip(" .") in argument), _mean([o.lower().strip(" .") in argument for o in others]),
        mine, mine - max(theirs), _mean([mine >= other for other in theirs]), mine_end, mine_end - max(theirs_end),
    ]  # fmt: skip
    if own_number:
        at_end_too = [_among(number, numbers[-3:]) for number in other_numbers]
        found[9:15] = [
            1.0, float(reached_end), float(_among(own_number[0], numbers)), _mean(at_end_too),
            float(any(at_end_too) and not reached_end), float(not reached_end),
        ]  # fmt: skip
    found[15] = min(5.0, len(own) / (1 + _mean([len(option) for option in others])))
    return found


def _number_checks(prompt: str, text: str) -> list[float]:
    equations = [_holds(left, right) for left, right in _EQUATION.findall(text)[-MAX_EQUATIONS:]]
    known = [holds for holds in equations if holds is not None]
    given, numbers = _numbers(prompt), _numbers(text)
    new = [number for number in numbers if not _among(number, given)]
    return [
        float(np.log1p(len(known))), _mean(known) if known else 0.0, float(bool(known) and not all(known)),
        float(bool(known) and known[-1]), _mean([_among(number, numbers) for number in given]),
        float(np.log1p(len(new))), float(bool(numbers) and not _among(numbers[-1], given)),
    ]  # fmt: skip


def _share(option: str, used: set[str], without: set[str] = frozenset()) -> float:  # type: ignore[assignment]
    """Share of an option's words, those of the question aside, that are among `used`."""
    words = set(_WORD.findall(option.lower())) - without
    return len(words & used) / len(words) if words else 0.0


def _numbers(text: str) -> list[float]:
    return [float(number.replace(",", "")) for number in _NUMBER.findall(text)[-MAX_NUMBERS:]]


def _among(number: float, others: Sequence[float]) -> bool:
    """To one part in a hundred: options are rounded."""
    return any(abs(number - other) <= 0.01 * max(abs(number), abs(other)) + 1e-12 for other in others)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _holds(left: str, right: str) -> bool | None:
    """Whether left = right, to half a percent; None for what is not plain arithmetic."""
    text = left.replace(",", "").replace("$", "").replace("×", "*").replace("x", "*").replace("÷", "/").strip(" .\t")
    if "%" in text or not re.search(r"\d\s*[-+*/]", text):
        return None
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, ValueError, ZeroDivisionError, OverflowError, RecursionError, MemoryError):
        return None
    told = float(right.replace(",", ""))
    return abs(value - told) <= 0.005 * max(abs(value), abs(told)) + 0.005


def _value(node: ast.expr) -> float:
    """Of numbers, + - * / and brackets. Raises ValueError for anything else."""
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        return float(node.value)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        return float(_OPERATORS[type(node.op)](_value(node.left), _value(node.right)))
    raise ValueError("not plain arithmetic")
