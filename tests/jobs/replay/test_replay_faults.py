"""Every fault, limit and refusal of the replay server, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import aiohttp
import pytest

from jobs.replay.faults import FaultPlan
from jobs.replay.limits import RequestLimit, duration
from jobs.replay.options import ReplayOptions
from tests.replay_server import (
    Replay,
    body,
    post,
    post_all,
    post_probe,
    small_outcomes,
    thread_replay,
)


def with_fault(name: str, **more: Any) -> ReplayOptions:
    return ReplayOptions(latency_s=0, faults={name: 1.0}, **more)


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ("429", 429, "rate_limit_exceeded"),
        ("429_bare", 429, "rate_limit_exceeded"),
        ("quota", 429, "insufficient_quota"),
        ("500", 500, "server_error"),
        ("503", 503, "server_error"),
        ("529", 529, "server_error"),
        ("401", 401, "invalid_api_key"),
    ],
)
def test_status_faults(fault: str, status: int, code: str) -> None:
    with thread_replay([small_outcomes()], with_fault(fault, retry_after_s=2.5)) as replay:
        got, answer, headers = post(replay, body())
        stats = replay.stats()
    assert (got, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert headers.get("retry-after") == ("2.5" if fault == "429" else None)
    assert stats["faults"][fault] == sum(stats["faults"].values()) == 1
    assert (stats["requests"], stats["answered"]) == (1, 0)


def test_hang_never_answers_and_ends_with_the_client() -> None:
    async def wait(replay: Replay) -> None:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=0.5)) as session:
            await session.post(f"{replay.base_url}/chat/completions", json=body())

    with thread_replay([small_outcomes()], with_fault("hang")) as replay:
        with pytest.raises(TimeoutError):
            asyncio.run(wait(replay))
        stats = replay.wait_for(lambda now: now["in_flight"] == 0, timeout_s=5)
    assert stats["faults"]["hang"] == 1
    assert (stats["answered"], stats["abandoned"]) == (0, {})


def test_drip_keeps_the_connection_busy_until_the_client_gives_up() -> None:
    got = bytearray()

    async def wait(replay: Replay) -> None:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=1.2)) as session,
            session.post(f"{replay.base_url}/chat/completions", json=body()) as reply,
        ):
            async for chunk in reply.content.iter_any():
                got.extend(chunk)

    with thread_replay([small_outcomes()], with_fault("drip")) as replay:
        with pytest.raises(TimeoutError):
            asyncio.run(wait(replay))
        stats = replay.wait_for(lambda now: now["in_flight"] == 0, timeout_s=5)
    assert 1 <= len(got) <= 4 and got.startswith(b"{")
    assert stats["faults"]["drip"] == 1 and stats["answered"] == 0


def test_cut_sends_half_an_answer_and_closes() -> None:
    async def read(replay: Replay) -> tuple[int, int, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(replay.url.rsplit(":", 1)[1]))
        data = json.dumps(body()).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        writer.write(head.encode() + data)
        raw = await asyncio.wait_for(reader.read(), 5)
        writer.close()
        head_bytes, _, part = raw.partition(b"\r\n\r\n")
        (length,) = (line for line in head_bytes.lower().split(b"\r\n") if line.startswith(b"content-length"))
        return int(head_bytes.split()[1]), int(length.split(b":")[1]), part

    with thread_replay([small_outcomes()], with_fault("cut")) as replay:
        status, length, part = asyncio.run(read(replay))
        with pytest.raises(aiohttp.ClientPayloadError):
            post(replay, body())
        stats = replay.stats()
    assert status == 200
    assert len(part) == length // 2
    assert (stats["faults"]["cut"], stats["answered"]) == (2, 0)


def test_bad_json_and_empty_choices_come_as_200() -> None:
    with thread_replay([small_outcomes()], with_fault("bad_json")) as replay:
        status, text, headers = post(replay, body())
        assert replay.stats()["answered"] == 0
    assert (status, headers["content-type"]) == (200, "application/json")
    assert isinstance(text, str)
    assert text.startswith("{")
    with thread_replay([small_outcomes()], with_fault("empty")) as replay:
        status, answer, _ = post(replay, body())
        assert replay.stats()["faults"]["empty"] == 1
    assert (status, answer["choices"]) == (200, [])


def test_faults_are_a_function_of_seed_and_request_number() -> None:
    shares = {"429": 0.1, "500": 0.05, "hang": 0.01}
    drawn = [FaultPlan(shares, seed=3).draw(i) for i in range(20_000)]
    plan = FaultPlan(shares, seed=3)
    assert [plan.draw(i) for i in reversed(range(20_000))] == drawn[::-1]
    assert [FaultPlan(shares, seed=4).draw(i) for i in range(100)] != drawn[:100]
    # Four standard errors of a share p over 20,000 draws: 4 * sqrt(p (1 - p) / 20,000).
    for name, share in shares.items():
        assert drawn.count(name) / 20_000 == pytest.approx(share, abs=4 * (share * (1 - share) / 20_000) ** 0.5)


def test_faults_at_the_server_follow_the_plan_and_the_rest_is_answered() -> None:
    shares = {"429": 0.2, "500": 0.1, "empty": 0.1}
    options = ReplayOptions(latency_s=0, faults=shares, seed=5)
    with thread_replay([small_outcomes()], options) as replay:
        replies = post_all(replay, [body(f"question {i % 8}") for i in range(200)], in_flight=16)
        stats = replay.stats()
    plan = [FaultPlan(shares, 5).draw(i) for i in range(200)]
    assert {name: stats["faults"][name] for name in shares} == {name: plan.count(name) for name in shares}
    assert stats["answered"] == plan.count(None) == sum(bool(answer.get("choices")) for _, answer, _ in replies)
    assert stats["repeated"] == stats["answered"] - 8


def test_requests_per_minute_over_http() -> None:
    options = ReplayOptions(latency_s=0, requests_per_minute=60, burst=5)
    with thread_replay([small_outcomes()], options) as replay:
        replies = post_all(replay, [body() for _ in range(8)])
        stats = replay.stats()
        assert [status for status, _, _ in replies] == [200] * 5 + [429] * 3
        assert stats["faults"]["429"] == 3
        assert all(headers["x-ratelimit-limit-requests"] == "60" for _, _, headers in replies)
        assert [headers["x-ratelimit-remaining-requests"] for _, _, headers in replies][:6] == [
            "4",
            "3",
            "2",
            "1",
            "0",
            "0",
        ]
        _, refusal, headers = replies[-1]
        assert refusal["error"]["code"] == "rate_limit_exceeded"
        assert headers["retry-after"] == "1"
        time.sleep(int(headers["retry-after-ms"]) / 1000)
        assert post(replay, body())[0] == 200


def test_token_bucket_holds_its_rate() -> None:
    now = [0.0]
    limit = RequestLimit(120, burst=10, clock=lambda: now[0])
    taken = 0
    for step in range(6001):
        now[0] = step / 100
        taken += limit.take()
    assert taken == 10 + 120
    assert limit.headers()["x-ratelimit-remaining-requests"] == "0"
    now[0] += 60
    assert limit.headers()["x-ratelimit-reset-requests"] == "0ms"
    assert [duration(s) for s in (0.12, 8.64, 60, 72.5)] == ["120ms", "8.64s", "1m0s", "1m12.5s"]


def test_unknown_model_and_unknown_prompt_are_told_apart() -> None:
    with thread_replay([small_outcomes()]) as replay:
        (s1, one, _), (s2, two, _) = post_all(replay, [body(model="gpt-9"), body("secret text nobody recorded")])
        assert replay.stats()["refused"] == {"model_not_found": 1, "prompt_not_found": 1}
    assert (s1, one["error"]["code"]) == (404, "model_not_found")
    assert (s2, two["error"]["code"]) == (404, "prompt_not_found")
    assert "secret" not in json.dumps(two)


@pytest.mark.parametrize(
    "bad",
    [
        b"not json",
        b"\xff\xfe{}",
        b"[" * 100_000,
        b"[]",
        {"model": "strong"},
        {"model": "strong", "messages": []},
        {"messages": [{"role": "user", "content": "question 0"}]},
        {"model": "strong", "messages": ["question 0"]},
        {"model": "strong", "messages": [{"role": "user", "content": 3}]},
        {"model": "strong", "messages": [{"role": "user", "content": [{"type": "text"}]}]},
        body(max_tokens=0),
        body(n=True),
        body(n=1000),
    ],
)
def test_bad_requests_get_400_in_openais_form(bad: Any) -> None:
    with thread_replay([small_outcomes()]) as replay:
        status, answer, _ = post(replay, bad)
        stats = replay.stats()
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert (stats["requests"], stats["answered"], sum(stats["refused"].values())) == (1, 0, 1)


def test_large_odd_prompts_are_only_not_found() -> None:
    with thread_replay([small_outcomes()]) as replay:
        replies = post_all(
            replay, [body("x" * 5_000_000), b'{"model":"strong","messages":[{"role":"user","content":"\\ud800"}]}']
        )
    assert [status for status, _, _ in replies] == [404, 404]


def test_api_key() -> None:
    options = ReplayOptions(latency_s=0, api_key="sk-right")
    with thread_replay([small_outcomes()], options) as replay:
        statuses = [post(replay, body(), key)[0] for key in ("sk-right", "sk-wrong", None)]
        assert post(replay, body(), "sk-wrong")[1]["error"]["code"] == "invalid_api_key"
        assert post_probe(replay, "/v1/models") == 401
        assert replay.stats()["answered"] == 1
    assert statuses == [200, 401, 401]
    assert "sk-right" not in repr(options)
