"""Local logs that dead processes left on nodes of the cluster: committed to the store by a task on the node itself.

A log lies on the disk of the node its process ran on, so only a task there can read it. A node that is gone has nothing to
give; one that does not answer within RECOVER_LIMIT_S is passed over. Cost: one task a node.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.errors import StoreError
from jobs.journal.local_log import logs, orphan
from jobs.journal.segments import Segments
from jobs.journal.writer import Sender, commit_segment
from jobs.storage.store import Store


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `recover_orphans` did."""

    rows: int
    alive: tuple[int, ...]
    """pids that still hold logs of another session."""


RECOVER_WAIT_S = 10.0
"""How long a sender that Ray has given up may still hold its logs: a process takes a moment to die."""
RECOVER_LIMIT_S = 180.0
"""For the whole recovery on a node: on a busy one, starting a worker process alone can take half a minute."""


async def recover_sender(store_uri: str, alias: str, local_logs: str, session: str, sender: Sender) -> bool:
    """True when nothing of the sender's is left on its node, or the node is gone. Raises StoreError."""
    if sender.node_id not in await asyncio.to_thread(_living_nodes):
        return True
    task = _task_on(sender.node_id).remote(store_uri, alias, local_logs, RECOVER_WAIT_S, session, sender.unique)
    try:
        recovered = await asyncio.wait_for(asyncio.wrap_future(task.future()), RECOVER_LIMIT_S)
    except StoreError:
        raise
    except (RayError, TimeoutError):
        return sender.node_id not in await asyncio.to_thread(_living_nodes)
    return not recovered.alive


def recover_on_all_nodes(store_uri: str, local_logs: str, session: str, wait_s: float = 0.0) -> Recovered:
    """Commit the logs that dead processes left on any node of the cluster that is up. Raises StoreError.

    A node that does not answer within RECOVER_LIMIT_S is passed over: its logs are for a later run.
    """
    tasks = [_task_on(node).remote(store_uri, None, local_logs, wait_s, session) for node in _living_nodes()]
    done, _ = ray.wait(tasks, num_returns=len(tasks), timeout=wait_s + RECOVER_LIMIT_S)
    found: list[Recovered] = []
    for task in done:
        try:
            found.append(ray.get(task))
        except StoreError as error:
            raise StoreError(str(getattr(error, "cause", error))) from None
        except RayError:  # the node went away meanwhile
            continue
    return Recovered(sum(each.rows for each in found), tuple(pid for each in found for pid in each.alive))


def _living_nodes() -> set[str]:
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"] for node in nodes if node["Alive"]}


def _task_on(node_id: str) -> Any:
    return _recover_task.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False))


def recover_orphans(
    store_uri: str, model_alias: str | None, local_dir: str, wait_s: float = 0.0, session: str = "", writer: str = ""
) -> Recovered:
    """Commit the logs that dead processes left on this host. `model_alias` None: of all models.

    `session` names the caller's own: its living writers are not waited for. `writer` (JournalWriter.unique): only that
    writer's logs, whatever its session. Two recoverers at once share the work: each log is done by who locks it.
    Raises StoreError where the store refuses; the logs stay then.
    """
    store = Store(store_uri)
    deadline = time.monotonic() + wait_s
    rows = 0
    while True:
        alive = []
        for path, name in logs(local_dir, model_alias, writer):
            n_rows = _recover(store, path, name["alias"], name["segment"])
            rows += n_rows or 0
            if n_rows is None and (writer or not session or not name["segment"].startswith(f"{session}--")):
                alive.append(int(name["pid"]))
        if not alive or time.monotonic() >= deadline:
            return Recovered(rows, tuple(sorted(set(alive))))
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))


def _recover(store: Store, path: Path, alias: str, segment: str) -> int | None:
    """Commit one log unless its process lives (None). Rows committed."""
    with orphan(path) as rows:
        if rows is None:
            return None
        stands = Segments(store).stands(alias, segment)
        if rows and not stands:
            commit_segment(store, alias, segment, rows)
        path.unlink(missing_ok=True)
        return 0 if stands else len(rows)


_recover_task: Any = ray.remote(num_cpus=0, max_retries=0)(recover_orphans)
