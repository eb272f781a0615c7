"""What the driver says when the process that holds the dollars does not answer."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import ray

from jobs.errors import EXIT_OPEN, LaneDown, StorageDown
from jobs.money import driver as money
from jobs.money.driver import Money
from jobs.route.pipeline import rows_stay_open


@pytest.fixture
def slow(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Money]:
    """Money whose governor has a store that does not take the last entry of the ledger."""

    class SlowLedger:  # here, and so pickled with its code: workers cannot import a test
        async def close(self) -> None:
            await asyncio.sleep(600)

        async def state(self) -> dict[str, Any]:
            return {}

    monkeypatch.setattr(money, "CLOSE_S", 0.5)
    held = Money.__new__(Money)  # its constructor starts a real governor
    held.governor = ray.remote(num_cpus=0)(SlowLedger).remote()
    ray.get(held.governor.state.remote())
    yield held
    ray.kill(held.governor)


def test_a_ledger_that_cannot_be_closed_in_time_leaves_the_run_open(slow: Money) -> None:
    with pytest.raises(StorageDown, match=r"ledger.*same command goes on") as raised, rows_stay_open():
        slow.close()
    assert raised.value.exit_code == EXIT_OPEN and "\n" not in str(raised.value)
    with pytest.raises(LaneDown, match="governor"):
        slow.refresh()
