"""Whole jobs whose models run in transformers on a Ray with pretended GPUs."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rich.console import Console

from jobs.report.progress import Progress
from jobs.route import pipeline
from jobs.route.pipeline import run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from routing.data.outcomes import Outcomes
from routing.routers import create
from tests.tiny_models import tiny_checkpoint

GPU_HOUR_USD = 36.0
"""A cent a second."""


def outcomes() -> Outcomes:
    """Of models a and b, which every second prompt tells apart."""
    prompts = [f"question {i} {'hard' if i % 2 else 'easy'}" for i in range(80)]
    quality = np.array([[float(i % 2 == 0), 1.0] for i in range(80)], np.float32)
    ids = [str(i) for i in range(80)]
    return Outcomes(ids=ids, prompts=prompts, datasets=["d"] * 80, models=("a", "b"), quality=quality)


def trained(folder: Path, name: str = "linear", **hyperparameters: Any) -> str:
    """A router's artifact."""
    create(name, **hyperparameters).fit(outcomes()).save(folder)
    return str(folder)


def local_model(folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "engine": "transformers", "source": str(folder), "price": {"gpu_hour_usd": GPU_HOUR_USD},
        "sampling": {"max_tokens": 4}, **more,
    }  # fmt: skip


def gpu_job(folder: Path, rows: int = 40, **more: Any) -> dict[str, Any]:
    """Two tiny models, half of the rows each. To these prompts they say something, random as their weights are."""
    (folder / "in").mkdir()
    table = {"id": [str(i) for i in range(rows)], "q": [f"question {i}" for i in range(rows)]}
    pq.write_table(pa.table(table | {"gold": table["q"]}), folder / "in/rows.parquet")
    weak, strong = tiny_checkpoint(folder / "weak"), tiny_checkpoint(folder / "strong", seed=1)
    return {
        "input": {"path": str(folder / "in"), "id": "id", "prompt": "q"}, "output": str(folder / "out"), "router": "random",
        "models": {"weak": local_model(weak), "strong": local_model(strong)}, "weak": "weak", "strong": "strong",
        "policy": {"strong_share": 0.5}, "sampling": {"temperature": 0},
    } | more  # fmt: skip


def lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a run from here on writes of its progress, a line for every picture."""
    text = io.StringIO()

    def progress(rows: int, models: list[str], **options: Any) -> Progress:
        return Progress(rows, models, live=False, interval_s=0.0, console=Console(file=text, width=200))

    monkeypatch.setattr(pipeline, "Progress", progress)
    return text


def run(data: dict[str, Any]) -> tuple[int, dict[str, Any], pd.DataFrame, float]:
    """Exit code, report, rows, and how long it took."""
    started = time.monotonic()
    code, report = run_job(Job(parse_spec(data), live=False))
    wall_s = time.monotonic() - started
    return code, report, pd.read_parquet(Path(data["output"]) / "responses").set_index("id"), wall_s
