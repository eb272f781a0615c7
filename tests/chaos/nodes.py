"""A node that dies: three Ray nodes on this machine, one of them killed whole while both lanes run on the others' behalf.

The head has no CPUs for work (as KubeRay advises), so every lane sits on one of two workers. A lost node takes its disk
with it: the local logs of its processes are deleted with them, and what was not yet a segment on the store is gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from jobs.journal.local_log import local_dir
from tests.chaos.bench import Bench, Scenario
from tests.chaos.processes import LANE
from tests.chaos.setting import IN_FLIGHT, LATENCY_S, Outcome, Setting

FAMILY = "node"
FLUSH_S = 2.0
"""The journal's: answers of so long may be on the lost node's disk alone."""
NODE_OPTIONS: dict[str, Any] = {"num_cpus": 4, "object_store_memory": 100 * 2**20}


@contextmanager
def three_nodes() -> Iterator[Any]:
    """A cluster of a head and two workers, started and ended here."""
    from ray.cluster_utils import Cluster

    # 30 s by default: three nodes on two busy cores may need more.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    cluster = Cluster(initialize_head=True, head_node_args=NODE_OPTIONS | {"num_cpus": 0, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(**NODE_OPTIONS)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def processes_of(node: Any) -> list[psutil.Process]:
    """A node's raylet and all below it."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [raylet, *raylet.children(recursive=True)]


def lanes_on(node: Any) -> int:
    """How many sending processes live on a node."""
    found = 0
    for process in processes_of(node):
        with contextlib.suppress(psutil.Error):
            found += LANE in " ".join(process.cmdline())
    return found


def lose(cluster: Any, node: Any, logs: Path) -> int:
    """Kill a node whole, take its disk away; how many lanes it had."""
    lanes, processes = lanes_on(node), processes_of(node)
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
    pids = {process.pid for process in processes}
    for log in logs.glob("*.log"):
        if int(log.stem.rsplit("--", 1)[-1].split("-")[0]) in pids:
            log.unlink(missing_ok=True)
    cluster.remove_node(node, allow_graceful=False)
    return lanes


def node_kill(share: float) -> Scenario:
    """One of two workers is lost; the driver, on the head, goes on with the other."""
    fault = "a worker node of three is lost, with its disk"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job, three_nodes() as cluster:
            kill_one(job, cluster, share)
            return job.outcome(FAMILY, fault, base_s)

    return Scenario(FAMILY, fault, run, name=f"at {share:.0%}")


def kill_one(job: Setting, cluster: Any, share: float) -> None:
    """Run the job on the cluster, lose the worker with the most lanes at `share` of the rows, and bring the job home."""
    job.env["RAY_ADDRESS"] = cluster.address
    driver = job.start()
    if job.wait_for_share(share, driver):
        victim = max(cluster.worker_nodes, key=lanes_on)
        lanes = lose(cluster, victim, Path(local_dir(job.job["output"])))
        job.kills += 1
        # In flight, and the answers of one open segment.
        job.spare += lanes * (IN_FLIGHT + int(IN_FLIGHT / LATENCY_S * FLUSH_S))
        if not lanes:
            job.problems.append("no lane was on the node that was lost")
    else:
        job.problems.append("the run ended before the node was lost")
    job.go_on(job.end(driver))


SCENARIOS = [node_kill(0.2), node_kill(0.5), node_kill(0.8)]
