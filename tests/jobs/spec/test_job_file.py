"""A job file as it is read: broken YAML and unreadable files are one line each, `--set` changes one field."""

from __future__ import annotations

import copy
import tracemalloc
from pathlib import Path

import pytest
import yaml
from job_mistakes import JOB

from jobs.errors import SpecError
from jobs.spec.job_file import read_job_file
from jobs.spec.loader import load_spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input: [", "not valid YAML at line "),
        ("a: 1\nb: {\n", "not valid YAML at line "),
        ("max_usd: 5\nmax_usd: 500\n", "not valid YAML at line 2: 'max_usd' is given twice"),
        ("policy: {budget_usd: 1, budget_usd: 2}", "not valid YAML at line 1: 'budget_usd' is given twice"),
        ("when: 2026-13-45", "not valid YAML at line 1: '2026-13-45' is no timestamp; put text in quotes"),
        ("a: 1\nb: !!bool maybe", "not valid YAML at line 2: 'maybe' is no bool"),
        ('a: !!int ""', "not valid YAML at line 1: '' is no int"),
        ('a: !!float ""', "not valid YAML at line 1: '' is no float"),
        ("a: !!timestamp x", "not valid YAML at line 1: 'x' is no timestamp"),
        (f"max_usd: {'9' * 5000}", "not valid YAML at line 1: '9999999999"),
        ("a: " + "[" * 1000, "not valid YAML: "),
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


@pytest.mark.parametrize("text", [f"max_usd: 0x{'f' * 5000}", f"a:\n  ? 0x{'f' * 5000}\n  : 1"])
def test_numbers_that_nobody_can_print(text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    with pytest.raises(SpecError, match=r"^(max_usd|a): a whole number of more than 1000 bits; shorten it$"):
        load_spec(str(tmp_path / "job.yaml"))


def test_merges_are_counted_before_they_are_made(tmp_path: Path) -> None:
    levels = ["l0: &l0 {a: 1, b: 2}"]
    levels += [f"l{i}: &l{i}\n" + f"  <<: [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 40)]
    (tmp_path / "bomb.yaml").write_text("\n".join(levels))
    tracemalloc.start()
    with pytest.raises(SpecError, match=r"not valid YAML at line .*: too many values merged by <<"):
        load_spec(str(tmp_path / "bomb.yaml"))
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()


def test_a_merge_gives_what_its_source_holds_and_its_own_key_wins(tmp_path: Path) -> None:
    text = """
deep: {er: {lower: &a {<<: &base {x: 1, y: 2}, x: 3}}}
flat: {<<: *a, z: 4}
two: {<<: [*a, {w: 5}]}
"""
    (tmp_path / "job.yaml").write_text(text)
    found = read_job_file(str(tmp_path / "job.yaml"))
    assert found["deep"]["er"]["lower"] == {"x": 3, "y": 2}
    assert (found["flat"], found["two"]) == ({"x": 3, "y": 2, "z": 4}, {"x": 3, "y": 2, "w": 5})


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
