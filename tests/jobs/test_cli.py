"""What a user types and sees: exit codes, one line for every mistake, one JSON object for every result."""

import json
import os
import subprocess
import sys

import pytest
import yaml

PRICE = {"per_million": {"input": 1, "output": 1}}
API = {"engine": "openai", "base_url": "http://127.0.0.1:1/v1", "price": PRICE}
JOB = {
    "input": {"path": "in.jsonl", "prompt": "q"}, "output": "out", "router": "random",
    "models": {"a": API | {"model": "m"}, "b": API | {"model": "n"}},
    "weak": "a", "strong": "b", "policy": {"strong_share": 0.5},
}  # fmt: skip


def headgate(folder, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    environment = os.environ | {"PYTHONPATH": root} | env
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"q": "one"}\n{"q": "two"}\n')
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["run"], "JOB.yaml"),
        (["run", "nope.yaml"], "nope.yaml: no such file"),
        (["runn", "job.yaml"], "runn"),
        (["run", "job.yaml", "--set", "policy.threshold=7"], "policy.threshold"),
        (["run", "job.yaml", "--set", "max_usd=-1"], "max_usd"),
        (["run", "job.yaml", "--set", "input.prompt=nope"], "input.prompt: the input has no column 'nope' (it has: q)"),
        (["plan", "job.yaml", "--set", "models.b.price=null", "--set", "models.b.model=xyzzy"], "models.b.price"),
        (["plan", "job.yaml", "--set", "models.a.base_url=null", "--set", "models.a.model=gpt-4o"], "OPENAI_API_KEY"),
        (["plan", "job.yaml", "--set", "quality={gold: {column: q, match: 'python:os:system'}}"], "--allow-code"),
        (["plan", "job.yaml"], "127.0.0.1"),
        (["status", "nowhere"], "no headgate run there"),
        (["report", "nowhere"], "no headgate run there"),
        (["run", "job.yaml", "--limit", "0"], "limit"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2_with_nothing_written(folder, arguments, says):
    result = headgate(folder, *arguments)
    assert says in result.stderr and result.stdout == "", result.stderr
    assert len(result.stderr.strip().splitlines()) == 1 and result.stderr.startswith("headgate: ")
    assert result.returncode in ((2, 3) if arguments == ["plan", "job.yaml"] else (2,))
    assert not (folder / "out").exists()


def test_help_names_every_command(folder):
    result = headgate(folder, "--help")
    assert result.returncode == 0
    for command in ("demo", "plan", "run", "report", "status", "replay"):
        assert command in result.stdout


def test_the_replay_server_is_a_subcommand(folder):
    result = headgate(folder, "replay", "--outcomes", "nope.parquet")
    assert result.returncode == 2 and "nope.parquet" in result.stderr and "Traceback" not in result.stderr
    assert "--fault" in headgate(folder, "replay", "--help").stdout


def test_a_plan_is_one_json_object(folder, tmp_path):
    from tests.replay_server import small_outcomes, thread_replay

    with thread_replay([small_outcomes(2, ("m", "n"))]) as replay:
        override = [part for n in "ab" for part in ("--set", f"models.{n}.base_url={replay.base_url}")]
        result = headgate(folder, "plan", "job.yaml", "--json", *override)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["rows"] == 2 and replay.stats()["requests"] == 0
        shown = headgate(folder, "plan", "job.yaml", *override)
        assert shown.returncode == 0 and max(len(line) for line in shown.stdout.splitlines()) <= 80
