"""An OpenAI-compatible server that answers as a test tells it to, for whole jobs: `replay` knows faults, not oddities."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handle = Callable[[str, str], web.Response]
"""(model, text of the last message) → the reply."""


@dataclass
class OddServer:
    """A running one."""

    url: str = ""
    asked: list[tuple[str, str]] = field(default_factory=list)
    """(model, prompt) of every request for a completion."""

    @property
    def base_url(self) -> str:
        return f"{self.url}/v1"

    def of(self, model: str) -> list[str]:
        return [prompt for name, prompt in self.asked if name == model]


def completion(text: str = "yes", prompt_tokens: int = 10, completion_tokens: int = 2) -> web.Response:
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens}
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return web.json_response({"object": "chat.completion", "choices": [choice], "usage": usage})


def error(status: int, message: str, **more: Any) -> web.Response:
    return web.json_response({"error": {"message": message, **more}}, status=status)


@contextmanager
def odd_server(handle: Handle, models: tuple[str, ...] = ("weak", "strong")) -> Iterator[OddServer]:
    server, ready, started = OddServer(), threading.Event(), []

    async def complete(request: web.Request) -> web.Response:
        body = json.loads(await request.read())
        prompt = str(body["messages"][-1]["content"])
        server.asked.append((body["model"], prompt))
        return handle(body["model"], prompt)

    async def listed(request: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": name} for name in models]})

    async def main() -> None:
        stop, app = asyncio.Event(), web.Application()
        app.router.add_post("/v1/chat/completions", complete)
        app.router.add_get("/v1/models", listed)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        started.extend((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: asyncio.run(main()), name="odd-server", daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server
    finally:
        loop, stop = started
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
