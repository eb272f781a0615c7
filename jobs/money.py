"""The driver's side of the governor: how many dollars each lane may have, and what to show while they are spent."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from numpy.typing import NDArray

from jobs.budget import stranded_usd
from jobs.governor import Governor
from jobs.journal import Journal
from jobs.manifest import Run
from jobs.plan import cap_usd
from jobs.progress import Progress
from jobs.spec import JobSpec
from jobs.store import Store

SHOW_S = 0.5
COUNTS = ("settled", "errors", "prompt_tokens", "completion_tokens", "cost_usd")
Todo = Mapping[str, NDArray[Any]]


class Money:
    """One session's governor and its running totals."""

    def __init__(self, spec: JobSpec, run: Run, session: str, bill: dict[str, Any], todo: Todo) -> None:
        """`todo`: rows to ask in this session. Starts the governor. Raises StoreError."""
        cap = cap_usd(spec)
        self.spec, self.cap = spec, cap
        self.todo = {name: len(keys) for name, keys in todo.items()}
        self.counts: dict[str, dict[str, float]] = {name: defaultdict(float) for name in spec.names}
        limits = {name: spec.models[name].limits for name in spec.names}
        caps = None
        if cap is not None:
            # Whatever the dear models use up, every row can still have the weak one.
            rest = max(0.0, cap - _all_weak_usd(bill, spec.names[0]))
            caps = dict.fromkeys(spec.names[1:], rest)
        self.governor: Any = Governor.remote(run.store.uri, session, cap, limits, caps)
        self.state: dict[str, Any] = ray.get(self.governor.state.remote())
        self._shown_s = 0.0

    def more(self, moved: Todo) -> None:
        """A further wave asks these too."""
        for name, keys in moved.items():
            self.todo[name] += len(keys)

    def shower(self, progress: Progress, bill: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
        """What `answer.ask` calls with each batch that a lane settled, and between them; at most SHOW_S apart."""

        def show(event: dict[str, Any]) -> None:
            if event:
                self._add(event["model"], event["batch"])
            if time.monotonic() - self._shown_s < SHOW_S:
                return
            self._shown_s = time.monotonic()
            self.state = ray.get(self.governor.state.remote())
            job = {"stage": "answer", "cap_usd": self.cap, "planned_usd": bill["planned_usd"]}
            progress.update({"job": job, "models": {name: self._model(name) for name in self.spec.names}})

        return show

    def _add(self, name: str, batch: pa.Table) -> None:
        for column in COUNTS:
            if column in batch.column_names:
                self.counts[name][column] += pc.sum(batch[column]).as_py() or 0

    def _model(self, name: str) -> dict[str, Any]:
        """Live counts of one lane: the governor's where it knows more (it hears of every answer within a second)."""
        known, own = self.state["models"][name], self.counts[name]
        live = {
            "settled": known["answered"] + known["rejected"], "errors": known["errors"], "prompt_tokens": known["prompt_tokens"],
            "completion_tokens": known["completion_tokens"], "cost_usd": known["cost_usd"],
        }  # fmt: skip
        shown = (
            live if live["settled"] >= own["settled"] else {k: v if k == "cost_usd" else int(v) for k, v in own.items()}
        )
        shown |= {
            "reserved_usd": known.get("reserved_usd"),
            "lost_usd": known["lost_usd"],
            "in_flight": known["in_flight"],
            "stopped": known["stopped"],
        }
        return shown | {"todo": self.todo[name]}

    def refresh(self) -> None:
        self.state = ray.get(self.governor.state.remote())

    def exhausted(self) -> bool:
        """Some lane wanted dollars that will not come."""
        self.refresh()
        return any(model["short_of_money"] for model in self.state["models"].values())

    def stopped(self) -> dict[str, str]:
        """Model → why its lane stopped."""
        self.refresh()
        return {name: model["stopped"] for name, model in self.state["models"].items() if model["stopped"]}

    def stop_lane(self, name: str, reason: str) -> None:
        """One lane broke down."""
        ray.get(self.governor.stop.remote(name, reason))

    def stop(self, reason: str) -> None:
        """Nobody sends any more."""
        ray.get([self.governor.stop.remote(name, reason, "user") for name in self.spec.names])

    def close(self) -> None:
        """Give back on the ledger what was granted and not spent, and end the governor."""
        try:
            ray.get(self.governor.close.remote(), timeout=30)
        finally:
            ray.kill(self.governor)

    @staticmethod
    def stranded(store: Store, names: tuple[str, ...]) -> float:
        """Dollars granted to processes that died before they could say what they used: counted as lost."""
        journal = Journal(store)
        return sum(stranded_usd(store, {name: journal.spent(name) for name in names}).values())


def _all_weak_usd(bill: dict[str, Any], weak: str) -> float:
    """Upper end of what the weak model would cost for every row."""
    entry = bill["by_model"][weak]
    factor = entry["usd_high"] / entry["usd"] if entry["usd"] else 1.1
    return float(bill["all_weak_usd"] * factor)
