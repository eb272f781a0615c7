"""One model's API lane as its tests run it: small outcomes, a replay server that serves them, a run that is started again.

Prices and counts are round, so that a test can say what a run must cost: 48 tokens a prompt at most, 20 counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import ray
import ray.data

from jobs.journal.reader import Journal
from jobs.journal.recovery import recover_orphans
from jobs.lanes.base import LaneContext
from jobs.lanes.openai.lane import OpenAILane
from jobs.money.client import GovernorClient
from jobs.money.messages import GovernorState
from jobs.replay.options import ReplayOptions
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.data.outcomes import Outcomes
from routing.pricing import Price
from tests.replay_server import Replay, thread_replay

PRICE = Price(input_usd_per_million=1.0, output_usd_per_million=4.0)
MAX_TOKENS = 50
KEY = os.environ["HEADGATE_TEST_KEY"]


def outcomes(n: int, prompt_tokens: float = 20.0) -> Outcomes:
    """Prompts of 40 bytes: the bound is 48 tokens, `prompt_tokens` are counted, and 10 + i % 30 completion tokens."""
    counts = 10 + np.arange(n, dtype=np.float64)[:, None] % 30
    return Outcomes(
        ids=[str(i) for i in range(n)],
        prompts=[prompt(i) for i in range(n)],
        datasets=["made"] * n,
        models=("m",),
        quality=np.ones((n, 1), np.float32),
        responses=np.array([[f"answer {i}"] for i in range(n)], dtype=object),
        prompt_tokens=np.full((n, 1), prompt_tokens),
        completion_tokens=counts,
    )


def prompt(i: int) -> str:
    return f"question number {i:024d}"


@dataclass
class Job:
    """One session of one run against one server."""

    server: Replay
    run: Path
    cap_usd: float | None = None
    rows_per_block: int = 64

    def __post_init__(self) -> None:
        self.state: GovernorState
        self.session, self.n_sessions = "s0", 0

    def context(self, governor: GovernorClient, model: ModelSpec) -> LaneContext:
        return LaneContext(
            alias="gpt",
            model=model,
            sampling={"temperature": 0, "max_tokens": MAX_TOKENS},
            response_format=None,
            price=PRICE,
            output=str(self.run),
            session=self.session,
            local_dir=str(self.run.parent / "local"),
            governor=governor,
            num_cpus=0.5,
            rows_per_block=self.rows_per_block,
        )

    def model(self, **more: Any) -> ModelSpec:
        values: dict[str, Any] = {"engine": "openai", "model": "m", "base_url": self.server.base_url}
        values |= {"api_key_env": "HEADGATE_TEST_NO_KEY", "limits": {"in_flight": 32}}
        if "api_key_command" in more:
            del values["api_key_env"]
        return ModelSpec.model_validate(values | more)

    def ask(self, keys: list[int], **more: Any) -> list[dict[str, Any]]:
        """Run the lane over the rows not settled yet; the governor's last state is in `state`."""
        self.n_sessions += 1
        self.session = f"s{self.n_sessions}"
        store = Store(str(self.run))
        recover_orphans(store.uri, None, str(self.run.parent / "local"), 10, self.session)
        todo = np.setdiff1d(np.array(keys, np.int64), Journal(store).settled("gpt"))
        model = self.model(**more)
        limits = {"gpt": model.limits}
        governor = GovernorClient.start(store.uri, self.session, self.cap_usd, limits, str(self.run.parent / "local"))
        try:
            rows = ray.data.from_arrow(ask_table(todo.tolist())).repartition(
                target_num_rows_per_block=self.rows_per_block
            )
            return list(OpenAILane().answer(rows, self.context(governor, model)).iter_rows())
        finally:
            self.state = governor.close(timeout_s=60)
            governor.kill()

    def table(self) -> list[dict[str, Any]]:
        return Journal(Store(str(self.run))).read("gpt").to_pylist()


def ask_table(keys: list[int]) -> pa.Table:
    messages = [json.dumps([{"role": "user", "content": prompt(key)}]) for key in keys]
    return pa.table(
        {
            "row_key": pa.array(keys, pa.int64()),
            "bucket": pa.array([key // 100 for key in keys], pa.int32()),
            "messages": pa.array(messages, pa.string()),
            "body": pa.array([""] * len(keys), pa.string()),
            "content_key": pa.array([b"c" * 16] * len(keys), pa.binary(16)),
            "prompt_bytes": pa.array([48] * len(keys), pa.int32()),
            "sample": pa.array([key % 10 == 0 for key in keys], pa.bool_()),
        }
    )


@contextmanager
def serving(n: int, **options: Any) -> Iterator[Replay]:
    with thread_replay([outcomes(n)], ReplayOptions(**{"latency_s": 0.02, **options})) as server:
        yield server


def lane_pids() -> set[int]:
    """Processes of ApiActor that this test's Ray started."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        try:
            if "ApiActor" in " ".join(child.cmdline()) and child.status() != psutil.STATUS_ZOMBIE:
                found.add(child.pid)
        except psutil.NoSuchProcess:
            continue
    return found
