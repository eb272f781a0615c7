"""On what the router scores: GPUs for one with a neural network in it, CPUs for all others, unless `router_gpus` says what."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.placement.cluster import Cluster
from jobs.placement.needs import Need, bundle
from jobs.route.score.router import has_network
from jobs.spec.job import JobSpec

SCORER_CPUS, READER_CPUS = 0.5, 0.5
CPUS_PER_SCORER = 4
"""Of the cluster, where scorers have no GPU: readers and the models' lanes want some too."""


@dataclass(frozen=True, slots=True)
class Scorers:
    """The actors that score."""

    gpus: float
    """Of each."""
    most: int
    """How many at a time."""


def scorers_of(spec: JobSpec, cluster: Cluster) -> Scorers:
    """By the router's kind and the nodes there are; one actor where the cluster has still to grow."""
    gpus = spec.router_gpus if spec.router_gpus is not None else float(has_network(spec))
    if gpus and cluster.can_have("GPU"):
        on_each = int(1 / gpus + 1e-6)
        return Scorers(gpus, max(1, int(cluster.has("GPU")) * on_each))
    return Scorers(0, max(1, int(cluster.has("CPU")) // CPUS_PER_SCORER))


def scorer_need(spec: JobSpec, cluster: Cluster) -> Need:
    """Of one scorer, with a reader beside it."""
    own = bundle(SCORER_CPUS, scorers_of(spec, cluster).gpus)
    return Need("router", (own, bundle(READER_CPUS, 0)), fix="set router_gpus: 0")


def scorer_notes(spec: JobSpec, cluster: Cluster) -> list[str]:
    """What a plan says of where the router scores, where that is not plain."""
    scorers = scorers_of(spec, cluster)
    if scorers.gpus:
        why = f"router_gpus: {scorers.gpus:g}" if spec.router_gpus is not None else "it has a neural network in it"
        return [
            f"the router scores on {scorers.gpus:g} GPU a process ({why}) and gives it back before the models answer"
        ]
    if spec.router_gpus:
        return [f"the router scores on CPUs: router_gpus is {spec.router_gpus:g}, and the cluster has no GPU"]
    return []
