"""What pydantic found wrong with a job file → one line in the owner's words: the field, the fix, the value.

`policy.strong_share: must be at most 1 (found 1.5)`. Unknown fields come first: a misspelt one is usually why another
is missing.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from jobs.spec.job_file import printable

MAX_SHOWN = 60
SECRETIVE = ("api_key_env", "api_key_command", "base_url")
"""Fields a key is pasted into by mistake: their values are never repeated."""
WORDS = {
    "string_type": "must be text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a section (name: value)",
    "model_type": "must be a section (name: value)",
    "finite_number": "must be a finite number",
    "missing": "missing; the job file needs it",
}
LIMITS = {
    "greater_than": ("gt", "must be more than {}"),
    "greater_than_equal": ("ge", "must be {} or more"),
    "less_than": ("lt", "must be less than {}"),
    "less_than_equal": ("le", "must be at most {}"),
}


def one_line(error: ValidationError, data: Mapping[str, JsonValue], root: type[BaseModel]) -> str:
    """The first problem of `data`, checked against `root`; the other fields that have one are counted."""
    problems: dict[tuple[str, ...], list[ErrorDetails]] = {}
    for problem in error.errors(include_url=False):
        problems.setdefault(_place(problem, data), []).append(problem)
    for place in list(
        problems
    ):  # a list that holds a wrong value is also "no text" to `str | list[str]`: keep the closer one
        if any(len(other) > len(place) and other[: len(place)] == place for other in problems):
            del problems[place]
    first = min(problems, key=lambda place: problems[place][0]["type"] != "extra_forbidden")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return printable(f"{_sentence(first, problems[first], root)}{more}")


def _place(problem: ErrorDetails, data: Any) -> tuple[str, ...]:
    """The names that lead to the value in the file. pydantic's `loc` also names branches of unions: not in the file."""
    place, node = [], data
    for part in problem["loc"]:
        inside = part in node if isinstance(node, Mapping) else isinstance(node, list) and part in range(len(node))
        if inside:
            place.append(str(part))
            node = node[part]
    if problem["type"] == "missing":
        place.append(str(problem["loc"][-1]))
    return tuple(place)


def _sentence(place: tuple[str, ...], problems: list[ErrorDetails], root: type[BaseModel]) -> str:
    # Of a union's branches, those that took the type and found another fault know better than those that did not.
    problems = [p for p in problems if not p["type"].endswith("_type")] or problems
    problem, name = problems[0], ".".join(place)
    if problem["type"] == "extra_forbidden":
        return f"{name}: unknown field{_nearest(place[-1], _fields(place[:-1], root)) or '; remove it'}"
    messages = list(dict.fromkeys(_message(p) for p in problems))
    message = messages[0] + "".join(f" or {other.removeprefix('must be ')}" for other in messages[1:])
    choices = problem.get("ctx", {}).get("expected", "").replace("'", "").replace(" or ", ", ").split(", ")
    hint = _nearest(problem["input"], choices) if problem["type"] == "literal_error" else ""
    return f"{name}{': ' if name else ''}{message}{_found(place, problem)}{hint}"


def _message(problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    if kind in LIMITS:
        bound, words = LIMITS[kind]
        return words.format(f"{context[bound]:g}")
    if kind == "literal_error":
        choices = context["expected"].replace("'", "")
        return f"must be one of {choices}" if ", " in choices or " or " in choices else f"must be {choices}"
    if kind in ("too_short", "string_too_short"):
        return "must not be empty"
    return WORDS.get(kind) or problem["msg"].removeprefix("Value error, ")


def _found(place: tuple[str, ...], problem: ErrorDetails) -> str:
    value = problem.get("input")
    shown = isinstance(value, str | int | float) and 0 < len(str(value)) <= MAX_SHOWN
    if not shown or problem["type"] in ("missing", "value_error") or set(place) & set(SECRETIVE):
        return ""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f" (found {text})"


def _nearest(word: object, known: list[str]) -> str:
    close = difflib.get_close_matches(str(word), known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _fields(place: tuple[str, ...], root: type[BaseModel]) -> list[str]:
    """Names of the fields of the section at `place`."""
    section: Any = root
    names = iter(place)
    for name in names:
        field = section.model_fields.get(name) if section else None
        section = _section_in(field.annotation) if field else None
        if field and get_origin(field.annotation) is dict:
            next(names, None)  # the owner's own name, as of a model
    return list(section.model_fields) if section else []


def _section_in(annotation: Any) -> Any:
    """The section class inside `Section | None` or `dict[str, Section]`, if there is one."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _section_in(inner))), None)
