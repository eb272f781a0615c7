"""What the lines of a batch's files come to where they are refusals: the rows', or the lane's, and what an error in a 200 books."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from jobs.errors import LaneDown
from jobs.journal.rows import Answer
from jobs.lanes.base import LaneContext, RowHead
from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai_batch.api import BatchApi
from jobs.lanes.openai_batch.manifest import FileRow
from jobs.lanes.openai_batch.results import Outcome, Results
from jobs.lanes.openai_batch.state import BatchState
from jobs.money.messages import Terms
from jobs.spec.models import ModelSpec
from routing.pricing import Price

CHOICES = {"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 20, "completion_tokens": 10}
FORM = (400, {"error": {"message": "max_tokens is too large (request req_{key}b)", "type": "invalid_request_error"}})
FILTER = (
    400,
    {
        "error": {
            "code": "content_filter",
            "message": "filtered",
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    },
)
PICTURE = (404, {"error": {"message": "No endpoints found that support image input"}})


class Files:
    """The output file of a batch, already here."""

    def __init__(self, replies: Sequence[tuple[int, Any]]) -> None:
        self.replies = replies

    async def lines(self, file_id: str) -> AsyncIterator[bytes]:
        for key, (status, body) in enumerate(self.replies):
            text = json.dumps({"custom_id": str(key), "response": {"status_code": status, "body": body}, "error": None})
            yield text.replace("{key}", str(1000 + key)).encode()


def read(
    replies: Sequence[tuple[int, Any]], tmp_path: Path, answered: bool = False
) -> tuple[Outcome, dict[int, Answer]]:
    """What the batch came to, and what was settled."""
    model = ModelSpec(engine="openai_batch", model="m")
    context = LaneContext("gpt", model, {"max_tokens": 50}, None, Price(1.0, 4.0), str(tmp_path), "s", str(tmp_path))
    rows = {key: FileRow(RowHead(key, 0, False), 48, 50, 1) for key in range(len(replies))}
    settled: dict[int, Answer] = {}
    results = Results(
        context, "", rows, {}, np.empty(0, np.int64), lambda answer: settled.update({answer.row_key: answer}), terms=Terms(),
        answered=answered,
    )  # fmt: skip
    batch = BatchState("batch_1", "completed", files=("f",))
    return asyncio.run(results.of_files(batch, Files(replies))), settled  # type: ignore[arg-type]


@pytest.mark.parametrize(("n", "stops"), [(1, False), (2, False), (3, True), (25, True)])
def test_all_rows_of_a_batch_refused_alike(n: int, stops: bool, tmp_path: Path) -> None:
    outcome, settled = read([FORM] * n, tmp_path)
    assert bool(outcome.fault) == stops and len(settled) == (0 if stops else n)
    assert not stops or "mend what it says" in outcome.fault
    assert len(outcome.done) == len(settled)


def test_twenty_alike_among_others_stop_it(tmp_path: Path) -> None:
    outcome, settled = read([FORM] * 20 + [PICTURE] * 3, tmp_path)
    assert "refused 20 requests of a batch" in outcome.fault and settled == {}
    assert "too large" not in outcome.fault, "the prompts are not at hand: they may be in the provider's words"


@pytest.mark.parametrize("replies", [[FILTER] * 30, [PICTURE] * 30 + [(200, CHOICES | {"usage": USAGE})]])
def test_filters_and_refusals_beside_answers_are_the_rows(replies: list[Any], tmp_path: Path) -> None:
    outcome, settled = read(replies, tmp_path)
    assert outcome.fault == "" and [settled[key].kind for key in range(30)] == ["rejected"] * 30


def test_refusals_of_a_model_that_has_answered_elsewhere_are_the_rows(tmp_path: Path) -> None:
    outcome, settled = read([PICTURE] * 30, tmp_path, answered=True)
    assert outcome.fault == "" and len(settled) == 30


@pytest.mark.parametrize("usage", [None, USAGE])
@pytest.mark.parametrize(("code", "kind"), [(400, "rejected"), (429, "failed"), (502, "failed")])
def test_an_error_in_a_200_is_no_answer(code: int, kind: str, usage: Any, tmp_path: Path) -> None:
    body = {"error": {"code": code, "message": "what went wrong"}} | ({"usage": usage} if usage else {})
    outcome, settled = read([(200, body), (200, CHOICES | {"usage": USAGE})], tmp_path)
    assert outcome.fault == "" and settled[1].kind == "answered"
    assert [each.kind for each in settled.values() if each.row_key == 0] == (
        [kind] if kind == "rejected" or usage else []
    )
    if usage:
        assert settled[0].lost_usd == pytest.approx(60e-6)
    if kind == "rejected":
        assert "400" in settled[0].error


def test_what_is_the_lanes_stops_it(tmp_path: Path) -> None:
    outcome, settled = read([(200, {"error": {"code": 402, "message": "Insufficient credits"}})] * 2, tmp_path)
    assert "out of credit" in outcome.fault and settled == {}


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"error": {"code": 401, "message": "no auth"}}, "models.gpt: the key in $OPENAI_API_KEY is refused"),
        ({"error": {"code": "insufficient_quota", "message": "no"}}, "quota is used up"),
        ({"error": "Unexpected endpoint or method. (POST /files)"}, "base_url"),
    ],
)
def test_an_error_in_a_200_of_the_batch_api_stops_the_lane_with_its_words(body: Any, names: str) -> None:
    async def reply(request: web.Request) -> web.Response:
        return web.json_response(body)

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/files", reply)
        async with TestServer(app) as server, aiohttp.ClientSession() as session:
            model = ModelSpec(engine="openai_batch", model="m")
            api = BatchApi(Endpoint(str(server.make_url("/v1")), ""), session, model, "gpt", 0.1)
            await api.upload("file.jsonl", b"{}\n")

    with pytest.raises(LaneDown, match=re.escape(names)):
        asyncio.run(asyncio.wait_for(main(), 30))
