"""The driver's side of a session's money: starts the governor, says what each wave may spend, and tells how it stands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.money.client import GovernorClient
from jobs.money.excess import Excess
from jobs.money.messages import LaneSums, ModelState
from jobs.spec.job import JobSpec, cap_usd
from jobs.spec.models import Limits
from jobs.spec.sections import JUDGE, SAMPLES
from jobs.storage.manifest import Run

CLOSE_S = 30.0
"""What storage has to write down what was granted and not spent; a process that takes longer is ended."""
Todo = Mapping[str, NDArray[np.int64]]
"""Model → row keys."""


class Money:
    """One session's governor and its running totals."""

    def __init__(self, spec: JobSpec, run: Run, session: str) -> None:
        """Starts the governor. Raises LaneDown where it does not come up."""
        cap = cap_usd(spec)
        self.spec, self.cap = spec, cap
        self.planned_usd: float | None = None
        """Of the plan that is being asked; None before there is one."""
        judge = spec.quality.judge
        more = (*([JUDGE] if judge else []), *([SAMPLES] if spec.cascade else []))
        self.todo = dict.fromkeys((*spec.names, *more), 0)
        self.sums = dict.fromkeys(self.todo, LaneSums())
        """Model → what its lane's blocks have said so far."""
        # A judge that the job file names no more has spent dollars all the same.
        limits = dict.fromkeys(spec.payees, Limits()) | {name: spec.models[name].limits for name in spec.names}
        if judge:
            limits[JUDGE] = spec.models[judge.model].limits
        if spec.cascade:
            limits[SAMPLES] = spec.models[spec.names[0]].limits
        self.governor = GovernorClient.start(run.store.uri, session, cap, limits)
        self.state = self.governor.state()

    def next_wave(self, ended: tuple[str, ...], todo: Todo, weak_usd: float, cap_usd: float | None = None) -> None:
        """Say what comes. Models `ended` have no sender now.

        todo: what is left to ask. weak_usd: what the weak model takes of the cap in all: whatever the dear models use up, every
        row can still have the weak one. cap_usd: a lower cap than the run's, for this wave.
        """
        self.refresh()
        for name in self.todo:
            # Lanes without dollars tell the governor nothing of their rows; their blocks do.
            settled = max(self.state.models[name].sums.settled, self.sums[name].settled)
            self.todo[name] = settled + len(todo.get(name, ()))
        cap = min((usd for usd in (self.cap, cap_usd) if usd is not None), default=None)
        caps = None if cap is None else {self.spec.names[1:]: max(0.0, cap - weak_usd)}  # one cap for all of them
        self.governor.next_wave(ended, caps, cap)

    def add(self, name: str, batch: pa.Table) -> None:
        """Count rows that a lane has settled: columns are fields of LaneSums, as far as the lane tells them."""
        own = self.sums[name]
        told = [field.name for field in fields(LaneSums) if field.name in batch.column_names]
        self.sums[name] = replace(
            own, **{column: getattr(own, column) + (pc.sum(batch[column]).as_py() or 0) for column in told}
        )

    def sums_of(self, name: str) -> LaneSums:
        """Of the two that count, the one who knows more: the governor hears of every answer within a second."""
        known, own = self.state.models[name].sums, self.sums[name]
        return known if known.settled >= own.settled else own

    def refresh(self) -> None:
        self.state = self.governor.state()

    def exhausted(self) -> bool:
        """Some lane wanted dollars that will not come."""
        self.refresh()
        return any(model.short_of_money for model in self.state.models.values())

    def notes(self) -> list[str]:
        """What happened to the dollars that the figures alone do not say."""
        self.refresh()
        return notes_of(self.state.models)

    def stopped(self) -> dict[str, str]:
        """Model → why its lane stopped."""
        self.refresh()
        return {name: model.stopped for name, model in self.state.models.items() if model.stopped}

    def stop_lane(self, name: str, reason: str) -> None:
        """One lane broke down."""
        self.governor.stop_lane(name, reason)

    def stop(self, reason: str) -> None:
        """Nobody sends any more."""
        for name in self.todo:
            self.governor.stop_lane(name, reason, "user")

    def close(self) -> None:
        """Give back on the ledger what was granted and not spent, and end the governor."""
        try:
            self.governor.close(CLOSE_S)
        finally:
            self.governor.kill()


def notes_of(models: Mapping[str, ModelState]) -> list[str]:
    """`models`: of the governor's state."""
    full_rate = {name: model.totals.full_rate for name, model in models.items() if model.totals.full_rate}
    keyless = {name: model.key_trouble for name, model in models.items() if model.key_trouble}
    gone = {name: model for name, model in models.items() if model.gone_batches}
    uncharged = {name: model.totals.uncharged for name, model in models.items() if model.totals.uncharged}
    beyond = {name: model for name, model in models.items() if model.totals.beyond}
    # Of the models that answer rows the report counts them itself.
    empty = {
        name: models[name].totals.empty for name in (JUDGE, SAMPLES) if name in models and models[name].totals.empty
    }
    return (
        [
            f"{name}: {model.totals.beyond:,} replies cost ${model.totals.beyond_usd:.4f} more than the most that was reserved for"
            f" them, which their usage says; all later ones were bound by it{_at_most(model.excess)}"
            for name, model in beyond.items()
        ]
        + [
            f"{name}: {n:,} answers do not say what they cost, and were priced by their tokens (models.{name}.price: provider)"
            for name, n in uncharged.items()
        ]
        + [
            f"{name}: {n:,} answers were served in the standard tier, not in flex, and cost the full rate"
            for name, n in full_rate.items()
        ]
        + [f"models.{name}.api_key_command: {trouble}; the key at hand was kept" for name, trouble in keyless.items()]
        + [
            f"{name}: batches that the provider knows no more: {model.gone_batches}; ${model.gone_usd:.4f}, the most they"
            " can have cost beyond what was read of them, counts as lost, and their rows were asked again"
            for name, model in gone.items()
        ]
        + [f"{name}: {n:,} answers were empty: max_tokens went on reasoning; raise it" for name, n in empty.items()]
    )


def _at_most(excess: Excess) -> str:
    return f": up to {excess.completion_ratio:.3g} times max_tokens" if excess.completion_ratio > 1 else ""
