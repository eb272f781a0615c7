"""The batch lane against a real replay server over HTTP, without Ray: dollars, faults, limits."""

from __future__ import annotations

import asyncio
import threading
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
from batch_lane_job import WORST_USD, Job, check_books, serving

from jobs.lanes import lane_of
from jobs.lanes.openai_batch import queue as batch_queue
from jobs.lanes.openai_batch import running as batch_running
from jobs.lanes.openai_batch.api import BatchApi
from jobs.money.governor import GovernorService
from jobs.money.messages import Ask, Report
from jobs.money.reservations import new_name
from jobs.spec.models import Limits
from jobs.storage.store import Store
from tests.replay_server import Replay


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
    dollars = job.state.dollars
    assert cap - dollars.spent_usd - dollars.lost_usd < WORST_USD
    assert job.state.models["gpt"].short_of_money
    assert job.state.models["gpt"].stopped == ""


def test_what_the_batches_of_a_stopped_lane_hold_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody follows them in this session, and a lane that waited for their dollars would wait for ever."""
    limits = {"gpt": Limits(), "other": Limits()}
    service = GovernorService(Store(str(tmp_path)).uri, "s1", 1.0, limits, str(tmp_path / "local"))

    async def main() -> list[bool]:
        assert (await service.reserve("gpt", new_name(), np.array([0.9]))).rows == 1
        before = await service.permit("other", "a", Ask(need_usd=0.5), Report())
        await service.stop("gpt", "the provider is gone")
        after = await service.permit("other", "a", Ask(need_usd=0.5), Report())
        return [before.exhausted, after.exhausted]

    assert asyncio.run(main()) == [False, True]


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


def test_few_batches_are_read_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their answers are in memory; of what has been read only counts are kept."""
    n, peak, real = 0, 0, BatchApi.lines

    async def counted(self: BatchApi, file_id: str) -> AsyncIterator[bytes]:
        nonlocal n, peak
        n += 1
        peak = max(peak, n)
        await asyncio.sleep(0.05)
        async for line in real(self, file_id):
            yield line
        n -= 1

    monkeypatch.setattr(BatchApi, "lines", counted)
    with serving(120, batch_latency_s=2.0) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(120)), stop=lambda: server.stats()["batches"]["created"] == 12, blocks=12)
        server.wait_for(lambda stats: stats["batches"]["completed"] == 12)
        assert job.ask(list(range(120)), blocks=3) == 120
        assert server.stats()["repeated"] == 0
        check_books(job, job.paid_usd())
    assert 1 < peak <= batch_running.READ_AT_ONCE


def test_batches_that_fail_or_are_cancelled_stop_the_lane(tmp_path: Path) -> None:
    with serving(50, batch_faults={"failed": 1.0}) as server:
        job = Job(server, tmp_path / "failed", cap_usd=1.0)
        assert job.ask(list(range(50))) == 0
        assert server.stats()["batches"]["failed"] == batch_queue.FAILED_BATCHES
        assert "3 batches in a row failed" in job.state.models["gpt"].stopped
        check_books(job, 0.0)
    with serving(50) as server:
        job = Job(server, tmp_path / "model")
        job.ask(list(range(50)), model="nobody")
        assert "model_not_found, line 1" in job.state.models["gpt"].stopped
    with serving(50, batch_faults={"400": 1.0}) as server:
        job = Job(server, tmp_path / "form")
        assert job.ask(list(range(50))) == 0
        assert "refused 50 requests of a batch" in job.state.models["gpt"].stopped
    with serving(50, batch_latency_s=2.0) as server:
        job = Job(server, tmp_path / "cancelled", cap_usd=1.0)
        thread = threading.Thread(target=cancel_once_it_answers, args=(server,))
        thread.start()
        job.ask(list(range(50)))
        thread.join()
        assert "was cancelled at the provider" in job.state.models["gpt"].stopped
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
    assert "has not answered for 1 s" in job.state.models["gpt"].stopped
    assert "re-attaches" in job.state.models["gpt"].stopped
    assert job.state.dollars.reserved_usd == pytest.approx(20 * WORST_USD)


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
