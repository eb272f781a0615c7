"""Stage 3: ask. Each model's lane gets the rows it has still to answer; the journal says which those are.

    scored/ → keep the keys to ask → blocks of equal size → the lane (jobs/lanes) → counts

One Ray Data execution per model, side by side in threads, each held to its share of the cluster (two executions at once each
think they own it: ray#44275). A second wave moves rows: prompts that turned out too long for a model go up the ladder, and rows
whose dollars ran out go to the weak model.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray
from ray.data import ExecutionResources

from jobs.errors import HeadgateError, LaneDown, find_known
from jobs.journal import Journal
from jobs.lanes import lane_of
from jobs.lanes.base import ASK_COLUMNS, Lane, LaneContext
from jobs.plan import Assignments
from jobs.scored import scored_rows
from jobs.spec import JobSpec
from jobs.store import Store

POLL_S = 0.5
STOP_S = 7.0


@dataclass(frozen=True, slots=True)
class Settled:
    """Per model: sorted keys answered, and refused for good."""

    answered: dict[str, NDArray[np.int64]]
    rejected: dict[str, NDArray[np.int64]]


def settled_keys(store: Store, names: tuple[str, ...]) -> Settled:
    """What the journal holds."""
    journal = Journal(store)
    answered: dict[str, NDArray[np.int64]] = {}
    rejected: dict[str, NDArray[np.int64]] = {}
    for name in names:
        table = journal.read(name, None, ["row_key", "kind"])
        for kind, found in (("answered", answered), ("rejected", rejected)):
            found[name] = np.sort(table["row_key"].filter(pc.equal(table["kind"], kind)).to_numpy())
    return Settled(answered, rejected)


def rows_to_ask(plan: Assignments, settled: Settled, names: tuple[str, ...]) -> dict[str, NDArray[np.int64]]:
    """First wave: per model the sorted leaders it has to answer and has not settled.

    A row that a dearer model has answered already keeps that answer, whatever today's plan says, unless it is in the sample.
    """
    todo = {}
    for index, name in enumerate(names):
        better = [np.setdiff1d(settled.answered[upper], plan.shadow) for upper in names[index + 1 :]]
        done = np.unique(np.concatenate([settled.answered[name], settled.rejected[name], *better]))
        todo[name] = np.setdiff1d(plan.leaders_of(index), done, assume_unique=True)
    return todo


def rows_to_move(plan: Assignments, settled: Settled, spec: JobSpec, exhausted: bool) -> dict[str, NDArray[np.int64]]:
    """Second wave. Refused rows go to the next model up; with the dollars gone, unanswered rows go to the weak one."""
    names = spec.names
    todo = {name: np.empty(0, np.int64) for name in names}
    any_answer = np.unique(np.concatenate([settled.answered[name] for name in names]))
    lead = (plan.row_key == plan.leader) & (plan.model >= 0) & ~np.isin(plan.row_key, any_answer)
    for index, name in enumerate(names[:-1]):
        refused = lead & (plan.model == index) & np.isin(plan.row_key, settled.rejected[name])
        for upper in range(index + 1, len(names)):
            free = refused & ~np.isin(plan.row_key, settled.rejected[names[upper]])
            todo[names[upper]] = np.union1d(todo[names[upper]], plan.row_key[free])
            refused &= ~free
    if exhausted and spec.on_budget == "weak":
        for index in range(1, len(names)):
            stuck = lead & (plan.model == index) & ~np.isin(plan.row_key, settled.rejected[names[0]])
            todo[names[0]] = np.union1d(todo[names[0]], plan.row_key[stuck])
    return todo


def ask(
    spec: JobSpec,
    store: Store,
    parts: list[dict[str, Any]],
    plan: Assignments,
    todo: dict[str, NDArray[np.int64]],
    contexts: dict[str, LaneContext],
    on_progress: Callable[[dict[str, Any]], None],
    stopping: threading.Event,
    on_stop: Callable[[], None],
    on_lane_down: Callable[[str, str], None],
) -> None:
    """One wave: all lanes with rows at once. Returns when every lane is through or has stopped.

    Once `stopping` is set: `on_stop` is called, and lanes have STOP_S to settle what is in flight. A lane that breaks down is told
    to `on_lane_down(model, reason)`; the others go on. Raises HeadgateError for what concerns the whole run (storage).
    """
    lanes = {name: lane_of(contexts[name].model.engine) for name, keys in todo.items() if len(keys)}
    cpus = float(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    failures: list[HeadgateError] = []

    def work(name: str, lane: Lane) -> None:
        try:
            dataset = _dataset(store, parts, plan, spec.names.index(name), todo[name], contexts[name])
            dataset.context.execution_options.resource_limits = ExecutionResources(cpu=cpus / len(lanes))
            for batch in lane.answer(dataset, contexts[name]).iter_batches(batch_size=None, batch_format="pyarrow"):
                on_progress({"model": name, "batch": batch})
        except Exception as error:  # noqa: BLE001 - a thread has nobody above it; raised again below, or the lane's end
            known = find_known(error)
            if known is None or isinstance(known, LaneDown):
                on_lane_down(name, str(known) if known else last_words(error))
            else:
                failures.append(known)

    threads = [threading.Thread(target=work, args=item, name=f"lane-{item[0]}", daemon=True) for item in lanes.items()]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        on_progress({})
        if stopping.wait(POLL_S):
            on_stop()
            deadline = time.monotonic() + STOP_S
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            return
    if failures:
        raise failures[0]


def last_words(error: BaseException) -> str:
    """What an engine said before it went: the last line of its error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"its engine ended: {lines[-1][:300] if lines else type(error).__name__}"


def _dataset(
    store: Store,
    parts: list[dict[str, Any]],
    plan: Assignments,
    model: int,
    keys: NDArray[np.int64],
    context: LaneContext,
) -> ray.data.Dataset:
    """The rows of one lane, in blocks of `rows_per_block`."""
    buckets = set(np.unique(plan.bucket[np.isin(plan.row_key, keys)]).tolist())
    names = [part["name"] for part in parts if part["bucket"] in buckets]
    shadow = np.setdiff1d(plan.shadow, plan.row_key[plan.model == model])
    columns = [name for name in ASK_COLUMNS if name != "sample"]
    rows = scored_rows(store, names, columns, keys, shadow)
    return rows.repartition(target_num_rows_per_block=context.rows_per_block)
