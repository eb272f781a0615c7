"""Every mistake in a job file is one line that names field and fix; nothing else comes out of the border."""

from __future__ import annotations

import copy
import json
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import SpecError
from jobs.job_file import override
from jobs.schema import schema_text
from jobs.spec import JobSpec, load_spec, parse_spec

JOB: dict[str, Any] = {
    "input": {"path": "prompts.jsonl", "id": "qid", "prompt": "question", "keep": ["category"]},
    "output": "runs/one",
    "router": "length",
    "models": {
        "small": {"engine": "vllm", "source": "models/small", "price": {"gpu_hour_usd": 2.5}},
        "gpt-4.1": {"engine": "openai", "price": {"per_million": {"input": 2, "output": 8}}},
    },
    "weak": "small",
    "strong": "gpt-4.1",
    "policy": {"strong_share": 0.3},
}
DROP = "(dropped)"


def changed(place: str, value: Any) -> dict[str, Any]:
    """The good job with one value put in (or taken out: DROP) at `a/b/c`."""
    job = copy.deepcopy(JOB)
    *parents, last = place.split("/")
    node = job
    for part in parents:
        node = node.setdefault(part, {})
    if value is DROP:
        del node[last]
    else:
        node[last] = value
    return job


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


MISTAKES = [
    # missing
    ("input", DROP, "input: missing; the job file needs it"),
    ("input/path", DROP, "input.path: missing; the job file needs it"),
    ("output", DROP, "output: missing; the job file needs it"),
    ("policy", DROP, "policy: missing; the job file needs it"),
    ("models/small/engine", DROP, "models.small.engine: missing; the job file needs it"),
    ("models/small/source", DROP, "models.small: source is missing; engine vllm needs a hub id or a folder"),
    ("weak", DROP, "weak: missing; weak and strong must each name a model (or give `ladder:`)"),
    # unknown
    ("polcy", {}, "polcy: unknown field; did you mean 'policy'?"),
    ("input/promt", "x", "input.promt: unknown field; did you mean 'prompt'?"),
    (
        "models/gpt-4.1/limits",
        {"inflight": 3},
        "models.gpt-4.1.limits.inflight: unknown field; did you mean 'in_flight'?",
    ),
    ("models/gpt-4.1/api_key", "sk-123", "models.gpt-4.1.api_key: unknown field; did you mean 'api_key_env'?"),
    (
        "models/small/price/per_million",
        {"inputs": 1, "output": 1},
        "models.small.price.per_million.inputs: unknown field; ",
    ),
    ("xyzzy", 1, "xyzzy: unknown field; remove it"),
    # types
    ("input/path", 5, "input.path: must be text or a list (found 5)"),
    ("input/path", ["a", 5], "input.path.1: must be text (found 5)"),
    ("input/path", [], "input.path: must not be empty"),
    ("input/path", "", "input.path: must not be empty"),
    ("output", "", "output: must not be empty"),
    ("input", "prompts.jsonl", "input: must be a section (name: value) (found 'prompts.jsonl')"),
    ("models", ["small"], "models: must be a section (name: value)"),
    ("models", {}, "models: must not be empty"),
    ("models/small", None, "models.small: must be a section (name: value)"),
    (
        "models/gpt-4.1/limits",
        {"in_flight": "many"},
        "models.gpt-4.1.limits.in_flight: must be a whole number (found 'many')",
    ),
    (
        "models/gpt-4.1/limits",
        {"in_flight": 2.5},
        "models.gpt-4.1.limits.in_flight: must be a whole number (found 2.5)",
    ),
    ("dedup", "sometimes", "dedup: must be auto or true or false (found 'sometimes')"),
    ("input/keep", "category", "input.keep: must be a list (found 'category')"),
    ("output", date(2026, 11, 21), "output: '2026-11-21' is read as a date; put it in quotes"),
    # engines and models
    (
        "models/small/engine",
        "vlm",
        "models.small.engine: must be one of vllm, openai, openai_batch or transformers (found 'vlm'); ",
    ),
    (
        "models/small/service_tier",
        "flex",
        "models.small: service_tier is for engine openai; nothing there has tiers: remove it",
    ),
    (
        "models/gpt-4.1/service_tier",
        "priority",
        "models.gpt-4.1.service_tier: must be one of auto, default or flex (found 'priority')",
    ),
    ("strong", "gpt-5", "strong: model 'gpt-5' is not under models: (there: small, gpt-4.1)"),
    ("strong", "small", "strong: weak and strong are both 'small'; name two models"),
    ("ladder", ["small", "gpt-4.1"], "ladder: stands instead of weak and strong; drop one of them"),
    ("models/a b", {"engine": "openai"}, "models: the name 'a b' may hold letters, digits, '.', '_' and '-' only; "),
    # money
    (
        "models/gpt-4.1/price/per_million/input",
        -1,
        "models.gpt-4.1.price.per_million.input: must be 0 or more (found -1)",
    ),
    ("models/small/price/gpu_hour_usd", -0.5, "models.small.price.gpu_hour_usd: must be 0 or more (found -0.5)"),
    (
        "models/small/price/per_million",
        {"input": 1, "output": 1},
        "models.small.price: give exactly one of per_million, gpu_hour_usd",
    ),
    ("models/gpt-4.1/price", {"gpu_hour_usd": 2}, "models.gpt-4.1: price.gpu_hour_usd is for engines that run here; "),
    ("max_usd", 0, "max_usd: must be more than 0 (found 0)"),
    ("max_usd", float("inf"), "max_usd: must be a finite number (found inf)"),
    ("max_usd", True, "max_usd: must be a number (found true)"),
    # policy
    ("policy", {"budget_usd": 0}, "policy.budget_usd: must be more than 0 (found 0)"),
    ("policy", {"strong_share": 1.5}, "policy.strong_share: must be at most 1 (found 1.5)"),
    ("policy", {"threshold": float("nan")}, "policy.threshold: must be a finite number (found nan)"),
    (
        "policy",
        {},
        "policy: give exactly one of threshold, strong_share, budget_usd, min_quality, guarantee (found none)",
    ),
    (
        "policy/budget_usd",
        5,
        "policy: give exactly one of threshold, strong_share, budget_usd, min_quality, guarantee (found strong_share and ",
    ),
    ("on_budget", "strong", "on_budget: must be one of weak or stop (found 'strong')"),
    # columns
    ("input/messages", "chat", "input.prompt: give one of input.prompt, input.messages, template"),
    ("input/keep", ["id"], "input.keep: 'id' is a column of responses/; rename it in the input"),
    ("input/keep", ["model", "x"], "input.keep: 'model' is a column of responses/; rename it in the input"),
    ("input/keep", ["x", "x"], "input.keep: 'x' is named twice; drop one"),
    # secrets and addresses
    (
        "models/gpt-4.1/api_key_env",
        "sk-1234",
        "models.gpt-4.1.api_key_env: must be the name of an environment variable, not ",
    ),
    ("models/gpt-4.1/base_url", "http://me:pw1@h/v1", "models.gpt-4.1.base_url: must not hold a user or a password; "),
    (
        "models/gpt-4.1/base_url",
        "localhost:8000",
        "models.gpt-4.1.base_url: must be a URL, e.g. http://localhost:8000/v1",
    ),
    # later versions
    (
        "cascade",
        {"band": 0.2},
        "cascade: what the weak answers tell is learnt from a sample with quality; give the job ",
    ),
    ("cascade", {"bands": 0.2}, "cascade.bands: unknown field; did you mean 'band'?"),
    ("cascade", {"samples": 0}, "cascade.samples: must be 1 or more (found 0)"),
    ("cascade", {"signals": []}, "cascade.signals: must not be empty"),
    (
        "quality",
        {"judge": {"model": "gpt-4.1"}},
        "quality.judge: it rates the sample's answers; give the job sample: {rows: 500}",
    ),
    # schema
    ("response_format", {"schema": {}}, "response_format: write it as {json_schema: schema.json}"),
    ("response_format", {"json_schema": "gone.json"}, "response_format.json_schema: no file gone.json"),
    ("response_format", {"json_schema": 5}, "response_format.json_schema: must be a JSON schema (a mapping)"),
    ("response_format", {"json_schema": {"type": "strnig"}}, "response_format.json_schema: not a JSON schema: "),
    (
        "response_format",
        {"json_schema": {"$schema": [1]}},
        "response_format.json_schema: not a JSON schema: $schema must be text",
    ),
]


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input: [", "not valid YAML at line "),
        ("a: 1\nb: {\n", "not valid YAML at line "),
        ("max_usd: 5\nmax_usd: 500\n", "not valid YAML at line 2: 'max_usd' is given twice"),
        ("policy: {budget_usd: 1, budget_usd: 2}", "not valid YAML at line 1: 'budget_usd' is given twice"),
        ("when: 2026-13-45", "not valid YAML: "),
        ("{[1]: 2}", "not valid YAML at line 1"),
        ("- a\n- b\n", "must be a mapping with input, output, router, models, policy"),
        ("", "must be a mapping"),
        ("just text", "must be a mapping"),
        ("!!python/object/apply:os.system ['true']", "not valid YAML at line 1"),
    ],
)
def test_bad_files(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_spec(str(path))
    assert str(error.value).startswith(f"job file {path}: {message}")
    assert "\n" not in str(error.value)


def test_unreadable_files(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes("system: gr\xfc\xdfe".encode("latin-1"))
    for path, message in {
        "latin.yaml": "cannot be read (not UTF-8 text)",
        "gone.yaml": "no such file",
        ".": "cannot be read",
    }.items():
        with pytest.raises(SpecError, match=r"job file .*: ") as error:
            load_spec(str(tmp_path / path))
        assert message in str(error.value)


def written(tmp_path: Path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(JOB))
    return str(path)


def test_overrides(tmp_path: Path) -> None:
    overrides = [
        "policy.budget_usd=12.5",
        "models.gpt-4.1.limits.in_flight=4",
        "models.small.engine_kwargs.max_model_len=512",
        "system='You are: terse'",
        "input.keep=[a, b]",
        "max_usd=null",
    ]
    spec = load_spec(written(tmp_path), overrides)
    assert (spec.policy.kind, spec.policy.value) == ("budget_usd", 12.5)
    assert spec.models["gpt-4.1"].limits.in_flight == 4
    assert spec.models["small"].engine_kwargs == {"max_model_len": 512}
    assert (spec.system, spec.input.keep, spec.max_usd) == ("You are: terse", ["a", "b"], None)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (
            "policy.strong_share",
            "--set 'policy.strong_share': write it as field=value, e.g. --set policy.strong_share=0.3",
        ),
        ("=5", "--set '=5': write it as field=value"),
        ("policy..threshold=1", "--set 'policy..threshold=1': write it as field=value"),
        ("router.name=x", "--set 'router.name=x': router is not a section of the job file"),
        (
            "models.small.engine.x=1",
            "--set 'models.small.engine.x=1': models.small.engine is not a section of the job file",
        ),
        ("policy.treshold=.5", "policy.treshold: unknown field; did you mean 'threshold'?"),
        ("models.gpt-4.2.engine=vllm", "models.gpt-4.2: unknown field; remove it"),
    ],
)
def test_bad_overrides(item: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError) as error:
        load_spec(written(tmp_path), [item])
    assert str(error.value).startswith(message)


def test_an_anchor_is_not_shared_by_an_override(tmp_path: Path) -> None:
    job = copy.deepcopy(JOB)
    limits = {"in_flight": 8}
    for model in job["models"].values():
        model["limits"] = limits
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert "*id001" in path.read_text()
    spec = load_spec(str(path), ["models.small.limits.in_flight=1"])
    assert [spec.models[name].limits.in_flight for name in spec.names] == [1, 8]


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
    assert path.read_text() == schema_text(), "run: python -m jobs.schema > docs/job-schema.json"


def test_the_published_schema_accepts_the_good_job_and_no_unknown_field(checkout: Path) -> None:
    import jsonschema

    schema = json.loads((checkout / "docs" / "job-schema.json").read_text())
    jsonschema.validate(JOB, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(changed("input/promt", "x"), schema)


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
