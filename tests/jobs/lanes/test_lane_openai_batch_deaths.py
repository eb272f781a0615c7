"""The batch lane comes back to its batches: after any death, after replies that were lost, to batches nobody asks for."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from batch_lane_job import WORST_USD, Job, check_books, die_after, serving

from jobs.lanes.openai_batch import api as batch_api
from jobs.lanes.openai_batch.api import BatchApi
from jobs.lanes.openai_batch.manifest import Manifest, stopped_line
from jobs.lanes.openai_batch.running import Batches
from jobs.money import governor
from jobs.money.driver import notes_of
from jobs.money.governor import GovernorService
from jobs.money.reservations import Reservations, unfinished
from jobs.storage.store import Store
from tests.replay_server import Replay


@pytest.mark.parametrize("at", ["reserved", "rows", "uploaded", "created", "recorded", "journaled"])
def test_a_driver_killed_between_any_two_steps_pays_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    owner, name = {
        "reserved": (Reservations, "take"), "rows": (Manifest, "write_rows"), "uploaded": (BatchApi, "upload"),
        "created": (BatchApi, "create"), "recorded": (Manifest, "record"), "journaled": (GovernorService, "finish"),
    }[at]  # fmt: skip
    with serving(50) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        with monkeypatch.context() as patch:
            die_after(patch, owner, name)
            assert job.ask(list(range(50))) == 0
        assert len(unfinished(Store(str(job.run)))) == 1
        assert job.state.dollars.reserved_usd == pytest.approx(50 * WORST_USD)
        # With all rows in the journal no lane starts any more: the batch is closed without it.
        assert job.ask(list(range(50))) == (0 if at == "journaled" else 50)
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
        assert job.state.dollars.reserved_usd == pytest.approx(60 * WORST_USD)
        assert job.state.models["gpt"].stop_kind == "user"
        job.ask(list(range(100)))
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert stats["repeated"] == 0
    assert stats["answered"] > 60, "what the first batch did not use up paid for others"
    assert sum(row["cost_usd"] for row in job.table()) <= 60 * WORST_USD


@pytest.mark.parametrize("recovers", [True, False])
def test_a_batch_whose_last_process_may_still_settle_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovers: bool
) -> None:
    """A node that does not say whether its process is dead: its rows are not settled only because nobody may ask them."""

    async def of_node(*_: Any) -> bool:
        return recovers

    with serving(50) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(governor, "recover_sender", of_node)
            die_after(patch, Manifest, "record")
            assert job.ask(list(range(50)), lives=2) == (50 if recovers else 0)
        if not recovers:
            assert "may still be settling its rows" in job.state.models["gpt"].stopped
            assert len(unfinished(Store(str(job.run)))) == 1
            assert job.state.dollars.reserved_usd == pytest.approx(50 * WORST_USD)
            assert job.ask(list(range(50))) == 50
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"], stats["batches"]["created"]) == (50, 0, 1)


@pytest.mark.parametrize("others", [0, 5])
def test_a_batch_whose_rows_nobody_asks_for_any_more_is_settled(tmp_path: Path, others: int) -> None:
    """A new policy gives its rows to another model: the answers are paid for, and its dollars must come free."""
    with serving(50, batch_latency_s=0.5) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        job.ask(list(range(50)), stop=lambda: server.stats()["batches"]["created"] == 1)
        assert job.ask(list(range(-others, 0))) == others
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"], stats["batches"]["created"]) == (50, 0, 1)
    assert [row["row_key"] for row in job.table() if row["kind"] == "answered"] == list(range(50))


def test_settling_goes_on_where_a_dead_process_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real process that dies among a batch's answers: what it settled is in its local log alone."""
    n_settled = 0

    def dies_after_20(self: Batches, batch: Any, answer: Any) -> None:
        nonlocal n_settled
        n_settled += 1
        if n_settled > 20:
            os._exit(9)
        real(self, batch, answer)

    real = Batches._settle
    with serving(50, batch_faults={"empty": 0.2}, seed=3) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0)
        child = os.fork()
        if not child:
            try:
                monkeypatch.setattr(Batches, "_settle", dies_after_20)
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


def test_a_creation_without_a_reply_is_found_again(tmp_path: Path) -> None:
    with serving(50, batch_faults={"lost_reply": 0.7}, seed=1) as server:
        job = Job(server, tmp_path / "run")
        assert job.ask(list(range(50)), blocks=5) == 50
        stats = server.stats()
    assert stats["faults"]["lost_reply"] >= 1
    assert (stats["batches"]["created"], stats["answered"], stats["repeated"]) == (5, 50, 0)


def test_a_creation_under_way_when_its_process_dies_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert batch_api.ADOPT_S > batch_api.CALL_TIMEOUT_S, "its process would have waited for a reply as long as that"
    with serving(50, batch_faults={"late": 1.0}) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0, adopt_s=2.0)
        with monkeypatch.context() as patch:
            die_after(patch, BatchApi, "_once")
            patch.setattr(BatchApi, "upload", uploaded_by_hand)
            assert job.ask(list(range(50))) == 0
        assert server.stats()["batches"]["created"] == 0
        assert job.ask(list(range(50))) == 50
        stats = server.stats()
        check_books(job, job.paid_usd())
    assert (stats["answered"], stats["repeated"], stats["batches"]["created"]) == (50, 0, 1)


async def uploaded_by_hand(api: BatchApi, name: str, data: bytes) -> str:
    """As BatchApi.upload, but not by `_once`."""
    form = aiohttp.FormData({"purpose": "batch"})
    form.add_field("file", data, filename=name)
    async with api._session.post(f"{api._endpoint.url}/files", data=form) as response:
        return str((await response.json())["id"])


def test_a_creation_long_ago_that_left_no_batch_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(50) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0, adopt_s=30.0)
        with monkeypatch.context() as patch:
            die_after(patch, BatchApi, "upload")
            assert job.ask(list(range(50))) == 0
        grant = next((job.run / "ledger").glob("batch-*/grant-000000.json"))
        grant.write_text(json.dumps(json.loads(grant.read_text()) | {"at": 0.0}))
        begun = time.monotonic()
        assert job.ask(list(range(50))) == 50
        assert time.monotonic() - begun < 10
        check_books(job, job.paid_usd())


def test_of_two_creations_with_one_nonce_one_is_cancelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_api, "backoff_s", lambda n: 0.7)  # the second is sent after the first has come to be
    with serving(50, batch_faults={"late": 0.5}, seed=0, batch_latency_s=1.0) as server:
        job = Job(server, tmp_path / "run", cap_usd=1.0, adopt_s=0.1)
        assert job.ask(list(range(50))) == 50
        stats = server.wait_for(lambda stats: stats["batches"]["cancelled"] + stats["batches"]["completed"] == 2)
        check_books(job, job.paid_usd())
    assert (stats["faults"]["late"], stats["batches"]["created"], stats["batches"]["cancelled"]) == (1, 2, 1)
    assert (stats["answered"], stats["repeated"]) == (50, 0)


@pytest.mark.parametrize("what", ["batch", "file"])
def test_what_the_provider_knows_no_more_counts_as_lost_and_is_asked_again(tmp_path: Path, what: str) -> None:
    job = Job(Replay(""), tmp_path / "run", cap_usd=1.0)
    with ExitStack() as stack:
        first = job.server = stack.enter_context(serving(50, batch_latency_s=1.0))
        job.ask(list(range(50)), stop=lambda: first.stats()["batches"]["created"] == 1)
        first.wait_for(lambda stats: stats["batches"]["completed"] == 1)
        if what == "batch":
            job.server = stack.enter_context(serving(50))  # the same provider, which has forgotten
        else:
            request = urllib.request.Request(f"{first.base_url}/files/file-replay-1", method="DELETE")
            urllib.request.urlopen(request, timeout=10).close()
        job.ask(list(range(50)), base_url=f"{first.base_url}/elsewhere")
        assert "is it another account's?" in job.state.models["gpt"].stopped, "no other call works there"
        assert len(unfinished(Store(str(job.run)))) == 1
        assert job.ask(list(range(50))) == 50
        second = job.server.stats()["by_tier"]["m"]["batch"]
    rows, dollars = job.table(), job.state.dollars
    assert [(row["row_key"], row["kind"]) for row in rows] == [(key, "answered") for key in range(50)]
    last_usd = (second["prompt_tokens"] * 0.5 + second["completion_tokens"] * 2.0) / 1e6
    assert dollars.spent_usd == pytest.approx(last_usd / (1 if what == "batch" else 2))
    assert dollars.lost_usd == pytest.approx(50 * WORST_USD)
    assert dollars.reserved_usd == pytest.approx(0, abs=1e-15)
    assert unfinished(Store(str(job.run))) == []
    note = "gpt: batches that the provider knows no more: 1; $0.0062, the most they can have cost"
    assert [said.startswith(note) for said in notes_of(job.state.models)] == [True]
    job.ask([])
    assert job.state.dollars.lost_usd == pytest.approx(50 * WORST_USD), "it counts at every later start too"
    assert notes_of(job.state.models) == []
