"""What the driver says when the process that holds the dollars does not answer."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Iterator

import pytest
import ray

from jobs.errors import EXIT_OPEN, LaneDown, StorageDown, StoreError
from jobs.money import driver as money
from jobs.money.client import GovernorClient
from jobs.money.driver import Money
from jobs.money.messages import ModelState, Report
from jobs.route.pipeline import rows_stay_open


@pytest.fixture
def slow(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Money]:
    """Money whose governor has a store that does not take the last entry of the ledger."""

    class SlowLedger:  # here, and so pickled with its code: workers cannot import a test
        async def close(self) -> None:
            await asyncio.sleep(600)

        async def state(self) -> None: ...

        async def doubt(self, *_: object) -> None: ...

        async def next_wave(self, *_: object) -> None:
            raise StoreError("s3://bucket/run: it is full")

    monkeypatch.setattr(money, "CLOSE_S", 0.5)
    held = Money.__new__(Money)  # its constructor starts a real governor
    held.governor = GovernorClient(ray.remote(num_cpus=0)(SlowLedger).remote())
    held.governor.state()
    yield held
    held.governor.kill()


def test_a_ledger_that_cannot_be_closed_in_time_leaves_the_run_open(slow: Money) -> None:
    with pytest.raises(StorageDown, match=r"ledger.*same command goes on") as raised, rows_stay_open():
        slow.close()
    assert raised.value.exit_code == EXIT_OPEN and "\n" not in str(raised.value)
    with pytest.raises(LaneDown, match="governor"):
        slow.refresh()


def test_what_the_store_refuses_the_governor_is_told_in_one_line(slow: Money) -> None:
    """Ray wraps it in an error of its own, whose text is a traceback of the governor's process."""
    with pytest.raises(StoreError) as raised:
        slow.governor.next_wave((), None, None)
    assert str(raised.value) == "s3://bucket/run: it is full"


def test_a_lane_hears_of_the_same_faults(slow: Money) -> None:
    client = pickle.loads(pickle.dumps(slow.governor))
    slow.governor.kill()
    with pytest.raises(LaneDown, match=r"^the run's governor is gone \(ActorDiedError\); run the same command again$"):
        asyncio.run(client.doubt("m", []))


def test_empty_verdicts_are_a_note_since_no_row_of_the_report_shows_them() -> None:
    def state(empty: int) -> ModelState:
        return ModelState(
            Report(rejected=empty, empty=empty), None, 0.0, 0.0, stopped="", stop_kind="", short_of_money=False,
            gone_batches=0, gone_usd=0.0,
        )  # fmt: skip

    states = {"judge": state(3), "weak": state(5), "samples": state(0)}
    assert money.notes_of(states) == ["judge: 3 answers were empty: max_tokens went on reasoning; raise it"]
