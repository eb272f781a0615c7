"""What dead engine processes leave behind, with processes that really die; and the turns of those that are watched."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from jobs.errors import LaneDown
from jobs.lanes.local.under_way import MAX_BARREN, UnderWay
from tests.engine_killer import died
from tests.tiny_models import lane_context

CULPRIT, FELLOW, GOOD = 7, 8, 9


def test_a_row_is_a_suspect_after_two_deaths_and_guilty_after_one_alone(tmp_path: Path) -> None:
    context = lane_context("vllm", tmp_path, tmp_path)
    died(context, CULPRIT, FELLOW, answered=5)
    first = UnderWay(context)
    assert not first.is_suspect(CULPRIT)
    first.end(first.begin(GOOD))
    died(context, CULPRIT, FELLOW)
    second = UnderWay(context)
    assert second.is_suspect(CULPRIT) and second.is_suspect(FELLOW) and not second.is_suspect(GOOD)
    assert not second.is_culprit(CULPRIT)
    died(context, CULPRIT, alone=True)
    third = UnderWay(context)
    assert third.is_culprit(CULPRIT) and not third.is_culprit(FELLOW)
    assert "died 3 times on this row, 1 of them alone" in third.why_not_asked(CULPRIT)


def test_nobody_is_guilty_while_the_engine_answers_nothing(tmp_path: Path) -> None:
    context = lane_context("vllm", tmp_path, tmp_path)
    died(context, CULPRIT, answered=3)
    died(context, CULPRIT)
    died(context, CULPRIT, alone=True)
    now = UnderWay(context)
    assert now.is_suspect(CULPRIT) and not now.is_culprit(CULPRIT)  # what was answered was before its first death
    now.end(now.begin(GOOD))
    assert now.is_culprit(CULPRIT)


def test_an_engine_that_only_dies_is_the_lane_s_fault(tmp_path: Path) -> None:
    context = lane_context("vllm", tmp_path, tmp_path)
    for n in range(MAX_BARREN):
        died(context, n)
    with pytest.raises(LaneDown, match=f"models.weak: its engine died {MAX_BARREN} times in a row without an answer"):
        UnderWay(context)
    other_start = lane_context("vllm", tmp_path, tmp_path, session="s2")
    assert not UnderWay(other_start).is_suspect(0)  # an earlier start may have been killed at will


def test_the_living_are_not_counted(tmp_path: Path) -> None:
    context = lane_context("vllm", tmp_path, tmp_path)
    died(context, CULPRIT)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        replica = UnderWay(context)
        replica.begin(CULPRIT)
        os.write(writing, b"x")
        os.read(os.pipe()[0], 1)
    os.read(reading, 1)
    try:
        assert not UnderWay(context).is_suspect(CULPRIT)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0)
    assert UnderWay(context).is_suspect(CULPRIT)


def test_suspects_go_alone_and_those_nobody_died_of_alone_go_first() -> None:
    from jobs.lanes.local.vllm_engine import Turns

    seen: list[str] = []
    running: set[str] = set()

    async def row(turns: Turns, name: str, order: int | None) -> None:
        async with turns.beside_others() if order is None else turns.alone(order):
            running.add(name)
            await asyncio.sleep(0.02)
            assert order is None or running == {name}
            running.remove(name)
            seen.append(name)

    async def all_rows() -> None:
        turns = Turns()
        rows = [("guilty?", 1), ("a", None), ("suspect 1", 0), ("b", None), ("suspect 2", 0)]
        await asyncio.wait_for(asyncio.gather(*(row(turns, *each) for each in rows)), 10)

    asyncio.run(all_rows())
    assert seen == ["a", "b", "suspect 1", "suspect 2", "guilty?"]
