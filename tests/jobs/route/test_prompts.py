"""Four ways to say what a prompt is, one result; what is wrong with a row is its error, never an exception."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.route.score.formats.record import Record
from jobs.route.score.prompts import PromptReader
from jobs.spec.loader import parse_spec

MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}


def reader(columns: list[str], **job) -> PromptReader:
    data = {"input": {"path": "x", **job.pop("input", {})}, "output": "o", "router": "random", "models": MODELS}
    return PromptReader(
        parse_spec({**data, "weak": "a", "strong": "b", "policy": {"strong_share": 0.5}, **job}), columns
    )


def test_prompt_messages_template_and_batch_lines_become_the_same_messages():
    want = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "2+2?"}]
    system = {"system": "Be short."}
    cases = [
        (reader(["q"], input={"prompt": "q"}, **system), {"q": "2+2?"}),
        (reader(["m"], input={"messages": "m"}, **system), {"m": [{"role": "user", "content": "2+2?", "name": None}]}),
        (reader(["m"], input={"messages": "m"}, **system), {"m": '[{"role": "user", "content": "2+2?"}]'}),
        (reader(["x", "y"], template="{{ x }}+{{ y }}?", **system), {"x": 2, "y": 2}),
        (
            reader(["custom_id", "body"], **system),
            {"custom_id": "7", "body": {"model": "z", "messages": want[1:], "top_p": 0.5}},
        ),
    ]
    for made, columns in cases:
        prompt = made.read(Record(columns))
        assert (prompt.messages, prompt.error) == (want, ""), made.kind
    assert prompt.id == "7" and prompt.body == {"top_p": 0.5}


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"q": None}, "q is null"), ({"q": "  \n"}, "q is empty"), ({"q": 3}, "q is a number, not text"),
        ({}, "column 'q' is missing"), ({"q": ["x"]}, "q is a list, not text"),
    ],
)  # fmt: skip
def test_a_row_without_a_prompt_says_why(columns, says):
    prompt = reader(["q"], input={"prompt": "q"}).read(Record(columns))
    assert prompt.error == says and prompt.messages == []


@pytest.mark.parametrize(
    "messages",
    [
        None,
        [],
        "x",
        [{"role": "user"}],
        [{"role": "king", "content": "x"}],
        [{"role": "assistant", "content": "x"}],
        [3],
        {"role": "user"},
    ],
)
def test_malformed_messages_are_the_rows_error(messages):
    prompt = reader(["m"], input={"messages": "m"}).read(Record({"m": messages}))
    assert prompt.error.startswith("m")


def test_a_template_is_sandboxed_and_its_failures_are_the_rows():
    made = reader(["x"], template="{{ x.__class__.__mro__ }}")
    assert "SecurityError" in made.read(Record({"x": "1"})).error
    assert "UndefinedError" in reader(["x"], template="{{ x.y }}").read(Record({"x": {}})).error


@pytest.mark.parametrize(
    ("columns", "job", "says"),
    [
        (["a"], {"input": {"prompt": "q"}}, "input.prompt: the input has no column 'q'"),
        (["a"], {"template": "{{ b }}"}, "template variable b: the input has no column 'b'"),
        (["a"], {"template": "{{ a "}, "template: line 1"),
        (["a"], {"template": "{{ a | nofilter }}"}, "template: line 1: No filter named 'nofilter'"),
        (["a"], {"template": "{{ a is notest }}"}, "template: line 1: No test named 'notest'"),
        (["a"], {"template": "{{ " + "(" * 400 + "a" + ")" * 400 + " }}"}, "template: nested too deeply"),
        (["a"], {"template": "{% for x in a %}" * 30 + "{% endfor %}" * 30}, "template: nested too deeply"),
        (["q"], {"input": {"prompt": "q", "keep": ["z"]}}, "input.keep"),
        (["q"], {"input": {"prompt": "q", "id": "z"}}, "input.id"),
        (["q"], {"input": {"prompt": "q"}, "quality": {"gold": {"column": "z"}}}, "quality.gold.column"),
        (["a"], {}, "input.prompt: missing"),
    ],
)
def test_a_column_that_is_not_there_is_named(columns, job, says):
    with pytest.raises(SpecError, match=says.replace(".", r"\.")):
        reader(columns, **job)


def test_the_reader_travels_without_its_compiled_template():
    made = reader(["x"], template="{{ x }}!")
    made.read(Record({"x": "a"}))
    assert pickle.loads(pickle.dumps(made)).read(Record({"x": "a"})).messages[0]["content"] == "a!"


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "messages", "text"]) | st.text(), inner, max_size=3)
    ),
)


@settings(max_examples=200, deadline=None)
@given(value=JSONISH, kind=st.sampled_from(["prompt", "messages", "batch"]))
def test_no_value_raises(value, kind):
    made = {
        "prompt": reader(["q"], input={"prompt": "q"}),
        "messages": reader(["q"], input={"messages": "q"}),
        "batch": reader(["custom_id", "body"]),
    }[kind]
    prompt = made.read(Record({"q": value, "custom_id": value, "body": value}))
    assert bool(prompt.error) != bool(prompt.messages)
