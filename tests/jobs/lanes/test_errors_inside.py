"""Replies with status 200 that hold no answer: what becomes of the row, what is booked, and when the lane stops at $0."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from tests.jobs.lanes.odd_api import KEY, USAGE, USAGE_USD, WORST_USD, ask, completion

CUT = {"choices": [{"message": {"content": "half"}, "finish_reason": "error"}]}


def once(body: Any, key_of_it: int = 0, **more: Any) -> Any:
    """The first request of one row gets this, everybody else an answer."""
    seen: Counter[int] = Counter()

    def handle(key: int) -> web.Response:
        seen[key] += 1
        first = key == key_of_it and seen[key] == 1
        return (
            (web.json_response(body, **more) if not isinstance(body, bytes) else web.Response(body=body, **more))
            if first
            else completion()
        )

    return handle


@pytest.mark.parametrize("code", [429, "429", "rate_limit_exceeded", 502, "server_error", 503])
@pytest.mark.parametrize("usage", [None, USAGE])
def test_what_may_pass_is_tried_again_and_books_what_it_says(code: Any, usage: Any, tmp_path: Path) -> None:
    body = {"error": {"code": code, "message": "not now, retry in 0.1s"}} | ({"usage": usage} if usage else {})
    got = ask(once(body), tmp_path / "run", range(6), cap_usd=1.0)
    assert list(got.kinds().values()) == ["answered"] * 6 and len(got.requests) == 7
    assert got.state.dollars.lost_usd == pytest.approx(USAGE_USD if usage else 0.0, abs=1e-12)
    assert got.state.dollars.spent_usd == pytest.approx(6 * USAGE_USD)


def test_a_broken_off_answer_is_never_an_answer(tmp_path: Path) -> None:
    got = ask(once(CUT), tmp_path / "run", range(4))
    assert len(got.requests) == 5 and {row["generated_text"] for row in got.rows} == {"yes"}


def test_where_every_try_breaks_off_the_row_stays_open_with_the_servers_words(tmp_path: Path) -> None:
    choice = {
        "message": {"content": ""},
        "finish_reason": "error",
        "error": {"code": 502, "message": "the upstream has died"},
    }
    got = ask(lambda key: completion() if key else web.json_response({"choices": [choice]}), tmp_path / "run", range(4))
    assert got.kinds()[0] == "failed" and "the upstream has died" in got.errors()[0] and got.state.dollars.lost_usd == 0


@pytest.mark.parametrize("usage", [None, USAGE])
def test_a_refusal_inside_is_the_rows_and_books_what_it_says(usage: Any, tmp_path: Path) -> None:
    body = {"error": {"code": 400, "message": "this picture is too small"}} | ({"usage": usage} if usage else {})
    got = ask(lambda key: completion() if key else web.json_response(body), tmp_path / "run", range(4))
    assert got.kinds()[0] == "rejected" and "this picture is too small" in got.errors()[0]
    assert got.state.dollars.lost_usd == pytest.approx(USAGE_USD if usage else 0.0)


@pytest.mark.parametrize(
    ("code", "names"),
    [
        (402, "out of credit"),
        (401, "is refused"),
        (403, "may not use"),
        (404, "models.gpt.model"),
        ("insufficient_quota", "quota"),
    ],
)
def test_what_is_the_lanes_stops_it(code: Any, names: str, tmp_path: Path) -> None:
    body = {"error": {"code": code, "message": "no"}}
    got = ask(lambda key: web.json_response(body), tmp_path / "run", range(20))
    assert names in got.stopped and got.rows == [] and len(got.requests) <= 4 and got.state.dollars.lost_usd == 0


def stranger(name: str) -> web.Response:
    return {
        "lm studio": lambda: web.json_response({"error": "Unexpected endpoint or method. (POST /chat/completions)"}),
        "page": lambda: web.Response(text="<!doctype html><title>My App</title><p>hi", content_type="text/html"),
        "nothing": lambda: web.Response(body=b""),
        "health": lambda: web.json_response({"status": "ok"}),
        "text": lambda: web.Response(text="OK"),
        "list": lambda: web.json_response([]),
    }[name]()


@pytest.mark.parametrize("name", ["lm studio", "page", "nothing", "health", "text", "list"])
def test_a_server_that_is_no_such_api_stops_at_the_first_reply(name: str, tmp_path: Path) -> None:
    got = ask(lambda key: stranger(name), tmp_path / "run", range(30), cap_usd=1.0)
    assert got.stopped.startswith("models.gpt.base_url: ") and "\n" not in got.stopped and KEY not in got.stopped
    assert got.rows == [] and len(got.requests) <= 4
    assert (got.state.dollars.spent_usd, got.state.dollars.lost_usd) == (0, 0)


@pytest.mark.parametrize("name", ["page", "nothing"])
def test_one_such_reply_among_answers_is_tried_again(name: str, tmp_path: Path) -> None:
    seen: Counter[int] = Counter()

    def handle(key: int) -> web.Response:
        seen[key] += 1
        return stranger(name) if key == 5 and seen[key] == 1 else completion()

    got = ask(handle, tmp_path / "run", range(6), in_flight=1, cap_usd=1.0)
    assert got.stopped == "" and list(got.kinds().values()) == ["answered"] * 6
    assert 0 < got.state.dollars.lost_usd <= WORST_USD, "somebody may have been charged for it"


def test_events_where_json_was_asked_for_are_answers(tmp_path: Path) -> None:
    raw = (
        b': OPENROUTER PROCESSING\n\ndata: {"choices": [{"delta": {"content": "y"}}]}\n\n'
        b'data: {"choices": [{"delta": {"content": "es"}, '
        b'"finish_reason": "stop"}], "usage": {"prompt_tokens": 20, "completion_tokens": 10}}\n\ndata: [DONE]\n\n'
    )

    def handle(key: int) -> web.Response:
        return web.Response(body=raw, content_type="text/event-stream")

    got = ask(handle, tmp_path / "run", range(5), cap_usd=1.0)
    assert {(row["generated_text"], row["token_source"], row["cost_usd"]) for row in got.rows} == {
        ("yes", "provider", USAGE_USD)
    }


def test_a_stream_that_breaks_off_is_no_answer(tmp_path: Path) -> None:
    raw = b'data: {"choices": [{"delta": {"content": "ye"}}]}\n\n'
    got = ask(once(raw, content_type="text/event-stream"), tmp_path / "run", range(3), cap_usd=1.0)
    assert len(got.requests) == 4 and {row["generated_text"] for row in got.rows} == {"yes"}
    assert got.state.dollars.lost_usd > 0


@pytest.mark.parametrize("headers", [{"Retry-After": "250ms"}, {"x-ratelimit-reset-requests": "250ms"}])
def test_waits_with_units_are_kept(headers: dict[str, str], tmp_path: Path) -> None:
    got = ask(once({"error": {"message": "slow down"}}, status=429, headers=headers), tmp_path / "run", range(3))
    assert list(got.kinds().values()) == ["answered"] * 3 and got.rows[0]["attempts"] == 2
