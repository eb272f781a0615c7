"""A process that dies of its task, whenever it is tried: the run ends with one line, and does not try for ever."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.replay.options import ReplayOptions
from tests.replay_server import small_outcomes, thread_replay

ROWS = 40
ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("os._exit(1)", 3, "a process of the job died (out of memory, killed, or crashed); what is answered is kept"),
        (
            "raise ValueError('first\\nsecond \\x1b[31mred')",
            1,
            "internal error: ValueError: first second red; nothing is lost",
        ),
    ],
)
def test_a_matcher_that_ends_its_process_ends_the_run(tmp_path: Path, body: str, code: int, says: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "mymatch.py").write_text(f"import os\ndef of(answer, gold):\n    {body}\n")
    table = {"id": [f"r{i}" for i in range(ROWS)], "q": [f"question {i}" for i in range(ROWS)], "gold": ["x"] * ROWS}
    pq.write_table(pa.table(table), tmp_path / "in/rows.parquet")
    with thread_replay([small_outcomes(ROWS)], ReplayOptions(latency_s=0.01)) as server:
        models = {
            name: {
                "engine": "openai", "model": provider, "base_url": server.base_url,
                "price": {"per_million": {"input": 1, "output": 1}},
            }
            for name, provider in (("weak", "org/weak"), ("strong", "strong"))
        }  # fmt: skip
        job = {
            "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"),
            "router": "random", "models": models, "weak": "weak", "strong": "strong", "policy": {"strong_share": 0.3},
            "quality": {"gold": {"column": "gold", "match": "python:mymatch:of"}},
        }  # fmt: skip
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
        done = subprocess.run(
            [sys.executable, "-m", "jobs.cli", "run", str(tmp_path / "job.yaml"), "--allow-code"],
            env=os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}", "TMPDIR": str(tmp_path), "RAY_TMPDIR": "/tmp"},
            capture_output=True, text=True, timeout=500,
        )  # fmt: skip
    *progress, last = done.stderr.splitlines()
    assert done.returncode == code and done.stdout == "" and last.startswith(f"headgate: {says}"), done.stderr
    assert [line for line in [*progress, last] if not (line.startswith("headgate: ") and line.isprintable())] == []
    assert "Traceback" in Path(last.rpartition("details: ")[2]).read_text()
