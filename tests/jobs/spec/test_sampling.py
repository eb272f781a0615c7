"""Generation parameters: a model's own over the job's, null to take one away, and variables of a chat template."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from jobs.errors import SpecError
from jobs.route.answer.lane_contexts import judge_sampling
from jobs.route.pilot.further_answers import how_drawn
from jobs.route.plan.groups import why_not_once
from jobs.spec.job import JobSpec
from jobs.spec.json_schema import job_schema
from jobs.spec.loader import load_spec, parse_spec

OF_JOB = {"temperature": 0, "top_p": 0.5, "seed": 1, "stop": ["a"], "max_tokens": 70, "presence_penalty": 0.1}


def content(strong: Any = None, **more: Any) -> dict[str, Any]:
    models = {"weak": {"engine": "openai"}, "strong": {"engine": "openai"} | ({"sampling": strong} if strong else {})}
    return {
        "input": {"path": "in", "prompt": "q"}, "output": "out", "router": "random", "models": models, "weak": "weak",
        "strong": "strong", "policy": {"strong_share": 0.5}, "sampling": OF_JOB,
    } | more  # fmt: skip


def spec(strong: Any = None, **more: Any) -> JobSpec:
    return parse_spec(content(strong, **more))


@pytest.mark.parametrize("name", ["temperature", "top_p", "seed", "stop", "presence_penalty"])
def test_null_takes_the_jobs_value_away(name: str) -> None:
    job = spec({name: None})
    assert job.sampling_of("strong") == {key: value for key, value in OF_JOB.items() if key != name}
    assert job.sampling_of("weak") == OF_JOB


def test_without_the_jobs_limit_of_tokens_the_default_stands() -> None:
    assert spec({"max_tokens": None}).sampling_of("strong")["max_tokens"] == 1024
    of_model = spec({"max_tokens": None, "max_completion_tokens": 4096}).sampling_of("strong")
    assert of_model["max_completion_tokens"] == 4096 and "max_tokens" not in of_model
    assert spec({"temperature": 1}).sampling_of("strong") == OF_JOB | {"temperature": 1}


def test_null_in_the_jobs_own_section_is_nothing_at_all() -> None:
    assert spec(sampling={"temperature": None, "top_p": None}).sampling_of("weak") == {"max_tokens": 1024}


def test_what_a_job_file_said_comes_back_from_the_run() -> None:
    job = spec({"temperature": None, "reasoning_effort": None})
    again = parse_spec(job.content())
    assert again == job and again.sampling_of("strong") == job.sampling_of("strong") and not again.deduplicates()
    assert "temperature" in job.content()["models"]["strong"]["sampling"]
    assert spec().content() == spec().model_dump(mode="json", exclude_none=True), "old job files say what they said"


def test_no_temperature_means_no_copies_and_the_plan_says_so() -> None:
    assert spec().deduplicates() and why_not_once(spec()) == ""
    said = why_not_once(spec({"temperature": None}))
    assert said.startswith("dedup: auto is off, since models.strong has no temperature") and "dedup: true" in said
    assert "models.strong answers at temperature 0.7" in why_not_once(spec({"temperature": 0.7}))
    always = spec({"temperature": None}, dedup=True)
    assert always.deduplicates() and why_not_once(always) == ""


def test_a_judge_takes_what_its_model_takes() -> None:
    judged = {"sample": {"rows": 10}, "quality": {"judge": {"model": "strong"}}}
    assert judge_sampling(spec(**judged)) == {"temperature": 0, "max_tokens": 512}
    assert judge_sampling(spec({"temperature": None}, **judged)) == {"max_tokens": 512}
    thoughtless = {"chat_template_kwargs": {"enable_thinking": False}}
    assert judge_sampling(spec(thoughtless, **judged)) == {"temperature": 0, "max_tokens": 512} | thoughtless
    own = {
        "sample": {"rows": 10},
        "quality": {"judge": {"model": "strong", "sampling": {"temperature": None, "seed": 3}}},
    }
    assert judge_sampling(spec(**own)) == {"seed": 3, "max_tokens": 512}


def test_further_answers_are_drawn_as_the_model_takes_it() -> None:
    assert how_drawn(2, ()) == {"temperature": 0.7, "seed": 2} and how_drawn(2, ("temperature",)) == {"seed": 2}


def test_it_can_be_said_on_the_command_line_and_an_editor_knows_it(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(content()))
    job = load_spec(str(path), ["models.strong.sampling.temperature=null"])
    assert "temperature" not in job.sampling_of("strong")
    known = jsonschema.Draft202012Validator(job_schema())
    variables = {"chat_template_kwargs": {"enable_thinking": False}}
    assert known.is_valid(content({"temperature": None, "stop": None} | variables))
    assert not known.is_valid(content({"chat_template_kwargs": "off"}))


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ("enable_thinking", "models.strong.sampling: chat_template_kwargs must be a section"),
        ({"chat_template": "x"}, "chat_template_kwargs.chat_template is no variable of a chat template; remove it"),
        ({"tokenize": True}, "chat_template_kwargs.tokenize"),
    ],
)
def test_variables_of_a_template_are_checked_at_the_border(variables: Any, said: str) -> None:
    with pytest.raises(SpecError, match=said.replace(".", r"\.")):
        spec({"chat_template_kwargs": variables})
