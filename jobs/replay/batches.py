"""The replay server's files and batches: OpenAI's batch API over recorded answers, with faults on demand.

A batch is validated, then its rows are answered in `STEPS` even slices over `batch_latency_s`, then its output and error
files stand, in shuffled order. A row counts in /stats when it is answered, as the provider bills it, fetched or not.
Limits, states, error codes and paging are the provider's. Everything is in memory: 1 KB a row or so.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from aiohttp import BodyPartReader, web

from jobs.replay import wire
from jobs.replay.batch_records import (
    ENDPOINT,
    Batch,
    BatchRow,
    File,
    error_entry,
    gone,
    read_creation,
    reply_bytes,
    result_line,
)
from jobs.replay.counts import Counts
from jobs.replay.faults import FaultPlan
from jobs.replay.options import BATCH_WIDE_FAULTS, ReplayOptions

MAX_FILE_BYTES, MAX_REQUESTS = 200 * 10**6, 50_000
STEPS = 5
ROWS_A_TURN = 200
"""Rows answered before other requests get the event loop: 10 ms."""
FINAL = ("completed", "failed", "expired", "cancelled")
LATE_S = 0.5
"""From the cut connection to the batch, in the fault `late`."""


class BatchService:
    """Handlers and state of the files and batches of one server."""

    def __init__(
        self,
        find: Callable[[wire.ChatRequest], wire.ChatAnswer],
        check_key: Callable[[web.Request], None],
        counts: Counts,
        options: ReplayOptions,
    ) -> None:
        """`find` gives the recorded answer of a chat request, `check_key` refuses a caller; both raise wire.ApiError."""
        self._find, self._check_key, self._counts, self._options = find, check_key, counts, options
        wide = {name: share for name, share in options.batch_faults.items() if name in BATCH_WIDE_FAULTS}
        rows = {name: share for name, share in options.batch_faults.items() if name not in BATCH_WIDE_FAULTS}
        self._wide_faults, self._row_faults = FaultPlan(wide, options.seed), FaultPlan(rows, options.seed)
        self._random = random.Random(options.seed)
        self._files: dict[str, File] = {}
        self._batches: dict[str, Batch] = {}
        self._n_rows = self._n_files = self._n_creations = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def add_routes(self, app: web.Application, prefix: str) -> None:
        for method, path, handler in (
            ("POST", "/files", self._upload),
            ("GET", "/files/{id}", self._file),
            ("DELETE", "/files/{id}", self._delete),
            ("GET", "/files/{id}/content", self._content),
            ("POST", "/batches", self._create),
            ("GET", "/batches", self._list),
            ("GET", "/batches/{id}", self._batch),
            ("POST", "/batches/{id}/cancel", self._cancel),
        ):
            app.router.add_route(method, prefix + path, self._checked(handler))

    async def close(self, _: web.Application) -> None:
        """Ends the batches that run: the server stops."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _checked(self, handler: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        async def handle(request: web.Request) -> web.Response:
            try:
                self._check_key(request)
                response: web.Response = await handler(request)
            except wire.ApiError as refused:
                return web.Response(body=refused.body(), status=refused.status, content_type="application/json")
            return response

        return handle

    async def _upload(self, request: web.Request) -> web.Response:
        """POST /v1/files: multipart, `purpose` and `file`."""
        if not request.content_type.startswith("multipart/"):
            raise wire.ApiError(400, "invalid_request", "Send the file as multipart/form-data.")
        purpose, name, data = "", "", None
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader):
                raise wire.ApiError(400, "invalid_request", "A part holds parts of its own.")
            if part.name == "purpose":
                purpose = (await part.read()).decode("utf-8", "replace")
            elif part.name == "file":
                name, data = part.filename or "", bytes(await part.read())
        if purpose != "batch" or data is None:
            raise wire.ApiError(400, "invalid_request", "Give a `file`, and `purpose` batch.")
        if len(data) > MAX_FILE_BYTES:
            raise wire.ApiError(413, "file_too_large", f"A batch file may have {MAX_FILE_BYTES} bytes.")
        return web.json_response(self._store(name, purpose, data).as_json())

    def _store(self, name: str, purpose: str, data: bytes) -> File:
        file = File(f"file-replay-{self._n_files}", name, purpose, data)
        self._n_files += 1
        self._files[file.id] = file
        return file

    def _file_of(self, file_id: str) -> File:
        if file_id not in self._files:
            raise wire.ApiError(404, "file_not_found", f"No such File object: {file_id}")
        return self._files[file_id]

    async def _file(self, request: web.Request) -> web.Response:
        return web.json_response(self._file_of(request.match_info["id"]).as_json())

    async def _delete(self, request: web.Request) -> web.Response:
        file = self._file_of(request.match_info["id"])
        del self._files[file.id]
        return web.json_response({"id": file.id, "object": "file", "deleted": True})

    async def _content(self, request: web.Request) -> web.Response:
        return web.Response(body=self._file_of(request.match_info["id"]).data, content_type="application/octet-stream")

    async def _create(self, request: web.Request) -> web.Response:
        """POST /v1/batches."""
        file_id, metadata = read_creation(await request.read())
        self._file_of(file_id)
        fault, self._n_creations = self._wide_faults.draw(self._n_creations), self._n_creations + 1
        if fault in ("late", "lost_reply"):
            self._counts.faults[fault] += 1
        if fault == "late":
            self._start(self._begin_late(file_id, metadata))
            if request.transport is not None:
                request.transport.close()
            return web.Response()
        batch = self._begin(file_id, metadata, fails=fault == "failed")
        if fault == "lost_reply":
            raise wire.ApiError(500, "server_error", "Replayed fault: created, and not told.", "server_error")
        return web.json_response(batch.as_json())

    def _begin(self, file_id: str, metadata: dict[str, str], fails: bool = False) -> Batch:
        batch = Batch(f"batch_replay_{len(self._batches)}", file_id, metadata)
        batch.times["created_at"] = int(time.time())
        self._batches[batch.id] = batch
        self._counts.batches["created"] += 1
        self._start(self._run(batch, fails))
        return batch

    async def _begin_late(self, file_id: str, metadata: dict[str, str]) -> None:
        await asyncio.sleep(LATE_S)
        self._begin(file_id, metadata)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _batch_of(self, request: web.Request) -> Batch:
        batch = self._batches.get(request.match_info["id"])
        if batch is None:
            raise wire.ApiError(404, "batch_not_found", f"No batch found with id '{request.match_info['id']}'.")
        return batch

    async def _batch(self, request: web.Request) -> web.Response:
        return web.json_response(self._batch_of(request).as_json())

    async def _list(self, request: web.Request) -> web.Response:
        """GET /v1/batches?after=ID&limit=N: newest first."""
        try:
            limit = min(100, max(1, int(request.query.get("limit", "20"))))
        except ValueError:
            raise wire.ApiError(400, "invalid_value", "limit: give a whole number.") from None
        names = list(self._batches)[::-1]
        after = request.query.get("after")
        if after is not None and after not in self._batches:
            raise wire.ApiError(404, "batch_not_found", f"No batch found with id '{after}'.")
        start = 0 if after is None else names.index(after) + 1
        page = names[start : start + limit]
        listed: dict[str, Any] = {"object": "list", "data": [self._batches[name].as_json() for name in page]}
        listed |= {"first_id": page[0] if page else None, "last_id": page[-1] if page else None}
        return web.json_response(listed | {"has_more": start + limit < len(names)})

    async def _cancel(self, request: web.Request) -> web.Response:
        batch = self._batch_of(request)
        if batch.status in FINAL:
            raise wire.ApiError(409, "invalid_status", f"Cannot cancel a batch with status '{batch.status}'.")
        batch.enter("cancelling")
        return web.json_response(batch.as_json())

    # The life of a batch --------------------------------------------------------------------------------------------

    async def _run(self, batch: Batch, fails: bool) -> None:
        pause_s = self._options.batch_latency_s / (STEPS + 2)
        await asyncio.sleep(pause_s)
        rows = self._validate(batch)
        if fails:
            self._counts.faults["failed"] += 1
            batch.errors.append(error_entry("server_error", "Replayed fault: the batch failed.", None))
        if batch.errors:
            self._end(batch, "failed")
            return
        if batch.status == "validating":
            batch.enter("in_progress")
        batch.counts["total"] = len(rows)
        output: list[bytes] = []
        errors: list[bytes] = []
        size = -(-len(rows) // STEPS)
        for start in range(0, len(rows), size):
            await asyncio.sleep(pause_s)
            if batch.status == "cancelling":
                left = rows[start:]
                errors += [result_line(row.custom_id, None, gone("batch_cancelled")) for row in left]
                break
            for number, row in enumerate(rows[start : start + size]):
                self._answer(batch, row, output, errors)
                if number % ROWS_A_TURN == 0:
                    await asyncio.sleep(0)
        cancelled = batch.status == "cancelling"
        if not cancelled:
            batch.enter("finalizing")
        await asyncio.sleep(pause_s)
        for lines in (output, errors):
            self._random.shuffle(lines)
        if output:
            batch.output_file_id = self._store(f"{batch.id}_output.jsonl", "batch_output", b"".join(output)).id
        if errors:
            batch.error_file_id = self._store(f"{batch.id}_error.jsonl", "batch_output", b"".join(errors)).id
        expired = any(b'"batch_expired"' in line for line in errors)
        self._end(batch, "cancelled" if cancelled else "expired" if expired else "completed")

    def _end(self, batch: Batch, status: str) -> None:
        batch.enter(status)
        batch.tokens = {}
        self._counts.batches[status] += 1

    def _validate(self, batch: Batch) -> list[BatchRow]:
        """The file's rows; what is wrong with it goes to `batch.errors`, and then nothing of it is answered."""
        rows: list[BatchRow] = []
        seen: set[str] = set()
        tokens: dict[str, int] = {}
        for number, line in enumerate(self._files[batch.input_file_id].data.splitlines(), 1):
            try:
                item = json.loads(line)
                custom_id = item["custom_id"]
                good = isinstance(custom_id, str) and (item["method"], item["url"]) == ("POST", ENDPOINT)
                body = json.dumps(item["body"]).encode()
            except (ValueError, RecursionError, KeyError, TypeError):
                batch.errors.append(error_entry("invalid_json_line", "This line is not a valid request.", number))
                return []
            if not good:
                batch.errors.append(error_entry("invalid_request", "custom_id, method or url is wrong.", number))
                return []
            if custom_id in seen:
                batch.errors.append(error_entry("duplicate_custom_id", "The custom_id is not unique.", number))
                return []
            seen.add(custom_id)
            row = BatchRow(custom_id)
            try:
                row.chat = wire.parse_request(body)
                row.answer = self._find(row.chat)
                tokens[row.chat.model] = tokens.get(row.chat.model, 0) + row.answer.prompt_tokens
            except wire.ApiError as refused:
                if refused.code == "model_not_found":
                    batch.errors.append(error_entry("model_not_found", str(refused), number))
                    return []
                row.refused = refused
            rows.append(row)
        if not 0 < len(rows) <= MAX_REQUESTS:
            code = "empty_batch" if not rows else "too_many_tasks"
            batch.errors.append(error_entry(code, f"A batch has 1 to {MAX_REQUESTS} requests.", None))
        limit = self._options.enqueued_tokens
        for model, count in tokens.items():
            queued = sum(other.tokens.get(model, 0) for other in self._batches.values())
            if limit is not None and queued + count > limit:
                message = f"Enqueued token limit reached for {model}. Limit: {limit} enqueued tokens."
                batch.errors.append(error_entry("token_limit_exceeded", message, None))
            self._counts.batches["peak_enqueued_tokens"] = max(
                self._counts.batches["peak_enqueued_tokens"], 0 if batch.errors else queued + count
            )
        if not batch.errors:
            batch.tokens = tokens
        return rows

    def _answer(self, batch: Batch, row: BatchRow, output: list[bytes], errors: list[bytes]) -> None:
        """One row: a line in one of the files, or (fault `missing`) in none."""
        self._counts.requests += 1
        ordinal, self._n_rows = self._n_rows, self._n_rows + 1
        fault = self._row_faults.draw(ordinal)
        if row.refused is not None or row.chat is None or row.answer is None:
            refused = row.refused or wire.ApiError(400, "invalid_request", "This line holds no request.")
            self._counts.refused[refused.code] += 1
            errors.append(result_line(row.custom_id, reply_bytes(refused.status, refused.body()), None))
        elif fault is None:
            usage = (row.answer.prompt_tokens, row.answer.completion_tokens)
            self._counts.answer(row.chat.model, row.chat.messages, *usage, tier="batch")
            body = wire.completion_body(row.chat, row.answer, ordinal)
            output.append(result_line(row.custom_id, reply_bytes(200, body), None))
            batch.counts["completed"] += 1
            return
        else:
            self._counts.faults[fault] += 1
            if fault == "expired":
                errors.append(result_line(row.custom_id, None, gone("batch_expired")))
            elif fault == "empty":
                output.append(
                    result_line(row.custom_id, reply_bytes(200, wire.empty_body(row.chat, row.answer, ordinal)), None)
                )
            elif fault != "missing":
                body = wire.error_body(f"Replayed fault: HTTP {fault}.", "server_error", "server_error")
                errors.append(result_line(row.custom_id, reply_bytes(int(fault), body), None))
        batch.counts["failed"] += 1
