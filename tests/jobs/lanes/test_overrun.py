"""A cap against servers that bill more than any request was bound to: what goes over is what was under way when it first showed.

The governor, the allowances and the HTTP server are the real ones, in one process and without Ray. What was billed is counted by
the server itself.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
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
from jobs.money.driver import notes_of
from jobs.money.governor import GovernorService
from jobs.money.messages import GovernorState
from jobs.money.sender import Allowance
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.pricing import Price
from tests.jobs.lanes.api_lane_job import MAX_TOKENS, ask_table
from tests.local_governor import local_governor

PRICE = Price(1.0, 4.0)
WORST_USD = (48 * 1.0 + MAX_TOKENS * 4.0) / 1e6
BILLED_USD = (20 * 1.0 + 5 * MAX_TOKENS * 4.0) / 1e6
REPLY_S, READ_S = 0.1, 0.03
"""After so long a reply comes, and has been read by all who are concerned."""
FIVE_TIMES = {
    "prompt_tokens": 20, "completion_tokens": 1, "total_tokens": 20 + 5 * MAX_TOKENS,
    "completion_tokens_details": {"reasoning_tokens": 5 * MAX_TOKENS - 1},
}  # fmt: skip
Bill = Callable[[int], tuple[dict[str, Any], float]]


@dataclass
class Biller:
    """A server that bills request i (from 0) as `bill(i)`: (usage, dollars), and knows what it has billed."""

    bill: Bill
    usd: float = 0.0
    n: int = 0
    in_flight: int = 0
    at_first: int = 0
    """Requests under way when the first reply went out that billed more than any was bound to; sent before it was read."""
    first_at: float = math.inf
    headers: dict[str, str] = field(default_factory=dict)

    async def reply(self, request: web.Request) -> web.Response:
        number, self.n = self.n, self.n + 1
        self.in_flight += 1
        self.at_first += 0 < time.monotonic() - self.first_at < READ_S
        await request.read()
        await asyncio.sleep(REPLY_S)
        usage, usd = self.bill(number)
        if usd > WORST_USD and self.first_at == math.inf:
            self.at_first, self.first_at = self.in_flight, time.monotonic()
        self.usd += usd
        self.in_flight -= 1
        choice = {"message": {"content": "yes"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage}, headers=self.headers)


def ask(
    server: Biller, run: Path, n: int, cap_usd: float | None, actors: int = 1, session: str = "s1", **more: Any
) -> tuple[GovernorState, list[dict[str, Any]]]:
    """Ask `n` rows, shared out to `actors` senders of one model: the governor's last state, and the journal's rows."""

    async def main() -> GovernorState:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", server.reply)
        async with TestServer(app) as http:
            url = str(http.make_url("/v1"))
            model = ModelSpec.model_validate({"engine": "openai", "model": "m", "base_url": url} | more)
            service = GovernorService(str(run), session, cap_usd, {"gpt": model.limits}, str(run.parent / "local"))
            context = LaneContext(
                "gpt", model, {"max_tokens": MAX_TOKENS}, None, PRICE, str(run), session, str(run.parent / "local"),
                local_governor(service),
            )  # fmt: skip
            block = ask_table(list(range(n)))
            parts = np.array_split(np.setdiff1d(np.arange(n), Journal(Store(str(run))).settled("gpt")), actors)
            await asyncio.gather(*(send(context, url, rows_of(block, part)) for part in parts))
            return await service.close()

    async def send(context: LaneContext, url: str, rows: Any) -> None:
        with JournalWriter(str(run), "gpt", context.local_dir, session) as journal:
            async with aiohttp.ClientSession() as http:
                assert context.governor is not None
                allowance = Allowance(context.governor, "gpt", journal.unique, context.model.limits)
                allowance.start()
                asker = Asker(context, Endpoint(url, ""), http, allowance, journal, Slots(8))
                await asyncio.gather(*(Exchange(asker, row).run() for row in rows))
                await asker.refusals.end_block()
                await allowance.settle_up()
                await allowance.close()

    state = asyncio.run(asyncio.wait_for(main(), 60))
    return state, Journal(Store(str(run))).read("gpt").to_pylist()


def five_times(_: int) -> tuple[dict[str, Any], float]:
    return FIVE_TIMES, BILLED_USD


@pytest.mark.parametrize("actors", [1, 3])
@pytest.mark.parametrize("n_paid", [4, 40, 200])
def test_over_the_cap_goes_no_more_than_was_under_way(n_paid: int, actors: int, tmp_path: Path) -> None:
    server, cap_usd = Biller(five_times), n_paid * WORST_USD
    state, rows = ask(server, tmp_path / "run", 300, cap_usd, actors)
    over_usd = server.usd - cap_usd
    assert over_usd <= server.at_first * (BILLED_USD - WORST_USD) + 1e-12
    if n_paid >= 200:
        assert over_usd <= 0, "there was enough left for what was under way"
    assert state.dollars.spent_usd == pytest.approx(server.usd), "booked whole"
    assert [row["cost_usd"] for row in rows] == [pytest.approx(BILLED_USD)] * len(rows)
    assert server.n < 300


@pytest.mark.parametrize("actors", [1, 3])
def test_a_server_that_begins_to_bill_more_is_met_in_the_middle(actors: int, tmp_path: Path) -> None:
    sound = {"prompt_tokens": 20, "completion_tokens": MAX_TOKENS}
    cap_usd = 80 * WORST_USD
    for begin in (30, 70):
        server = Biller(lambda i, begin=begin: five_times(i) if i >= begin else (sound, 20e-6 + 4e-6 * MAX_TOKENS))
        ask(server, tmp_path / f"run{begin}", 150, cap_usd, actors)
        assert server.usd - cap_usd <= server.at_first * (BILLED_USD - WORST_USD) + 1e-12


def test_the_governor_says_what_was_paid_beyond(tmp_path: Path) -> None:
    server = Biller(five_times)
    state, rows = ask(server, tmp_path / "run", 300, 40 * WORST_USD)
    told = state.models["gpt"].totals
    assert 1 <= told.beyond <= 8 < len(rows)
    assert told.beyond_usd == pytest.approx(told.beyond * (BILLED_USD - WORST_USD))
    assert notes_of(state.models) == [
        f"gpt: {told.beyond} replies cost ${told.beyond_usd:.4f} more than the most that was reserved for them, which their usage"
        " says; all later ones were bound by it: up to 5 times max_tokens"
    ]


def test_the_next_start_knows_what_was_learnt(tmp_path: Path) -> None:
    run = tmp_path / "run"
    ask(Biller(five_times), run, 20, None)
    paid = Journal(Store(str(run))).spent("gpt").cost_usd
    server = Biller(five_times)
    state, _ = ask(server, run, 300, paid + 10.5 * BILLED_USD, session="s2")
    assert paid + server.usd <= paid + 10.5 * BILLED_USD
    assert server.n == 10 and state.models["gpt"].totals.beyond == 0


def test_rows_that_wait_go_by_what_was_learnt_meanwhile(tmp_path: Path) -> None:
    """300 rows have asked for their dollars before the first reply is there; two places in flight are left to them."""
    server, cap_usd = Biller(five_times), 20 * WORST_USD
    ask(server, tmp_path / "run", 300, cap_usd, limits={"in_flight": 2, "requests_per_minute": 6000})
    assert server.usd - cap_usd <= server.at_first * (BILLED_USD - WORST_USD) + 1e-12


def test_a_limit_of_its_own_is_bound_by_the_ratio_and_by_the_surplus(tmp_path: Path) -> None:
    state, _ = ask(Biller(five_times), tmp_path / "run", 1, None)
    excess = state.models["gpt"].excess
    assert excess.completion_bound(MAX_TOKENS) == 5 * MAX_TOKENS
    assert excess.completion_bound(1000) == 5000
    assert excess.completion_bound(1) == 1 + 4 * MAX_TOKENS


@pytest.mark.parametrize("usd", [0.0, 1e-6, 0.01])
def test_what_the_provider_charged_is_booked_where_the_job_says_so(usd: float, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30, "cost": usd}
    server = Biller(lambda i: (usage, usd))
    state, rows = ask(server, tmp_path / "run", 12, None, price="provider")
    assert [row["cost_usd"] for row in rows] == [pytest.approx(usd)] * 12
    assert notes_of(state.models) == [] or usd > WORST_USD
    _, rows = ask(server, tmp_path / "other", 3, None)
    assert [row["cost_usd"] for row in rows] == [pytest.approx((20 + 40) / 1e6)] * 3


def test_a_cap_holds_on_charges_that_no_token_explains(tmp_path: Path) -> None:
    """A fee for every search, as Perplexity has one."""
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "cost": {"request_cost": 0.005, "total_cost": 0.005}}
    server = Biller(lambda i: (usage, 0.005))
    state, _ = ask(server, tmp_path / "run", 300, 0.1, price="provider")
    assert 0.09 < server.usd <= 0.1 + server.at_first * 0.005
    assert "more than the most that was reserved" in notes_of(state.models)[0]


def test_a_charge_in_a_header_is_read(tmp_path: Path) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 10}
    server = Biller(lambda i: (usage, 0.0), headers={"x-litellm-response-cost": "2.5e-05"})
    _, rows = ask(server, tmp_path / "run", 3, None, price="provider")
    assert [row["cost_usd"] for row in rows] == [pytest.approx(2.5e-5)] * 3


@pytest.mark.parametrize("cost", [None, -1.0, math.nan, "0.5", True, {"total_cost": -2}], ids=str)
def test_a_reply_that_says_no_cost_is_priced_by_its_tokens_and_noted(cost: Any, tmp_path: Path) -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 10, "cost": cost}
    state, rows = ask(Biller(lambda i: (usage, 0.0)), tmp_path / "run", 3, 1.0, price="provider")
    assert [row["cost_usd"] for row in rows] == [pytest.approx((20 + 40) / 1e6)] * 3
    assert notes_of(state.models) == [
        "gpt: 3 answers do not say what they cost, and were priced by their tokens (models.gpt.price: provider)"
    ]
