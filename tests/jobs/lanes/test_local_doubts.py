"""Rows that a local model refuses before it answers any: kept apart, and whose fault it is decided when the lane is through."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray.data

from jobs.errors import LaneDown
from jobs.journal.reader import Journal
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneContext, RowHead
from jobs.lanes.local import doubts
from jobs.lanes.local.gpu_clock import GpuClock
from jobs.lanes.local.rows import AnswerWriter
from jobs.lanes.local.transformers import TransformersLane
from jobs.lanes.replies import Completion
from jobs.lanes.usage import Usage
from jobs.money.client import GovernorClient
from jobs.money.governor import GovernorService
from jobs.spec.models import Limits
from jobs.storage.store import Store
from tests.local_governor import local_governor
from tests.tiny_models import ask_rows, lane_context, tiny_checkpoint

REFUSED = "chat template: System role not supported"


class Lane:
    """The writer of one local lane, beside a real governor in this process."""

    def __init__(self, folder: Path, session: str = "s1") -> None:
        bare = replace(lane_context("transformers", folder / "no model", folder), session=session)
        self.service = GovernorService(bare.output, bare.session, None, {bare.alias: Limits()}, bare.local_dir)
        self.context = replace(bare, governor=local_governor(self.service))
        self.writer = AnswerWriter(self.context, GpuClock(0))

    def block(self, *rows: tuple[int, str]) -> int:
        """Settle rows of (key, error), "" for an answer. How many are settled."""
        answers = []
        for key, error in rows:
            head = RowHead(key, 0, False)
            completion = Completion("yes", "stop", Usage(3, 2))
            answers.append(
                head.unanswered("rejected", error, attempts=0) if error else self.writer.answered(head, completion, 0.1)
            )
        return int(self.writer.settle(answers).to_pylist()[0]["settled"])

    def end(self) -> tuple[dict[int, str], str]:
        """(key → kind, why it stopped) when the driver has had the governor's word."""
        self.writer.close()
        context = self.context
        entries = asyncio.run(self.service.verdict(context.alias))
        with JournalWriter(context.output, context.alias, context.local_dir, context.session) as journal:
            for entry in entries:
                journal.append(entry)
        stopped = asyncio.run(self.service.close()).models[context.alias].stopped
        rows = Journal(Store(context.output)).read(context.alias).to_pylist()
        return {row["row_key"]: row["kind"] for row in rows}, stopped


def test_all_rows_refused_alike_stop_the_lane_and_stay_open(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    assert sum(lane.block(*((10 * i + j, REFUSED) for j in range(10))) for i in range(5)) == 0
    kinds, stopped = lane.end()
    assert kinds == {} and "refused all of its first 50 requests" in stopped and REFUSED in stopped


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_are_refused_for_what_they_are(n: int, tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    lane.block(*((key, REFUSED) for key in range(n)))
    assert lane.end() == (dict.fromkeys(range(n), "rejected"), "")


@pytest.mark.parametrize("n", [5, 30])
def test_an_answer_later_on_makes_them_the_rows(n: int, tmp_path: Path) -> None:
    """Refusals take no time, answers wait for the engine: twenty come before the first answer, and mean nothing."""
    lane = Lane(tmp_path)
    lane.block(*((key, REFUSED) for key in range(n)))
    lane.block((100, ""), (101, REFUSED))
    lane.block((102, REFUSED), (103, ""))
    kinds = dict.fromkeys(range(n), "rejected") | {100: "answered", 101: "rejected", 102: "rejected", 103: "answered"}
    assert lane.end() == (kinds, "")


def test_prompts_that_are_too_long_are_no_doubt(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    error = "prompt too long: 300 tokens; the model's context is 256, its answer included"
    assert lane.block(*((key, error) for key in range(30))) == 30
    assert lane.end() == (dict.fromkeys(range(30), "rejected"), "")


def test_a_model_that_answered_in_an_earlier_start_refuses_rows_for_what_they_are(tmp_path: Path) -> None:
    first = Lane(tmp_path)
    first.block((1, ""))
    first.end()
    lane = Lane(tmp_path, "s2")
    lane.block(*((key, REFUSED) for key in range(10, 40)))
    kinds, stopped = lane.end()
    assert stopped == "" and kinds == {1: "answered"} | dict.fromkeys(range(10, 40), "rejected")


def test_nothing_but_refusals_is_not_read_to_the_end(tmp_path: Path) -> None:
    lane = Lane(tmp_path)
    for key in range(doubts.MOST_ROWS - 1):
        lane.block((key, REFUSED))
    with pytest.raises(LaneDown, match="System role not supported"):
        lane.block((doubts.MOST_ROWS, REFUSED))


def refusing_checkpoint(folder: Path) -> Path:
    """A model whose chat template takes no function's result, and no other turn of it helps."""
    checkpoint = tiny_checkpoint(folder)
    refusal = "{% if messages[-1]['role'] == 'tool' %}{{ raise_exception('Tool role not supported') }}{% endif %}"
    for path in (checkpoint / "chat_template.jinja", checkpoint / "tokenizer_config.json"):
        if path.suffix == ".jinja" and path.exists():
            path.write_text(refusal + path.read_text())
        elif path.exists():
            config: dict[str, Any] = json.loads(path.read_text())
            if config.get("chat_template"):
                config["chat_template"] = refusal + config["chat_template"]
                path.write_text(json.dumps(config))
    return checkpoint


def test_a_template_that_refuses_all_rows_stops_the_lane(ray_local: None, tmp_path: Path) -> None:
    context: LaneContext = lane_context("transformers", refusing_checkpoint(tmp_path / "model"), tmp_path)
    governor = GovernorClient.start(context.output, context.session, None, {context.alias: Limits()}, context.local_dir)
    try:
        messages = [
            json.dumps([{"role": "user", "content": str(i)}, {"role": "tool", "content": "4"}]) for i in range(50)
        ]
        table = ask_rows(["x"] * 50)
        table = table.set_column(table.column_names.index("messages"), "messages", [messages])
        rows = TransformersLane().answer(ray.data.from_arrow(table), replace(context, governor=governor))
        assert sum(row["settled"] for row in rows.iter_rows()) == 0
        assert governor.verdict(context.alias) == []
        stopped = governor.state().models[context.alias].stopped
    finally:
        governor.kill()
    assert "Tool role not supported" in stopped and "\n" not in stopped
    assert len(Journal(Store(context.output)).read(context.alias)) == 0
