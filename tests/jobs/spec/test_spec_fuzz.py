"""Whatever values, overrides and bytes a job file holds, it is a job or one line of a SpecError: nothing else comes out."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_mistakes import JOB, MISTAKES, changed

from jobs.errors import SpecError
from jobs.spec.job import JobSpec
from jobs.spec.job_file import override
from jobs.spec.loader import load_spec, parse_spec

FIELDS = sorted(
    {*JobSpec.model_fields, *JOB["input"], *JOB["models"]["gpt-4.1"], "small", "threshold", "budget_usd", "per_million"}
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.binary(max_size=3),
    st.sampled_from(FIELDS),
)
keys = st.one_of(st.sampled_from(FIELDS), st.text(max_size=5), st.integers(), st.none())
values = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=4)),
    max_leaves=12,
)
places = st.sampled_from([place for place, _, _ in MISTAKES if "/" not in place or place.split("/")[0] in JOB])


@settings(max_examples=100, deadline=None)
@given(values)
def test_any_value_is_a_job_or_a_spec_error(value: Any) -> None:
    _accepted_or_refused(value)


@settings(max_examples=1000, deadline=None)
@given(places, values)
def test_any_value_anywhere_is_a_job_or_a_spec_error(place: str, value: Any) -> None:
    _accepted_or_refused(changed(place, value))


def _accepted_or_refused(value: Any) -> None:
    try:
        outcome = json.dumps(parse_spec(value).model_dump(mode="json"), allow_nan=False)
    except SpecError as error:
        outcome = str(error)
    assert "\n" not in outcome
    assert outcome.encode()


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=30), st.text(max_size=20))
def test_any_override_is_taken_or_refused(name: str, value: str) -> None:
    for item in (f"{name}={value}", f"policy.{name}={value}", name):
        data = copy.deepcopy(JOB)
        try:
            override(data, item)
            parse_spec(data)
        except SpecError:
            continue


@settings(max_examples=100, deadline=None)
@given(text=st.one_of(st.text(max_size=60), st.text(alphabet="{}[]:,-&*!|>'\"\n a1.#%@`?~", max_size=40)))
def test_any_text_is_a_job_or_a_spec_error(text: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.yaml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(SpecError) as error:
        load_spec(str(path))
    assert "\n" not in str(error.value)
