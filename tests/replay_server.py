"""Starts a real replay server for a test: in a thread (`thread_replay`) or as a process of its own (`process_replay`).

A thread is quick (20 ms) and takes tables made in the test; a process can be killed, and its event loop competes with
nothing of the test's. Both listen on a free loopback port and count at the server, over HTTP.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np

from jobs.replay.options import ReplayOptions
from jobs.replay.server import make_app, run_app
from routing.data.outcomes import Outcomes

Reply = tuple[int, Any, dict[str, str]]
"""Status, body (parsed; as text where it is no JSON), headers (names in lower case)."""

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Replay:
    """A running replay server."""

    url: str
    process: subprocess.Popen[str] | None = None

    @property
    def base_url(self) -> str:
        """What an OpenAI client calls the base URL."""
        return f"{self.url}/v1"

    def stats(self) -> dict[str, Any]:
        """GET /stats."""
        with urllib.request.urlopen(f"{self.url}/stats", timeout=10) as response:
            stats: dict[str, Any] = json.load(response)
        return stats

    def wait_for(self, reached: Callable[[dict[str, Any]], bool], timeout_s: float = 30) -> dict[str, Any]:
        """Polls /stats every 20 ms until `reached(stats)`; raises TimeoutError with the last stats."""
        end = time.monotonic() + timeout_s
        while not reached(stats := self.stats()):
            if time.monotonic() > end:
                raise TimeoutError(f"not reached in {timeout_s} s: {stats}")
            time.sleep(0.02)
        return stats


@contextmanager
def thread_replay(tables: Sequence[Outcomes] | None = None, options: ReplayOptions | None = None) -> Iterator[Replay]:
    """A server in a thread over `tables` (or `options.outcomes`), on a free port."""
    options = replace(options or ReplayOptions(latency_s=0), port=0)
    started: list[Any] = []
    ready = threading.Event()

    async def main() -> None:
        stop = asyncio.Event()
        app = await make_app(options, tables)
        async with run_app(app, options) as url:
            started.extend((url, asyncio.get_running_loop(), stop))
            ready.set()
            await stop.wait()

    def run() -> None:
        try:
            asyncio.run(main())
        finally:
            ready.set()

    thread = threading.Thread(target=run, name="replay-server", daemon=True)
    thread.start()
    ready.wait(30)
    if not started:
        raise RuntimeError("the replay server did not start")
    url, loop, stop = started
    try:
        yield Replay(url)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive(), "the replay server did not stop"


@contextmanager
def process_replay(outcomes: Path | str | Sequence[Path | str], *arguments: str) -> Iterator[Replay]:
    """`python -m jobs.replay --port 0 …` as a process; stopped by SIGTERM. Other arguments as on the command line."""
    paths = [outcomes] if isinstance(outcomes, (str, Path)) else outcomes
    command = [sys.executable, "-m", "jobs.replay", "--port", "0"]
    command += [part for path in paths for part in ("--outcomes", str(path))]
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        if not url:
            raise RuntimeError(f"the replay server ended with exit code {process.wait(10)}")
        yield Replay(url, process)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def small_outcomes(n: int = 8, models: tuple[str, ...] = ("org/weak", "strong")) -> Outcomes:
    """n prompts `question i`, answers `MODEL says i`, 10 + i prompt and 5 + i completion tokens; weak: even i right."""
    quality = np.ones((n, len(models)), np.float32)
    quality[1::2, 0] = 0
    counts = np.repeat(np.arange(n, dtype=np.float64)[:, None], len(models), axis=1)
    responses = np.array([[f"{model} says {i}" for model in models] for i in range(n)], dtype=object)
    return Outcomes(
        ids=[str(i) for i in range(n)],
        prompts=[f"question {i}" for i in range(n)],
        datasets=["made"] * n,
        models=models,
        quality=quality,
        responses=responses,
        prompt_tokens=counts + 10,
        completion_tokens=counts + 5,
    )


def body(prompt: Any = "question 0", model: str = "strong", **more: Any) -> dict[str, Any]:
    """A chat completion request of one user message."""
    return {"model": model, "messages": [{"role": "user", "content": prompt}]} | more


def post_all(replay: Replay, bodies: Sequence[Any], in_flight: int = 1, key: str | None = None) -> list[Reply]:
    """Sends chat completions, `in_flight` at a time; the replies in order. Bytes are sent as they are."""

    async def main() -> list[Reply]:
        gate = asyncio.Semaphore(in_flight)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, headers=headers) as session:

            async def one(item: Any) -> Reply:
                data = item if isinstance(item, bytes) else json.dumps(item).encode()
                async with gate, session.post(f"{replay.base_url}/chat/completions", data=data) as response:
                    text = await response.text()
                    low = {name.lower(): value for name, value in response.headers.items()}
                    try:
                        return response.status, json.loads(text), low
                    except ValueError:
                        return response.status, text, low

            return await asyncio.gather(*map(one, bodies))

    return asyncio.run(asyncio.wait_for(main(), 60))


def post(replay: Replay, item: Any, key: str | None = None) -> Reply:
    """Sends one chat completion."""
    return post_all(replay, [item], key=key)[0]


def post_probe(replay: Replay, path: str) -> int:
    """The status of GET `path`."""

    async def main() -> int:
        async with aiohttp.ClientSession() as session, session.get(replay.url + path) as response:
            return response.status

    return asyncio.run(main())
