"""One model's batch lane as its tests run it: a run that is started again and again against one replay server, without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pyarrow as pa
import pytest
from api_lane_job import outcomes, prompt

from jobs.journal.reader import Journal
from jobs.journal.recovery import recover_orphans
from jobs.journal.rows import RANKS
from jobs.lanes.base import LaneContext
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai_batch.asker import BatchAsker
from jobs.lanes.openai_batch.manifest import close_settled
from jobs.money.client import GovernorClient
from jobs.money.governor import GovernorService
from jobs.money.messages import GovernorState
from jobs.money.reservations import unfinished
from jobs.replay.options import ReplayOptions
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.pricing import Price
from tests.local_governor import local_governor
from tests.replay_server import Replay, thread_replay

PRICE = Price(input_usd_per_million=0.5, output_usd_per_million=2.0)
MAX_TOKENS = 50
WORST_USD = (48 * 0.5 + MAX_TOKENS * 2.0) / 1e6
POLL_S, ADOPT_S = 0.02, 0.3


class Killed(BaseException):
    """Stands for kill -9 between two writes: nothing in the lane catches it."""


def ask_table(keys: list[int]) -> pa.Table:
    """Rows of prompts that the server knows; negative keys make no request."""
    return pa.table(
        {
            "row_key": pa.array(keys, pa.int64()),
            "bucket": pa.array([key // 100 for key in keys], pa.int32()),
            "messages": [
                json.dumps([{"role": "user", "content": prompt(key)}]) if key >= 0 else "not JSON" for key in keys
            ],
            "body": pa.array([""] * len(keys), pa.string()),
            "content_key": pa.array([b"c" * 16] * len(keys), pa.binary(16)),
            "prompt_bytes": pa.array([48] * len(keys), pa.int32()),
            "sample": pa.array([key % 10 == 0 for key in keys], pa.bool_()),
        }
    )


@dataclass
class Job:
    """Starts of one run against one server."""

    server: Replay
    run: Path
    cap_usd: float | None = None
    adopt_s: float = ADOPT_S

    def __post_init__(self) -> None:
        self.state: GovernorState
        self.n_sessions = 0

    def context(self, governor: GovernorClient | None = None, **more: Any) -> LaneContext:
        values: dict[str, Any] = {"engine": "openai_batch", "model": "m", "base_url": self.server.base_url}
        return LaneContext(
            alias="gpt",
            model=ModelSpec.model_validate(values | {"api_key_env": "HEADGATE_TEST_NO_KEY"} | more),
            sampling={"temperature": 0, "max_tokens": MAX_TOKENS},
            response_format=None,
            price=PRICE,
            output=str(self.run),
            session=f"s{self.n_sessions}",
            local_dir=str(self.run.parent / "local"),
            governor=governor,
        )

    def ask(
        self, keys: list[int], stop: Callable[[], bool] | None = None, blocks: int = 1, lives: int = 1, **more: Any
    ) -> int:
        """One start over the rows not settled yet, `stop` as a signal would; rows settled. The end is in `state`.

        lives: Ray starts the lane's process again where it dies, and gives the new one the same blocks.
        """
        self.n_sessions += 1
        store = Store(str(self.run))
        recover_orphans(store.uri, None, str(self.run.parent / "local"), 0, f"s{self.n_sessions}")
        close_settled(store)
        todo = np.setdiff1d(np.array(keys, np.int64), Journal(store).settled("gpt"))
        limits = {"gpt": self.context(**more).model.limits}
        service = GovernorService(
            store.uri, f"s{self.n_sessions}", self.cap_usd, limits, str(self.run.parent / "local")
        )

        async def live(pid: int) -> int | None:
            context = self.context(local_governor(service), **more)
            async with aiohttp.ClientSession() as session:
                endpoint = Endpoint(context.model.base_url or "", "")
                asker = BatchAsker(context, endpoint, session, "node", pid, POLL_S, self.adopt_s)
                await asker.open()
                if not len(todo) and unfinished(store, "gpt"):
                    await asker.follow()
                work = [
                    asyncio.create_task(asker.block(ask_table(part.tolist())))
                    for part in np.array_split(todo, blocks)
                    if len(part)
                ]
                while stop is not None and not all(task.done() for task in work):
                    await asyncio.sleep(0.01)
                    if await asyncio.to_thread(stop):
                        await service.stop("gpt", "stopped by a signal", "user")
                        break
                try:
                    settled = [rank for part in await asyncio.gather(*work) for rank in part["rank"]]
                except Killed:
                    settled = None
                await asker.close()
                return None if settled is None else sum(rank != RANKS["failed"] for rank in settled)

        async def main() -> int:
            for pid in range(lives):
                if (settled := await live(pid)) is not None:
                    return settled
            return 0

        settled = asyncio.run(asyncio.wait_for(main(), 60))
        self.state = asyncio.run(service.close())
        return settled

    def table(self) -> list[dict[str, Any]]:
        return Journal(Store(str(self.run))).read("gpt").to_pylist()

    def paid_usd(self) -> float:
        """By the server's own count."""
        usage = self.server.stats()["by_tier"].get("m", {}).get("batch", {"prompt_tokens": 0, "completion_tokens": 0})
        return float(usage["prompt_tokens"] * 0.5 + usage["completion_tokens"] * 2.0) / 1e6


@contextmanager
def serving(n: int, **options: Any) -> Iterator[Replay]:
    with thread_replay(
        [outcomes(n, prompt_tokens=15.0)], ReplayOptions(**{"batch_latency_s": 0.15, **options})
    ) as server:
        yield server


def check_books(job: Job, server_usd: float) -> None:
    """Everything is settled: journal, governor and ledger say what the server says."""
    rows = job.table()
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(server_usd, abs=1e-12)
    dollars = job.state.dollars
    assert dollars.spent_usd == pytest.approx(server_usd, abs=1e-12)
    assert dollars.lost_usd == pytest.approx(sum(row["lost_usd"] for row in rows), abs=1e-12)
    assert dollars.reserved_usd == pytest.approx(0, abs=1e-15)
    assert dollars.stranded_usd == pytest.approx(0, abs=1e-12)
    assert unfinished(Store(str(job.run))) == []


def die_after(patch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """The process ends with the first return of a method."""
    real = getattr(owner, name)

    def then_die(*arguments: Any) -> Any:
        result = real(*arguments)
        if asyncio.iscoroutine(result):

            async def wait() -> None:
                await result
                raise Killed

            return wait()
        raise Killed

    patch.setattr(owner, name, then_die)
