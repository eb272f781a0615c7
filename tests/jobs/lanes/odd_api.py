"""A server that says what a test tells it to, and the API lane that asks it: the real sender, governor and journal, without Ray."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
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
USAGE = {"prompt_tokens": 20, "completion_tokens": 10, "total_tokens": 30}
USAGE_USD = (20 * 1.0 + 10 * 4.0) / 1e6
KEY = "sk-this-key-must-stay-secret"
Handle = Callable[[int], Awaitable[web.Response] | web.Response]
"""The reply to the request of row `key`."""


def completion(text: str = "yes", **more: Any) -> web.Response:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"object": "chat.completion", "choices": [choice], "usage": USAGE} | more)


def error(status: int, message: str, **more: Any) -> web.Response:
    return web.json_response({"error": {"message": message, **more}}, status=status)


@dataclass
class Asked:
    """What came of it."""

    rows: list[dict[str, Any]]
    stopped: str
    state: GovernorState
    requests: list[int] = field(default_factory=list)
    """Row of each request, in the order of their coming."""

    def kinds(self) -> dict[int, str]:
        return {row["row_key"]: row["kind"] for row in self.rows}

    def errors(self) -> dict[int, str]:
        return {row["row_key"]: row["error"] for row in self.rows}


def ask(
    handle: Handle,
    run: Path,
    keys: Sequence[int],
    *,
    cap_usd: float | None = None,
    in_flight: int = 8,
    blocks: int = 1,
    **more: Any,
) -> Asked:
    """One session: ask these rows, in `blocks` one after the other, as the lane's actor and the driver do."""
    seen: list[int] = []

    async def reply(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        content = json.loads(await request.read())["messages"][0]["content"]
        key = int(content.rsplit(" ", 1)[1])
        seen.append(key)
        answer = handle(key)
        return answer if isinstance(answer, web.Response) else await answer

    async def main() -> tuple[str, GovernorState]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", reply)
        async with TestServer(app) as server:
            url = str(server.make_url("/v1"))
            values = {"engine": "openai", "model": "m", "base_url": url, "retries": {"attempts": 2}}
            model = ModelSpec.model_validate(values | more)
            local = str(run.parent / "local")
            session = f"s{len(list((run / 'ledger').glob('*'))) if (run / 'ledger').exists() else 0}"
            service = GovernorService(str(run), session, cap_usd, {"gpt": model.limits}, local)
            governor = local_governor(service)
            context = LaneContext(
                "gpt", model, {"max_tokens": MAX_TOKENS}, None, PRICE, str(run), session, local, governor
            )  # fmt: skip
            with JournalWriter(str(run), "gpt", local, session) as journal:
                async with aiohttp.ClientSession() as http:
                    allowance = Allowance(governor, "gpt", journal.unique, model.limits)
                    allowance.start()
                    asker = Asker(context, Endpoint(url, KEY), http, allowance, journal, Slots(in_flight))
                    for part in np.array_split(np.array(keys, np.int64), blocks):
                        rows = rows_of(ask_table(part.tolist()), np.arange(len(part)))
                        await asyncio.gather(*(Exchange(asker, row).run() for row in rows))
                        await asker.refusals.end_block()
                    await allowance.settle_up()
                    await allowance.close()
            with JournalWriter(str(run), "gpt", local, session) as journal:
                for entry in await service.verdict("gpt"):
                    journal.append(entry)
            state = await service.close()
            return state.models["gpt"].stopped, state

    stopped, state = asyncio.run(asyncio.wait_for(main(), 60))
    return Asked(Journal(Store(str(run))).read("gpt").to_pylist(), stopped, state, seen)
