"""Whole jobs whose strong model runs in provider batches: what is paid, by the server's count, and coming back to a batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.money.reservations import unfinished
from jobs.replay.options import ReplayOptions
from jobs.route.pipeline import plan_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from routing.data.outcomes import write_outcomes
from tests.replay_server import Replay, process_replay, small_outcomes, thread_replay

ROWS = 120
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def job(url: str, folder: Path, **more: Any) -> dict[str, Any]:
    """A flex weak model and a batched strong one over folder/in, which is written here."""
    (folder / "in").mkdir(exist_ok=True)
    table = {"id": [f"r{i}" for i in range(ROWS)], "q": [f"question {i}" for i in range(ROWS)]}
    pq.write_table(pa.table(table), folder / "in/rows.parquet")
    weak = {
        "engine": "openai",
        "model": "org/weak",
        "service_tier": "flex",
        "price": {"per_million": {"input": 1, "output": 1}},
    }
    strong = {"engine": "openai_batch", "model": "strong", "price": {"per_million": {"input": 10, "output": 30}}}
    data = {
        "input": {"path": str(folder / "in"), "prompt": "q", "id": "id"}, "output": str(folder / "out"), "router": "random",
        "models": {"weak": weak | {"base_url": url}, "strong": strong | {"base_url": url}}, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 512}, "policy": {"strong_share": 0.5}, "max_usd": 10,
    }  # fmt: skip
    return data | more


def check_rows(folder: Path) -> pd.DataFrame:
    rows = pd.read_parquet(folder / "out/responses")
    assert len(rows) == ROWS == rows.id.nunique()
    assert (rows.error == "").all()
    provider = {"weak": "org/weak", "strong": "strong"}
    assert all(row.generated_text == f"{provider[row.model]} says {row.id[1:]}" for row in rows.itertuples())
    return rows


def test_a_job_in_batches_pays_half_and_the_bill_says_so(tmp_path: Path, ray_local: None) -> None:
    options = ReplayOptions(latency_s=0.01, batch_latency_s=1.0, batch_faults={"expired": 0.1}, flex_default_share=0.2)
    with thread_replay([small_outcomes(ROWS)], options) as server:
        data = job(server.base_url, tmp_path)
        bill = plan_job(Job(parse_spec(data), live=False))
        assert server.stats()["requests"] == 0
        rates = bill["by_model"]["strong"]["usd_by_rate"]
        assert bill["by_model"]["strong"]["usd"] == pytest.approx(rates["standard"] / 2)
        assert "strong: batch rate assumed, half of the standard one" in bill["assumptions"]
        code, report = run_job(Job(parse_spec(data), live=False))
        stats = server.stats()
        # As a start leaves it that dies when all rows are in the journal: the lane has no rows left to start for.
        for closed in (tmp_path / "out/ledger").glob("batch-*/close.json"):
            closed.unlink()
        again = run_job(Job(parse_spec(data), live=False))
        assert server.stats()["requests"] == stats["requests"]
    assert (code, again[0]) == (0, 0)
    assert (again[1]["lost_usd"], again[1]["spent_usd"]) == (0, report["spent_usd"])
    rows = check_rows(tmp_path)
    assert (stats["answered"], stats["repeated"]) == (ROWS, 0)
    assert stats["batches"]["created"] >= 2, "what expired went into another one"
    per_token = {("org/weak", "flex"): (0.5, 0.5), ("org/weak", "default"): (1, 1), ("strong", "batch"): (5, 15)}
    paid = sum(
        usage["prompt_tokens"] * per_token[model, tier][0] + usage["completion_tokens"] * per_token[model, tier][1]
        for model, tiers in stats["by_tier"].items()
        for tier, usage in tiers.items()
    )
    assert report["spent_usd"] == pytest.approx(paid / 1e6) == pytest.approx(rows.cost_usd.sum())
    assert report["lost_usd"] == 0
    n_full = stats["by_tier"]["org/weak"]["default"]["answered"]
    assert report["notes"] == [
        f"weak: {n_full} answers were served in the standard tier, not in flex, and cost the full rate"
    ]


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[tuple[Replay, Path]]:
    """A replay process whose batches take 15 s, and a job file."""
    write_outcomes(small_outcomes(ROWS), str(tmp_path / "outcomes.parquet"))
    with process_replay(tmp_path / "outcomes.parquet", "--latency-s", "0.02", "--batch-latency-s", "15") as replay:
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job(replay.base_url, tmp_path)))
        yield replay, tmp_path


def start(folder: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "jobs.route", "--config", str(folder / "job.yaml")]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(folder / "stderr.txt").open("a"))


def test_a_stopped_job_and_a_killed_one_come_back_to_the_same_batch(setting: tuple[Replay, Path]) -> None:
    replay, folder = setting
    driver = start(folder)
    replay.wait_for(lambda stats: stats["batches"]["created"] == 1, 180)
    driver.terminate()
    assert driver.wait(30) == 3
    said = (folder / "stderr.txt").read_text()
    assert "1 batch runs on at the provider: the same command re-attaches" in said
    assert "Traceback" not in said
    assert start(folder).wait(180) == 0, (folder / "stderr.txt").read_text()[-2000:]
    check_rows(folder)
    stats = replay.stats()
    assert (stats["batches"]["created"], stats["answered"], stats["repeated"]) == (1, ROWS, 0)


def test_rows_that_a_new_policy_gives_to_another_model_keep_the_answers_that_are_paid(
    setting: tuple[Replay, Path],
) -> None:
    """No row is left for the strong model, and all the same its batch is fetched and its dollars are booked."""
    replay, folder = setting
    driver = start(folder)
    replay.wait_for(lambda stats: stats["batches"]["created"] == 1, 180)
    driver.terminate()
    assert driver.wait(30) == 3
    data = yaml.safe_load((folder / "job.yaml").read_text())
    (folder / "job.yaml").write_text(yaml.safe_dump(data | {"policy": {"strong_share": 0.0}}))
    assert start(folder).wait(180) == 0, (folder / "stderr.txt").read_text()[-2000:]
    rows = check_rows(folder)
    stats = replay.stats()
    n_strong = stats["by_tier"]["strong"]["batch"]["answered"]
    assert (rows.model == "strong").sum() == n_strong > 0
    assert (stats["batches"]["created"], stats["repeated"]) == (1, 0)
    assert unfinished(Store(str(folder / "out"))) == []
    assert json.loads((folder / "out/report.json").read_text())["lost_usd"] == 0


def test_an_actor_is_killed_and_the_next_one_takes_over_its_batch(setting: tuple[Replay, Path]) -> None:
    replay, folder = setting
    driver = start(folder)
    replay.wait_for(lambda stats: stats["batches"]["created"] == 1, 180)
    actors = [p for p in psutil.Process(driver.pid).children(recursive=True) if "BatchActor" in " ".join(p.cmdline())]
    assert actors, "an actor is there to be killed"
    os.kill(actors[0].pid, signal.SIGKILL)
    assert driver.wait(300) == 0, (folder / "stderr.txt").read_text()[-2000:]
    rows = check_rows(folder)
    stats = replay.stats()
    assert (stats["batches"]["created"], stats["answered"], stats["repeated"]) == (1, ROWS, 0)
    usage = stats["by_tier"]["strong"]["batch"]
    paid = (usage["prompt_tokens"] * 5 + usage["completion_tokens"] * 15) / 1e6
    assert rows[rows.model == "strong"].cost_usd.sum() == pytest.approx(paid)
