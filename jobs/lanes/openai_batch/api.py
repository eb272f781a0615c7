"""OpenAI's files and batches API as one batch lane sees it: upload, create once, find again, poll, read results.

Creating a batch costs money and the API takes no idempotency key. So the batch carries a nonce in its metadata, and
whenever a creation's outcome is not known (no reply, an error of the server, a driver that was killed), batches are
listed and the one with the nonce is adopted; only where none is there after `ADOPT_S` it is created, and then looked for
once more, so that of two with one nonce the second is cancelled. All other calls may be repeated at will: they are retried
with full jitter until `retries.limited_s` has passed. What the provider does not know any more (404) while the key works
is `Gone`.
"""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass

import aiohttp

from jobs.errors import LaneDown
from jobs.lanes.chat import JsonObject
from jobs.lanes.faults import Diagnosis, clean, diagnose
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.exchange import backoff_s
from jobs.lanes.openai_batch.state import BatchState
from jobs.lanes.providers.body import decoded
from jobs.lanes.providers.errors import ProviderError, error_inside, read_error
from jobs.lanes.providers.words import is_no_endpoint, status_of
from jobs.spec.models import ModelSpec

NONCE = "headgate_nonce"
CALL_TIMEOUT_S, FILE_TIMEOUT_S = 60.0, 900.0
ADOPT_S = CALL_TIMEOUT_S + 15.0
"""How long a creation may be under way at the provider after its sender has gone: what its sender would have waited for
a reply, and a margin for the provider's list."""
LOOK_S = 1.0
"""Between the first two looks for a batch; each next wait is twice as long."""
PAGE = 100
Body = Callable[[], str | aiohttp.FormData]
"""Makes a request's body, anew for each try: a form is used up when it is sent."""
ENDPOINT = "/v1/chat/completions"
MAX_LINE_BYTES = 64 * 2**20


class Gone(LaneDown):
    """The provider does not know a batch or a file (any more), and answers other calls with this key."""


@dataclass(frozen=True, slots=True)
class _NotFound(Diagnosis):
    """A 404."""


class BatchApi:
    """Calls of one model's endpoint. Raises LaneDown, one line with the fix, where a call cannot succeed."""

    def __init__(
        self, endpoint: Endpoint, session: aiohttp.ClientSession, model: ModelSpec, alias: str, adopt_s: float = ADOPT_S
    ) -> None:
        self._endpoint, self._session, self._model, self._alias = endpoint, session, model, alias
        self._adopt_s = adopt_s
        self.creation_limit_s = FILE_TIMEOUT_S + 2 * (model.retries.limited_s + CALL_TIMEOUT_S) + adopt_s
        """After so long at most the dollars of a batch are followed by the last word of its creation."""

    async def upload(self, name: str, data: bytes) -> str:
        """POST /files. The file's id."""

        def form() -> aiohttp.FormData:
            fields = aiohttp.FormData()
            fields.add_field("purpose", "batch")
            fields.add_field("file", io.BytesIO(data), filename=name, content_type="application/jsonl")
            return fields

        return _text(await self._retried("POST", "/files", form, FILE_TIMEOUT_S), "id")

    async def create(self, file_id: str, nonce: str) -> BatchState:
        """POST /batches, so that there is one batch with this nonce whatever happens to replies. The batch."""
        body = {
            "input_file_id": file_id,
            "endpoint": ENDPOINT,
            "completion_window": "24h",
            "metadata": {NONCE: nonce, "headgate_model": self._alias},
        }
        patience = _Patience(self._model.retries.limited_s)
        in_doubt = False
        while True:
            reply = await self._once("POST", "/batches", lambda: json.dumps(body), CALL_TIMEOUT_S)
            if isinstance(reply, dict):
                created = BatchState.from_json(reply)
                return (await self.adopt(nonce, may_come=False) or created) if in_doubt else created
            if reply.kind == "retry":  # anything else was turned away; this may have been taken
                in_doubt = True
                found = await self.adopt(nonce)
                if found is not None:
                    return found
            await self._pause(patience, reply)

    async def adopt(self, nonce: str, may_come: bool = True) -> BatchState | None:
        """The batch with this nonce, if it was created. may_come: wait for it as long as a creation may take."""
        found, wait_s, end = await self._find(nonce), LOOK_S, time.monotonic() + self._adopt_s
        while not found and may_come and (left_s := end - time.monotonic()) > 0:
            await asyncio.sleep(min(wait_s, left_s))
            found, wait_s = await self._find(nonce), 2 * wait_s
        for extra in found[1:]:  # created by a request that was given up, and by the next one too
            await self._once("POST", f"/batches/{_text(extra, 'id')}/cancel", None, CALL_TIMEOUT_S)
        return BatchState.from_json(found[0]) if found else None

    async def _find(self, nonce: str) -> list[JsonObject]:
        """All batches with this nonce, the oldest first. Reads the list to its end: 100 batches a call."""
        found: list[JsonObject] = []
        after = ""
        while True:
            page = await self._retried("GET", f"/batches?limit={PAGE}{after}", None, CALL_TIMEOUT_S)
            listed = [each for each in page.get("data") or [] if isinstance(each, dict)]
            found += [each for each in listed if (each.get("metadata") or {}).get(NONCE) == nonce]
            if not page.get("has_more") or not listed:
                return found[::-1]
            after = f"&after={_text(listed[-1], 'id')}"

    async def get(self, batch_id: str) -> BatchState:
        """GET /batches/{id}. Raises Gone."""
        since = time.monotonic()
        while True:
            try:
                return BatchState.from_json(await self._retried("GET", f"/batches/{batch_id}", None, CALL_TIMEOUT_S))
            except Gone as gone:
                await self._confirm(gone, since)

    async def _confirm(self, gone: Gone, since: float) -> None:
        """Before a 404 is believed: the provider has time to hear of what it made itself. Raises Gone, or LaneDown for a
        key that is refused other things too."""
        left_s = self._adopt_s - (time.monotonic() - since)
        if left_s > 0:
            await asyncio.sleep(min(LOOK_S, left_s))
        elif isinstance(await self._once("GET", "/batches?limit=1", None, CALL_TIMEOUT_S), dict):
            raise gone
        else:
            raise LaneDown(str(gone))

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        """The lines of a file, each at least once: a connection that is cut starts it anew. Raises Gone."""
        patience, since, renewed = _Patience(self._model.retries.limited_s), time.monotonic(), False
        while True:
            used = self._endpoint.key
            try:
                async with (
                    asyncio.timeout(FILE_TIMEOUT_S),
                    self._session.get(
                        f"{self._endpoint.url}/files/{file_id}/content", headers=self._headers(), allow_redirects=False
                    ) as response,
                ):
                    if response.status == 200:
                        rest = b""
                        async for chunk in response.content.iter_any():
                            *lines, rest = (rest + chunk).split(b"\n")
                            for line in lines:
                                yield line
                            if len(rest) > MAX_LINE_BYTES:
                                raise LaneDown(
                                    f"models.{self._alias}: file {file_id} has a line of {len(rest):,} bytes"
                                )
                        if rest:
                            yield rest
                        return
                    raw = await response.read()
                said = raw[:2000].decode("utf-8", "replace")
                if not renewed and (renewed := await self._endpoint.renewed(response.status, said, used)):
                    continue
                diagnosis = self._diagnose(response.status, response.headers, read_error(raw))
            except (aiohttp.ClientError, TimeoutError) as error:
                diagnosis = Diagnosis("retry", f"connection lost ({type(error).__name__})")
            try:
                await self._pause(patience, diagnosis)
            except Gone as gone:
                await self._confirm(gone, since)

    # One call -------------------------------------------------------------------------------------------------------

    def _headers(self) -> dict[str, str]:
        return self._endpoint.headers()

    def _diagnose(
        self, status: int, headers: Mapping[str, str], error: ProviderError, inside: bool = False
    ) -> Diagnosis:
        if status == 404 and not is_no_endpoint(error):
            message = (
                f"{error.code or 'HTTP 404'}: not known to {self._endpoint.url} with this key; is it another account's?"
            )
            return _NotFound("lane", f"models.{self._alias}: {message}")
        name = self._model.model or self._alias
        found = diagnose(status, headers, error, self._alias, name, key_env=self._model.api_key_env, inside=inside)
        return self._endpoint.named(found, self._model, self._alias, status)

    async def _once(
        self, method: str, path: str, data: Body | None, timeout_s: float, last: bool = False
    ) -> JsonObject | Diagnosis:
        """One exchange: the JSON object, or what to make of it. A second one with another key, unless it is the `last`."""
        used = self._endpoint.key
        headers = self._headers() | ({"Content-Type": "application/json"} if path == "/batches" else {})
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.request(
                    method,
                    f"{self._endpoint.url}{path}",
                    data=data() if data else None,
                    headers=headers,
                    allow_redirects=False,
                ) as response,
            ):
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            return Diagnosis("retry", f"no reply ({type(error).__name__})")
        if response.status != 200:
            if not last and await self._endpoint.renewed(response.status, raw[:2000].decode("utf-8", "replace"), used):
                return await self._once(method, path, data, timeout_s, last=True)
            return self._diagnose(response.status, response.headers, read_error(raw))
        try:
            reply = decoded(raw)
        except (ValueError, RecursionError):
            reply = None
        if isinstance(reply, dict) and "id" not in reply and (inside := error_inside(reply)) is not None:
            return self._diagnose(status_of(inside), response.headers, inside, inside=True)
        return reply if isinstance(reply, dict) else Diagnosis("retry", "the reply is not a JSON object")

    async def _retried(self, method: str, path: str, data: Body | None, timeout_s: float) -> JsonObject:
        patience = _Patience(self._model.retries.limited_s)
        while True:
            reply = await self._once(method, path, data, timeout_s)
            if isinstance(reply, dict):
                return reply
            await self._pause(patience, reply)

    async def _pause(self, patience: _Patience, diagnosis: Diagnosis) -> None:
        """Wait before another try. Raises LaneDown where none makes sense: Gone after a 404."""
        said = clean(diagnosis.message, self._endpoint.key)
        if isinstance(diagnosis, _NotFound):
            raise Gone(said)
        if diagnosis.kind in ("lane", "row"):
            raise LaneDown(said if said.startswith("models.") else f"models.{self._alias}: batch API: {said}")
        delay_s = max(patience.next_s(), diagnosis.retry_after_s or 0.0)
        if patience.over(delay_s):
            raise LaneDown(
                f"models.{self._alias}: {self._endpoint.url} has not answered for {patience.limit_s:.0f} s ({said}); "
                "batches run on there, the same command re-attaches to them"
            )
        await asyncio.sleep(delay_s)


class _Patience:
    """Growing waits within a limit of time."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._n, self._since = 0, time.monotonic()

    def next_s(self) -> float:
        self._n += 1
        return backoff_s(self._n)

    def over(self, delay_s: float) -> bool:
        return time.monotonic() - self._since + delay_s > self.limit_s


def _text(body: JsonObject, name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str) or not value:
        raise LaneDown(f"batch API: a reply has no {name!r}; the endpoint does not speak OpenAI's batch API")
    return value
