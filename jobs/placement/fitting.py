"""Do needs fit on nodes, and if not, what is missing: in one line.

Bundles are put on the first node that has room, whole GPUs on whole ones and fractions side by side, as Ray does: three times 0.6
of a GPU do not fit on two. Cost: bundles x nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jobs.placement.cluster import Cluster
from jobs.placement.needs import ACCELERATOR, Need, Resources, amount

Verdict = Literal["now", "grown", "perhaps", "never"]
"""A need fits: on the nodes there are; once the cluster has grown; perhaps (nobody knows to what it grows); on no node of it."""
OTHER_LANES_CPUS = 1.5
"""What replicas leave to them."""
EPSILON = 1e-6


@dataclass(slots=True)
class _Room:
    """What is free on one node."""

    free: dict[str, float]
    gpus: list[float] = field(default_factory=list)
    """Share free of each GPU."""

    @classmethod
    def of(cls, node: Resources) -> _Room:
        return cls(dict(node), [1.0] * int(node.get("GPU", 0)))

    def copy(self) -> _Room:
        return _Room(dict(self.free), list(self.gpus))

    def take(self, bundle: Resources) -> bool:
        """Whether it fitted; it is taken then."""
        if any(self.free.get(name, 0.0) + EPSILON < number for name, number in bundle.items()):
            return False
        share = bundle.get("GPU", 0.0)
        if share >= 1:
            whole = [at for at, free in enumerate(self.gpus) if free >= 1 - EPSILON][: int(share)]
            if len(whole) < share:
                return False
        else:  # on the fullest that still has room
            fits = [at for at, free in enumerate(self.gpus) if free + EPSILON >= share]
            whole = [min(fits, key=lambda at: self.gpus[at])] if share and fits else []
            if share and not fits:
                return False
        for at in whole:
            self.gpus[at] -= min(share, 1.0)
        for name, number in bundle.items():
            self.free[name] -= number
        return True


def _place(need: Need, rooms: list[_Room]) -> list[_Room] | None:
    """The rooms once one replica is in them; None where it does not fit."""
    for room in rooms:  # one node first: Ray packs too
        tried = room.copy()
        if all(tried.take(bundle) for bundle in need.bundles):
            return [tried if each is room else each for each in rooms]
    return None if need.one_node else _spread(need.bundles, rooms)


def _spread(bundles: Sequence[Resources], rooms: list[_Room]) -> list[_Room] | None:
    """The rooms once each bundle is in one of them; None where they do not fit."""
    rooms = [room.copy() for room in rooms]
    return rooms if all(any(room.take(bundle) for room in rooms) for bundle in bundles) else None


def _place_first(need: Need, rooms: list[_Room]) -> list[_Room] | None:
    """The rooms with one replica in them, and what runs beside all of them; None where the two do not fit."""
    placed, beside = _place(need, rooms), _spread(need.beside, rooms)
    both = _spread(need.beside, placed) if placed is not None else None
    return both if both is not None or beside is None else _place(need, beside)


def replicas_that_fit(need: Need, nodes: Sequence[Resources], beside: Iterable[Need] = ()) -> int:
    """How many of its replicas have room on these nodes, at most all, beside all that fit of those."""
    rooms = [_Room.of(node) for node in nodes]
    for other in beside:
        rooms, _ = _fill(other, rooms)
    return _fill(need, rooms)[1]


def replicas_to_start(need: Need, cluster: Cluster) -> int:
    """Those that the cluster has room for, or may come to have. More of them would wait for GPUs without harm, but for CPUs in the
    place of those who feed them, and of the lanes that call an API meanwhile."""
    if cluster.grows_to_what_nobody_knows:
        return need.replicas
    roomy = replace(need, beside_cpus=need.beside_cpus + OTHER_LANES_CPUS)
    return max(1, replicas_that_fit(roomy, cluster.most or cluster.nodes))


def _fill(need: Need, rooms: list[_Room]) -> tuple[list[_Room], int]:
    """The rooms with as many replicas in them as fit, and how many those are. CPUs are taken from nodes without a GPU first."""
    rooms = sorted((room.copy() for room in rooms), key=lambda room: len(room.gpus))
    for n in range(need.replicas):
        placed = _place(need, rooms) if n else _place_first(need, rooms)
        if placed is None:
            return rooms, n
        rooms = placed
    return rooms, need.replicas


def verdict(need: Need, cluster: Cluster) -> Verdict:
    """Whether at least one replica fits on the cluster with nothing else on it."""
    if replicas_that_fit(need, cluster.nodes):
        return "now"
    if cluster.most:
        return "grown" if replicas_that_fit(need, cluster.most) else "never"
    return "perhaps" if cluster.grows else "never"


def shortfall(need: Need, cluster: Cluster) -> str:
    """`needs 2 GPUs, the cluster has 1 (and cannot grow)`; "" where a replica fits on the nodes there are."""
    if verdict(need, cluster) == "now":
        return ""
    wanted = need.words()
    if need.accelerator and not cluster.has(f"{ACCELERATOR}{need.accelerator}"):
        there = ", ".join(cluster.accelerators()) or "none that Ray knows"
        growth = "" if cluster.grows else " (and cannot grow)"
        return f"needs {wanted}, the cluster has no such node{growth}; types there: {there}"
    for resource, more in (("GPU", 0.0), ("CPU", need.beside_cpus)):
        if need.total(resource) + more > cluster.has(resource) + EPSILON:
            asked = wanted if resource == "GPU" else amount(need.total(resource) + more, resource)
            return f"needs {asked}, the cluster has {cluster.has(resource):g} ({cluster.growth(resource)})"
    each = " and ".join(amount(need.bundles[0][name], name) for name in ("GPU", "CPU") if name in need.bundles[0])
    if need.one_node and len(need.bundles) > 1:
        most = max((node.get("GPU", 0.0) for node in cluster.nodes), default=0.0)
        return f"needs {wanted} on one node, the largest node has {most:g} ({cluster.growth('GPU')})"
    nodes = "; ".join(sorted({f"{node.get('GPU', 0):g} GPU, {node.get('CPU', 0):g} CPU" for node in cluster.nodes})[:4])
    times = f"{len(need.bundles)} times " if len(need.bundles) > 1 else ""
    return f"needs {times}{each} on a node, no node has room (nodes: {nodes}; {cluster.growth('GPU')})"


def remedy(need: Need, cluster: Cluster) -> str:
    """What the user can do about a shortfall: the need's own `fix`, unless CPUs alone are what is missing."""
    without_cpus = tuple({name: number for name, number in each.items() if name != "CPU"} for each in need.bundles)
    if need.gpus and not replicas_that_fit(replace(need, bundles=without_cpus, beside_cpus=0), cluster.nodes):
        return need.fix
    return "give the cluster more CPUs" if verdict(need, cluster) != "now" else need.fix


def in_turns(needs: Sequence[Need], cluster: Cluster) -> list[list[str]]:
    """Who runs side by side, in order: as many as fit on what the cluster can have, then the next ones."""
    nodes = cluster.most or cluster.nodes
    turns: list[list[Need]] = []
    left = list(needs)
    while left:
        turn: list[Need] = []
        for need in left:
            alone = replicas_that_fit(need, nodes)
            if not turn or replicas_that_fit(need, nodes, turn) >= max(1, alone):
                turn.append(need)
        turns.append(turn)
        left = [need for need in left if need not in turn]
    return [[need.who for need in turn] for turn in turns]
