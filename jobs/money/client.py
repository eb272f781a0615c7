"""The one way to call the governor: every call by name and type, and one rule for what goes wrong.

Lanes await their calls; the driver, which has no event loop, waits for its own: `state`, `next_wave`, `stop_lane`, `close`. Whoever
calls hears of two faults: LaneDown, the governor's process has ended, so that nobody may send; StoreError, its store refused or,
where a call has a time limit, did not take what it was given in time. What Ray wraps around errors ends here. A client is
picklable: it travels with the work to the lanes' processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import HeadgateError, LaneDown, StoreError
from jobs.journal.refused import Refused
from jobs.journal.rows import Answer
from jobs.money.claims import Keys
from jobs.money.excess import Excess
from jobs.money.governor import GovernorService
from jobs.money.keys import Command, Key
from jobs.money.messages import Ask, GovernorState, Permit, Report, StopKind, Terms
from jobs.money.reservations import Taken
from jobs.spec.models import Limits

# Never restarted: a new one would not know what senders hold.
_Actor = ray.remote(num_cpus=0, max_restarts=0)(GovernorService)


class GovernorClient:
    """A run's governor, as lanes and the driver see it. Its methods are those of GovernorService, which says what they do."""

    def __init__(self, actor: Any) -> None:
        """`actor`: Ray's handle of a GovernorService, or what is called like one."""
        self._actor = actor

    @classmethod
    def start(
        cls,
        output_uri: str,
        session: str,
        cap_usd: float | None,
        limits: Mapping[str, Limits],
        local_logs: str | None = None,
    ) -> GovernorClient:
        """The governor of a session, in a process of its own without a CPU; the arguments are GovernorService's."""
        # Beside the driver: it has no business on a node that may be lost, or taken back, while the driver lives on.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = _Actor.options(scheduling_strategy=here).remote(output_uri, session, cap_usd, limits, local_logs)
        return cls(actor)

    def kill(self) -> None:
        """End the process, whatever it does."""
        ray.kill(self._actor)

    # For lanes ------------------------------------------------------------------------------------------------------

    async def begin(self, alias: str, actor_id: str, node_id: str, pid: int, keys: Keys) -> Keys:
        with _plain_errors():
            skip: Keys = await self._actor.begin.remote(alias, actor_id, node_id, pid, keys)
            return skip

    async def finish(self, alias: str, actor_id: str, keys: Keys, settled: Keys | None = None) -> None:
        with _plain_errors():
            await self._actor.finish.remote(alias, actor_id, keys, settled)

    async def permit(self, alias: str, actor_id: str, ask: Ask, report: Report) -> Permit:
        with _plain_errors():
            permit: Permit = await self._actor.permit.remote(alias, actor_id, ask, report)
            return permit

    async def learn(self, alias: str, excess: Excess) -> Terms:
        with _plain_errors():
            terms: Terms = await self._actor.learn.remote(alias, excess)
            return terms

    async def more_learnt(self, alias: str, known: Excess) -> Terms:
        with _plain_errors():
            terms: Terms = await self._actor.more_learnt.remote(alias, known)
            return terms

    async def report(self, alias: str, actor_id: str, report: Report) -> str:
        with _plain_errors():
            stopped: str = await self._actor.report.remote(alias, actor_id, report)
            return stopped

    async def has_answers(self, alias: str) -> bool:
        with _plain_errors():
            return bool(await self._actor.has_answers.remote(alias))

    async def doubt(self, alias: str, refused: Sequence[Refused]) -> None:
        with _plain_errors():
            await self._actor.doubt.remote(alias, refused)

    async def key(self, alias: str, command: Command, refused: str) -> Key:
        with _plain_errors():
            key: Key = await self._actor.key.remote(alias, command, refused)
            return key

    async def limited(self, alias: str, retry_after_s: float | None) -> None:
        with _plain_errors():
            await self._actor.limited.remote(alias, retry_after_s)

    async def stop(self, alias: str, reason: str) -> None:
        with _plain_errors():
            await self._actor.stop.remote(alias, reason)

    async def reserve(self, alias: str, name: str, worst_usd: NDArray[np.float64]) -> Taken:
        with _plain_errors():
            taken: Taken = await self._actor.reserve.remote(alias, name, worst_usd)
            return taken

    async def adopt_reserved(self, alias: str, name: str) -> None:
        with _plain_errors():
            await self._actor.adopt_reserved.remote(alias, name)

    async def settle_reserved(self, alias: str, name: str, gone: bool = False) -> None:
        with _plain_errors():
            await self._actor.settle_reserved.remote(alias, name, gone)

    # For the driver -------------------------------------------------------------------------------------------------

    def state(self) -> GovernorState:
        with _plain_errors(in_driver=True):
            state: GovernorState = ray.get(self._actor.state.remote())
            return state

    def verdict(self, alias: str) -> list[Answer]:
        with _plain_errors(in_driver=True):
            answers: list[Answer] = ray.get(self._actor.verdict.remote(alias))
            return answers

    def next_wave(
        self, ended: Sequence[str], caps_usd: Mapping[tuple[str, ...], float] | None, cap_usd: float | None
    ) -> None:
        with _plain_errors(in_driver=True):
            ray.get(self._actor.next_wave.remote(ended, caps_usd, cap_usd))

    def know_key(self, command: Command, key: Key) -> None:
        with _plain_errors(in_driver=True):
            ray.get(self._actor.know_key.remote(command, key))

    def stop_lane(self, alias: str, reason: str, kind: StopKind = "lane_down") -> None:
        """`stop`, said by the driver."""
        with _plain_errors(in_driver=True):
            ray.get(self._actor.stop.remote(alias, reason, kind))

    def close(self, timeout_s: float) -> GovernorState:
        """How the run stands at the end. `timeout_s`: what the store has to take the last entry."""
        with _plain_errors(in_driver=True, timeout_s=timeout_s):
            state: GovernorState = ray.get(self._actor.close.remote(), timeout=timeout_s)
            return state


@contextmanager
def _plain_errors(in_driver: bool = False, timeout_s: float = math.inf) -> Iterator[None]:
    """Around a call: what the governor raised as it raised it, LaneDown where it is gone, StoreError where it is late.

    in_driver: errors of Ray that are not the end of the process are faults of this program, and show themselves there.
    """
    try:
        yield
    except HeadgateError as error:
        # Ray raises a class of its own that is one too, with a traceback for a text.
        raise getattr(error, "cause", error) from None
    except GetTimeoutError:
        raise StoreError(f"the ledger of dollars: storage did not take it within {timeout_s:.0f} s") from None
    except RayError as error:
        if not in_driver:
            raise LaneDown(f"the run's governor is gone ({type(error).__name__}); run the same command again") from None
        if not isinstance(error, RayActorError):
            raise
        raise LaneDown(
            "the process that holds the dollars (the governor) ended; nobody sends without it. What is answered is kept: the"
            " same command goes on"
        ) from None
