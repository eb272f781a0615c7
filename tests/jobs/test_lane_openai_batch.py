"""The batch lane against a real replay server over HTTP, without Ray: dollars, faults, limits, deaths, coming back."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import urllib.request
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

from jobs.batches import Manifest, stopped_line
from jobs.governor import GovernorService
from jobs.journal import Journal, recover_orphans
from jobs.lanes import batch_queue, lane_of
from jobs.lanes.asking import Endpoint
from jobs.lanes.base import LaneContext
from jobs.lanes.batch_api import BatchApi
from jobs.lanes.batching import BatchAsker
from jobs.replay import ReplayOptions
from jobs.reservations import Reservations, unfinished
from jobs.spec_models import ModelSpec
from jobs.store import Store
from routing.pricing import Price
from tests.local_governor import LocalGovernor
from tests.replay_server import Replay, thread_replay

PRICE = Price(input_usd_per_million=0.5, output_usd_per_million=2.0)
MAX_TOKENS = 50
WORST_USD = (48 * 0.5 + MAX_TOKENS * 2.0) / 1e6
POLL_S, ADOPT_S = 0.02, 0.3


class Killed(BaseException):
    """Stands for kill -9 between two writes: nothing in the lane catches it."""


def ask_table(keys: list[int]) -> pa.Table:
    return pa.table(
        {
            "row_key": pa.array(keys, pa.int64()),
            "bucket": pa.array([key // 100 for key in keys], pa.int32()),
            "messages": [json.dumps([{"role": "user", "content": prompt(key)}]) for key in keys],
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

    def __post_init__(self) -> None:
        self.state: dict[str, Any] = {}
        self.n_sessions = 0

    def context(self, governor: Any = None, **more: Any) -> LaneContext:
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

    def ask(self, keys: list[int], stop: Callable[[], bool] | None = None, blocks: int = 1, **more: Any) -> int:
        """One start over the rows not settled yet, `stop` as a signal would; rows settled. The end is in `state`."""
        self.n_sessions += 1
        store = Store(str(self.run))
        recover_orphans(store.uri, None, str(self.run.parent / "local"), 0, f"s{self.n_sessions}")
        todo = np.setdiff1d(np.array(keys, np.int64), Journal(store).settled("gpt"))
        limits = {"gpt": self.context(**more).model.limits}
        service = GovernorService(
            store.uri, f"s{self.n_sessions}", self.cap_usd, limits, None, str(self.run.parent / "local")
        )

        async def main() -> int:
            context = self.context(LocalGovernor(service), **more)
            async with aiohttp.ClientSession() as session:
                asker = BatchAsker(context, Endpoint(self.server.base_url, ""), session, "node", 1, POLL_S, ADOPT_S)
                await asker.open()
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
                    answers = await asyncio.gather(*work)
                except Killed:
                    answers = []
                await asker.close()
                return sum(answer.kind != "failed" for part in answers for answer in part)

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
    dollars = job.state["dollars"]
    assert dollars["spent_usd"] == pytest.approx(server_usd, abs=1e-12)
    assert dollars["lost_usd"] == pytest.approx(sum(row["lost_usd"] for row in rows), abs=1e-12)
    assert dollars["reserved_usd"] == pytest.approx(0, abs=1e-15)
    assert dollars["stranded_usd"] == pytest.approx(0, abs=1e-12)
    assert unfinished(Store(str(job.run))) == []


def test_every_row_is_answered_once_at_the_batch_price(tmp_path: Path) -> None:
    with serving(300) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        assert job.ask(list(range(300)), blocks=2) == 300
        stats = server.stats()
        assert job.ask(list(range(300))) == 0
        assert server.stats() == stats
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"], stats["batches"]["created"]) == (300, 0, 2)
    rows = job.table()
    assert [row["row_key"] for row in rows] == list(range(300))
    assert all(row["generated_text"] == f"answer {row['row_key']}" for row in rows)
    assert {row["purpose"] for row in rows if row["row_key"] % 10 == 0} == {"shadow"}
    assert {(row["kind"], row["attempts"], row["token_source"]) for row in rows} == {("answered", 1, "provider")}


def test_rows_that_expire_vanish_or_fail_go_into_the_next_batch(tmp_path: Path) -> None:
    faults = {"expired": 0.1, "missing": 0.1, "500": 0.1, "empty": 0.1}
    with serving(200, batch_faults=faults, seed=2) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        assert job.ask(list(range(200))) == 200
        stats = server.stats()
        assert all(stats["faults"][name] for name in faults)
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"]) == (200, 0)
    assert sum(row["attempts"] for row in job.table()) == stats["requests"]
    # The reply without a choice names its prompt tokens, which a provider would charge.
    assert sum(row["lost_usd"] for row in job.table()) == pytest.approx(stats["faults"]["empty"] * 15 * 0.5 / 1e6)


def test_tries_end_and_refusals_are_final(tmp_path: Path) -> None:
    with serving(40, batch_faults={"500": 0.5}, seed=5) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(60)), retries={"attempts": 2})  # 20 of them are not in the table
    kinds = {kind: [row for row in job.table() if row["kind"] == kind] for kind in ("answered", "failed", "rejected")}
    assert [row["row_key"] for row in kinds["rejected"]] == list(range(40, 60))
    assert all("prompt_not_found" in row["error"] and "question" not in row["error"] for row in kinds["rejected"])
    assert all(row["attempts"] == 2 and "HTTP 500" in row["error"] for row in kinds["failed"])
    assert 2 <= len(kinds["failed"]) == 40 - len(kinds["answered"]) < 25


@pytest.mark.parametrize("at", ["reserved", "rows", "uploaded", "created", "recorded"])
def test_a_driver_killed_between_any_two_steps_pays_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    owner, name = {
        "reserved": (Reservations, "take"), "rows": (Manifest, "write_rows"), "uploaded": (BatchApi, "upload"),
        "created": (BatchApi, "create"), "recorded": (Manifest, "record"),
    }[at]  # fmt: skip
    real = getattr(owner, name)

    def then_die(*arguments: Any) -> Any:
        result = real(*arguments)
        if asyncio.iscoroutine(result):

            async def wait() -> None:
                await result
                raise Killed

            return wait()
        raise Killed

    with serving(50) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, then_die)
            assert job.ask(list(range(50))) == 0
        assert len(unfinished(Store(str(job.run)))) == 1
        assert job.state["dollars"]["reserved_usd"] == pytest.approx(50 * WORST_USD)
        assert job.ask(list(range(50))) == 50
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"], stats["batches"]["created"]) == (50, 0, 1)
    assert len({row["row_key"] for row in job.table()}) == 50


def test_a_stopped_run_leaves_its_batches_and_comes_back_to_them(tmp_path: Path) -> None:
    """The running batch weighs its worst case on the cap of the next start, and frees the rest when it is settled."""
    with serving(100, batch_latency_s=1.0) as server:
        job = Job(server, tmp_path / "run", cap_usd=60 * WORST_USD)
        created = lambda: server.stats()["batches"]["created"] == 1  # noqa: E731
        assert job.ask(list(range(100)), stop=created) == 0
        assert "1 batch runs on at the provider: the same command re-attaches" in stopped_line(Store(str(job.run)))
        assert job.state["dollars"]["reserved_usd"] == pytest.approx(60 * WORST_USD)
        assert job.state["models"]["gpt"]["stop_kind"] == "user"
        job.ask(list(range(100)))
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert stats["repeated"] == 0
    assert stats["answered"] > 60, "what the first batch did not use up paid for others"
    assert sum(row["cost_usd"] for row in job.table()) <= 60 * WORST_USD


def test_settling_goes_on_where_a_dead_process_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process that dies among a batch's answers: what it settled is in its local log alone."""
    n_settled = 0

    def dies_after_20(self: BatchAsker, batch: Any, answer: Any) -> None:
        nonlocal n_settled
        n_settled += 1
        if n_settled > 20:
            os._exit(9)
        real(self, batch, answer)

    real = BatchAsker._settle
    with serving(50, batch_faults={"empty": 0.2}, seed=3) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        child = os.fork()
        if not child:
            try:
                monkeypatch.setattr(BatchAsker, "_settle", dies_after_20)
                job.ask(list(range(50)))
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert len(os.listdir(tmp_path / "local")) == 1
        assert job.table() == []
        job.n_sessions = 1
        job.ask(list(range(50)))
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"]) == (50, 0)
    lost = sum(row["lost_usd"] for row in job.table())
    assert lost == pytest.approx(stats["faults"]["empty"] * 15 * 0.5 / 1e6)


def test_the_cap_holds_by_the_servers_count_and_is_used(tmp_path: Path) -> None:
    cap = 300 * (15 * 0.5 + 24.5 * 2.0) / 1e6 * 0.4
    with serving(300, batch_faults={"expired": 0.1, "empty": 0.02}, seed=4, batch_latency_s=0.05) as server:
        job = Job(server, tmp_path / "run", cap_usd=cap)
        for _ in range(2):
            job.ask(list(range(300)), blocks=2)
            assert job.paid_usd() <= cap
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert stats["repeated"] == 0
    assert stats["batches"]["created"] > 2, "files were cut to what was left"
    assert max(row["row_key"] for row in job.table()) < 150, (
        "later blocks waited for the first, whose rows are the best"
    )
    dollars = job.state["dollars"]
    assert cap - dollars["spent_usd"] - dollars["lost_usd"] < WORST_USD
    assert job.state["models"]["gpt"]["short_of_money"]
    assert job.state["models"]["gpt"]["stopped"] == ""


@pytest.mark.parametrize("told", [True, False])
def test_the_providers_queue_is_kept_or_found_out(tmp_path: Path, told: bool) -> None:
    """100 rows of 15 prompt tokens through a queue of 900."""
    with serving(100, enqueued_tokens=900, batch_latency_s=0.1) as server:
        job = Job(server, tmp_path / "run")
        assert job.ask(list(range(100)), blocks=2, limits={"enqueued_tokens": 900} if told else {}) == 100
        stats = server.stats()
    assert stats["repeated"] == 0
    assert stats["batches"]["peak_enqueued_tokens"] <= 900
    if told:
        assert stats["batches"]["failed"] == 0
    else:
        assert stats["batches"]["failed"] >= 1
    assert {row["attempts"] for row in job.table()} == {1}


def test_a_creation_without_a_reply_is_found_again(tmp_path: Path) -> None:
    with serving(50, batch_faults={"lost_reply": 0.7}, seed=1) as server:
        job = Job(server, tmp_path / "run")
        assert job.ask(list(range(50)), blocks=5) == 50
        stats = server.stats()
    assert stats["faults"]["lost_reply"] >= 1
    assert (stats["batches"]["created"], stats["answered"], stats["repeated"]) == (5, 50, 0)


def test_batches_that_fail_or_are_cancelled_stop_the_lane(tmp_path: Path) -> None:
    with serving(50, batch_faults={"failed": 1.0}) as server:
        job = Job(server, tmp_path / "failed", cap_usd=1.0)
        assert job.ask(list(range(50))) == 0
        assert server.stats()["batches"]["failed"] == batch_queue.FAILED_BATCHES
        assert "3 batches in a row failed" in job.state["models"]["gpt"]["stopped"]
        check_books(job, 0.0)
    with serving(50) as server:
        job = Job(server, tmp_path / "model")
        job.ask(list(range(50)), model="nobody")
        assert "model_not_found, line 1" in job.state["models"]["gpt"]["stopped"]
    with serving(50, batch_faults={"400": 1.0}) as server:
        job = Job(server, tmp_path / "form")
        assert job.ask(list(range(50))) == 0
        assert "refused 50 requests of a batch" in job.state["models"]["gpt"]["stopped"]
    with serving(50, batch_latency_s=2.0) as server:
        job = Job(server, tmp_path / "cancelled", cap_usd=1.0)
        thread = threading.Thread(target=cancel_once_it_answers, args=(server,))
        thread.start()
        job.ask(list(range(50)))
        thread.join()
        assert "was cancelled at the provider" in job.state["models"]["gpt"]["stopped"]
        n_answered = server.stats()["answered"]
        assert 0 < n_answered < 50
        assert job.ask(list(range(50))) == 50 - n_answered
        assert server.stats()["repeated"] == 0
        check_books(job, job.paid_usd())


def cancel_once_it_answers(server: Replay) -> None:
    server.wait_for(lambda stats: stats["answered"] > 0)
    request = urllib.request.Request(f"{server.base_url}/batches/batch_replay_0/cancel", method="POST")
    urllib.request.urlopen(request, timeout=10).close()


def test_a_provider_that_is_gone_stops_the_lane_and_keeps_the_batch(tmp_path: Path) -> None:
    with serving(20, batch_latency_s=5.0) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        job.ask(list(range(20)), stop=lambda: server.stats()["batches"]["created"] == 1)
    job.ask(list(range(20)), retries={"limited_s": 1.0})
    assert "has not answered for 1 s" in job.state["models"]["gpt"]["stopped"]
    assert "re-attaches" in job.state["models"]["gpt"]["stopped"]
    assert job.state["dollars"]["reserved_usd"] == pytest.approx(20 * WORST_USD)


def test_check_wants_an_endpoint_that_knows_batches(tmp_path: Path) -> None:
    lane = lane_of("openai_batch")
    with serving(3, api_key="sk-right-key-123456") as server:
        job = Job(server, tmp_path / "run")
        refused = lane.check(job.context())
        assert not refused.ok
        assert "HEADGATE_TEST_NO_KEY" in refused.detail
    with serving(3) as server:
        job.server = server
        assert lane.check(job.context()).detail.endswith("serves m, in batches")
