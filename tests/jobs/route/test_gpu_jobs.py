"""Whole jobs on a Ray with one pretended GPU that all models want: in turns, each paid for its own time, or refused."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import yaml
from rich.console import Console

from jobs.errors import EXIT_DONE, EXIT_OPEN, SpecError
from jobs.journal.reader import Journal
from jobs.placement import turns
from jobs.replay.options import ReplayOptions
from jobs.report.terminal import bill_table
from jobs.route.pipeline import plan_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from tests import local_ray
from tests.jobs.route.gpu_jobs import GPU_HOUR_USD, gpu_job, lines_of_progress, local_model, run, trained
from tests.replay_server import small_outcomes, thread_replay
from tests.tiny_models import tiny_checkpoint


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    ray.shutdown()
    ray.init(**local_ray.OPTIONS, num_gpus=1)
    yield
    ray.shutdown()


def test_two_models_answer_one_after_the_other_and_pay_for_their_own_time(
    one_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MENTION_S", 0.0)
    data = gpu_job(tmp_path)
    bill = plan_job(Job(parse_spec(data), live=False))
    assert not os.path.exists(data["output"] + "/answers"), "a plan asks nobody"
    assert "one after the other: weak, then strong (GPUs: weak 1, strong 1; the cluster has 1)" in bill["places"]
    screen = Console(file=io.StringIO(), width=160)
    screen.print(bill_table(bill))
    assert "one after the other: weak, then strong" in screen.file.getvalue()
    shown = lines_of_progress(monkeypatch)
    code, report, rows, wall_s = run(data)
    assert code == EXIT_DONE and len(rows) == 40 and (rows.error == "").all() and rows.model.value_counts().min() == 20
    gpu_s = report["gpu_usd"] / GPU_HOUR_USD * 3600
    per_model = {
        name: sum(Journal(Store(data["output"])).read(name)["gpu_s"].to_pylist()) for name in ("weak", "strong")
    }
    assert gpu_s == pytest.approx(sum(per_model.values()), rel=1e-3)
    assert min(per_model.values()) > 0.1
    assert gpu_s <= wall_s, "one GPU: there are no more seconds than have passed"
    text = shown.getvalue()
    assert "strong 0/20, waits 0:00 for the 1 GPU of weak" in text
    print(text)
    assert text.index("weak 20/20") < text.rindex("strong 0/20"), "it was through before the other began"
    # Where nothing is left for a model, nobody asks for its room again.
    data["models"]["strong"] |= {"accelerator_type": "H100"}
    assert run(data)[0] == EXIT_DONE


@pytest.mark.slow
def test_a_third_model_and_a_judge_take_their_turn(one_gpu: None, tmp_path: Path) -> None:
    data = gpu_job(tmp_path, rows=24)
    data["models"]["mid"] = local_model(tiny_checkpoint(tmp_path / "mid", seed=2))
    data["models"]["judge-model"] = local_model(tiny_checkpoint(tmp_path / "judge", seed=3), gpus=0.5)
    del data["weak"], data["strong"]
    data |= {
        "ladder": ["weak", "mid", "strong"], "sample": {"rows": 9},
        "quality": {"judge": {"model": "judge-model", "sampling": {"max_tokens": 4}}},
    }  # fmt: skip
    bill = plan_job(Job(parse_spec(data), live=False))
    order = "one after the other: weak, then mid, then strong, then judge-model"
    assert any(line.startswith(order) for line in bill["places"]), bill["places"]
    code, report, rows, wall_s = run(data)
    assert code == EXIT_DONE and len(rows) == 24 and (rows.error == "").all()
    store = Store(data["output"])
    held_s = {name: sum(Journal(store).read(name)["gpu_s"].to_pylist()) for name in ("weak", "mid", "strong", "judge")}
    assert min(held_s.values()) > 0
    assert report["gpu_usd"] / GPU_HOUR_USD * 3600 == pytest.approx(sum(held_s.values()), rel=1e-3), (
        "the judge's time too"
    )
    assert sum(held_s.values()) <= wall_s


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"engine": "vllm", "engine_kwargs": {"tensor_parallel_size": 2}},
            r"^models\.strong: needs 2 GPUs, the cluster has 1 \(and cannot grow\); lower models\.strong\.engine_kwargs\.tensor",
        ),
        (
            {"engine": "vllm", "engine_kwargs": {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}},
            r"^models\.strong: needs 4 GPUs, the cluster has 1 \(and cannot grow\)",
        ),
        (
            {"accelerator_type": "H100"},
            r"^models\.strong: needs 1 GPU of type H100, the cluster has no such node \(and cannot grow\); types there: none",
        ),
    ],
)
def test_what_the_cluster_can_never_have_is_refused_before_anything_is_written(
    one_gpu: None, tmp_path: Path, change: dict, words: str
) -> None:
    data = gpu_job(tmp_path)
    data["models"]["strong"] |= change
    with pytest.raises(SpecError, match=words):
        run(data)
    assert not os.path.exists(data["output"])
    # A plan spends nothing, and may be made on another machine than the run: it says so.
    bill = plan_job(Job(parse_spec(data), live=False))
    assert any(line.startswith("strong needs ") for line in bill["places"])


def test_a_run_that_waits_says_for_what_and_ends_at_the_limit(
    one_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else has the GPU. The API's rows are answered meanwhile."""
    monkeypatch.setattr(turns, "MENTION_S", 0.0)
    with thread_replay([small_outcomes(40)], ReplayOptions(latency_s=0.01)) as server:
        data = gpu_job(tmp_path, placement_timeout_s=2)
        data["models"]["strong"] = {
            "engine": "openai", "model": "strong", "base_url": server.base_url,
            "price": {"per_million": {"input": 1, "output": 1}},
        }  # fmt: skip
        shown = lines_of_progress(monkeypatch)
        with gpu_held_elsewhere():
            code, report, rows, _ = run(data)
    assert code == EXIT_OPEN and report["open"] == 20
    assert (rows[rows.model == "strong"].error == "").sum() == 20
    line = report["stopped"]["weak"]
    assert line.startswith("waited 2 s for 1 GPU (the cluster has 1, in use by others); ")
    assert line.endswith("set models.weak.gpus to a share of one, or to 0 for CPUs, or raise placement_timeout_s")
    assert "weak 0/20, waits 0:01 for 1 GPU" in shown.getvalue()


@contextmanager
def gpu_held_elsewhere() -> Iterator[None]:
    @ray.remote(num_cpus=0, num_gpus=1)
    class Holder:
        """Somebody else's."""

    holder = Holder.remote()
    ray.get(holder.__ray_ready__.remote())
    try:
        yield
    finally:
        ray.kill(holder)


@pytest.mark.vllm
def test_the_readmes_own_job_runs_with_a_real_engine(one_gpu: None, tmp_path: Path) -> None:
    """Its example, but for the addresses: a trained router, vLLM on the cluster's GPU, an OpenAI-compatible endpoint."""
    text = (Path(__file__).parents[3] / "README.md").read_text()
    data = yaml.safe_load(text.split("```yaml\n# job.yaml\n")[1].split("```")[0])
    table = {"question_id": list(range(40)), "question": [f"question {i}" for i in range(40)], "category": ["c"] * 40}
    pq.write_table(pa.table(table | {"answer": ["A"] * 40}), tmp_path / "prompts.parquet")
    data["input"]["path"], data["output"] = str(tmp_path / "prompts.parquet"), str(tmp_path / "out")
    data["router"] = trained(tmp_path / "router")
    data["models"]["mixtral"]["source"] = str(tiny_checkpoint(tmp_path / "mixtral"))
    data["sampling"]["max_tokens"] = 8
    data["sample"]["rows"] = 4  # of the forty rows here
    with thread_replay([small_outcomes(40)], ReplayOptions(latency_s=0.01)) as server:
        price = {"per_million": {"input": 1, "output": 1}}
        data["models"]["gpt-4o"] |= {"base_url": server.base_url, "model": "strong", "price": price}
        data["models"]["gpt-4o"]["api_key_env"] = "HEADGATE_TEST_KEY"
        started = time.monotonic()
        code, report = run_job(Job(parse_spec(data), limit=20, live=False))
        wall_s = time.monotonic() - started
    rows = pd.read_parquet(tmp_path / "out/responses")
    answered = rows[rows.error == ""]
    assert code == EXIT_DONE and report["stopped"] == {} and report["open"] == 20, "of forty, by --limit"
    assert set(answered.model) == {"mixtral", "gpt-4o"}
    held_s = report["gpu_usd"] / 2.5 * 3600
    assert 1 < held_s < wall_s, "loading included, the time before there was a GPU not"
