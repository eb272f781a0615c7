"""The governor in a real Ray: no dead sender's rows are paid twice, a living one's are held back, a stop reaches all."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from numpy.typing import NDArray

from jobs.journal.recovery import recover_on_all_nodes
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.money.client import GovernorClient
from jobs.money.governor import GovernorService
from jobs.money.messages import Ask, Permit, Report
from jobs.spec.models import Limits

CHILD = """
import sys, time
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
writer = JournalWriter(sys.argv[1], "m", sys.argv[2], "s1", flush_s=60)
for key in range(10):
    writer.append(Answer(key, 0, "answered", b"a" * 16, cost_usd=0.01))
print(writer.unique, flush=True)
time.sleep(600)
"""


def test_a_dead_senders_rows_are_recovered_before_its_block_is_asked_again(ray_local: None, tmp_path: Path) -> None:
    run, local = str(tmp_path / "run"), str(tmp_path / "local")
    governor = GovernorClient.start(run, "s1", 1.0, {"m": Limits()}, local)
    child = subprocess.Popen([sys.executable, "-c", CHILD, run, local], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    unique = child.stdout.readline().strip()
    node = ray.get_runtime_context().get_node_id()
    keys = np.arange(20)

    async def before() -> tuple[NDArray[np.int64], Permit]:
        skip = await governor.begin("m", unique, node, child.pid, keys)
        return skip, await governor.permit("m", unique, Ask(need_usd=0.5, want_usd=0.5), Report())

    async def after() -> NDArray[np.int64]:
        await governor.finish("m", "new", keys, keys)
        return await governor.begin("m", "third", node, 1, keys)

    skip, permit = asyncio.run(before())
    assert skip.tolist() == []
    assert permit.usd == pytest.approx(0.502)
    os.kill(child.pid, 9)  # a zombie until the test waits for it
    assert sorted(asyncio.run(governor.begin("m", "new", node, 1, keys))) == list(range(10))
    dollars = governor.state().dollars
    assert dollars.spent_usd == pytest.approx(0.1)
    assert dollars.stranded_usd == pytest.approx(0.402)
    assert sorted(asyncio.run(after())) == list(range(20))
    child.wait()
    governor.kill()


def test_rows_of_a_sender_that_lives_are_held_back(
    ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.journal.recovery.RECOVER_WAIT_S", 0.5)
    run, local = str(tmp_path / "run"), str(tmp_path / "local")
    service = GovernorService(run, "s1", None, {"m": Limits()}, local)
    node = ray.get_runtime_context().get_node_id()
    with JournalWriter(run, "m", local, "s1", flush_s=60) as writer:
        writer.append(Answer(1, 0, "answered", b"a" * 16))

        async def both() -> Any:
            await service.begin("m", writer.unique, node, os.getpid(), np.array([1, 2]))
            return await service.begin("m", "new", node, 1, np.array([2, 3]))

        assert asyncio.run(both()).tolist() == [2]


def test_all_nodes_are_searched_for_logs(ray_local: None, tmp_path: Path) -> None:
    run, local = str(tmp_path / "run"), str(tmp_path / "local")
    child = subprocess.Popen([sys.executable, "-c", CHILD, run, local], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    assert recover_on_all_nodes(run, local, "s2").alive == (child.pid,)
    child.kill()
    recovered = recover_on_all_nodes(run, local, "s2", 10)
    child.wait()
    assert (recovered.rows, recovered.alive) == (10, ())


def test_a_sender_on_a_lost_node_is_given_up(ray_local: None, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    service = GovernorService(run, "s1", None, {"m": Limits()}, str(tmp_path))
    with JournalWriter(run, "m", str(tmp_path), "s1") as writer:
        writer.append(Answer(1, 0, "answered", b"a" * 16))

    async def both() -> Any:
        await service.begin("m", writer.unique, "f" * 56, 1, np.array([1, 2]))
        return await service.begin("m", "new", "e" * 56, 1, np.array([1, 2]))

    assert asyncio.run(both()).tolist() == [1]


def test_a_stop_reaches_every_sender(ray_local: None, tmp_path: Path) -> None:
    service = GovernorService(str(tmp_path / "run"), "s1", 1.0, {"m": Limits(), "n": Limits()}, str(tmp_path))

    async def story() -> Any:
        await service.permit("m", "a", Ask(need_usd=0.1), Report(answered=3))
        await service.stop("m", "models.m: no")
        await service.stop("m", "later")
        permit = await service.permit("m", "b", Ask(need_usd=0.1), Report(answered=4, failed=1))
        other = await service.permit("n", "c", Ask(need_usd=0.1), Report())
        return permit, other, await service.close()

    permit, other, state = asyncio.run(story())
    assert (permit.stopped, permit.usd) == ("models.m: no", 0.0)
    assert (other.stopped, other.usd) == ("", pytest.approx(0.102))
    assert (state.models["m"].totals.answered, state.models["m"].sums.errors) == (7, 1)
    assert state.models["m"].stopped == "models.m: no"


def test_after_its_end_a_run_grants_nothing(tmp_path: Path) -> None:
    """A sender that outlives the close: what it would be granted then is in nobody's count."""
    service = GovernorService(str(tmp_path / "run"), "s1", 1.0, {"m": Limits()}, str(tmp_path))

    async def story() -> Any:
        await service.permit("m", "a", Ask(need_usd=0.1), Report())
        await service.close()
        late = await service.permit("m", "a", Ask(need_usd=0.3), Report())
        batch = await service.reserve("m", "batch-x", np.array([0.1]))
        return late, batch, await service.state()

    late, batch, state = asyncio.run(story())
    assert late.usd == 0 and "ended" in late.stopped and batch.rows == 0
    assert state.models["m"].stopped == "", "no fault of the lane's"
    assert sorted(path.name for path in (tmp_path / "run" / "ledger" / "s1").iterdir()) == [
        "close.json", "grant-000000.json"
    ]  # fmt: skip


def test_a_block_given_again_to_its_own_actor_is_not_paid_again(tmp_path: Path) -> None:
    service = GovernorService(str(tmp_path / "run"), "s1", 1.0, {"m": Limits()}, str(tmp_path))
    block = np.array([1, 2, 3])

    async def story() -> Any:
        first = await service.begin("m", "a", "node", 1, block)
        again = await service.begin("m", "a", "node", 1, block)
        await service.finish("m", "a", block, np.array([1, 2]))
        return first, again, await service.begin("m", "a", "node", 1, block)

    first, again, after = asyncio.run(story())
    assert (first.tolist(), again.tolist(), after.tolist()) == ([], [1, 2, 3], [1, 2])
