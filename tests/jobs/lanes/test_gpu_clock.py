"""GPU seconds: of each engine from the moment it began, however many there are and whoever died, and never twice."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from ray.experimental import internal_kv

from jobs.journal.writer import JournalWriter
from jobs.lanes.base import RowHead
from jobs.lanes.local.gpu_clock import NAMESPACE, GpuClock
from jobs.lanes.local.rows import AnswerWriter, priced_gpus
from jobs.lanes.replies import Completion
from jobs.lanes.usage import Usage
from routing.pricing import Price
from tests.tiny_models import answers_by_key, lane_context


def begins(clock: GpuClock, engine: str, ago_s: float) -> None:
    """As `GpuClock.begin` in an engine's process, so many seconds ago."""
    internal_kv._internal_kv_put(f"{clock._engines}{engine}", repr(time.time() - ago_s), namespace=NAMESPACE)


def test_each_engine_counts_from_its_own_beginning(ray_local: None) -> None:
    clock = GpuClock(2.0)
    assert clock.take_s() == 0, "an engine that waits for its GPU holds none"
    begins(clock, "one", 10)
    begins(clock, "two", 4)
    assert clock.take_s() == pytest.approx(2 * 14, abs=0.5)
    time.sleep(0.3)
    assert clock.take_s() == pytest.approx(2 * 2 * 0.3, abs=0.4)
    clock.forget()
    assert clock.begun() == {}


def test_a_writer_made_again_counts_nothing_twice(ray_local: None) -> None:
    clock = GpuClock(1.0)
    begins(clock, "one", 60)
    assert clock.take_s() == pytest.approx(60, abs=0.5)
    assert GpuClock(1.0, clock.name).take_s() < 1


def test_an_engine_that_died_counts_again_from_its_next_beginning(ray_local: None) -> None:
    clock = GpuClock(1.0)
    begins(clock, "one", 60)
    clock.take_s()
    time.sleep(0.5)
    begins(clock, "one", 0.1)  # Ray started it anew, under the same actor
    assert clock.take_s() < 0.4


def test_lanes_do_not_see_each_others_engines(ray_local: None) -> None:
    one, other = GpuClock(1.0), GpuClock(1.0)
    begins(one, "a", 30)
    assert other.take_s() == 0


@pytest.mark.parametrize(
    ("model", "gpus"),
    [
        ({"replicas": 2, "engine_kwargs": {"tensor_parallel_size": 2}}, 2),
        ({"engine_kwargs": {"tensor_parallel_size": 2, "pipeline_parallel_size": 3}}, 6),
        ({"gpus": 0.25}, 0.25),
        ({}, 1),
    ],
)
def test_a_replica_is_priced_by_the_gpus_that_it_asks_for(tmp_path: Path, model: dict, gpus: float) -> None:
    assert priced_gpus(lane_context("vllm", tmp_path, tmp_path, price=Price(gpu_hour_usd=2.0), model=model)) == gpus
    assert priced_gpus(lane_context("vllm", tmp_path, tmp_path, model=model)) == 0, "paid by tokens"


def test_the_writer_shares_gpu_time_by_tokens(ray_local: None, tmp_path: Path) -> None:
    model = {"replicas": 2, "engine_kwargs": {"tensor_parallel_size": 2}}
    context = lane_context("vllm", tmp_path, tmp_path, price=Price(gpu_hour_usd=2.0), model=model)
    clock = GpuClock(priced_gpus(context))
    begins(clock, "one", 10)
    begins(clock, "two", 10)
    writer = AnswerWriter(context, clock)
    assert isinstance(writer.journal, JournalWriter)
    answers = [writer.answered(RowHead(i, 0, False), Completion("x", "stop", Usage(10, 10 * i)), 0.1) for i in range(3)]
    progress = writer.settle(answers).to_pylist()[0]
    writer.close()
    rows = answers_by_key(context, 3)
    assert progress["gpu_s"] == pytest.approx(40, abs=2)
    assert sum(row["gpu_s"] for row in rows.values()) == pytest.approx(progress["gpu_s"], rel=1e-5)
    assert rows[2]["gpu_s"] == pytest.approx(3 * rows[0]["gpu_s"], rel=1e-5)
    assert all(row["cost_usd"] == 0 for row in rows.values())
