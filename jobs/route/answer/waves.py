"""Stage 3: ask. Each model's lane gets the rows it has still to answer; the journal says which those are.

    scored/ → keep the keys to ask → blocks of equal size → the lane (jobs/lanes) → counts

One Ray Data execution per model, side by side in threads, each held to its share of the cluster; engines that do not fit on it
together answer one after the other (jobs/placement/turns.py). A last wave moves rows: prompts that turned out too long for a
model go up the ladder, rows it refused too where the job says so, and rows whose dollars ran out go to the weak model. Where
dollars are tight, the dear models are asked in bands (jobs/route/answer/bands.py), best rows first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.data import ExecutionResources

from jobs.errors import HeadgateError, LaneDown, find_known, one_line
from jobs.journal.reader import Journal
from jobs.journal.writer import JournalWriter
from jobs.lanes import lane_of
from jobs.lanes.base import ASK_COLUMNS, LaneContext, need_of
from jobs.money.reservations import unfinished_by_model
from jobs.placement.cluster import look
from jobs.placement.needs import Need
from jobs.placement.turns import Placement, Stopping
from jobs.route.answer.live import SettledBatch
from jobs.route.plan.plan import Assignments
from jobs.route.score.entries import Part
from jobs.route.score.scored import scored_rows
from jobs.spec.job import JobSpec, cap_usd
from jobs.storage.keys import is_among
from jobs.storage.store import Store

POLL_S = 0.5
STOP_S = 7.0
BESIDE_ENGINES_CPUS = 2.0
"""What a lane's reading, rendering and writing take, and Ray Data's own tasks."""


@dataclass(frozen=True, slots=True)
class SettledKeys:
    """Per model: sorted keys answered, and refused for good."""

    answered: dict[str, NDArray[np.int64]]
    rejected: dict[str, NDArray[np.int64]]
    empty: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    """Of the rejected: an answer came, is paid for, and says nothing. No other model is asked in its place."""


def settled_keys(store: Store, names: tuple[str, ...]) -> SettledKeys:
    """What the journal holds."""
    found = {name: Journal(store).by_kind(name) for name in names}
    return SettledKeys(
        {n: keys.answered for n, keys in found.items()},
        {n: keys.rejected for n, keys in found.items()},
        {n: Journal(store).empty(n) for n, keys in found.items() if len(keys.rejected)},
    )


def rows_to_ask(plan: Assignments, settled: SettledKeys, names: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """Per model the sorted leaders it has to answer and has not settled.

    A row that a dearer model has answered already keeps that answer, whatever today's plan says, unless it is in the sample.
    """
    todo = {}
    for index, name in enumerate(names):
        better = [np.setdiff1d(settled.answered[upper], plan.shadow) for upper in names[index + 1 :]]
        done = np.unique(np.concatenate([settled.answered[name], settled.rejected[name], *better]))
        todo[name] = np.setdiff1d(plan.leaders_of(index), done, assume_unique=True)
    return todo


def rows_to_move(
    plan: Assignments, settled: SettledKeys, spec: JobSpec, exhausted: bool, upwards: Mapping[str, NDArray[np.int64]]
) -> dict[str, NDArray[np.int64]]:
    """Second wave. Of refused rows those in `upwards` go to the next model up, and further where that refuses them so too; with the
    dollars gone, unanswered rows go to the weak one.
    """
    names = spec.names
    todo = {name: np.empty(0, np.int64) for name in names}
    any_answer = np.unique(np.concatenate([settled.answered[name] for name in names]))
    lead = (plan.row_key == plan.leader) & (plan.model >= 0) & ~np.isin(plan.row_key, any_answer)
    for index, name in enumerate(names):
        lead &= ~((plan.model == index) & np.isin(plan.row_key, settled.empty.get(name, ())))
    for index, name in enumerate(names[:-1]):
        refused = lead & (plan.model == index) & np.isin(plan.row_key, upwards[name])
        for upper in range(index + 1, len(names)):
            free = refused & ~np.isin(plan.row_key, settled.rejected[names[upper]])
            todo[names[upper]] = np.union1d(todo[names[upper]], plan.row_key[free])
            refused &= ~free & np.isin(plan.row_key, upwards.get(names[upper], plan.row_key[:0]))
    if exhausted and spec.on_budget == "weak":
        for index in range(1, len(names)):
            stuck = lead & (plan.model == index) & ~np.isin(plan.row_key, settled.rejected[names[0]])
            todo[names[0]] = np.union1d(todo[names[0]], plan.row_key[stuck])
    return todo


class Asking:
    """Waves of one session: what lanes need to start, and one place that waits for them.

    A wave is one Ray Data execution per model that has rows in it. Waves may run side by side, for different models.
    """

    def __init__(
        self,
        spec: JobSpec,
        store: Store,
        parts: Sequence[Part],
        contexts: dict[str, LaneContext],
        *,
        on_progress: Callable[[SettledBatch | None], None],
        placement: Placement,
        on_stop: Callable[[], None],
        on_lane_down: Callable[[str, str], None],
    ) -> None:
        """on_progress: hears of every batch that is settled, and of nothing (None) each POLL_S. placement: who may run when; once
        its `stopping` is set `on_stop` is called. A lane that breaks down is told to `on_lane_down(model, reason)`.
        """
        self.spec, self.store, self.parts, self.contexts = spec, store, parts, contexts
        self.on_progress, self.on_stop, self.on_lane_down = on_progress, on_stop, on_lane_down
        self.placement, self.stopping = placement, placement.stopping
        self._failures: list[HeadgateError] = []
        self._threads: list[threading.Thread] = []
        self._given_up: set[str] = set()
        """Threads of lanes whose nodes are gone: they hang in Ray until the job ends."""

    def start(
        self, plan: Assignments, todo: dict[str, NDArray[np.int64]], by_rank: bool = False, batches: Sequence[str] = ()
    ) -> Wave:
        """Start the lanes of the models with rows. `by_rank`: rows are sent best first, not in the order of the input.

        batches: models whose lane starts in any case, because earlier starts left batches of theirs at the provider.
        """
        datasets: dict[str, Callable[[], ray.data.Dataset]] = dict.fromkeys(batches, partial(ray.data.range, 1))
        for name, keys in todo.items():
            if len(keys):
                ranked = by_rank or self._paid_by_the_file(name)
                datasets[name] = partial(self._dataset, plan, name, keys, ranked)
        return self._start(datasets)

    def _dataset(self, plan: Assignments, name: str, keys: NDArray[np.int64], by_rank: bool) -> ray.data.Dataset:
        """The rows of one lane, in its blocks. keys: sorted row keys."""
        mine = np.flatnonzero(is_among(plan.row_key, keys))
        buckets = set(np.unique(plan.bucket[mine]).tolist())
        order = None
        if by_rank:
            place = np.empty(len(mine), np.int64)
            place[np.argsort(-plan.rank[mine], kind="stable")] = np.arange(len(mine))
            order = place[np.argsort(plan.row_key[mine])]
        return scored_rows(
            self.store,
            [part for part in self.parts if part.bucket in buckets],
            [column for column in ASK_COLUMNS if column != "sample"],
            keys=keys,
            shadow=np.setdiff1d(plan.shadow, plan.row_key[plan.model == self.spec.names.index(name)]),
            order=order,
            rows_per_block=self.contexts[name].rows_per_block,
        )

    def with_batches(self) -> list[str]:
        """Models of whom earlier starts left batches at the provider, of which the journal does not have all."""
        names = [name for name, context in self.contexts.items() if context.model.traits.runs == "batches"]
        left = unfinished_by_model(self.store) if names else {}
        return [name for name in names if name in left]

    def start_rows(self, name: str, rows: pa.Table) -> Wave:
        """Start one lane with rows of its own, in their order (columns ASK_COLUMNS)."""
        blocks = self.contexts[name].rows_per_block
        return self._start({name: lambda: ray.data.from_arrow(rows).repartition(target_num_rows_per_block=blocks)})

    def _start(self, datasets: dict[str, Callable[[], ray.data.Dataset]]) -> Wave:
        needs = {name: self._need(name) for name in datasets}
        self.placement.announce({name: need for name, need in needs.items() if need is not None})
        threads = [
            threading.Thread(target=self._work, args=(name, make, needs[name]), name=_thread_name(name), daemon=True)
            for name, make in datasets.items()
        ]
        self._threads += threads
        for thread in threads:
            thread.start()
        return threads

    def _paid_by_the_file(self, name: str) -> bool:
        """Under a cap, a lane that sends whole files gets the best rows first: the last file may not be paid for."""
        return self.contexts[name].model.traits.runs == "batches" and cap_usd(self.spec) is not None

    def wait(self, wave: Wave) -> None:
        """Until every lane of the wave is through or has stopped; when `stopping` is set, at most STOP_S more for all waves.

        Raises HeadgateError for what concerns the whole run (storage).
        """
        while left := [thread for thread in wave if thread.is_alive() and thread.name not in self._given_up]:
            self.on_progress(None)
            for name, reason in self.placement.given_up().items():
                self._given_up.add(_thread_name(name))
                self.on_lane_down(name, reason)
            left[0].join(POLL_S)  # back at once when it ends: a job may have dozens of waves
            if self.stopping.is_set():
                self.on_stop()
                deadline = time.monotonic() + STOP_S
                for thread in self._threads:
                    thread.join(max(0.0, deadline - time.monotonic()))
                return
        if self._failures:
            raise self._failures[0]

    def _need(self, name: str) -> Need | None:
        context = self.contexts[name]
        return need_of(lane_of(context.model.engine), context)

    def _limits(self, need: Need | None) -> ExecutionResources:
        """Two executions at once each think they own the cluster (ray#44275): a model has its share, whoever else runs, and never
        less than its engines take; without limit where CPUs come as they are wanted, to a number that nobody knows."""
        cluster = look()
        if cluster.grows_to_what_nobody_knows:
            return ExecutionResources()
        engines = need.total("CPU") * need.replicas if need else 0.0
        return ExecutionResources(
            cpu=max(cluster.can_have("CPU") / len(self.spec.names), engines + BESIDE_ENGINES_CPUS)
        )

    def _work(self, name: str, make_dataset: Callable[[], ray.data.Dataset], need: Need | None) -> None:
        try:
            with self.placement.held(name, need):
                lane = lane_of(self.contexts[name].model.engine)
                dataset = make_dataset()
                dataset.context.execution_options.resource_limits = self._limits(need)
                for batch in lane.answer(dataset, self.contexts[name]).iter_batches(
                    batch_size=None, batch_format="pyarrow"
                ):
                    self.on_progress(SettledBatch(name, batch))
                self._settle_doubts(self.contexts[name])
        except Stopping:
            return
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it; raised again by `wait`, or the lane's end
            known = find_known(error)
            if known is not None and not isinstance(known, LaneDown):
                self._failures.append(known)
                return
            try:
                self.on_lane_down(name, str(known) if known else last_words(error))
            except HeadgateError as gone:  # nobody is there to be told: that is the whole run's end
                self._failures.append(gone)

    def _settle_doubts(self, context: LaneContext) -> None:
        """Rows that were refused while nothing was answered: the lane is through, so it shows whose fault that is."""
        entries = context.governor.verdict(context.alias) if context.governor is not None else []
        if entries:
            with JournalWriter(context.output, context.alias, context.local_dir, context.session) as journal:
                for entry in entries:
                    journal.append(entry)


Wave = list[threading.Thread]


def _thread_name(model: str) -> str:
    return f"lane-{model}"


def last_words(error: BaseException) -> str:
    """What an engine said before it went."""
    return f"its engine ended: {one_line(error)}"


def limited(todo: dict[str, NDArray[np.int64]], plan: Assignments, limit: int | None) -> dict[str, NDArray[np.int64]]:
    """`--limit N`: only the N rows with the smallest keys, a random draw of the set."""
    if limit is None:
        return todo
    inside = np.sort(plan.leader[np.argsort(plan.row_key)[:limit]])
    return {name: keys[np.isin(keys, inside)] for name, keys in todo.items()}
