"""The replay server as a process: its first line, its end, its files, its exit codes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SpecError
from jobs.replay.options import parse_faults
from tests.replay_server import (
    ROOT,
    body,
    post,
    post_all,
    process_replay,
    small_outcomes,
    thread_replay,
)


@pytest.fixture
def outcomes_file(tmp_path: Path) -> Path:
    """Two models in headgate's own Parquet form."""
    path = tmp_path / "outcomes.parquet"
    columns: dict[str, list[Any]] = {"id": ["a", "b"], "dataset": ["made", "made"], "prompt": ["one?", "two?"]}
    columns["prompt_tokens"] = [7, 9]
    for model, quality in (("org/weak", [0.0, 1.0]), ("strong", [1.0, 1.0])):
        columns[f"{model}|quality"] = quality
        columns[f"{model}|response"] = [f"{model}: 1", f"{model}: 2"]
        columns[f"{model}|completion_tokens"] = [3, 4]
    pq.write_table(pa.table(columns), path)
    return path


def test_process_stops_within_a_second_though_a_request_hangs(outcomes_file: Path) -> None:
    took_s = []
    for number in (signal.SIGTERM, signal.SIGINT):
        with process_replay(outcomes_file, "--fault", "hang=1") as replay:
            assert replay.url.startswith("http://127.0.0.1:")
            assert replay.process is not None
            command = [sys.executable, "-c", HANG, f"{replay.base_url}/chat/completions", json.dumps(body("one?"))]
            hanging = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            try:
                replay.wait_for(lambda now: now["in_flight"] == 1)
                start = time.monotonic()
                replay.process.send_signal(number)
                assert replay.process.wait(10) == 0
                took_s.append(time.monotonic() - start)
            finally:
                hanging.kill()
                hanging.wait()
    # The better of two: on a machine with five times more to do than cores, Python's own exit takes most of a second.
    assert min(took_s) < 1


HANG = """
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], sys.argv[2].encode()), timeout=60)
"""


def test_process_replays_a_file(outcomes_file: Path) -> None:
    with process_replay(outcomes_file, "--latency-s", "0", "--json") as replay:
        first = json.loads(replay.url)
        assert (first["models"], first["prompts"]) == (["org/weak", "strong"], 2)
        replay.url = first["url"]
        _, answer, _ = post(replay, body("two?", "org/weak"))
    assert answer["choices"][0]["message"]["content"] == "org/weak: 2"
    assert (answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]) == (9, 4)


def test_gsm8k_is_replayed_word_for_word() -> None:
    path = ROOT.parent / "shared/data/routellm/gsm8k/gsm8k_responses.csv"
    if not path.exists():
        pytest.skip(f"{path} not present")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1319
    models = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview")
    asked = [(row, model) for row in rows for model in models]
    with process_replay(path, "--latency-s", "0") as replay:
        replies = post_all(replay, [body(row["prompt"], model) for row, model in asked], in_flight=32)
        stats = replay.stats()
    for (row, model), (status, answer, _) in zip(asked, replies, strict=True):
        assert status == 200
        assert answer["choices"][0]["message"]["content"] == row[f"{model}_response"]
    assert (stats["answered"], stats["repeated"]) == (2638, 0)
    for model in models:
        used = [
            reply["usage"]
            for (_, asked_model), (_, reply, _) in zip(asked, replies, strict=True)
            if asked_model == model
        ]
        assert stats["by_model"][model] == {
            "answered": 1319,
            "prompt_tokens": sum(usage["prompt_tokens"] for usage in used),
            "completion_tokens": sum(usage["completion_tokens"] for usage in used),
        }


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ([], ["outcomes", "--outcomes"]),
        (["--outcomes", "nowhere.parquet"], ["outcomes", "nowhere.parquet"]),
        (["--outcomes", "{empty}"], ["outcomes", "empty"]),
        (["--outcomes", "{file}", "--fault", "429=2"], ["fault", "429=2"]),
        (["--outcomes", "{file}", "--fault", "teapot=.1"], ["fault", "teapot", "hang"]),
        (["--outcomes", "{file}", "--requests-per-minute", "0"], ["requests-per-minute", "0"]),
        (["--outcomes", "{file}", "--port", "{taken}"], ["port", "{taken}"]),
    ],
)
def test_bad_command_lines_end_with_one_line_and_2(
    arguments: list[str], names: list[str], outcomes_file: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(outcomes_file).slice(0, 0), empty)
    with thread_replay([small_outcomes()]) as other:
        values = {"file": outcomes_file, "empty": empty, "taken": other.url.rsplit(":", 1)[1]}
        command = [sys.executable, "-m", "jobs.replay", *(part.format(**values) for part in arguments)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    for name in names:
        assert name.format(**values) in line


def test_fault_notation() -> None:
    assert parse_faults(["429=0.1, hang=.01", "503=1e-3"]) == {"429": 0.1, "hang": 0.01, "503": 0.001}
    assert parse_faults([]) == {}
    for text in ("429", "429=x", "200=.1", "429=-1", "429=nan", "429=.1,429=.2", "429=.6,500=.6", "٤٢٩=.1"):
        with pytest.raises(SpecError, match="fault"):
            parse_faults([text])
