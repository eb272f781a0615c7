"""What a Ray cluster has, and what it can grow to where that is known.

A cluster that grows says so in Ray's own store; to what, only some say: what reports its node groups to Ray does, and the head of
one that `ray up` started has its configuration on disk. Elsewhere (KubeRay) growth is a fact without a figure.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from jobs.placement.needs import ACCELERATOR, Resources

BOOTSTRAP = "~/ray_bootstrap_config.yaml"
"""Where `ray up` leaves the cluster's configuration on the head, on which a submitted job's driver runs."""
STATUS, AUTOSCALER_V2 = "__autoscaling_status", "__autoscaler_v2_enabled"
"""Keys of Ray's own store."""
NAMED_AFTER_A_NODE = re.compile(r"node_[0-9a-f]{16,}")
MOST_OF_A_KIND = 1000
"""Nodes of one kind that are looked at."""
OWN = ("CPU", "GPU", "memory")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Nodes, by what each has in all; what is in use does not count."""

    nodes: tuple[Resources, ...]
    most: tuple[Resources, ...] = ()
    """All nodes that it may come to have; () where it cannot grow, or where that is not known."""
    grows: bool = False
    """Nodes come when something waits for them."""

    def has(self, resource: str) -> float:
        """Now."""
        return sum(node.get(resource, 0.0) for node in self.nodes)

    def can_have(self, resource: str) -> float:
        """Now, or grown as far as is known."""
        return max(self.has(resource), sum(node.get(resource, 0.0) for node in self.most))

    @property
    def grows_to_what_nobody_knows(self) -> bool:
        return self.grows and not self.most

    def growth(self, resource: str) -> str:
        """`and can scale to 4`, in words for a line that has said how many there are."""
        if not self.grows:
            return "and cannot grow"
        return f"and can scale to {self.can_have(resource):g}" if self.most else "and can scale, to what is not known"

    def accelerators(self) -> list[str]:
        """Types of GPU that it has, or can come to have."""
        names = {name for node in (*self.nodes, *self.most) for name in node if name.startswith(ACCELERATOR)}
        return sorted(name.removeprefix(ACCELERATOR) for name in names)


def look() -> Cluster:
    """The cluster that this process is connected to."""
    nodes = tuple(_plain(node["Resources"]) for node in ray.nodes() if node["Alive"])  # type: ignore[no-untyped-call]
    groups = _reported() or _bootstrapped()
    most = tuple(group for group, count in groups for _ in range(min(count, MOST_OF_A_KIND)))
    return Cluster(nodes, most, grows=bool(groups) or _autoscales())


def _plain(resources: Mapping[str, Any]) -> Resources:
    """Without what names a single node, or the memory of Ray's own store."""
    return {
        name: float(number) for name, number in resources.items()
        if name in OWN or name.startswith(ACCELERATOR) or not (":" in name or name == "object_store_memory")
    }  # fmt: skip


Groups = list[tuple[Resources, int]]


def _reported() -> Groups:
    """Node groups that whoever scales the cluster has told Ray."""
    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    return [(_plain(group.resources), _count(group.max_count)) for group in groups if group.max_count]


def _count(number: int) -> int:
    return number if number > 0 else MOST_OF_A_KIND


def _bootstrapped() -> Groups:
    """Node types of the configuration that `ray up` left here, if this is the head of such a cluster and its autoscaler runs."""
    if not _autoscales():
        return []
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
        config = yaml.safe_load(Path(BOOTSTRAP).expanduser().read_text())
        return node_types(config)
    return []


def node_types(config: Mapping[str, Any]) -> Groups:
    """Node types of a cluster launcher's configuration, the head once."""
    head, most = config.get("head_node_type"), int(config.get("max_workers", 0))
    found: Groups = []
    for name, kind in config["available_node_types"].items():
        count = 1 if name == head else min(int(kind.get("max_workers", most)), most)
        found.append((_plain(kind.get("resources") or {}), count))
    return found


def _autoscales() -> bool:
    """Something starts nodes for this cluster. Ray's own monitor runs everywhere; of a cluster that it only looks at, it reports
    node types that are named after the nodes themselves."""
    from ray.experimental import internal_kv

    kv = internal_kv._internal_kv_get
    with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
        report = json.loads(kv(STATUS) or b"{}").get("autoscaler_report") or {}
        kinds = {**report["active_nodes"], **(report.get("idle_nodes") or {})}
        if any(not NAMED_AFTER_A_NODE.fullmatch(kind) for kind in kinds):
            return True
    return bool(kv(AUTOSCALER_V2, namespace="__autoscaler") == b"1")
