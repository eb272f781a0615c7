"""`response_format.json_schema`: checked at the border, and put to every answer by the column `parsed`.

The schema may be a stranger's and the answers are a model's: both are untrusted. A schema that refers to anything but
itself is refused, so that nothing is ever fetched; its patterns run in `regex`, with the time limit of gold patterns;
whatever goes wrong with an answer costs only that answer's `parsed`. Cost: some 20 us an answer with a flat schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import jsonschema
import referencing.jsonschema
import regex

from jobs.errors import SpecError
from routing.answers.matching import REGEX_TIMEOUT_S
from routing.answers.thinking import behind_thinking
from routing.text import whole

_FIELD = "response_format.json_schema"
_REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")
_SAMPLES: tuple[Any, ...] = (None, {}, [], "", 0)


def check_schema(schema: dict[str, Any]) -> None:
    """Raises SpecError for what is no JSON schema, or one that no answer can be checked against."""
    try:
        if not isinstance(schema.get("$schema", ""), str):
            raise jsonschema.SchemaError("$schema must be text")
        jsonschema.validators.validator_for(schema).check_schema(schema)
        _check_parts(schema)
        validator = _validator(json.dumps(schema, sort_keys=True))
        for sample in _SAMPLES:
            validator.is_valid(sample)
    except jsonschema.SchemaError as error:
        reason = " ".join(error.message.split())[:160]
        raise SpecError(f"{_FIELD}: not a JSON schema: {reason}") from None
    except SpecError:
        raise
    except RecursionError:
        raise SpecError(f"{_FIELD}: refers to itself without end, or is nested too deeply; mend its $ref") from None
    except Exception as error:  # noqa: BLE001 - libraries over a stranger's schema: whatever they raise, it is no good
        raise SpecError(f"{_FIELD}: not a JSON schema that can be checked ({type(error).__name__})") from None


def parsed_column(text: str | None, schema: Mapping[str, Any]) -> str | None:
    """The answer as compact JSON text where it is valid JSON that fits `schema`, else None.

    A ```json fence around it is taken off: models without constrained output like to write one; so is a reasoning model's thought.
    """
    if text is None:
        return None
    text = behind_thinking(text).strip()
    if text.startswith("```") and text.endswith("```"):
        text = text[3:-3].removeprefix("json").strip()
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if not _validator(json.dumps(schema, sort_keys=True)).is_valid(value):
            return None
        # 1e999 is valid JSON and read as infinity, which JSON cannot say.
        return whole(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
    except Exception:  # noqa: BLE001 - a model wrote it: an answer that cannot be checked has no parsed value, and no more
        return None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _check_parts(schema: Mapping[str, Any]) -> None:
    """Walk the schema and all it refers to. Raises SpecError for what is not to be resolved in it, or limited in time."""
    validator = jsonschema.validators.validator_for(schema)
    dialect = validator.META_SCHEMA.get("$schema", "")
    specification = referencing.jsonschema.specification_with(dialect, default=referencing.jsonschema.DRAFT202012)
    root = specification.create_resource(_undeclared(schema))
    todo: list[tuple[Any, Any]] = [(root.contents, referencing.Registry().resolver_with_root(root))]
    seen, keywords = set[int](), set[str]()
    while todo:
        part, resolver = todo.pop()
        if not isinstance(part, dict) or id(part) in seen:
            continue
        seen.add(id(part))
        keywords |= part.keys()
        if "$schema" in part:  # it would bring a validator of its own, without the limits of ours
            raise SpecError(f"{_FIELD}: $schema inside the schema; it belongs at the top")
        for pattern in [*([part["pattern"]] if "pattern" in part else []), *part.get("patternProperties", {})]:
            _check_pattern(pattern)
        for reference in [part[name] for name in _REFERENCES if name in part]:
            try:
                found = resolver.lookup(reference)
            except (referencing.exceptions.Unresolvable, ValueError):
                raise SpecError(
                    f"{_FIELD}: {str(reference)[:80]!r} is not in the schema; put what $ref names under $defs"
                ) from None
            validator.check_schema(found.contents)
            todo.append((found.contents, found.resolver))
        for sub in specification.create_resource(part).subresources():
            todo.append((sub.contents, resolver.in_subresource(sub)))
    if {"patternProperties", "unevaluatedProperties"} <= keywords:
        raise SpecError(f"{_FIELD}: unevaluatedProperties beside patternProperties; write additionalProperties instead")


def _check_pattern(pattern: Any) -> None:
    try:
        regex.compile(pattern)
    except regex.error as error:
        raise SpecError(f"{_FIELD}: {str(pattern)[:80]!r} is no valid pattern: {error}") from None


def _undeclared(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Without `$schema`: jsonschema would take its own validator again wherever a `$ref` leads back to the top."""
    return {name: value for name, value in schema.items() if name != "$schema"}


@lru_cache(maxsize=16)
def _validator(schema: str) -> Any:
    parsed = json.loads(schema)
    limited = {"pattern": _pattern, "patternProperties": _pattern_properties, "additionalProperties": _additional}
    extend: Any = jsonschema.validators.extend
    kind = extend(jsonschema.validators.validator_for(parsed), limited)
    return kind(_undeclared(parsed), registry=referencing.Registry())


def _found(pattern: str, text: str) -> bool:
    """Raises TimeoutError."""
    return regex.search(pattern, text, timeout=REGEX_TIMEOUT_S) is not None


# The three keywords that search for patterns, as jsonschema has them but for the time limit.


def _pattern(validator: Any, pattern: str, instance: Any, _: Any) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "string") and not _found(pattern, instance):
        yield jsonschema.ValidationError("pattern")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, _: Any) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "object"):
        for pattern, schema in patterns.items():
            for name in [name for name in instance if _found(pattern, name)]:
                yield from validator.descend(instance[name], schema, path=name)


def _additional(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[jsonschema.ValidationError]:
    if validator.is_type(instance, "object"):
        named, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
        for name, value in instance.items():
            if name not in named and not any(_found(pattern, name) for pattern in patterns):
                yield from validator.descend(value, allowed, path=name)
