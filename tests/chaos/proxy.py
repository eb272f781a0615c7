"""A small HTTP proxy on loopback that misbehaves as object stores and networks do: in front of S3, or of an API.

One aiohttp application in a thread; bodies are read whole (they are small here), so a fault is decided with the request
at hand. Each request draws from a seeded generator; `faults` may be replaced while it runs.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import web
from yarl import URL

SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)
HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "te", "trailer", "upgrade", "expect", "date", "server"}
_ENTRY = re.compile(rb"<Contents>.*?</Contents>", re.DOTALL)
_KEY = re.compile(rb"<Key>(.*?)</Key>", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities a request, and seconds."""

    slow_down: float = 0.0
    """503 SlowDown, nothing done."""
    cut_upload: float = 0.0
    """Of uploads: the connection ends before the body was forwarded; nothing is stored."""
    lost_reply: float = 0.0
    """Of uploads: stored, but the connection ends before the reply; a create-if-absent sent again meets its own object."""
    cut_download: float = 0.0
    """Of downloads: half of the body, then the connection ends."""
    delay_s: float = 0.0
    """Before every reply."""
    visible_after_s: float = 0.0
    """A new object is neither read nor listed for so long."""
    down: bool = False
    """Every connection is closed as it comes."""


class FaultProxy:
    """The proxy of one server. `counts`: requests, and how many met which fault."""

    def __init__(self, target: str, seed: int = 0) -> None:
        self.faults = Faults()
        self.counts: Counter[str] = Counter()
        self.url = ""
        self._target, self._random = target, random.Random(seed)
        self._born: dict[str, float] = {}
        self._session: aiohttp.ClientSession

    async def handle(self, request: web.Request) -> web.StreamResponse:
        faults = self.faults
        self.counts["requests"] += 1
        upload = request.method in ("PUT", "POST")
        body = await request.read()
        if faults.down:
            return self._cut(request, "down")
        if self._draws(faults.slow_down):
            self.counts["slow_down"] += 1
            return web.Response(body=SLOW_DOWN, status=503, content_type="application/xml")
        if upload and self._draws(faults.cut_upload):
            return self._cut(request, "cut_upload")
        key = unquote(request.path)
        if not upload and request.method != "DELETE" and self._is_fresh(key):
            self.counts["not_yet_visible"] += 1
            return web.Response(status=404, content_type="application/xml")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in HOP_BY_HOP}
        url = URL(self._target + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body, allow_redirects=False
        ) as answer:
            reply = await answer.read()
            status = answer.status
            back = {n: v for n, v in answer.headers.items() if n.lower() not in HOP_BY_HOP and n.lower() != "etag"}
            back |= {"ETag": answer.headers["ETag"]} if "ETag" in answer.headers else {}
        if upload and status == 200 and faults.visible_after_s and key not in self._born:
            self._born[key] = time.monotonic() + faults.visible_after_s
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if upload and status == 200 and self._draws(faults.lost_reply):
            return self._cut(request, "lost_reply")
        if request.method == "GET" and status in (200, 206) and len(reply) > 1:
            reply = self._listed(reply)
            if self._draws(faults.cut_download):
                return await self._half(request, status, reply)
        if request.method != "HEAD":
            back = {name: value for name, value in back.items() if name.lower() != "content-length"}
        return web.Response(body=reply, status=status, headers=back)

    def _draws(self, share: float) -> bool:
        return share > 0 and self._random.random() < share

    def _cut(self, request: web.Request, fault: str) -> web.Response:
        self.counts[fault] += 1
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _half(self, request: web.Request, status: int, body: bytes) -> web.StreamResponse:
        self.counts["cut_download"] += 1
        response = web.StreamResponse(status=status)
        response.content_length = len(body)
        await response.prepare(request)
        await response.write(body[: len(body) // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    def _is_fresh(self, key: str) -> bool:
        return self._born.get(key, 0.0) > time.monotonic()

    def _listed(self, body: bytes) -> bytes:
        """A listing without the objects that are not visible yet."""
        fresh = {key for key in self._born if self._is_fresh(key)}
        if not fresh or b"<ListBucketResult" not in body[:400]:
            return body

        def visible(entry: re.Match[bytes]) -> bytes:
            key = _KEY.search(entry[0])
            hidden = key is not None and any(name.endswith("/" + unquote(key[1].decode())) for name in fresh)
            return b"" if hidden else entry[0]

        return _ENTRY.sub(visible, body)

    async def serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_route("*", "/{path:.*}", self.handle)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        timeout = aiohttp.ClientTimeout(total=None)
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, auto_decompress=False) as self._session:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
            ready.set()
            await stop.wait()
            await runner.cleanup()


@contextmanager
def fault_proxy(target: str, faults: Faults | None = None, seed: int = 0) -> Iterator[FaultProxy]:
    """A proxy of the server at `target`, in a thread of this process."""
    proxy = FaultProxy(target, seed)
    proxy.faults = faults or Faults()
    ready = threading.Event()
    made: list[Any] = []

    def run() -> None:
        async def main() -> None:
            stop = asyncio.Event()
            made.extend((asyncio.get_running_loop(), stop))
            await proxy.serve(ready, stop)

        asyncio.run(main())

    thread = threading.Thread(target=run, name="fault-proxy", daemon=True)
    thread.start()
    if not ready.wait(30):
        raise RuntimeError("the proxy did not start")
    try:
        yield proxy
    finally:
        loop, stop = made
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
