"""What a batch's lines are booked at that do not say what they used, and what those that say too much mean for later batches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from batch_lane_job import MAX_TOKENS, PRICE, WORST_USD, Job

from jobs.lanes.base import LaneContext, RowHead
from jobs.lanes.openai_batch.manifest import FileRow
from jobs.lanes.openai_batch.rows import Attempt, attempt_of, read_line
from jobs.money.driver import notes_of
from jobs.money.excess import Excess
from jobs.money.messages import Terms
from jobs.replay.options import ReplayOptions
from jobs.spec.models import ModelSpec
from tests.replay_server import thread_replay

ROW = FileRow(RowHead(7, 0, False), bound=48, max_tokens=MAX_TOKENS)
CONTEXT = LaneContext(
    "gpt", ModelSpec.model_validate({"engine": "openai_batch", "model": "m"}), {"max_tokens": MAX_TOKENS}, None, PRICE,
    "out", "s1", "local",
)  # fmt: skip
CAPPED, FREE = Terms(capped=True), Terms()


def line(usage: Any, terms: Terms, text: str = "yes", **price: Any) -> Attempt:
    body = {"choices": [{"message": {"content": text}, "finish_reason": "stop"}]} | ({"usage": usage} if usage else {})
    raw = {"custom_id": "7", "response": {"status_code": 200, "body": body}}
    found = read_line(json.dumps(raw).encode())
    assert found is not None
    model = ModelSpec.model_validate({"engine": "openai_batch", "model": "m"} | price)
    return attempt_of(found, ROW, replace(CONTEXT, model=model), 1.0, terms)


USELESS = [
    None,
    {"prompt_tokens": 20},
    {"prompt_tokens": 2**31 - 1, "completion_tokens": 3},
    {"prompt_tokens": 20, "completion_tokens": 2**31 - 1},
    {"total_tokens": 2**31 - 1},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
]


@pytest.mark.parametrize("usage", USELESS, ids=str)
def test_under_a_cap_a_line_without_counts_is_booked_at_its_bound(usage: Any) -> None:
    answer = line(usage, CAPPED).answer
    assert answer is not None and answer.token_source == "bound"
    assert (answer.prompt_tokens, answer.completion_tokens) == (48, MAX_TOKENS)
    assert answer.cost_usd == pytest.approx(WORST_USD)
    guess = line(usage, FREE).answer
    assert guess is not None and guess.token_source == "estimated"
    assert 0 < guess.cost_usd < WORST_USD


def test_the_bound_holds_what_was_learnt_and_what_is_told() -> None:
    learnt = Terms(Excess(prompt_tokens=100, completion_tokens=40, completion_ratio=3.0), capped=True)
    answer = line(None, learnt).answer
    assert answer is not None and (answer.prompt_tokens, answer.completion_tokens) == (148, 3 * MAX_TOKENS)
    told = line({"prompt_tokens": 0, "completion_tokens": 400, "total_tokens": 400}, CAPPED).answer
    assert told is not None and (told.prompt_tokens, told.completion_tokens) == (48, 400)


def test_what_a_line_says_beyond_its_bound_is_booked_whole_and_learnt() -> None:
    usage = {"prompt_tokens": 60, "completion_tokens": 1, "total_tokens": 60 + 5 * MAX_TOKENS}
    found = line(usage, CAPPED)
    assert found.answer is not None and found.answer.completion_tokens == 5 * MAX_TOKENS
    assert found.answer.cost_usd == pytest.approx((60 * 0.5 + 5 * MAX_TOKENS * 2.0) / 1e6)
    assert found.excess == Excess(12, 4 * MAX_TOKENS, 5.0)


def test_a_line_that_says_its_cost() -> None:
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "cost": 0.5}
    charged, silent = line(usage, CAPPED, price="provider"), line(usage | {"cost": "n/a"}, CAPPED, price="provider")
    assert charged.answer is not None and charged.answer.cost_usd == 0.5 and not charged.is_uncharged
    assert charged.excess.usd_ratio == pytest.approx(0.5 / WORST_USD)
    assert silent.answer is not None and silent.answer.cost_usd == pytest.approx(20e-6) and silent.is_uncharged
    by_tokens = line(usage, CAPPED).answer
    assert by_tokens is not None and by_tokens.cost_usd == pytest.approx(20e-6)


def test_later_batches_are_bound_by_what_earlier_ones_have_shown(tmp_path: Path) -> None:
    """The server counts 500 prompt tokens where 48 are the most: the first batch goes over, later ones and starts do not."""
    from api_lane_job import outcomes

    with thread_replay([outcomes(100, prompt_tokens=500.0)], ReplayOptions(latency_s=0.0)) as server:
        job = Job(server, tmp_path / "run", cap_usd=20 * WORST_USD)
        job.ask(list(range(100)))
        first_usd, told = job.paid_usd(), job.state.models["gpt"]
        assert told.totals.beyond > 0 and told.excess.prompt_tokens == 500 - 48
        assert "more than the most that was reserved" in notes_of(job.state.models)[0]
        assert job.state.dollars.spent_usd == pytest.approx(first_usd)
        job.cap_usd = first_usd + 10 * WORST_USD
        job.ask(list(range(100)))
        assert first_usd < job.paid_usd() <= job.cap_usd
        assert job.state.models["gpt"].totals.beyond == 0
