"""Jobs without gold, or with some: the judge's verdicts in the pilot, the cut, the responses, the bill and the report."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.evaluation.run_outcomes import run_outcomes
from jobs.replay.options import ReplayOptions
from jobs.route.pilot.judge import REPEATS
from jobs.route.pipeline import plan_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from routing.answers.llm_judge import Message, pairwise_prompt, rating_prompt
from routing.data.outcomes import Outcomes, write_outcomes
from tests.replay_server import process_replay, thread_replay

N = 900
PRICES = {"org/weak": 0.1, "strong": 10.0, "org/critic": 2.0}
HARD = np.arange(N) % 2 == 1
PROMPTS = [f"{'prove the theorem' if hard else 'name the colour'} of case {i:04d}" for i, hard in enumerate(HARD)]
SILENT = range(0, N, 30)
"""Prompts whose every verdict is no verdict."""


def answers() -> Outcomes:
    """Even numbers are easy: the weak model knows half of all prompts; which, stands in the text alone."""
    says = [["no" if hard else "yes", "yes"] for hard in HARD]
    return table(PROMPTS, ("org/weak", "strong"), np.array(says, object), np.full((N, 2), 2.0))


def table(prompts: list[str], models: tuple[str, ...], responses: Any, output_tokens: Any) -> Outcomes:
    return Outcomes(
        ids=[str(i) for i in range(len(prompts))], prompts=prompts, datasets=["d"] * len(prompts), models=models,
        quality=np.ones(responses.shape, np.float32), responses=responses, completion_tokens=output_tokens,
    )  # fmt: skip


def text_of(messages: list[Message]) -> str:
    return messages[-1]["content"]


def ratings(output_tokens: float = 20) -> Outcomes:
    """The critic's: 9 for yes, 2 for no."""
    asked = [text_of(rating_prompt(prompt, said)) for prompt in PROMPTS for said in ("yes", "no")]
    verdicts = [["I would rather not say" if i in SILENT else f'{{"reason": "r", "rating": {rating}}}']
                for i in range(N) for rating in (9, 2)]  # fmt: skip
    return table(asked, ("org/critic",), np.array(verdicts, object), np.full((2 * N, 1), output_tokens))


def pairs(golds: list[str]) -> Outcomes:
    """The critic's: yes is better, but for every fourth prompt, where the first is; the gold answer is shown."""
    asked, verdicts = [], []
    for i, (prompt, gold) in enumerate(zip(PROMPTS, golds, strict=True)):
        for a, b in (("yes", "no"), ("no", "yes")):
            asked.append(text_of(pairwise_prompt(prompt, a, b, gold)))
            verdicts.append([json.dumps({"reason": "r", "winner": "A" if a == "yes" or i % 4 == 3 else "B"})])
    return table(asked, ("org/critic",), np.array(verdicts, object), np.full((2 * N, 1), 20.0))


def job(server: Any, tmp_path: Path, judge: dict[str, Any], gold: list[str | None] | None = None, **more: Any) -> Any:
    (tmp_path / "in").mkdir(exist_ok=True)
    rows = {"id": [str(i) for i in range(N)], "q": PROMPTS} | ({"answer": gold} if gold else {})
    pq.write_table(pa.table(rows), tmp_path / "in/rows.parquet")
    models = {
        name: {
            "engine": "openai", "model": provider, "base_url": server.base_url,
            "price": {"per_million": {"input": PRICES[provider], "output": PRICES[provider]}},
        } for name, provider in (("weak", "org/weak"), ("strong", "strong"), ("critic", "org/critic"))
    }  # fmt: skip
    return {
        "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"),
        "router": "random", "models": models, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 20}, "policy": {"strong_share": 0.5},
        "sample": {"rows": 300, "max_usd": 3.0, "seed": 3}, "quality": {"judge": {"model": "critic"} | judge},
    } | more  # fmt: skip


def usd_of(stats: dict[str, Any], name: str) -> float:
    """By the server's own counts."""
    entry = stats["by_model"].get(name) or {"prompt_tokens": 0, "completion_tokens": 0}
    return (entry["prompt_tokens"] + entry["completion_tokens"]) * PRICES[name] / 1e6


@pytest.mark.slow
def test_a_job_without_gold_is_cut_and_measured_by_its_judge(tmp_path, ray_local):
    with thread_replay([answers(), ratings()], ReplayOptions(latency_s=0.01)) as server:
        data = job(server, tmp_path, {})
        before = plan_job(Job(parse_spec(data), live=False))
        assert 0 < before["judge_usd"] < before["planned_usd"] and not server.stats()["requests"]
        bill = plan_job(Job(parse_spec(data), live=False), ask_sample=True)
        stats = server.stats()
        judged = stats["by_model"]["org/critic"]["answered"]
        assert stats["by_model"]["org/weak"]["answered"] == stats["by_model"]["strong"]["answered"] == 300
        # Where both models say yes, one verdict serves both.
        assert 300 < judged - REPEATS < 600 and stats["repeated"] == REPEATS
        figures = bill["pilot"]["judge"]
        assert figures["verdicts"] == judged and 0 < figures["failed"] < 40
        assert figures["self_agreement"]["raw"] == 1.0
        assert bill["pilot"]["head"] in ("blend", "ridge")
        assert bill["judge_usd"] == pytest.approx(usd_of(stats, "org/critic"))
        assert bill["judge_usd"] < before["judge_usd"] < 4 * bill["judge_usd"]
        code, report = run_job(Job(parse_spec(data), live=False))
        again = run_job(Job(parse_spec(data), live=False))
        stats = server.stats()
    rows = pd.read_parquet(tmp_path / "out/responses")
    learnt = run_outcomes(str(tmp_path / "out"))
    known = learnt.quality[np.isfinite(learnt.quality)]
    assert len(learnt.prompts) == 300 and np.unique(known) == pytest.approx([1 / 9, 8 / 9])
    assert code == again[0] == 0 and len(rows) == N
    assert stats["by_model"]["org/critic"]["answered"] == judged and stats["repeated"] == REPEATS, "judged once"
    by_purpose = report["spent_by_purpose"]
    assert by_purpose["judge"] == pytest.approx(usd_of(stats, "org/critic"))
    assert report["spent_usd"] == pytest.approx(sum(usd_of(stats, name) for name in PRICES))
    assert rows["cost_usd"].sum() == pytest.approx(report["spent_usd"] - by_purpose["judge"])
    assert report["planned_usd"] - report["spent_usd"] - report["lost_usd"] == pytest.approx(report["unspent_usd"])
    assert report["judge"] == figures and "judge critic (rating)" in report["quality_source"]
    told = rows[rows["quality_source"] == "judge"]
    assert rows["quality_source"].isin(["judge", ""]).all() and 270 < len(told) <= 300
    assert (told["quality"] == np.where(told["generated_text"] == "yes", 8 / 9, 1 / 9)).all()
    assert rows.loc[rows["quality_source"] == "", "quality"].isna().all()
    # A random router would be right three times in four.
    assert report["quality"]["low"] > 0.75 and report["quality"]["low"] < 8 / 9 - 0.002 < report["quality"]["high"]
    assert report["quality_by_model"]["weak"]["mean"] == pytest.approx(0.5, abs=0.08)
    assert report["pgr"]["low"] > 0.8


@pytest.mark.slow
def test_gold_where_there_is_some_pairs_elsewhere_and_the_cap_of_the_sample_holds(tmp_path, ray_local):
    gold = ["yes" if i % 3 else None for i in range(N)]
    shown = ["yes" if i % 3 else "" for i in range(N)]
    with thread_replay([answers(), pairs(shown)], ReplayOptions(latency_s=0.01)) as server:
        sources = {"gold": {"column": "answer", "match": "exact"}, "judge": {"model": "critic", "mode": "pairwise"}}
        data = job(server, tmp_path, {}, gold, quality=sources, max_usd=5.0)
        code, report = run_job(Job(parse_spec(data), live=False))
        stats = server.stats()
    rows = pd.read_parquet(tmp_path / "out/responses")
    assert code == 0 and stats["repeated"] == 0
    figures, n_critic = report["judge"], stats["by_model"]["org/critic"]["answered"]
    # A third of the sample has no gold; of it, half gets equal answers, which are a tie unasked.
    assert 60 < figures["rows"] < 140 and figures["verdicts"] == n_critic and n_critic <= 1.4 * figures["rows"]
    assert figures["failed"] == 0 and 0.3 < figures["self_agreement"]["raw"] < 0.8
    judged, golden = (rows[rows["quality_source"] == source] for source in ("judge", "gold"))
    assert len(judged) == figures["rows"] and len(golden) == sum(value is not None for value in gold)
    assert judged["quality"].isin([0, 0.5, 1]).all() and judged["quality"].nunique() > 1
    assert report["spent_by_purpose"]["judge"] == pytest.approx(usd_of(stats, "org/critic"))
    assert report["quality"]["low"] < report["quality"]["mean"] and report["sample_rows"] == 120


@pytest.mark.slow
def test_a_judge_that_talks_more_than_expected_stops_at_the_samples_cap(tmp_path, ray_local):
    with thread_replay([answers(), ratings(output_tokens=500)], ReplayOptions(latency_s=0.01)) as server:
        data = job(server, tmp_path, {"rows": 200}, sample={"rows": 250, "max_usd": 0.35, "seed": 3})
        bill = plan_job(Job(parse_spec(data), live=False), ask_sample=True)
        stats = server.stats()
    spent_usd = sum(usd_of(stats, name) for name in PRICES)
    assert 0.3 < spent_usd <= 0.35, "used, and never passed"
    figures = bill["pilot"]["judge"]
    asked = stats["by_model"]["org/critic"]["answered"]
    assert figures["verdicts"] > asked and figures["failed"] >= figures["verdicts"] - asked, (
        "what was not asked is counted"
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_driver_killed_while_its_judge_is_at_work_judges_nothing_twice(tmp_path):
    for name, outcomes in (("answers", answers()), ("ratings", ratings())):
        write_outcomes(outcomes, tmp_path / f"{name}.parquet")
    paths = [tmp_path / "answers.parquet", tmp_path / "ratings.parquet"]
    with process_replay(paths, "--latency-s", "0.05") as server:
        data = job(server, tmp_path, {})
        data["models"]["critic"]["limits"] = {"in_flight": 8}
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(data))
        command = [sys.executable, "-m", "jobs.route", "--config", str(tmp_path / "job.yaml")]

        def start() -> subprocess.Popen[bytes]:
            return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=(tmp_path / "log.txt").open("a"))

        def judged(stats: dict[str, Any]) -> int:
            return int((stats["by_model"].get("org/critic") or {"answered": 0})["answered"])

        driver = start()
        server.wait_for(lambda stats: judged(stats) >= 200, timeout_s=200)
        driver.kill()
        driver.wait()
        assert judged(server.stats()) < 440, "killed in the middle"
        assert start().wait(300) == 0, (tmp_path / "log.txt").read_text()[-2000:]
        stats = server.stats()
    report = json.loads((tmp_path / "out/report.json").read_text())
    # What was in flight in the killed process may be asked again, and only that.
    assert REPEATS <= stats["repeated"] <= REPEATS + 2 * 8
    assert report["judge"]["verdicts"] <= judged(stats) <= report["judge"]["verdicts"] + 2 * 8
    assert report["spent_by_purpose"]["judge"] <= usd_of(stats, "org/critic") + 1e-9
    paid = report["spent_usd"] + report["lost_usd"]
    assert paid >= sum(usd_of(stats, name) for name in PRICES) - 1e-9, "what the killed process had is counted as lost"
