"""The flex tier of the synchronous lane against a real replay server, without Ray: what is charged, and what is reserved."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest

from jobs.journal.reader import Journal
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext
from jobs.lanes.chat import build_request
from jobs.lanes.openai.asker import Asker
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.exchange import Exchange
from jobs.lanes.openai.rows import rows_of
from jobs.lanes.openai.slots import Slots
from jobs.money.governor import GovernorService
from jobs.money.messages import GovernorState
from jobs.money.sender import Allowance
from jobs.replay.options import ReplayOptions
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.pricing import Price
from tests.jobs.lanes.batch_lane_job import MAX_TOKENS, ask_table, outcomes
from tests.local_governor import local_governor
from tests.replay_server import Replay, thread_replay

FLEX, FULL = Price(0.5, 2.0), Price(1.0, 4.0)
FULL_WORST_USD = (48 * 1.0 + MAX_TOKENS * 4.0) / 1e6


def ask(server: Replay, run: Path, n: int, cap_usd: float | None = None, **more: Any) -> GovernorState:
    """Ask `n` rows in the flex tier; the governor's last state."""
    values = {"engine": "openai", "model": "m", "base_url": server.base_url, "service_tier": "flex"}
    model = ModelSpec.model_validate(values | more)
    service = GovernorService(str(run), "s1", cap_usd, {"gpt": model.limits}, str(run.parent / "local"))
    context = LaneContext(
        "gpt", model, {"max_tokens": MAX_TOKENS}, None, FLEX, str(run), "s1", str(run.parent / "local"),
        local_governor(service), full_price=FULL,
    )  # fmt: skip

    async def main() -> None:
        block = ask_table(list(range(n)))
        with JournalWriter(str(run), "gpt", context.local_dir, "s1") as journal:
            async with aiohttp.ClientSession() as session:
                allowance = Allowance(context.governor, "gpt", journal.unique, model.limits)
                allowance.start()
                asker = Asker(context, Endpoint(server.base_url, ""), session, allowance, journal, Slots(8))
                await asyncio.gather(*(Exchange(asker, row).run() for row in rows_of(block, np.arange(n))))
                await allowance.settle_up()
                await allowance.close()

    asyncio.run(asyncio.wait_for(main(), 60))
    return asyncio.run(service.close())


def paid_usd(server: Replay) -> float:
    """By the server's own count of what it served in which tier."""
    tiers = server.stats()["by_tier"].get("m", {})
    prices = {"flex": FLEX, "default": FULL}
    return sum(
        usage["prompt_tokens"] * prices[tier].input_usd_per_million / 1e6
        + usage["completion_tokens"] * prices[tier].output_usd_per_million / 1e6
        for tier, usage in tiers.items()
    )


def test_answers_are_charged_in_the_tier_they_were_served_in(tmp_path: Path) -> None:
    options = ReplayOptions(latency_s=0.01, flex_default_share=0.3, faults={"429": 0.1}, retry_after_s=0.02, seed=1)
    with thread_replay([outcomes(120)], options) as server:
        state = ask(server, tmp_path / "run", 120)
        stats, paid = server.stats(), paid_usd(server)
    rows = Journal(Store(str(tmp_path / "run"))).read("gpt").to_pylist()
    assert [row["kind"] for row in rows] == ["answered"] * 120
    served = stats["by_tier"]["m"]
    assert served["flex"]["answered"] + served["default"]["answered"] == 120
    assert state.models["gpt"].totals.full_rate == served["default"]["answered"] > 10
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(paid)
    assert state.dollars.spent_usd == pytest.approx(paid)
    assert stats["faults"]["429"] > 3, "turned away, and asked again"


def test_the_cap_holds_though_all_of_flex_is_served_at_the_full_rate(tmp_path: Path) -> None:
    cap = 40 * (15 + 24.5 * 4.0) / 1e6
    with thread_replay([outcomes(120)], ReplayOptions(latency_s=0.005, flex_default_share=1.0)) as server:
        state = ask(server, tmp_path / "run", 120, cap_usd=cap)
        paid = paid_usd(server)
    assert cap - FULL_WORST_USD < paid <= cap
    assert state.models["gpt"].short_of_money


def test_flex_waits_longer_and_rows_cannot_choose_their_tier() -> None:
    values = {"engine": "openai", "service_tier": "flex"}
    assert ModelSpec.model_validate(values).retries.timeout_s == 900
    assert ModelSpec.model_validate(values | {"retries": {"attempts": 3}}).retries.timeout_s == 900
    assert ModelSpec.model_validate(values | {"retries": {"timeout_s": 60}}).retries.timeout_s == 60
    model = ModelSpec.model_validate(values)
    assert ModelSpec.model_validate(json.loads(model.model_dump_json())) == model
    message = {"role": "user", "content": "hi"}
    for spec, tier in ((model, "flex"), (ModelSpec.model_validate({"engine": "openai"}), None)):
        request = build_request(spec, "gpt", {"max_tokens": 5}, None, [message], {"service_tier": "priority"})
        assert request.get("service_tier") == tier
