"""The text of a job file → plain values (mappings, lists, text, numbers, true/false, null), `--set a.b=c` applied.

YAML that would lose something in silence is refused here: a field given twice (the first would vanish), a date or a set
where text was meant, text that no UTF-8 can hold. What comes out can be written as JSON.
"""

from __future__ import annotations

import json
import math
from collections.abc import Hashable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from jobs.errors import SpecError

MAX_VALUES, MAX_DEPTH = 100_000, 50
"""A job file is a page of text; what holds more is a mistake or a YAML alias that expands without end."""
POLICIES = ("threshold", "strong_share", "budget_usd", "min_quality", "guarantee")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice; plain YAML keeps the last and drops the others."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_job_file(path: str, overrides: list[str] | None = None) -> dict[str, Any]:
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


def plain(data: dict[Any, Any]) -> dict[str, Any]:
    """A copy of `data` without YAML's shared parts. Raises SpecError naming the first value that JSON cannot hold."""
    values = 0

    def check(value: Any, place: str, depth: int) -> None:
        nonlocal values
        values += 1
        if values > MAX_VALUES or depth > MAX_DEPTH:
            raise SpecError(f"{place.split('.')[0]}: too large or nested too deeply for a job file; shorten it")
        if isinstance(value, dict):
            for key, item in value.items():
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
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise SpecError(f"{place}: must be a finite number (found {value})")
        elif value is not None and not isinstance(value, bool | int):
            raise SpecError(f"{place}: {str(value)[:40]!r} is read as a {type(value).__name__}; put it in quotes")

    check(data, "", 0)
    copy: dict[str, Any] = json.loads(json.dumps(data))
    return copy


def override(data: dict[str, Any], item: str) -> None:
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
        if node.get(part) is None:
            node[part] = {}
        if not isinstance(node[part], dict):
            raise SpecError(f"--set {item!r}: {'.'.join([*parents, part])} is not a section of the job file")
        node = node[part]
        parents.append(part)
    if parents == ["policy"] and parts[0] in POLICIES:
        for other in POLICIES:
            node.pop(other, None)
    node[parts[0]] = _value(value, key)


def _value(text: str, key: str) -> Any:
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


def fill_date(path: str) -> str:
    """`{date}` in a path becomes today's date, `{yesterday}` the day's before (ISO, UTC: the same wherever the driver runs)."""
    today = datetime.now(UTC).date()
    return path.replace("{date}", today.isoformat()).replace("{yesterday}", (today - timedelta(days=1)).isoformat())


def read_schema(response_format: dict[str, Any], base: Path) -> dict[str, Any]:
    """`{json_schema: FILE or mapping}` → `{"json_schema": mapping}`, the schema itself checked."""
    import jsonschema

    if set(response_format) - {"json_schema", "type"} or "json_schema" not in response_format:
        raise SpecError("response_format: write it as {json_schema: schema.json} (a file, or the schema itself)")
    schema = response_format["json_schema"]
    if isinstance(schema, str):
        path = base / schema
        try:
            schema = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise SpecError(f"response_format.json_schema: no file {printable(str(path))}") from None
        except (OSError, ValueError):
            raise SpecError(f"response_format.json_schema: {printable(str(path))} is not JSON") from None
    if not isinstance(schema, dict):
        raise SpecError("response_format.json_schema: must be a JSON schema (a mapping)")
    try:
        if not isinstance(schema.get("$schema", ""), str):
            raise jsonschema.SchemaError("$schema must be text")
        jsonschema.validators.validator_for(schema).check_schema(schema)
    except jsonschema.SchemaError as error:
        reason = " ".join(error.message.split())[:160]
        raise SpecError(f"response_format.json_schema: not a JSON schema: {reason}") from None
    return {"json_schema": schema}
