"""Replies that were paid for and say nothing, because the tokens went on thoughts; and empty ones that are answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.journal.reader import Journal
from jobs.journal.rows import ANSWER_SCHEMA
from jobs.lanes.base import RowHead
from jobs.lanes.chat import JsonObject
from jobs.lanes.emptiness import why_empty
from jobs.lanes.openai_batch.manifest import FileRow
from jobs.lanes.openai_batch.rows import attempt_of, read_line
from jobs.lanes.replies import Completion, parse_completion
from jobs.lanes.usage import Usage
from jobs.money.messages import Terms
from jobs.storage.store import Store
from routing.pricing import Price
from tests.jobs.lanes.test_lane_openai_replies import ask
from tests.tiny_models import lane_context

REQUEST = {"messages": [{"role": "user", "content": "q"}], "max_tokens": 50}
USAGE = {"prompt_tokens": 20, "completion_tokens": 40, "completion_tokens_details": {"reasoning_tokens": 40}}
THOUGHT = "Let me see. The user wants …"


def reply(message: JsonObject, reason: str = "stop", usage: Any = USAGE) -> bytes:
    choice = {"message": {"role": "assistant"} | message, "finish_reason": reason}
    return json.dumps({"choices": [choice]} | ({"usage": usage} if usage else {})).encode()


def read(message: JsonObject, reason: str = "stop", usage: Any = USAGE) -> str:
    return why_empty(parse_completion(reply(message, reason, usage), REQUEST))


PLAIN = {"prompt_tokens": 20, "completion_tokens": 40}
LOST: list[JsonObject] = [
    {"content": None, "reasoning_content": THOUGHT},
    {"content": "", "reasoning_content": THOUGHT},
    {"content": "\n\n", "reasoning_content": THOUGHT},
    {"content": None, "reasoning": THOUGHT},
    {"content": "", "reasoning": {"content": THOUGHT}},
    {"content": "", "thinking": THOUGHT},
    {"reasoning_content": THOUGHT},
    {"content": "", "reasoning_details": [{"type": "reasoning.text", "text": THOUGHT}]},
    {"content": "", "reasoning_details": [{"type": "reasoning.encrypted", "data": "c2VjcmV0"}]},
    {"content": "", "reasoning_details": [{"type": "reasoning.summary", "summary": THOUGHT}]},
    {"content": None, "thinking_blocks": [{"type": "thinking", "thinking": THOUGHT}]},
    {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": THOUGHT}]}]},
    {"content": [{"type": "reasoning", "text": THOUGHT}, {"type": "text", "text": ""}]},
    {"content": [{"type": "text", "text": THOUGHT, "thought": True}]},
    {"content": f"<think>{THOUGHT}"},
    {"content": f"<think>{THOUGHT}</think>\n"},
    {"content": f"<|channel|>analysis<|message|>{THOUGHT}"},
]


@pytest.mark.parametrize("message", LOST, ids=lambda message: json.dumps(message)[:60])
def test_a_thought_without_an_answer_is_none(message: JsonObject) -> None:
    said = read(message, "length", PLAIN)
    assert said.startswith("empty answer, 40 reasoning tokens: max_tokens went on reasoning") and "raise" in said
    assert read(message, "stop", PLAIN).startswith("empty answer, 40 reasoning tokens: nothing follows")


def test_the_counts_tell_where_the_text_does_not() -> None:
    assert read({"content": ""}, "length").startswith("empty answer, 40 reasoning tokens: max_tokens went on")
    assert read({"content": ""}, "stop").startswith("empty answer, 40 reasoning tokens")
    assert read({"content": None}, "MAX_TOKENS").startswith("empty answer, 40 reasoning tokens: max_tokens went on")
    assert read({"content": ""}, "length", PLAIN).startswith("empty answer, 40 tokens that are not shown: max_tokens")
    assert read({"content": "", "reasoning_content": THOUGHT * 9}, "length", None).startswith("empty answer, about 6")


ANSWERS: list[JsonObject] = [
    {"content": "B", "reasoning_content": THOUGHT},
    {"content": ""},
    {"content": None},
    {"content": None, "refusal": "no", "reasoning_content": THOUGHT},
    {"content": "", "refusal": "no", "reasoning": THOUGHT},
    {"content": None, "tool_calls": [{"id": "1"}], "reasoning_content": THOUGHT},
    {"content": "\n", "tool_calls": [{"id": "1"}], "reasoning_content": THOUGHT},
    {"content": None, "function_call": {"name": "f"}, "reasoning": THOUGHT},
    {"content": [{"type": "thinking", "thinking": THOUGHT}, {"type": "text", "text": "B"}]},
    {"content": f"<think>{THOUGHT}</think>B"},
    {"content": "", "reasoning_content": None, "reasoning_details": []},
    {"content": "", "reasoning_content": " \n"},
]


@pytest.mark.parametrize("message", ANSWERS, ids=lambda message: json.dumps(message)[:60])
def test_an_answer_is_one_beside_a_thought_and_an_empty_one_without(message: JsonObject) -> None:
    assert read(message, "stop", PLAIN) == ""


def test_parts_of_an_answer_are_its_text_and_thoughts_are_not() -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "no"}]}, {"type": "text", "text": "B"}, "."]
    assert parse_completion(reply({"content": parts}), REQUEST).text == "B."
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    assert json.loads(parse_completion(reply({"content": "", "tool_calls": calls}), REQUEST).text) == calls


def test_a_template_that_opens_the_block_says_where_the_text_begins() -> None:
    usage = Usage(10, 16)
    assert why_empty(Completion("still at it", "length", usage, opened=True)).startswith("empty answer, 16 reasoning")
    assert why_empty(Completion("done.</think>B", "stop", usage, opened=True)) == ""
    assert why_empty(Completion("still at it", "length", usage)) == ""
    assert why_empty(Completion("B", "stop", usage, opened=True)) == "", "it may have answered at once"


def test_twenty_of_them_are_errors_that_are_paid_and_final(tmp_path: Path) -> None:
    body = json.loads(reply({"content": None, "reasoning_content": THOUGHT}, "length"))
    asker, rows = ask(lambda i: (200, body), tmp_path / "run", 25, cap_usd=1.0)
    assert len(rows) == 25 and {row["kind"] for row in rows} == {"rejected"}
    assert all(row["error"].startswith("empty answer, 40 reasoning tokens: max_tokens") for row in rows)
    assert [row["cost_usd"] for row in rows] == pytest.approx([(20 * 1.0 + 40 * 4.0) / 1e6] * 25)
    assert {(row["lost_usd"], row["attempts"], row["reasoning_tokens"], row["generated_text"]) for row in rows} == {
        (0.0, 1, 40, None)
    }
    counts = asker.allowance.counts
    assert (counts.empty, counts.requests, counts.completion_tokens) == (
        25,
        25,
        25 * 40,
    ) and not asker.allowance.stopped
    journal = Journal(Store(str(tmp_path / "run")))
    assert len(journal.settled("gpt")) == len(journal.empty("gpt")) == 25
    assert journal.spent("gpt").cost_usd == pytest.approx(25 * 180e-6)


def test_a_batch_knows_them_too(tmp_path: Path) -> None:
    body = json.loads(reply({"content": "", "reasoning": THOUGHT}, "length"))
    line = read_line(json.dumps({"custom_id": "7", "response": {"status_code": 200, "body": body}}).encode())
    assert line is not None
    row = FileRow(RowHead(7, 0, False, bytes(16)), 48, 50, attempts=1)
    context = lane_context("openai", tmp_path, tmp_path, price=Price(1.0, 4.0), model={"model": "m"})
    answer = attempt_of(line, row, context, 1.0, Terms()).answer
    assert answer is not None and answer.is_empty and answer.cost_usd == pytest.approx(180e-6)
    assert answer.error.startswith("empty answer, 40 reasoning tokens") and "kind" in ANSWER_SCHEMA.names
