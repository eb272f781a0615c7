"""The synchronous lane against a server that says odd things: counts left out or broken, refusals that no waiting helps.

The governor, the allowance and the HTTP server are the real ones, in one process and without Ray.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from jobs.journal.reader import Journal
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext
from jobs.lanes.openai.asker import Asker
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.exchange import Exchange
from jobs.lanes.openai.rows import rows_of
from jobs.lanes.openai.slots import Slots
from jobs.lanes.usage import SERVERS_OWN_TOKENS
from jobs.money.governor import GovernorService
from jobs.money.sender import Allowance
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.pricing import Price
from tests.jobs.lanes.api_lane_job import MAX_TOKENS, ask_table
from tests.jobs.lanes.test_replies import TOO_LARGE
from tests.local_governor import local_governor

PRICE = Price(1.0, 4.0)
WORST_USD = (48 * 1.0 + MAX_TOKENS * 4.0) / 1e6
Say = Callable[[int], tuple[int, dict[str, Any]]]


def answered(usage: Any = None, text: str = "yes") -> tuple[int, dict[str, Any]]:
    body: dict[str, Any] = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]}
    return 200, body | ({"usage": usage} if usage is not None else {})


def ask(say: Say, run: Path, n: int, cap_usd: float | None = None, **more: Any) -> tuple[Asker, list[dict[str, Any]]]:
    """Ask `n` rows of a server whose reply to request i (from 0) is `say(i)`: the asker at the end, and the journal's rows."""
    service, seen = None, [0]

    async def reply(request: web.Request) -> web.Response:
        status, body = say(seen[0])
        seen[0] += 1
        return web.json_response(body, status=status)

    async def main() -> Asker:
        nonlocal service
        app = web.Application()
        app.router.add_post("/v1/chat/completions", reply)
        async with TestServer(app) as server:
            url = str(server.make_url("/v1"))
            model = ModelSpec.model_validate({"engine": "openai", "model": "m", "base_url": url} | more)
            service = GovernorService(str(run), "s1", cap_usd, {"gpt": model.limits}, str(run.parent / "local"))
            context = LaneContext(
                "gpt", model, {"max_tokens": MAX_TOKENS}, None, PRICE, str(run), "s1", str(run.parent / "local"),
                local_governor(service),
            )  # fmt: skip
            block = ask_table(list(range(n)))
            with JournalWriter(str(run), "gpt", context.local_dir, "s1") as journal:
                async with aiohttp.ClientSession() as session:
                    allowance = Allowance(context.governor, "gpt", journal.unique, model.limits)
                    allowance.start()
                    asker = Asker(context, Endpoint(url, ""), session, allowance, journal, Slots(8))
                    await asyncio.gather(*(Exchange(asker, row).run() for row in rows_of(block, np.arange(n))))
                    await asker.refusals.end_block()
                    await allowance.settle_up()
                    await allowance.close()
            await service.close()
            return asker

    asker = asyncio.run(asyncio.wait_for(main(), 60))
    return asker, Journal(Store(str(run))).read("gpt").to_pylist()


USELESS = [None, {}, {"prompt_tokens": 20}, {"prompt_tokens": 2**31 - 1, "completion_tokens": 3}]


@pytest.mark.parametrize("usage", USELESS, ids=str)
def test_under_a_cap_an_answer_without_counts_is_booked_at_its_bound(usage: Any, tmp_path: Path) -> None:
    _, rows = ask(lambda i: answered(usage), tmp_path / "run", 6, cap_usd=1.0)
    n_bytes = len(json.dumps(answered(usage)[1]))
    assert n_bytes > MAX_TOKENS
    assert {(row["kind"], row["token_source"]) for row in rows} == {("answered", "bound")}
    assert [row["cost_usd"] for row in rows] == pytest.approx([WORST_USD] * 6)
    assert {(row["prompt_tokens"], row["completion_tokens"]) for row in rows} == {(48, MAX_TOKENS)}


def test_a_cap_holds_where_no_answer_has_counts(tmp_path: Path) -> None:
    _, rows = ask(lambda i: answered(), tmp_path / "run", 30, cap_usd=10.5 * WORST_USD)
    assert len(rows) == 10


def test_without_a_cap_the_counts_are_estimated(tmp_path: Path) -> None:
    _, rows = ask(lambda i: answered(), tmp_path / "run", 3)
    assert {row["token_source"] for row in rows} == {"estimated"}


def test_whole_floats_are_counts(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 20.0, "completion_tokens": 12.0}
    _, rows = ask(lambda i: answered(usage), tmp_path / "run", 3, cap_usd=1.0)
    assert {(row["token_source"], row["prompt_tokens"], row["completion_tokens"]) for row in rows} == {
        ("provider", 20, 12)
    }


def test_one_broken_count_prices_nobody_out(tmp_path: Path) -> None:
    broken, sound = {"prompt_tokens": 2**31 - 1, "completion_tokens": 1}, {"prompt_tokens": 20, "completion_tokens": 10}
    began = time.monotonic()
    asker, rows = ask(
        lambda i: answered(sound if i else broken), tmp_path / "run", 40, cap_usd=100 * WORST_USD,
        limits={"tokens_per_minute": 10**7},
    )  # fmt: skip
    assert [row["kind"] for row in rows] == ["answered"] * 40
    assert asker.allowance.terms.excess.prompt_tokens == 0 and time.monotonic() - began < 20


def test_a_servers_own_template_is_learnt_and_no_more_than_that(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 48 + 300, "completion_tokens": 10}
    asker, _ = ask(lambda i: answered(usage), tmp_path / "run", 5)
    assert asker.allowance.terms.excess.prompt_tokens == 300
    huge = {"prompt_tokens": 48 + SERVERS_OWN_TOKENS + 1, "completion_tokens": 10}
    asker, rows = ask(lambda i: answered(huge), tmp_path / "other", 5)
    assert asker.allowance.terms.excess.prompt_tokens == 0 and {row["token_source"] for row in rows} == {"estimated"}


def test_a_row_over_the_limit_of_tokens_costs_only_itself(tmp_path: Path) -> None:
    """No waiting helps it: the others are not kept back for a second."""
    sound = {"prompt_tokens": 20, "completion_tokens": 10}
    began = time.monotonic()
    asker, rows = ask(
        lambda i: answered(sound) if i else (429, {"error": {"message": TOO_LARGE, "type": "tokens"}}),
        tmp_path / "run", 30,
    )  # fmt: skip
    kinds = [row["kind"] for row in rows]
    assert (kinds.count("rejected"), kinds.count("answered")) == (1, 29)
    assert "must be reduced" in next(row["error"] for row in rows if row["kind"] == "rejected")
    assert asker.allowance.counts.limited == 0 and time.monotonic() - began < 5


def test_a_job_whose_every_row_is_over_the_limit_stops(tmp_path: Path) -> None:
    """Each says another number of tokens, and all the same: it is the form of the requests."""

    def say(i: int) -> tuple[int, dict[str, Any]]:
        return 429, {"error": {"message": TOO_LARGE.replace("47012", str(47000 + i)), "type": "tokens"}}

    asker, rows = ask(say, tmp_path / "run", 40)
    assert rows == [] and "mend what it says" in asker.allowance.stopped


def test_refusals_of_one_row_do_not_hold_the_model_back_for_longer_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 429 that says nothing of how long pauses the model for a second; the row alone waits longer and longer."""
    monkeypatch.setattr("jobs.lanes.openai.exchange.backoff_s", lambda n: 3.0)
    sound = {"prompt_tokens": 20, "completion_tokens": 10}
    came_s: list[float] = []

    def say(i: int) -> tuple[int, dict[str, Any]]:
        came_s.append(time.monotonic())
        return answered(sound) if i else (429, {"error": {"message": "slow down"}})

    _, rows = ask(say, tmp_path / "run", 20)
    assert [row["kind"] for row in rows] == ["answered"] * 20
    waits_s = [came - came_s[0] for came in came_s]
    assert waits_s[-1] >= 3.0 and waits_s[-2] < 2.5
