"""The replay server itself: one aiohttp application on one event loop.

A completion request is checked (key, rate, body, model, prompt), then maybe failed, then answered after `latency_s`.
Measured: 0.25 ms of CPU a request at 256 in flight, half of it aiohttp's own, whatever the latency is.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import math
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

from aiohttp import web

from jobs.errors import SpecError
from jobs.replay import wire
from jobs.replay.batches import BatchService
from jobs.replay.counts import Counts
from jobs.replay.faults import FaultPlan
from jobs.replay.limits import RequestLimit
from jobs.replay.options import ReplayOptions
from jobs.replay.table import AnswerTable, Recorded, estimate_tokens, load_tables, text_of
from routing.data.outcomes import Outcomes

HANG_LIMIT_S = 600.0
DRIP_S = 0.5
"""Between two bytes of a dripping answer."""
MAX_BODY_BYTES = 64 * 2**20
STOP_GRACE_S = 0.05
LISTEN_BACKLOG = 4096
_STATUS_ERRORS = {
    400: ("invalid_request_error", "invalid_request"),
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
"""HTTP status -> OpenAI's error type and code; others are ("server_error", "server_error")."""


class ReplayServer:
    """Handlers and state of one server."""

    def __init__(self, table: AnswerTable, options: ReplayOptions) -> None:
        self.table = table
        self.counts = Counts(table.models, options.faults)
        self._options = options
        self._models = frozenset(table.models)
        self._faults = FaultPlan(options.faults, options.seed)
        per_minute = options.requests_per_minute
        # Of requests for flex only; a draw of its own, so that the other faults stay what they are.
        self._full_rate = FaultPlan({"default": options.flex_default_share}, options.seed + 1)
        self.batches = BatchService(self._find, self._check_key, self.counts, options)
        self._limit = None if per_minute is None else RequestLimit(per_minute, options.burst)

    def app(self) -> web.Application:
        """The routes. Also without /v1, for clients that are given the printed URL as their base URL."""
        app = web.Application(client_max_size=MAX_BODY_BYTES)
        for prefix in ("/v1", ""):
            app.router.add_post(f"{prefix}/chat/completions", self.completions)
            app.router.add_get(f"{prefix}/models", self.models)
            self.batches.add_routes(app, prefix)
        app.router.add_get("/stats", self.stats)
        app.on_shutdown.append(self.batches.close)
        return app

    async def models(self, request: web.Request) -> web.Response:
        """GET /v1/models. Not counted."""
        try:
            self._check_key(request)
        except wire.ApiError as refused:
            return _json(refused.body(), refused.status)
        return _json(wire.models_body(self.table.models))

    async def stats(self, request: web.Request) -> web.Response:
        """GET /stats. Not counted, needs no key."""
        return _json(json.dumps(self.counts.as_json()).encode())

    async def completions(self, request: web.Request) -> web.StreamResponse:
        """POST /v1/chat/completions."""
        with self.counts.request() as ordinal:
            try:
                self._check_key(request)
                if self._limit and not self._limit.take():
                    self.counts.faults["429"] += 1
                    return self._status_fault(429, self._limit.retry_headers())
                chat = wire.parse_request(await request.read())
                answer = self._in_tier(chat, self._find(chat), ordinal)
            except wire.ApiError as refused:
                self.counts.refused[refused.code] += 1
                return _json(refused.body(), refused.status, self._headers())
            fault = self._faults.draw(ordinal)
            if fault:
                self.counts.faults[fault] += 1
                return await self._fail(request, fault, chat, answer, ordinal)
            return await self._answer(request, chat, answer, ordinal)

    def _check_key(self, request: web.Request) -> None:
        key = self._options.api_key
        if key is not None:
            given = request.headers.get("Authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode("utf-8", "surrogateescape"), key.encode()):
                raise wire.ApiError(401, "invalid_api_key", "Incorrect API key provided.")

    def _find(self, chat: wire.ChatRequest) -> wire.ChatAnswer:
        if chat.model not in self._models:
            raise wire.ApiError(404, "model_not_found", f"The model `{chat.model}` does not exist in the outcomes.")
        found = self.table.find(chat.model, chat.messages)
        if found is None:
            raise wire.ApiError(
                404, "prompt_not_found", f"The outcomes hold no answer of `{chat.model}` to this prompt (exact text)."
            )
        return _cut_to_limit(chat, found)

    def _in_tier(self, chat: wire.ChatRequest, answer: wire.ChatAnswer, ordinal: int) -> wire.ChatAnswer:
        """The tier that was asked for, but for some requests for flex."""
        tier = "default" if chat.tier == "auto" else chat.tier
        return replace(answer, tier=(self._full_rate.draw(ordinal) or "flex") if tier == "flex" else tier)

    async def _answer(
        self, request: web.Request, chat: wire.ChatRequest, answer: wire.ChatAnswer, ordinal: int
    ) -> web.StreamResponse:
        """Answers after the latency; books the answer as abandoned where the client has gone by then."""
        usage = (answer.prompt_tokens, answer.completion_tokens)
        response: web.StreamResponse
        try:
            await asyncio.sleep(self._options.latency_s)
            if chat.stream:
                response = web.StreamResponse(headers=self._headers() | {"Content-Type": "text/event-stream"})
                await response.prepare(request)
                *parts, last = wire.chunks(chat, answer, ordinal)
                for part in parts:
                    await response.write(part)
                # Counted before its last byte, so that whoever has read the answer finds it in /stats.
                self.counts.answer(chat.model, chat.messages, *usage, tier=answer.tier or "default")
                await response.write_eof(last)
                return response
            response = _json(wire.completion_body(chat, answer, ordinal), headers=self._headers())
        except (asyncio.CancelledError, ConnectionError):
            self.counts.abandon(chat.model, *usage)
            raise
        self.counts.answer(chat.model, chat.messages, *usage, tier=answer.tier or "default")
        return response

    async def _fail(
        self, request: web.Request, fault: str, chat: wire.ChatRequest, answer: wire.ChatAnswer, ordinal: int
    ) -> web.StreamResponse:
        if fault == "429":
            return self._status_fault(429, {"Retry-After": f"{self._options.retry_after_s:g}"})
        if fault == "429_bare":
            return self._status_fault(429)
        if fault == "quota":
            message = "You exceeded your current quota, please check your plan and billing details."
            body = wire.error_body(message, "insufficient_quota", "insufficient_quota")
            return _json(body, 429, self._headers())
        if fault == "hang":
            # Cancelled as soon as the client leaves.
            await asyncio.sleep(HANG_LIMIT_S)
            _close(request)
            return web.Response(status=504)
        await asyncio.sleep(self._options.latency_s)
        body = wire.completion_body(chat, answer, ordinal)
        if fault == "cut":
            response = web.StreamResponse(headers=self._headers() | {"Content-Type": "application/json"})
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            _close(request)
            return response
        if fault == "drip":
            return await self._drip(request, body)
        if fault == "bad_json":
            return _json(body[: len(body) // 2], headers=self._headers())
        if fault == "empty":
            return _json(wire.empty_body(chat, answer, ordinal), headers=self._headers())
        return self._status_fault(int(fault))

    async def _drip(self, request: web.Request, body: bytes) -> web.StreamResponse:
        """The answer, byte by byte; the connection is closed after HANG_LIMIT_S, which no answer of 2 kB outlasts."""
        response = web.StreamResponse(headers=self._headers() | {"Content-Type": "application/json"})
        response.content_length = len(body)
        await response.prepare(request)
        for place in range(min(len(body) - 1, math.ceil(HANG_LIMIT_S / DRIP_S))):
            await response.write(body[place : place + 1])
            await asyncio.sleep(DRIP_S)
        _close(request)
        return response

    def _status_fault(self, status: int, more: dict[str, str] | None = None) -> web.Response:
        kind, code = _STATUS_ERRORS.get(status, ("server_error", "server_error"))
        body = wire.error_body(f"Replayed fault: HTTP {status}.", kind, code)
        return _json(body, status, self._headers() | (more or {}))

    def _headers(self) -> dict[str, str]:
        return self._limit.headers() if self._limit else {}


def _cut_to_limit(chat: wire.ChatRequest, found: Recorded) -> wire.ChatAnswer:
    """Recorded counts, or estimates; cut in proportion of characters where the request allows fewer tokens."""
    text, n_completion = found.text, found.completion_tokens
    if n_completion is None:
        n_completion = estimate_tokens(text)
    n_prompt = found.prompt_tokens
    if n_prompt is None:
        n_prompt = estimate_tokens("\n".join(text_of(message) for message in chat.messages))
    reason = "stop"
    if chat.max_tokens is not None and chat.max_tokens < n_completion:
        text = text[: math.floor(len(text) * chat.max_tokens / n_completion)]
        n_completion, reason = chat.max_tokens, "length"
    return wire.ChatAnswer(text, reason, n_prompt, n_completion * chat.n)


def _json(body: bytes, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=body, status=status, headers=headers, content_type="application/json")


def _close(request: web.Request) -> None:
    """Closes the connection after what is written; the client sees a body shorter than its Content-Length."""
    if request.transport is not None:
        request.transport.close()


async def make_app(options: ReplayOptions, tables: Sequence[Outcomes] | None = None) -> web.Application:
    """The application over `tables`, or over `options.outcomes` read in a thread. Raises InputError.

    Run it with `run_app`, or a runner that has `handler_cancellation=True`: without, requests outlive their clients.
    """
    if tables is None:
        tables = await asyncio.to_thread(load_tables, options.outcomes)
    return ReplayServer(AnswerTable(tables), options).app()


@asynccontextmanager
async def run_app(app: web.Application, options: ReplayOptions) -> AsyncIterator[str]:
    """Listens while the context is open; gives the URL, without /v1. Raises SpecError where the address is taken."""
    runner = web.AppRunner(
        app,
        handler_cancellation=True,
        access_log=logging.getLogger("aiohttp.access") if options.verbose else None,
        shutdown_timeout=STOP_GRACE_S,
    )
    await runner.setup()
    try:
        # 128, the default, is fewer than the connections a lane opens at once.
        site = web.TCPSite(runner, options.host, options.port, backlog=LISTEN_BACKLOG)
        try:
            await site.start()
        except (OSError, OverflowError) as error:
            raise SpecError(
                f"host, port: {options.host}:{options.port}: {error}; give another --port, or 0 for a free one"
            ) from error
        port = runner.addresses[0][1]
        host = f"[{options.host}]" if ":" in options.host else options.host
        yield f"http://{host}:{port}"
    finally:
        await runner.cleanup()


def serve(options: ReplayOptions) -> None:
    """Serves until SIGTERM or SIGINT. The first line on standard output is the URL (or a JSON object with it).

    Raises InputError (no such outcomes, or empty) and SpecError (address taken) before that line.
    """
    table = AnswerTable(load_tables(options.outcomes))
    if options.verbose:
        logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(message)s")
    asyncio.run(_serve(table, options))


async def _serve(table: AnswerTable, options: ReplayOptions) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with run_app(ReplayServer(table, options).app(), options) as url:
        first = {"url": url, "models": list(table.models), "prompts": table.n_prompts}
        print(json.dumps(first) if options.json else url, flush=True)
        models = ", ".join(table.models)
        print(f"replaying {table.n_prompts} prompts of {models}; base URL {url}/v1", file=sys.stderr, flush=True)
        await stop.wait()
