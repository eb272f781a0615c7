"""The answers' schema: what a model wrote costs its own `parsed` at most; a schema that cannot be used is one line, early."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.spec.loader import read_schema
from jobs.spec.response_format import check_schema, parsed_column

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
PRICE = {"properties": {"price": {"type": "number", "multipleOf": 0.01}}}
SLOW = r"^(a|a|aa)+$"
DRAFT7 = "http://json-schema.org/draft-07/schema#"


def test_the_parsed_column() -> None:
    assert parsed_column('{"a": 1}', SCHEMA) == '{"a":1}'
    assert parsed_column('```json\n{"a": 1}\n```', SCHEMA) == '{"a":1}'
    assert parsed_column('<think>{"a": 2}, no:</think>\n```json\n{"a": 1}\n```', SCHEMA) == '{"a":1}'
    assert parsed_column('<think>{"a": 2}', SCHEMA) is None
    for text in (None, "", "no", '{"a": "1"}', '{"a": 1, "b": 2}', '{"a": NaN}', '{"a": 1', "[" * 100_000):
        assert parsed_column(text, SCHEMA) is None


@pytest.mark.parametrize(
    ("text", "schema", "parsed"),
    [
        ('{"price": %s}' % ("1" * 400), PRICE, None),
        ('{"price": 1e999}', PRICE, None),
        ('{"price": 1e999}', {}, None),
        ('{"price": %s}' % ("1" * 5000), {}, None),
        ('{"a": "\\ud83d"}', {}, '{"a":"?"}'),
        ('{"a": "\\ud83d\\ude00"}', {}, '{"a":"\U0001f600"}'),
        ("1", {"$ref": "#/definitions/x"}, None),
    ],
)
def test_what_a_model_writes_costs_its_own_parsed_value(text: str, schema: dict[str, Any], parsed: str | None) -> None:
    found = parsed_column(text, schema)
    assert found == parsed
    pa.array([found], pa.string())


@settings(max_examples=100, deadline=None)
@given(
    text=st.text(st.characters()) | st.recursive(
        st.none() | st.integers() | st.floats() | st.text(st.characters(min_codepoint=0xD7F0, max_codepoint=0xE010)),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner),
    ).map(json.dumps),
    schema=st.sampled_from([SCHEMA, PRICE, {}, {"patternProperties": {"^a": {"pattern": "x"}}}]),
)  # fmt: skip
def test_any_answer_has_a_parsed_value_or_none(text: str, schema: dict[str, Any]) -> None:
    found = parsed_column(text, schema)
    pa.array([found], pa.string())
    assert found is None or json.loads(found, parse_constant=pytest.fail) is not NotImplemented


@pytest.mark.parametrize(
    "schema",
    [
        {"pattern": SLOW},
        {"patternProperties": {SLOW: {}}},
        {"patternProperties": {SLOW: {}}, "additionalProperties": False},
        {"$schema": DRAFT7, "pattern": SLOW},
        {"$schema": DRAFT7, "anyOf": [{"items": {"$ref": "#"}}], "pattern": SLOW, "patternProperties": {SLOW: {}}},
    ],
)
def test_patterns_run_out_of_time(schema: dict[str, Any]) -> None:
    check_schema(schema)
    text = "a" * 40 + "!"
    begin = time.monotonic()
    for value in (text, {text: 1}, [text], [{text: 1}]):
        parsed_column(json.dumps(value), schema)
    assert time.monotonic() - begin < 10
    assert parsed_column(json.dumps(text if "pattern" in schema else {text: 1}), schema) is None


def test_patterns_are_those_of_json_schema() -> None:
    schema = {"patternProperties": {"^n_": {"type": "integer"}}, "properties": {"a": {}}, "additionalProperties": False}
    for value, fits in (({"n_x": 1}, 1), ({"n_x": "1"}, 0), ({"a": 1, "n_": 2}, 1), ({"b": 1}, 0), ([], 1)):
        assert (parsed_column(json.dumps(value), schema) is not None) == fits
    others = {"additionalProperties": {"pattern": "^[a-z]+$"}}
    for value, fits in (({"x": "ab"}, 1), ({"x": "a1"}, 0), ({"x": 1}, 1)):
        assert (parsed_column(json.dumps(value), others) is not None) == fits


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"$ref": "#/definitions/x"}, "'#/definitions/x' is not in the schema; put what $ref names under $defs"),
        ({"properties": {"a": {"items": [{"$ref": "#a"}]}}, "$schema": DRAFT7}, "'#a' is not in the schema"),
        ({"$ref": "http://127.0.0.1:1/x.json"}, "'http://127.0.0.1:1/x.json' is not in the schema"),
        ({"$ref": "other.json"}, "'other.json' is not in the schema"),
        ({"$ref": DRAFT7}, "is not in the schema"),
        ({"$ref": "http://[x"}, "is not in the schema"),
        ({"$ref": "#/x", "x": {"type": 5}}, "not a JSON schema: 5 is not valid"),
        ({"$ref": "#"}, "refers to itself without end"),
        ({"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}, "without end"),
        ({"pattern": "("}, "not a JSON schema: '(' is not a 'regex'"),
        ({"patternProperties": {"(": {}}}, "not a JSON schema"),
        ({"items": {"$schema": DRAFT7}}, "$schema inside the schema; it belongs at the top"),
        ({"patternProperties": {"a": {}}, "unevaluatedProperties": False}, "write additionalProperties instead"),
        ({"type": "objekt"}, "not a JSON schema"),
        ({"$schema": 3}, "$schema must be text"),
        ({"minimum": float("nan")}, "must be a finite number"),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_at_the_border(schema: dict[str, Any], says: str) -> None:
    with pytest.raises(SpecError) as refused:
        read_schema({"json_schema": schema}, Path())
    said = str(refused.value)
    assert said.startswith("response_format") and says in said and "\n" not in said


@pytest.mark.parametrize(
    "schema",
    [
        SCHEMA,
        {"$schema": DRAFT7, "definitions": {"n": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
         "type": "object", "properties": {"next": {"$ref": "#/definitions/n"}}},
        {"$id": "https://example.org/tree", "$defs": {"leaf": {"$anchor": "leaf"}}, "items": {"$ref": "#leaf"}},
        {"$id": "https://example.org/tree", "$defs": {"leaf": {"$id": "leaf"}}, "items": {"$ref": "leaf"}},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}, "enum": [{"$ref": "no schema"}]},
    ],
)  # fmt: skip
def test_schemas_that_refer_to_themselves_are_fine(schema: dict[str, Any]) -> None:
    assert read_schema({"json_schema": schema}, Path()) == {"json_schema": schema}
    parsed_column('{"next": {"next": null}}', schema)


def test_a_schema_file_nested_without_end(tmp_path: Path) -> None:
    for text in ('{"items":' * 200_000, '{"items":' * 200 + "{}" + "}" * 200):
        (tmp_path / "deep.json").write_text(text)
        with pytest.raises(SpecError, match="nested too deeply"):
            read_schema({"json_schema": "deep.json"}, tmp_path)
