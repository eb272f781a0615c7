"""The text of a job file → plain values (mappings, lists, text, numbers, true/false, null), `--set a.b=c` applied.

YAML that would lose something in silence is refused here: a field given twice (the first would vanish), a date or a set
where text was meant, text that no UTF-8 can hold. What comes out can be written as JSON.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from jobs.errors import SpecError
from jobs.spec.sections import POLICIES

MAX_VALUES, MAX_DEPTH = 100_000, 50
"""A job file is a page of text; what holds more is a mistake or a YAML alias that expands without end."""
MAX_BITS = 1000
"""Of a whole number: it is still a finite float then, and can be printed."""


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice (plain YAML keeps the last), and whose merges do not multiply.

    Whatever its conversions raise for a value that does not fit its tag (`!!bool maybe`) is a YAMLError with a line.
    """

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._flat: set[int] = set()
        self._n_merged = 0

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """`<<: *x` becomes x's pairs. Nine merges a level would be 9^levels pairs: they are counted before they are made."""
        if id(node) in self._flat:
            return
        self._flat.add(id(node))
        seen: set[str] = set()
        for key, value in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
                    if isinstance(source, yaml.MappingNode):
                        self.flatten_mapping(source)
                        self._n_merged += len(source.value)
                if self._n_merged > MAX_VALUES:
                    raise yaml.constructor.ConstructorError(None, None, "too many values merged by <<", key.start_mark)
            elif isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        super().flatten_mapping(node)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, OverflowError):
            kind, text = node.tag.rpartition(":")[2], printable(str(node.value)[:40])
            raise yaml.constructor.ConstructorError(
                None, None, f"{text!r} is no {kind}; put text in quotes", node.start_mark
            ) from None


def read_job_file(path: str, overrides: list[str] | None = None) -> dict[str, JsonValue]:
    """Read a job file and apply the overrides to it. Raises SpecError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SpecError(f"job file {path}: no such file") from None
    except (OSError, ValueError) as error:
        raise SpecError(
            f"job file {path}: cannot be read ({getattr(error, 'strerror', None) or 'not UTF-8 text'})"
        ) from None
    try:
        data = yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        reason = getattr(error, "problem", None) or " ".join(str(error).split())[:100]
        raise SpecError(f"job file {path}: not valid YAML{where}: {reason}") from None
    if not isinstance(data, dict):
        raise SpecError(f"job file {path}: must be a mapping with input, output, router, models, policy")
    data = plain(data)
    for item in overrides or []:
        override(data, item)
    return data


def plain(data: dict[Any, Any]) -> dict[str, JsonValue]:
    """A copy of `data` without YAML's shared parts. Raises SpecError naming the first value that JSON cannot hold."""
    values = 0

    def check(value: object, place: str, depth: int) -> None:
        nonlocal values
        values += 1
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise SpecError(f"{place.split('.')[0]}: too large or nested too deeply for a job file; shorten it")
        if isinstance(value, dict):
            for key, item in value.items():
                if isinstance(key, int):
                    check(key, place, depth + 1)
                if not isinstance(key, str):
                    raise SpecError(
                        f"{_join(place, str(key))}: names must be text; put {printable(str(key))} in quotes"
                    )
                check(key, _join(place, key), depth + 1)
                check(item, _join(place, key), depth + 1)
        elif isinstance(value, list):
            for at, item in enumerate(value):
                check(item, _join(place, str(at)), depth + 1)
        elif isinstance(value, str):
            if not _is_utf8(value):
                raise SpecError(f"{place}: text with a lone surrogate, which UTF-8 cannot hold; remove it")
        elif isinstance(value, int):
            if value.bit_length() > MAX_BITS:
                raise SpecError(f"{place or 'the job file'}: a whole number of more than {MAX_BITS} bits; shorten it")
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise SpecError(f"{place}: must be a finite number (found {value})")
        elif value is not None:
            raise SpecError(f"{place}: {str(value)[:40]!r} is read as a {type(value).__name__}; put it in quotes")

    check(data, "", 0)
    copy: dict[str, JsonValue] = json.loads(json.dumps(data))
    return copy


def override(data: dict[str, JsonValue], item: str) -> None:
    """Apply `a.b=c` in place; c is read as YAML, so numbers, lists and null work. A policy replaces the one there.

    A name that holds dots itself (`models.gpt-4.1.model=…`) is found if it is in the file. Raises SpecError.
    """
    key, sep, value = item.partition("=")
    parts = key.strip().split(".")
    if not sep or not all(parts):
        raise SpecError(f"--set {item!r}: write it as field=value, e.g. --set policy.strong_share=0.3")
    node, parents = data, list[str]()
    while len(parts) > 1:
        size = next((n for n in range(len(parts) - 1, 1, -1) if ".".join(parts[:n]) in node), 1)
        part, parts = ".".join(parts[:size]), parts[size:]
        section = node.get(part)
        if section is None:
            section = node[part] = {}
        if not isinstance(section, dict):
            raise SpecError(f"--set {item!r}: {'.'.join([*parents, part])} is not a section of the job file")
        node = section
        parents.append(part)
    if parents == ["policy"] and parts[0] in POLICIES:
        for other in POLICIES:
            node.pop(other, None)
    node[parts[0]] = _value(value, key)


def _value(text: str, key: str) -> JsonValue:
    """`text` as YAML where it is some, else as it stands: `--set template={{ a }}` needs no quotes inside quotes."""
    try:
        parsed = yaml.load(text, Loader=_Loader)
        return plain({key: parsed})[key]
    except (yaml.YAMLError, ValueError, RecursionError, SpecError):
        if not _is_utf8(text):
            raise SpecError(f"--set {printable(key)}: the value is not UTF-8 text") from None
        return text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def printable(text: str) -> str:
    """`text` on one line: whatever a terminal would not show as a character (line breaks, escapes) becomes `?`."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _join(place: str, name: str) -> str:
    return printable(f"{place}.{name}" if place else name)
