"""A template over what is not there: it can ask, and must not print. No prompt says None or nan where the input says nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.route.score.formats.record import Record
from tests.jobs.route.carried import carried, write_jsonl, write_parquet
from tests.jobs.route.test_prompts import reader

NAN = float("nan")
NOTHING = [None, NAN]


def told(template: str, columns: dict[str, Any]) -> str:
    """The prompt, or its error."""
    prompt = reader(sorted({"x", "y", *columns}), template=template).read(Record(columns))
    return prompt.error or prompt.messages[0]["content"]


@pytest.mark.parametrize("nothing", NOTHING)
@pytest.mark.parametrize(
    "printed",
    [
        "{{ x }}", "{{ x|trim }}", "{{ x|int }}", "{{ x|float }}", "{{ x|string }}", "{{ x|upper }}", "{{ x|length }}", "{{ x|e }}",
        "{{ 'a' ~ x }}", "{{ 'a' + x }}", "{{ '%s' % x }}", "{{ '%s'|format(x) }}", "{{ '{}'.format(x) }}",
        "{{ '{!r}'.format(x) }}",
        "{{ [x]|join(', ') }}", "{{ [1, x] }}", "{{ {'a': x} }}", "{{ (x, 1) }}", "{{ [x]|string }}", "{{ x|pprint }}",
        "{{ x.y }}", "{{ x[0] }}", "{{ x|first }}", "{{ x|replace('a', 'b') }}", "{{ 'abc'|replace('b', x) }}", "{{ x|title }}",
        "{% for each in x %}{{ each }}{% endfor %}", "{% set y = x %}{{ y }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(x) }}",
        "{% filter upper %}{{ x }}{% endfilter %}", "{{ x and 'b' }}", "{{ x or x }}", "{{ y|default(x) }}", "{{ x|truncate(5) }}",
        "{{ x|round }}", "{{ x * 2 }}", "{{ x + 1 }}", "{{ x > 3 }}", "{{ 'a' in x }}", "{{ x|wordcount }}", "{{ x|list }}",
        "{{ ','.join([x]) }}", "{{ x|sum }}", "{{ [x]|sum }}", "{{ [x, 1]|max }}", "{{ x|indent }}", "{{ x|urlencode }}",
        "{{ namespace(a=x).a }}", "{{ dict(a=x) }}", "{{ x|safe }}", "{{ x|abs }}", "{{ '%r' % x }}", "{{ range(x) }}",
    ],
)  # fmt: skip
def test_what_would_print_nothing_is_the_rows_error(printed: str, nothing: Any) -> None:
    said = told(printed, {"x": nothing, "q": "a"})
    assert said.startswith("template: ") and "\n" not in said


@pytest.mark.parametrize("columns", [{"x": None}, {"x": NAN}, {}], ids=str)
@pytest.mark.parametrize(
    ("template", "prompt"),
    [
        ("{% if x %}{{ x }}{% else %}-{% endif %}", "-"), ("{% if not x %}-{% endif %}", "-"),
        ("{% if x is none %}-{% endif %}", "-"), ("{% if x is not none %}{{ x }}{% else %}-{% endif %}", "-"),
        ("{% if x is defined %}{{ x }}{% else %}-{% endif %}", "-"), ("{{ '-' if x is undefined else x }}", "-"),
        ("{% if x is defined and x is not none %}{{ x }}{% else %}-{% endif %}", "-"),
        ("{% if x == none %}-{% endif %}", "-"), ("{% if x != none %}{{ x }}{% else %}-{% endif %}", "-"),
        ("{% if x == 'a' %}{{ x }}{% else %}-{% endif %}", "-"), ("{% if x in ['a'] %}{{ x }}{% else %}-{% endif %}", "-"),
        ("{{ x or '-' }}", "-"), ("{{ x|default('-', true) }}", "-"), ("{{ x|default('-') }}", "-"), ("{{ x|d('-', true) }}", "-"),
        ("{{ (x or '-')|trim }}", "-"), ("{{ x|default('-', boolean=true)|upper }}", "-"), ("{{ x|int(7) }}", "7"),
        ("{{ x|float(default=7) }}", "7"), ("{{ [x, 'a']|select|join(',') }}", "a"), ("{{ [x, 'a']|reject('none')|join }}", "a"),
        ("{{ [x, 'a']|map('default', '-', true)|join(',') }}", "-,a"),
        ("{{ x is string or x is number or x is iterable }}", "False"),
        ("{{ x|tojson }}", "null"), ("{{ {'a': x}|tojson }}", '{"a": null}'),
        ("{% for each in x or [] %}{% else %}-{% endfor %}", "-"),
        ("{% set y = x or '-' %}{{ y }}", "-"), ("{{ 'a' if x is none else 'b' }}", "a"),
    ],
)  # fmt: skip
def test_what_asks_first_gets_its_answer(template: str, prompt: str, columns: dict[str, Any]) -> None:
    assert told(template, columns) == prompt


@pytest.mark.parametrize(
    ("template", "x", "said"),
    [
        ("{{ x.a }}", {"a": None}, "template: UndefinedError: x.a is null"),
        ("{{ x }}", {"a": [1, None]}, "template: UndefinedError: x.a[1] is null"),
        ("{{ x|join(', ') }}", ["a", None], "template: UndefinedError: x[1] is null"),
        ("{{ x.a }}", {}, "template: UndefinedError: 'dict object' has no attribute 'a'"),
        ("{{ x.get('a') }}", {}, "template: UndefinedError: what a call found is null"),
        ("{{ 'a' ~ x.get('a') }}", {}, "template: UndefinedError: what a call found is null"),
        ("{{ x.get('a', '-') }}", {}, "-"), ("{{ x.get('a') or '-' }}", {"a": NAN}, "-"), ("{{ x.a or '-' }}", {}, "-"),
        ("{% if x.a is none %}-{% endif %}", {"a": None}, "-"),
        ("{{ x|tojson }}", {"a": NAN, "b": [None]}, '{"a": null, "b": [null]}'),
        ("{% for k, v in x.items() if v %}{{ k }}={{ v }}{% endfor %}", {"a": None, "b": 1}, "b=1"),
        ("{{ x|selectattr('a')|map(attribute='a')|join }}", [{"a": None}, {"a": 1}, {}], "1"),
        ("{{ x|map(attribute='a', default='-')|join }}", [{"a": 1}, {}], "1-"),
        ("{{ x }}", [0, False, ""], "[0, False, '']"), ("{{ x }}", "None nan", "None nan"), 
        ("{{ none }}", 1, "template: UndefinedError: what it prints is null"),
    ],
)  # fmt: skip
def test_within_objects_and_lists_as_well(template: str, x: Any, said: str) -> None:
    assert told(template, {"x": x}) == said


def test_a_column_named_as_jinja_names_something_of_its_own_is_the_column(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", range=["near", None], dict=["a", "b"])
    made = carried(tmp_path, {}, template="{{ range }} {{ dict }}{% for i in [1] %} {{ loop.index }}{% endfor %}")
    assert made.scored["text"].to_pylist() == ["near a 1", ""]
    assert made.errors == ["", "template: UndefinedError: range is null"]
    assert told("{{ range(3)|list }}", {"x": 1}) == "[0, 1, 2]"


VALUES = st.recursive(
    st.none() | st.just(NAN) | st.integers() | st.sampled_from(["a", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=5,
)


@given(VALUES, st.sampled_from(["{{ x }}", "{{ 'a' ~ x }}", "{{ [x, 1] }}", "{{ '%s' % [x] }}", "{{ x|string|trim }}"]))
def test_no_prompt_says_none_or_nan(x: Any, template: str) -> None:
    assert not {"None", "nan"} & set(
        told(template, {"x": x}).replace("[", " ").replace("]", " ").replace(",", " ").split()
    )


def test_rows_of_a_file_are_told_apart(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", t=["a", None, "c"], s=pa.array([1.5, NAN, None]))
    made = carried(tmp_path, {}, template="{{ t or 'none given' }} {{ s }}")
    assert made.scored["text"].to_pylist()[0] == "a 1.5"
    assert made.errors == ["", "template: UndefinedError: s is null", "template: UndefinedError: s is null"]


def test_a_key_that_a_line_lacks_is_what_null_is_in_parquet(tmp_path: Path) -> None:
    rows = [{"t": "a", "d": {"k": "b"}}, {"t": "c", "d": {}}, {"d": {"k": "e"}}]
    template = "{{ t|default('?') }} {% if d.k %}{{ d.k }}{% endif %}"
    for name in ("lines", "table"):
        write_jsonl(tmp_path / name / "in/a.jsonl", rows)
    write_parquet(tmp_path / "table2/in/a.parquet", t=["a", "c", None], d=[row["d"] for row in rows])
    lines, table = (carried(tmp_path / name, {}, template=template) for name in ("lines", "table2"))
    assert lines.scored["messages"].to_pylist() == table.scored["messages"].to_pylist()
    assert json.loads(lines.scored["messages"][2].as_py())[0]["content"] == "? e"


@pytest.mark.parametrize("nothing", NOTHING)
def test_a_prompt_messages_or_gold_that_is_nan_is_null(nothing: Any) -> None:
    assert reader(["q"], input={"prompt": "q"}).read(Record({"q": nothing})).error == "q is null"
    assert reader(["q"], input={"messages": "q"}).read(Record({"q": nothing})).error == "q is null"
    made = reader(["q", "g"], input={"prompt": "q", "id": "g"}, quality={"gold": {"column": "g"}}, sample={"rows": 1})
    prompt = made.read(Record({"q": "a", "g": nothing}))
    assert prompt.gold is None and prompt.id is None
