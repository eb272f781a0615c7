"""A whole job whose strong model bills five times what it was allowed to: what goes over the cap, and what is said of it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from jobs.errors import EXIT_DONE, EXIT_OPEN
from jobs.route.pipeline import run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec

N, MAX_TOKENS, IN_FLIGHT = 120, 50, 6
PROMPT_TOKENS = 20
PER_MILLION = {"input": 1.0, "output": 4.0}
BILLED_USD = (PROMPT_TOKENS * 1.0 + 5 * MAX_TOKENS * 4.0) / 1e6


class Provider:
    """A strong model that thinks beyond max_tokens, and a weak one that does not; it knows what it has billed for the first."""

    def __init__(self) -> None:
        self.base_url = ""
        self.strong_usd, self.n_strong, self.in_flight, self.at_first = 0.0, 0, 0, 0

    async def reply(self, request: web.Request) -> web.Response:
        strong = (await request.json())["model"] == "strong"
        self.in_flight += strong
        await asyncio.sleep(0.1)
        usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": 1, "total_tokens": PROMPT_TOKENS + 1}
        if strong:
            usage["total_tokens"] = PROMPT_TOKENS + 5 * MAX_TOKENS
            self.at_first = self.at_first or self.in_flight
            self.strong_usd += BILLED_USD
            self.n_strong += 1
            self.in_flight -= 1
        choice = {"message": {"content": "yes"}, "finish_reason": "stop"}
        return web.json_response({"choices": [choice], "usage": usage})


@contextmanager
def serving() -> Iterator[Provider]:
    provider, loop, ready = Provider(), asyncio.new_event_loop(), threading.Event()

    async def main() -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", provider.reply)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        provider.base_url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        ready.set()
        return runner

    def serve() -> None:
        asyncio.set_event_loop(loop)
        runner = loop.run_until_complete(main())
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield provider
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)


def job(provider: Provider, tmp_path: Path, **more: Any) -> dict[str, Any]:
    (tmp_path / "in").mkdir(exist_ok=True)
    prompts = [f"question {i}" for i in range(N)]
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(N)], "q": prompts}), tmp_path / "in/rows.parquet")
    model = {"engine": "openai", "base_url": provider.base_url, "limits": {"in_flight": IN_FLIGHT}}
    model |= {"price": {"per_million": PER_MILLION}}
    return {
        "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"), "router": "random",
        "models": {"weak": {**model, "price": {"per_million": {"input": 0, "output": 0}}}, "strong": model},
        "weak": "weak", "strong": "strong", "sampling": {"temperature": 0, "max_tokens": MAX_TOKENS},
        "policy": {"strong_share": 1.0},
    } | more  # fmt: skip


def test_what_goes_over_the_cap_is_named(tmp_path: Path, ray_local: None) -> None:
    """The cap pays for two rows: those that were under way when the first reply came are all that goes beyond."""
    with serving() as provider:
        data = job(provider, tmp_path, max_usd=6 * 0.00023, on_budget="stop")
        code, report = run_job(Job(parse_spec(data), live=False))
        cap = data["max_usd"]
        assert code == EXIT_OPEN
        assert report["spent_usd"] == pytest.approx(provider.strong_usd)
        assert report["over_cap_usd"] == pytest.approx(provider.strong_usd - cap)
        assert 0 < provider.strong_usd - cap <= provider.at_first * BILLED_USD
        assert provider.n_strong == provider.at_first
        notes = report["notes"]
        assert any("replies cost $" in note and "5 times max_tokens" in note for note in notes), notes
        assert f"above the cap of ${cap:.4f}" in report["warnings"][-1]
        for name in ("report.html", "report.md"):
            assert "above the cap of" in (tmp_path / "out" / name).read_text()
        again = data | {"max_usd": provider.strong_usd + 10.5 * BILLED_USD}
        before = provider.n_strong
        _, report = run_job(Job(parse_spec(again), live=False))
        assert (report["over_cap_usd"], report["warnings"]) == (0.0, [])
        assert report["spent_usd"] == pytest.approx(provider.strong_usd)
        bill = json.loads(max((tmp_path / "out" / "plan").glob("*/bill.json")).read_text())["by_model"]["strong"]
        assert bill["usd"] <= bill["usd_high"] <= bill["usd_bound"], "at most is not below what is planned"
        assert before < provider.n_strong <= before + 10
        assert json.loads((tmp_path / "out" / "bounds" / "model=strong.json").read_text())["completion_ratio"] == 5.0


def test_rows_that_cannot_be_paid_any_more_go_to_the_weak_model(tmp_path: Path, ray_local: None) -> None:
    with serving() as provider:
        data = job(provider, tmp_path, max_usd=0.02)
        code, report = run_job(Job(parse_spec(data), live=False))
        assert code == EXIT_DONE
        assert (report["open"], report["over_cap_usd"]) == (0, 0.0)
        rows = pd.read_parquet(tmp_path / "out" / "responses")
        strong = rows[rows["model"] == "strong"]
        assert 10 < len(strong) == provider.n_strong < N
        assert strong["cost_usd"].to_numpy() == pytest.approx(BILLED_USD)
        assert set(strong["completion_tokens"]) == {5 * MAX_TOKENS}
