"""What a user types and sees: exit codes, one line for every mistake, one JSON object for every result."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from jobs import cli

PRICE = {"per_million": {"input": 1, "output": 1}}
API = {"engine": "openai", "base_url": "http://127.0.0.1:1/v1", "price": PRICE}
JOB = {
    "input": {"path": "in.jsonl", "prompt": "q"}, "output": "out", "router": "random",
    "models": {"a": API | {"model": "m"}, "b": API | {"model": "n"}},
    "weak": "a", "strong": "b", "policy": {"strong_share": 0.5},
}  # fmt: skip


Result = tuple[int, str, str]
"""Exit code, standard output, standard error."""


def process(folder: Path, *arguments: str) -> Result:
    """The command as a program: what importing prints is there too."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    environment = os.environ | {"PYTHONPATH": root}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def headgate(folder, monkeypatch, capfd):
    """The command in this process, in 0.1 s instead of 2: `headgate(*arguments)` is a Result."""

    def call(*arguments: str) -> Result:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["headgate", *arguments])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capfd.readouterr()

    return call


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in.jsonl").write_text('{"q": "one"}\n{"q": "two"}\n')
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(JOB))
    return tmp_path


MISTAKES = [
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
]
AS_PROGRAMS = [MISTAKES[0], MISTAKES[9], MISTAKES[10]]
"""One of those found before the job file is read, one that takes all that a job imports, and a reader of runs."""


def check_mistake(result: Result, folder: Path, arguments: list[str], says: str) -> None:
    code, out, err = result
    assert says in err and out == "", err
    assert len(err.strip().splitlines()) == 1 and err.startswith("headgate: ")
    assert code in ((2, 3) if arguments == ["plan", "job.yaml"] else (2,))
    assert not (folder / "out").exists()


@pytest.mark.parametrize(("arguments", "says"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_2_with_nothing_written(folder, headgate, arguments, says):
    check_mistake(headgate(*arguments), folder, arguments, says)


@pytest.mark.parametrize(("arguments", "says"), AS_PROGRAMS)
def test_a_mistake_is_one_line_of_a_program_too(folder, arguments, says):
    check_mistake(process(folder, *arguments), folder, arguments, says)


def test_help_names_every_command(headgate):
    code, out, _ = headgate("--help")
    assert code == 0
    for command in ("demo", "plan", "run", "report", "status", "replay"):
        assert command in out


def test_the_replay_server_is_a_subcommand(headgate):
    code, _, err = headgate("replay", "--outcomes", "nope.parquet")
    assert code == 2 and "nope.parquet" in err and "Traceback" not in err
    assert "--fault" in headgate("replay", "--help")[1]


def test_a_plan_is_one_json_object_and_a_table_of_80_columns(folder, headgate, ray_local):
    from tests.replay_server import small_outcomes, thread_replay

    with thread_replay([small_outcomes(2, ("m", "n"))]) as replay:
        override = [part for n in "ab" for part in ("--set", f"models.{n}.base_url={replay.base_url}")]
        code, out, err = process(folder, "plan", "job.yaml", "--json", *override)  # with a Ray of its own, which prints
        assert code == 0, err
        assert json.loads(out)["rows"] == 2 and replay.stats()["requests"] == 0
        code, out, err = headgate("plan", "job.yaml", *override)
        assert code == 0 and out and max(len(line) for line in out.splitlines()) <= 80, err
