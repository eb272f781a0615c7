"""Local logs that dead processes left on nodes of the cluster: committed to the store by a task on the node itself.

A log lies on the disk of the node its process ran on, so only a task there can read it. A node that is gone has nothing to
give; one that does not answer within RECOVER_LIMIT_S is passed over. Cost: one task a node.
"""

from __future__ import annotations

import asyncio
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from jobs.claims import Sender
from jobs.errors import StoreError
from jobs.journal import Recovered, recover_orphans

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


_recover_task: Any = ray.remote(num_cpus=0, max_retries=0)(recover_orphans)
