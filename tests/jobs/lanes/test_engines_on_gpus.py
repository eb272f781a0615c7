"""Real engines on a Ray with two pretended GPUs: divided over both, and two of them side by side on shares of one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data

from jobs.lanes.base import LaneContext
from jobs.lanes.local.vllm import VLLMLane
from routing.pricing import Price
from tests import local_ray
from tests.tiny_models import answers_by_key, ask_rows, lane_context, tiny_checkpoint

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
N = 40


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    ray.shutdown()
    ray.init(**local_ray.OPTIONS, num_gpus=2)
    yield
    ray.shutdown()


class Held:
    """The most GPUs that were lent at a time."""

    def __enter__(self) -> Held:
        self.most, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.3):
            self.most = max(self.most, 2 - ray.available_resources().get("GPU", 0.0))

    def __exit__(self, *error: Any) -> None:
        self._done.set()
        self._thread.join()


def answer(context: LaneContext) -> float:
    """GPU seconds of N rows, all of them settled."""
    rows = ray.data.from_arrow(ask_rows([f"What is {i}?" for i in range(N)]))
    progress = list(VLLMLane().answer(rows, context).iter_rows())
    assert sum(row["settled"] for row in progress) == N
    assert "failed" not in {row["kind"] for row in answers_by_key(context, N).values()}
    return sum(row["gpu_s"] for row in progress)


def test_two_engines_share_one_gpu(two_gpus: None, tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "model")
    contexts = [
        lane_context("vllm", source, tmp_path, alias=name, model={"gpus": 0.5}, price=Price(gpu_hour_usd=1))
        for name in ("weak", "strong")
    ]
    found: list[float] = []
    started = time.monotonic()
    with Held() as held:
        threads = [threading.Thread(target=lambda c=context: found.append(answer(c))) for context in contexts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 2 and held.most == 1
    assert 1 < sum(found) <= time.monotonic() - started
