"""Whose fault it is that a model refuses rows: theirs, however many, or the lane's, which stops then with its rows open."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from jobs.journal.refused import SAME_REFUSALS, reason_of
from tests.jobs.lanes.odd_api import KEY, WORST_USD, Asked, ask, completion, error

FILTERS: dict[str, Any] = {
    "azure": (
        400,
        {
            "error": {
                "code": "content_filter",
                "message": "filtered",
                "innererror": {"code": "ResponsibleAIPolicyViolation"},
            }
        },
    ),
    "invalid_prompt": (400, {"error": {"code": "invalid_prompt", "message": "flagged"}}),
    "policy": (400, {"error": {"code": "content_policy_violation", "message": "rejected by the safety system"}}),
    "xai": (403, {"code": "denied", "error": "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO"}),
    "openrouter": (
        403,
        {"error": {"code": 403, "message": "flagged", "metadata": {"reasons": ["x"], "flagged_input": "question"}}},
    ),
    "qwen": (400, {"error": {"code": "data_inspection_failed", "message": "inappropriate content"}}),
    "gemini": (200, {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}}),
    "held back": (200, {"choices": [{"message": {"content": None}, "finish_reason": "content_filter"}]}),
    "legal": (451, {"error": "unavailable for legal reasons"}),
}
NO_PICTURES = "No endpoints found that support image input"


def said(name: str) -> web.Response:
    status, body = FILTERS[name]
    return web.json_response(body, status=status)


@pytest.mark.parametrize("name", FILTERS)
def test_content_filters_are_the_rows_however_many_in_a_row(name: str, tmp_path: Path) -> None:
    got = ask(lambda key: said(name) if key < 45 else completion(), tmp_path / "run", range(50), in_flight=1)
    assert got.stopped == ""
    assert [got.kinds()[key] for key in range(50)] == ["rejected"] * 45 + ["answered"] * 5
    assert len(got.requests) == 50 and got.state.dollars.lost_usd == 0


def test_all_rows_held_back_by_a_filter_are_errors_and_the_lane_is_well(tmp_path: Path) -> None:
    got = ask(lambda key: said("azure"), tmp_path / "run", range(60))
    assert got.stopped == "" and list(got.kinds().values()) == ["rejected"] * 60


@pytest.mark.parametrize("n_pictures", [1, 30])
def test_a_404_about_a_picture_is_the_rows(n_pictures: int, tmp_path: Path) -> None:
    """Also where they are the first of the file, and are refused before the others can be answered."""

    async def slow() -> web.Response:
        await asyncio.sleep(0.5)
        return completion()

    got = ask(
        lambda key: error(404, NO_PICTURES, code=404) if key < n_pictures else slow(), tmp_path / "run", range(60), in_flight=60
    )  # fmt: skip
    assert got.stopped == "" and len(got.requests) == 60
    assert [got.kinds()[key] for key in range(60)] == ["rejected"] * n_pictures + ["answered"] * (60 - n_pictures)
    assert NO_PICTURES in got.errors()[0]


@pytest.mark.parametrize(
    ("status", "body"),
    [(403, {"error": {"message": "Forbidden"}}), (404, {"detail": "Not Found"}), (401, {}), 
     (404, {"error": {"message": "No endpoints found matching your data policy (Free model training)"}}),
     (400, [{"error": {"code": 400, "message": "API key not valid."}}]),
     (403, {"error": "Your account has been suspended for violating our usage policies"})],
    ids=str,
)  # fmt: skip
def test_what_is_said_to_all_stops_at_once(status: int, body: Any, tmp_path: Path) -> None:
    got = ask(lambda key: web.json_response(body, status=status), tmp_path / "run", range(50), in_flight=8)
    assert got.stopped.startswith("models.gpt") and got.rows == [] and len(got.requests) <= 4


@pytest.mark.parametrize(
    "words",
    [
        "bad form",
        "request req_{key}8f7a is malformed",
        "row '{key}' of your request: unsupported value",
        "failed at {key} (id 00-{key}-x)",
    ],
)
def test_one_reason_for_twenty_rows_before_any_answer_stops_the_lane(words: str, tmp_path: Path) -> None:
    got = ask(lambda key: error(400, words.format(key=key)), tmp_path / "run", range(60), in_flight=4)
    assert got.rows == [] and "mend what it says" in got.stopped
    assert SAME_REFUSALS <= len(got.requests) <= SAME_REFUSALS + 4
    assert KEY not in got.stopped and "question" not in got.stopped


def test_filtered_rows_between_do_not_count(tmp_path: Path) -> None:
    got = ask(
        lambda key: said("azure") if key % 2 else error(400, "bad form"), tmp_path / "run", range(60), in_flight=1
    )
    assert "mend what it says" in got.stopped
    assert set(got.kinds().values()) == {"rejected"} and all(key % 2 for key in got.kinds())


def test_all_rows_refused_for_different_reasons_stop_the_lane_too(tmp_path: Path) -> None:
    words = ["alpha", "beta", "gamma", "delta", "omega", "kappa", "sigma"]

    def handle(key: int) -> web.Response:
        return error(400, f"{words[key % 7]} {words[key // 7 % 7]} {words[key // 49 % 7]}")

    got = ask(handle, tmp_path / "run", range(300), in_flight=4)
    assert got.rows == [] and "mend what it says" in got.stopped and len(got.requests) < 100


@pytest.mark.parametrize("blocks", [1, 4])
@pytest.mark.parametrize(("n", "whose"), [(1, "row"), (2, "row"), (3, "lane"), (8, "lane"), (19, "lane")])
def test_all_rows_of_a_small_lane(n: int, whose: str, blocks: int, tmp_path: Path) -> None:
    """Three or more that are refused alike, and none answered: the lane's. One or two: what they are."""
    got = ask(lambda key: error(400, "bad form"), tmp_path / "run", range(n), blocks=blocks)
    if whose == "row":
        assert got.stopped == "" and list(got.kinds().values()) == ["rejected"] * n
    else:
        assert got.rows == [] and f"refused all of its first {n} requests" in got.stopped


def test_rows_in_doubt_are_the_rows_once_a_later_block_is_answered(tmp_path: Path) -> None:
    got = ask(lambda key: error(400, "bad form") if key < 10 else completion(), tmp_path / "run", range(20), blocks=2)
    assert got.stopped == ""
    assert [got.kinds()[key] for key in range(20)] == ["rejected"] * 10 + ["answered"] * 10


def test_a_small_lane_refused_for_two_reasons_is_refused_for_what_its_rows_are(tmp_path: Path) -> None:
    got = ask(lambda key: error(400, "bad picture" if key else "bad tool"), tmp_path / "run", range(4))
    assert got.stopped == "" and list(got.kinds().values()) == ["rejected"] * 4


def test_a_model_that_has_answered_before_refuses_rows_for_what_they_are(tmp_path: Path) -> None:
    """Also a start that sees nothing but refusals: the rows behind them are reached, and no start ends where the last one did."""
    run = tmp_path / "run"
    assert ask(lambda key: completion(), run, range(3)).kinds() == dict.fromkeys(range(3), "answered")
    got = ask(lambda key: error(404, NO_PICTURES), run, range(10, 50))
    assert got.stopped == "" and [got.kinds()[key] for key in range(10, 50)] == ["rejected"] * 40


def test_a_lane_that_was_stopped_for_refusals_goes_on_once_it_is_mended(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert ask(lambda key: error(400, "bad form"), run, range(30)).rows == []
    assert ask(lambda key: completion(), run, range(30)).kinds() == dict.fromkeys(range(30), "answered")


def test_what_a_refused_row_had_lost_before_is_kept(tmp_path: Path) -> None:
    seen: set[int] = set()

    def handle(key: int) -> web.Response:
        first = key not in seen
        seen.add(key)
        return (
            web.json_response({"choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 0}})
            if first
            else error(400, "no")
        )

    got: Asked = ask(handle, tmp_path / "run", range(5), cap_usd=1.0)
    assert "refused all" in got.stopped and set(got.kinds().values()) == {"failed"}
    assert (
        got.state.dollars.lost_usd == pytest.approx(5 * 20e-6) == sum(row["lost_usd"] for row in got.rows) < WORST_USD
    )


def test_reasons_are_without_what_differs_from_row_to_row() -> None:
    alike = [
        "HTTP 400: model `a` said 'x' (request req_018f) at 12:30",
        "HTTP 400: model `b` said 'y yy' (request req_77ab) at 9:01",
    ]
    assert len({reason_of(text) for text in alike}) == 1
    assert reason_of("HTTP 400: too many tools") != reason_of("HTTP 400: bad picture")
    assert json.dumps(reason_of("")) == '""'
