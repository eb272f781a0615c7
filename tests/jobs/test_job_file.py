"""A job file as it is read: broken YAML and unreadable files are one line each, `--set` changes one field."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import yaml
from job_mistakes import JOB

from jobs.errors import SpecError
from jobs.spec import load_spec


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
