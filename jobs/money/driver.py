"""The driver's side of the governor: how many dollars each lane may have, and what to show while they are spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import LaneDown, StoreError
from jobs.money.governor import Governor
from jobs.spec.job import JobSpec, cap_usd
from jobs.spec.models import Limits
from jobs.spec.sections import JUDGE, SAMPLES
from jobs.storage.manifest import Run

CLOSE_S = 30.0
"""What storage has to write down what was granted and not spent; a process that takes longer is ended."""
COUNTS = ("settled", "errors", "prompt_tokens", "completion_tokens", "cost_usd")
Todo = Mapping[str, NDArray[Any]]


class Money:
    """One session's governor and its running totals."""

    def __init__(self, spec: JobSpec, run: Run, session: str) -> None:
        """Starts the governor. Raises StoreError."""
        cap = cap_usd(spec)
        self.spec, self.cap = spec, cap
        self.bill: dict[str, Any] = {}
        """Of the plan that is being asked."""
        judge = spec.quality.judge
        more = (*([JUDGE] if judge else []), *([SAMPLES] if spec.cascade else []))
        self.todo = dict.fromkeys((*spec.names, *more), 0)
        self.counts: dict[str, dict[str, float]] = {name: defaultdict(float) for name in self.todo}
        # A judge that the job file names no more has spent dollars all the same.
        limits = dict.fromkeys(spec.payees, Limits()) | {name: spec.models[name].limits for name in spec.names}
        if judge:
            limits[JUDGE] = spec.models[judge.model].limits
        if spec.cascade:
            limits[SAMPLES] = spec.models[spec.names[0]].limits
        # Beside the driver: it has no business on a node that may be lost, or taken back, while the driver lives on.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.governor: Any = Governor.options(scheduling_strategy=here).remote(run.store.uri, session, cap, limits)
        self.state: dict[str, Any] = self._ask("state")

    def next_wave(self, ended: tuple[str, ...], todo: Todo, weak_usd: float, cap_usd: float | None = None) -> None:
        """Say what comes. Models `ended` have no sender now.

        todo: what is left to ask. weak_usd: what the weak model takes of the cap in all: whatever the dear models use up, every
        row can still have the weak one. cap_usd: a lower cap than the run's, for this wave.
        """
        self.refresh()
        for name in self.todo:
            known = self.state["models"][name]
            # Lanes without dollars tell the governor nothing of their rows; their batches do.
            settled = max(known["answered"] + known["rejected"], int(self.counts[name]["settled"]))
            self.todo[name] = settled + len(todo.get(name, ()))
        cap = min((usd for usd in (self.cap, cap_usd) if usd is not None), default=None)
        caps = None if cap is None else {self.spec.names[1:]: max(0.0, cap - weak_usd)}  # one cap for all of them
        self._ask("next_wave", ended, caps, cap)

    def _ask(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        """What the governor answers. Raises LaneDown where its process has ended: nobody sends without it; StoreError where it
        does not answer in time, which is the store's doing."""
        try:
            return ray.get(getattr(self.governor, method).remote(*arguments), timeout=timeout_s)
        except RayActorError:
            raise LaneDown(
                "the process that holds the dollars (the governor) ended; nobody sends without it. What is answered is kept: the"
                " same command goes on"
            ) from None
        except GetTimeoutError:
            raise StoreError(f"the ledger of dollars: storage did not take it within {timeout_s:.0f} s") from None

    def add(self, name: str, batch: pa.Table) -> None:
        for column in COUNTS:
            if column in batch.column_names:
                self.counts[name][column] += pc.sum(batch[column]).as_py() or 0

    def refresh(self) -> None:
        self.state = self._ask("state")

    def exhausted(self) -> bool:
        """Some lane wanted dollars that will not come."""
        self.refresh()
        return any(model["short_of_money"] for model in self.state["models"].values())

    def notes(self) -> list[str]:
        """What happened to the dollars that the figures alone do not say."""
        self.refresh()
        return notes_of(self.state["models"])

    def stopped(self) -> dict[str, str]:
        """Model → why its lane stopped."""
        self.refresh()
        return {name: model["stopped"] for name, model in self.state["models"].items() if model["stopped"]}

    def stop_lane(self, name: str, reason: str) -> None:
        """One lane broke down."""
        self._ask("stop", name, reason)

    def stop(self, reason: str) -> None:
        """Nobody sends any more."""
        for name in self.todo:
            self._ask("stop", name, reason, "user")

    def close(self) -> None:
        """Give back on the ledger what was granted and not spent, and end the governor."""
        try:
            self._ask("close", timeout_s=CLOSE_S)
        finally:
            ray.kill(self.governor)


def notes_of(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """`models`: of the governor's state."""
    served = {name: model["full_rate"] for name, model in models.items() if model["full_rate"]}
    gone = {name: model for name, model in models.items() if model["gone_batches"]}
    return [
        f"{name}: {n:,} answers were served in the standard tier, not in flex, and cost the full rate"
        for name, n in served.items()
    ] + [
        f"{name}: batches that the provider knows no more: {model['gone_batches']}; ${model['gone_usd']:.4f}, the most they"
        " can have cost beyond what was read of them, counts as lost, and their rows were asked again"
        for name, model in gone.items()
    ]
