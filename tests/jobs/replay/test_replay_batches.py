"""The replay server's batch API over real HTTP: states, files, faults, limits, paging."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from jobs.errors import SpecError
from jobs.replay.options import ReplayOptions
from tests.replay_server import Replay, body, small_outcomes, thread_replay

LATENCY_S = 0.1


class Client:
    """A few calls of the batch API."""

    def __init__(self, replay: Replay, session: aiohttp.ClientSession) -> None:
        self.url, self.session = replay.base_url, session

    async def call(self, method: str, path: str, **more: Any) -> tuple[int, Any]:
        async with self.session.request(method, self.url + path, **more) as response:
            raw = await response.read()
            return response.status, raw if "octet" in response.content_type else json.loads(raw)

    async def upload(self, lines: list[Any]) -> str:
        form = aiohttp.FormData()
        form.add_field("purpose", "batch")
        data = b"".join(line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines)
        form.add_field("file", data, filename="rows.jsonl")
        status, file = await self.call("POST", "/files", data=form)
        assert (status, file["filename"], file["bytes"]) == (200, "rows.jsonl", len(data))
        return str(file["id"])

    async def create(self, lines: list[Any], **metadata: str) -> dict[str, Any]:
        request = {"input_file_id": await self.upload(lines), "endpoint": "/v1/chat/completions"}
        status, batch = await self.call(
            "POST", "/batches", json=request | {"completion_window": "24h", "metadata": metadata}
        )
        assert status in (200, 500)
        return dict(batch)

    async def end(self, batch_id: str) -> dict[str, Any]:
        while (batch := (await self.call("GET", f"/batches/{batch_id}"))[1])["status"] not in (
            *("completed", "failed", "expired", "cancelled"),
        ):
            await asyncio.sleep(0.02)
        return dict(batch)

    async def lines(self, file_id: str | None) -> list[dict[str, Any]]:
        if file_id is None:
            return []
        _, raw = await self.call("GET", f"/files/{file_id}/content")
        return [json.loads(line) for line in raw.splitlines()]


def line(i: int, **more: Any) -> dict[str, Any]:
    request = body(f"question {i}", **more)
    return {"custom_id": f"k{i}", "method": "POST", "url": "/v1/chat/completions", "body": request}


def talk(use: Callable[[Client], Awaitable[Any]], **options: Any) -> tuple[Any, dict[str, Any]]:
    """What `use` returns, and /stats after it."""

    async def main(replay: Replay) -> Any:
        async with aiohttp.ClientSession() as session:
            return await asyncio.wait_for(use(Client(replay, session)), 30)

    with thread_replay([small_outcomes(40)], ReplayOptions(**{"batch_latency_s": LATENCY_S, **options})) as replay:
        return asyncio.run(main(replay)), replay.stats()


def test_a_batch_answers_every_row_once_and_counts_its_tokens() -> None:
    async def use(client: Client) -> Any:
        batch = await client.create([line(i) for i in range(20)] + [line(99)], nonce="n1")
        assert (batch["status"], batch["metadata"], batch["output_file_id"]) == ("validating", {"nonce": "n1"}, None)
        batch = await client.end(batch["id"])
        return batch, await client.lines(batch["output_file_id"]), await client.lines(batch["error_file_id"])

    (batch, output, errors), stats = talk(use)
    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 21, "completed": 20, "failed": 1})
    ids = [row["custom_id"] for row in output]
    assert sorted(ids) == sorted(f"k{i}" for i in range(20))
    assert ids != [f"k{i}" for i in range(20)], "results are unordered"
    for row in output:
        content = row["response"]["body"]["choices"][0]["message"]["content"]
        assert content == f"strong says {row['custom_id'][1:]}"
    assert [(row["custom_id"], row["response"]["status_code"]) for row in errors] == [("k99", 404)]
    assert stats["by_tier"]["strong"]["batch"] == stats["by_model"]["strong"]
    assert (stats["answered"], stats["repeated"], stats["batches"]["completed"]) == (20, 0, 1)
    assert stats["requests"] == stats["answered"] + sum(stats["refused"].values())


def test_rows_expire_vanish_and_fail() -> None:
    async def use(client: Client) -> Any:
        batch = await client.end((await client.create([line(i) for i in range(40)]))["id"])
        return batch, await client.lines(batch["output_file_id"]), await client.lines(batch["error_file_id"])

    faults = {"expired": 0.2, "missing": 0.2, "500": 0.2, "empty": 0.2}
    (batch, output, errors), stats = talk(use, batch_faults=faults)
    assert batch["status"] == "expired"
    drawn = stats["faults"]
    assert all(drawn[name] for name in faults)
    assert len(output) == stats["answered"] + drawn["empty"]
    assert len(errors) == drawn["expired"] + drawn["500"]
    expired = [row for row in errors if row["response"] is None]
    assert {row["error"]["code"] for row in expired} == {"batch_expired"}
    assert stats["answered"] + sum(drawn.values()) == 40


def test_what_is_wrong_with_a_file_fails_the_batch() -> None:
    async def use(client: Client) -> list[str]:
        codes = []
        for lines in ([line(0), line(0)], [b"{\n"], [line(0, model="nobody")], []):
            batch = await client.end((await client.create(lines))["id"])
            assert batch["status"] == "failed"
            codes.append(batch["errors"]["data"][0]["code"])
        return codes

    codes, stats = talk(use)
    assert codes == ["duplicate_custom_id", "invalid_json_line", "model_not_found", "empty_batch"]
    assert stats["answered"] == 0


def test_enqueued_tokens_are_kept() -> None:
    async def use(client: Client) -> list[str]:
        first = await client.create([line(i) for i in range(10)])  # 145 prompt tokens
        await asyncio.sleep(LATENCY_S / 2)
        second = await client.end((await client.create([line(i) for i in range(10, 20)]))["id"])
        await client.end(first["id"])
        third = await client.end((await client.create([line(i) for i in range(10)]))["id"])
        return [second["status"], second["errors"]["data"][0]["code"], third["status"]]

    (found, stats) = talk(use, enqueued_tokens=200, batch_latency_s=0.5)
    assert found == ["failed", "token_limit_exceeded", "completed"]
    assert stats["batches"]["peak_enqueued_tokens"] == 145


def test_a_cancelled_batch_keeps_what_was_answered() -> None:
    async def use(client: Client) -> Any:
        batch = await client.create([line(i) for i in range(40)])
        await asyncio.sleep(0.5)
        status, body = await client.call("POST", f"/batches/{batch['id']}/cancel")
        assert (status, body["status"]) == (200, "cancelling")
        batch = await client.end(batch["id"])
        return batch, await client.lines(batch["output_file_id"]), await client.lines(batch["error_file_id"])

    (batch, output, errors), stats = talk(use, batch_latency_s=1.0)
    assert batch["status"] == "cancelled"
    assert 0 < len(output) == stats["answered"] < 40 == len(output) + len(errors)


def test_batches_are_listed_in_pages_newest_first_and_found_after_a_lost_reply() -> None:
    async def use(client: Client) -> list[str]:
        for number in range(5):
            reply = await client.create([line(number)], nonce=str(number))
            assert "error" in reply
        seen: list[str] = []
        after = ""
        while True:
            _, page = await client.call("GET", f"/batches?limit=2{after}")
            seen += [batch["metadata"]["nonce"] for batch in page["data"]]
            if not page["has_more"]:
                return seen
            after = f"&after={page['last_id']}"

    seen, stats = talk(use, batch_faults={"lost_reply": 1.0})
    assert seen == ["4", "3", "2", "1", "0"]
    assert stats["batches"]["created"] == 5


def test_a_late_batch_comes_after_its_connection_is_cut_and_a_file_can_be_deleted() -> None:
    async def use(client: Client) -> Any:
        with pytest.raises(aiohttp.ClientError):
            await client.create([line(0)], nonce="n1")
        before = (await client.call("GET", "/batches"))[1]["data"]
        while not (listed := (await client.call("GET", "/batches"))[1]["data"]):
            await asyncio.sleep(0.02)
        batch = await client.end(listed[0]["id"])
        path = f"/files/{batch['output_file_id']}"
        return before, batch, [await client.call(method, path) for method in ("DELETE", "GET")]

    (before, batch, (deleted, then)), stats = talk(use, batch_faults={"late": 1.0})
    assert (before, batch["metadata"], batch["status"]) == ([], {"nonce": "n1"}, "completed")
    assert (deleted[1]["deleted"], then[0]) == (True, 404)
    assert (stats["batches"]["created"], stats["faults"]["late"]) == (1, 1)


def test_keys_unknown_names_and_bad_requests_are_refused() -> None:
    async def use(client: Client) -> list[int]:
        tries = [
            ("GET", "/batches/no", {}),
            ("GET", "/files/no/content", {}),
            ("POST", "/files", {"data": b"{}"}),
            ("POST", "/batches", {"data": b"{"}),
            ("POST", "/batches", {"json": {"input_file_id": "no", "endpoint": "/v1/x", "completion_window": "24h"}}),
        ]
        return [(await client.call(method, path, **more))[0] for method, path, more in tries]

    assert talk(use)[0] == [404, 404, 400, 400, 400]
    assert talk(use, api_key="sk-right")[0] == [401] * 5
    for wrong in ({"nonsense": 0.1}, {"expired": 0.6, "missing": 0.6}, {"failed": 1.2}):
        with pytest.raises(SpecError, match="batch-fault"):
            ReplayOptions(batch_faults=wrong)
    ReplayOptions(batch_faults={"failed": 0.9, "expired": 0.9})


def test_flex_is_served_in_the_default_tier_now_and_then() -> None:
    async def use(client: Client) -> list[str]:
        tiers = []
        for i in range(40):
            _, reply = await client.call("POST", "/chat/completions", json=body(f"question {i}", service_tier="flex"))
            tiers.append(reply["service_tier"])
        _, plain = await client.call("POST", "/chat/completions", json=body("question 0"))
        assert "service_tier" not in plain
        return tiers

    tiers, stats = talk(use, flex_default_share=0.3, latency_s=0)
    counted = stats["by_tier"]["strong"]
    assert 0 < tiers.count("default") < 40
    assert counted["default"]["answered"] == tiers.count("default") + 1
    assert counted["flex"]["answered"] == tiers.count("flex")
