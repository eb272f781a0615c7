"""Gold matchers: one answer against one gold value, 1.0 or 0.0.

exact            the same text but for case, white space and surrounding punctuation or quotes; 3.0 is 3
numeric          the same number: at a mark (`#### 18`, `\\boxed{18}`, "answer is 18"), else the last one of the text
multiple_choice  the same letter: a mark, a line that starts with a letter, the last "(B)"; or the option's own text; or number,
                 where the options are numbered. multiple_choice:0 and :1: gold counts lettered options from 0, or from 1
regex            the gold value is a pattern, searched for in the answer
json:FIELD       FIELD (dotted path; numbers index lists) of the JSON in the answer equals the gold value
python:MODULE:FUNCTION  FUNCTION(answer, gold) -> 0..1; the user's own code, so only where allowed

Gold that is a JSON list holds accepted answers: one of them will do. A gold value that is empty or no valid pattern, and a
pattern that runs out of time, measure nothing: NaN, never a made-up 0. A reasoning model's answer is what stands behind its
thoughts (routing/answers/thinking.py). Cost: linear in the answer, about 0.1 ms; patterns of users run at most REGEX_TIMEOUT_S.
Agreement with recorded correctness: multiple_choice 98.1 to 99.7 % on MMLU-Pro (5 models); numeric 99.2 % (Mixtral) and 96.5 %
(GPT-4) on GSM8K, where the records count $18.00 for a gold of 18 as wrong; 99.3 and 99.7 % without those rows.
"""

from __future__ import annotations

import importlib
import json
import math
import re
from collections import deque
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from typing import Any

import regex

from routing.answers.choices import chosen_letter, counted_choice, multiple_choice
from routing.answers.thinking import behind_thinking
from routing.answers.wording import normal, undotted
from routing.errors import RoutingError

Matcher = Callable[[str, str], float]
KINDS = "exact, numeric, multiple_choice (or multiple_choice:0, :1), regex, json:field, python:module:function"
REGEX_TIMEOUT_S = 0.5
MAX_DIGITS = 100
"""Read of a number: a run of thousands is one that nobody meant, takes quadratic time and fits no float."""


def match(kind: str, answer: str, gold: str, allow_code: bool = False) -> float:
    """`make_matcher(kind, allow_code)(answer, gold)`, for a single comparison.

    kind: as `quality.gold.match` names it.
    answer, gold: texts.
    allow_code: whether `python:` may run the user's own function.
    """
    return make_matcher(kind, allow_code)(answer, gold)


def make_matcher(spec: str, allow_code: bool = False) -> Matcher:
    """The matcher that a job file's `quality.gold.match` names: (answer, gold) -> 0..1, or NaN where gold is empty.

    Raises RoutingError for an unknown kind, a `json:` without a field, and `python:` without `allow_code` or that
    cannot be imported. The matcher itself raises RoutingError only for user code that does not return a number in 0..1.
    """
    kind, _, argument = spec.partition(":")
    plain: dict[str, Matcher] = {
        "exact": _exact,
        "numeric": _numeric,
        "multiple_choice": multiple_choice,
        "regex": _regex,
    }
    plain |= {f"multiple_choice:{first}": counted_choice(first) for first in (0, 1)}
    matcher: Matcher
    if spec in plain:
        matcher = plain[spec]
    elif kind == "json":
        if not argument or not all(argument.split(".")):
            raise RoutingError(
                f"quality.gold.match is {spec!r}: name the field, as in json:answer or json:result.label"
            )
        matcher = _json_matcher(argument.split("."))
    elif kind == "python":
        matcher = _python_matcher(spec, argument, allow_code)
    else:
        raise RoutingError(f"quality.gold.match must be one of {KINDS}, not {spec!r}")
    # What looks for a form of its own is shown it: `<answer>` may be what the pattern is about.
    unwrap = kind not in ("regex", "python")

    def match_one(answer: str, gold: str) -> float:
        if not gold.strip():
            return math.nan
        text = behind_thinking(answer, unwrap)
        found = matcher(text, gold)
        if found != 1 and kind != "python" and (accepted := accepted_answers(gold)):
            told = [value for each in accepted if each.strip() and not math.isnan(value := matcher(text, each))]
            return max(told, default=math.nan)
        return found

    return match_one


@lru_cache(maxsize=1024)
def accepted_answers(gold: str) -> tuple[str, ...]:
    """The texts of a gold value that is a JSON list of texts or numbers; () for any other."""
    if not gold.lstrip().startswith("["):
        return ()
    try:
        values = json.loads(gold)
    except (ValueError, RecursionError):
        return ()
    if not isinstance(values, list) or not all(isinstance(value, str | int | float) for value in values):
        return ()
    return tuple(value if isinstance(value, str) else json.dumps(value) for value in values)


def make_comparer(spec: str, allow_code: bool = False) -> Matcher:
    """Whether two answers to one prompt say the same, by the rules of `make_matcher(spec)`: (answer, other) -> 0 or 1.

    A letter is compared with a letter, a number with a number, a JSON field with that field; regex and python have no
    second answer's side, and compare as exact does. An empty answer agrees with nothing.
    """
    kind, _, argument = spec.partition(":")
    matcher = make_matcher("exact" if kind in ("regex", "python") else spec, allow_code)

    def compare(answer: str, other: str) -> float:
        answer, other = behind_thinking(answer), behind_thinking(other)
        if kind == "multiple_choice":
            letters = chosen_letter(answer), chosen_letter(other)
            if None not in letters:
                return float(letters[0] == letters[1])
        if kind == "json":
            fields = _field(answer, argument.split(".")), _field(other, argument.split("."))
            return float(_NO_FIELD not in fields and _same(*fields))
        found = _exact(answer, other) if kind == "multiple_choice" else matcher(answer, other)
        return 0.0 if math.isnan(found) else float(found == 1.0)

    return compare


# --- exact ---------------------------------------------------------------------------------------------------------


def _exact(answer: str, gold: str) -> float:
    return float(undotted(normal(answer)) == undotted(normal(gold)))


# --- numeric -------------------------------------------------------------------------------------------------------

_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(
    r"(?P<sign>(?<![\w.)\]])[-−](?=[$€£¥]?[\d.\\]))?\s?[$€£¥]?\s?(?P<sign2>(?<=[$€£¥])[-−])?"
    rf"(?:\\[dt]?frac\{{(?P<top>\d+)\}}\{{(?P<bottom>\d+)\}}"
    rf"|(?<![\d.])(?P<value>{_DIGITS})(?P<ordinal>(?:st|nd|rd|th)\b)?(?:[eE](?P<exponent>[-+]?\d{{1,2}})\b)?"
    r"(?:(?:[ ](?P<numerator>\d{1,9}))?/(?P<denominator>\d{1,9})(?![\d/]))?)"
    r"(?P<tail>[ ]?\\?%|[ ]percent\b|[ ](?:thousand|million|billion|trillion)\b)?",
    re.IGNORECASE,
)
_SCALES = {"thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_MARKS = (
    re.compile(r"####[^\S\n]*([^\n]{0,200})"),
    re.compile(r"\\boxed\{([^\n]{0,200})"),
    re.compile(r"\banswer(?:[^\S\n]{1,9}(?:is|would be|should be)\b:?|:)([^\n]{0,200})", re.IGNORECASE),
)


def _numeric(answer: str, gold: str) -> float:
    """Equal to 1e-6; to gold's own decimals where it has two or more (3.14 for 3.14159). 25 % is 25 and .25."""
    wanted, found = marked_number(gold), marked_number(answer)
    if wanted is None or found is None:
        return 0.0
    (gold_value, gold_percent, decimals), (value, percent, _) = wanted, found
    slack = max(1e-6 * abs(gold_value), 0.5 * 10.0**-decimals if decimals >= 2 else 0.0) + 1e-12
    candidates = [(value, gold_value)]
    if percent and not gold_percent:
        candidates.append((value / 100, gold_value))
    if gold_percent and not percent:
        candidates.append((value * 100, gold_value))
    return float(any(abs(a - b) <= slack for a, b in candidates))


def marked_number(text: str) -> tuple[float, bool, int] | None:
    """(value, is a percentage, decimals) of the number behind the strongest, last mark, else of the last number."""
    for mark in _MARKS:
        for segment in reversed(mark.findall(text)):
            # "answer is 3 + 4 = 7": what stands behind the last sign of equality; "18 eggs a day, 7 days": the first.
            numbers = list(_NUMBER.finditer(segment.rpartition("=")[2]))
            if numbers:
                return _value(numbers[0])
    # "questions to move on to the 7th grade": an ordinal counts nothing.
    last = deque((number for number in _NUMBER.finditer(text) if not number["ordinal"]), maxlen=1)
    return _value(last[0]) if last else None


def _value(number: re.Match[str]) -> tuple[float, bool, int]:
    part = number.groupdict()
    decimals = 0
    if part["top"]:
        top, bottom = int(part["top"][:MAX_DIGITS]), int(part["bottom"][:MAX_DIGITS])
        value = Fraction(top, bottom) if bottom else Fraction(0)
    else:
        digits = part["value"].replace(",", "")
        decimals = len(digits.partition(".")[2])
        value = Fraction(digits[:MAX_DIGITS])
        if part["exponent"]:
            value *= Fraction(10) ** int(part["exponent"])
        if part["denominator"] and int(part["denominator"]):
            below = int(part["denominator"])
            value = value + Fraction(int(part["numerator"]), below) if part["numerator"] else value / below
    tail = (part["tail"] or "").strip().lower()
    value *= _SCALES.get(tail, 1)
    if part["sign"] or part["sign2"]:
        value = -value
    return float(value), tail.endswith(("%", "percent")), decimals


# --- regex, json, user code ----------------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> Any:
    """None where it is no valid pattern: that costs its own row, and not a run that is paid for."""
    try:
        return regex.compile(pattern)
    except (regex.error, ValueError, OverflowError, RecursionError):
        return None


def _regex(answer: str, gold: str) -> float:
    pattern = _compiled(gold)
    try:
        return math.nan if pattern is None else float(pattern.search(answer, timeout=REGEX_TIMEOUT_S) is not None)
    except TimeoutError:
        return math.nan


_NO_FIELD = object()


def _json_matcher(path: list[str]) -> Matcher:
    def matcher(answer: str, gold: str) -> float:
        value = _field(answer, path)
        if value is _NO_FIELD:  # no JSON, or no such field: the answer is wrong, the row is not
            return 0.0
        try:
            return float(_json_equal(value, gold))
        except RecursionError:  # gold is nested without end: it measures nothing
            return math.nan

    return matcher


def _field(text: str, path: list[str]) -> Any:
    """The value at `path` in the JSON of a text, _NO_FIELD where there is none."""
    try:
        value = _first_json(text)
        for name in path:
            value = value[int(name)] if isinstance(value, list) else value[name]
    except (ValueError, KeyError, IndexError, TypeError, RecursionError):
        return _NO_FIELD
    return value


def _first_json(text: str) -> Any:
    """The JSON value that is the text, or the first object in it (models wrap it in ``` or a sentence)."""
    try:
        return json.loads(text)
    except ValueError:
        start = text.find("{")
        if start < 0:
            raise
        return json.JSONDecoder().raw_decode(text, start)[0]


def _json_equal(value: Any, gold: str) -> bool:
    if isinstance(value, str):
        return normal(value) == normal(gold)
    try:
        wanted = json.loads(gold)
    except ValueError:
        wanted = gold.strip().lower()
        wanted = {"true": True, "false": False, "none": None}.get(wanted, wanted)
    if isinstance(value, bool) or isinstance(wanted, bool):
        return value is wanted
    if isinstance(value, int | float) and isinstance(wanted, int | float):
        try:
            return math.isclose(value, wanted, rel_tol=1e-9)
        except OverflowError:  # a whole number that no float can hold
            return value == wanted
    return bool(value == wanted)


def _same(value: Any, other: Any) -> bool:
    try:
        return bool(value == other)
    except RecursionError:
        return False


def _python_matcher(spec: str, argument: str, allow_code: bool) -> Matcher:
    if not allow_code:
        raise RoutingError(f"quality.gold.match is {spec!r}, which runs your own code: pass --allow-code to permit it")
    module_name, _, function_name = argument.partition(":")
    if not module_name or not function_name:
        raise RoutingError(f"quality.gold.match is {spec!r}: write python:module:function")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        raise RoutingError(f"quality.gold.match is {spec!r}, which cannot be imported: {error}") from None
    if not callable(function):
        raise RoutingError(f"quality.gold.match is {spec!r}: {function_name} is not a function")

    def matcher(answer: str, gold: str) -> float:
        quality = function(answer, gold)
        if not isinstance(quality, int | float) or not 0 <= quality <= 1:
            raise RoutingError(f"quality.gold.match: {argument} returned {quality!r}; it must return a number in 0..1")
        return float(quality)

    return matcher
