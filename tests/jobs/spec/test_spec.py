"""Every mistake in a job file is one line that names field and fix; the published schema says the same."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from job_mistakes import JOB, MISTAKES, changed

from jobs.errors import SpecError
from jobs.spec.json_schema import job_schema, schema_text
from jobs.spec.loader import parse_spec


def complaint(job: Any) -> str:
    with pytest.raises(SpecError) as error:
        parse_spec(job)
    text = str(error.value)
    assert "\n" not in text
    return text


def test_the_good_job() -> None:
    spec = parse_spec(JOB)
    assert spec.names == ("small", "gpt-4.1")
    assert (spec.policy.kind, spec.policy.value) == ("strong_share", 0.3)
    assert spec.models["gpt-4.1"].limits.in_flight == 256
    assert parse_spec(JOB) == spec


@pytest.mark.parametrize(("place", "value", "message"), MISTAKES, ids=lambda part: str(part)[:40])
def test_one_line_names_field_and_fix(place: str, value: Any, message: str) -> None:
    text = complaint(changed(place, value))
    assert text.startswith(message)
    assert "sk-" not in text
    assert "pw1" not in text


def test_more_than_one_mistake_is_counted() -> None:
    job = changed("policy", {"strong_share": 2})
    job["max_usd"] = -1
    assert complaint(job) == "policy.strong_share: must be at most 1 (found 2) (and 1 more)"


def test_names_that_yaml_reads_as_numbers() -> None:
    job = copy.deepcopy(JOB)
    job["models"][4] = {"engine": "openai"}
    assert complaint(job) == "models.4: names must be text; put 4 in quotes"


def test_values_that_json_cannot_hold() -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    assert complaint(changed("models/small/engine_kwargs", loop)).startswith("models: too large or nested too deeply")
    assert complaint(changed("system", "\ud800")).startswith("system: text with a lone surrogate")
    assert complaint(changed("sampling", {"extra": b"x"})).startswith("sampling.extra: ")
    assert complaint(["a list"]) == "job file: must be a mapping with input, output, router, models, policy"


def test_dates_and_schema_files(tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text('{"type": "object"}')
    job = changed("response_format", {"json_schema": "schema.json"}) | {"output": "runs/{date}"}
    spec = parse_spec(job, base=tmp_path)
    assert spec.response_format == {"json_schema": {"type": "object"}}
    assert spec.output == f"runs/{date.today().isoformat()}"
    (tmp_path / "schema.json").write_text("not json")
    with pytest.raises(SpecError, match=r"response_format.json_schema: .*schema.json is not JSON"):
        parse_spec(job, base=tmp_path)


def test_the_published_schema_is_up_to_date(checkout: Path) -> None:
    path = checkout / "docs" / "job-schema.json"
    assert path.read_text() == schema_text(), "run: python -m jobs.spec.json_schema > docs/job-schema.json"


def test_an_editor_is_offered_the_engines_it_knows_and_objects_to_no_other() -> None:
    import jsonschema

    jsonschema.validate(changed("models/small/engine", "of_a_package"), job_schema())
    listed = job_schema(["vllm", "toy"])["$defs"]["ModelSpec"]["properties"]["engine"]["anyOf"][0]["enum"]
    assert listed == ["vllm", "toy"]


def test_the_published_schema_accepts_the_good_job_and_no_unknown_field(checkout: Path) -> None:
    import jsonschema

    schema = json.loads((checkout / "docs" / "job-schema.json").read_text())
    jsonschema.validate(JOB, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed("input/promt", "x"), schema)
