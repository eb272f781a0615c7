"""What a cluster says of itself, and of what it can grow to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.core.generated import autoscaler_pb2
from ray.experimental import internal_kv

from jobs.placement import cluster
from jobs.placement.cluster import STATUS, look
from jobs.placement.fitting import shortfall, verdict
from jobs.placement.needs import Need, bundle

ONE_GPU = Need("m", (bundle(1, 1),))
FOUR_GPUS = Need("m", (bundle(1, 1),) * 4)
NODE_TYPES = {
    "head_node_type": "head",
    "max_workers": 3,
    "available_node_types": {
        "head": {"resources": {"CPU": 0}, "max_workers": 0},
        "gpu": {"resources": {"CPU": 8, "GPU": 1, "accelerator_type:L4": 1}, "min_workers": 0, "max_workers": 12},
    },
}


@pytest.fixture
def autoscaled(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where an autoscaler reports of node types that have names."""
    status = json.dumps({"autoscaler_report": {"active_nodes": {"ray.head.default": 1}, "idle_nodes": {}}})
    found = internal_kv._internal_kv_get
    monkeypatch.setattr(
        internal_kv, "_internal_kv_get", lambda key, **more: status.encode() if key == STATUS else found(key, **more)
    )


def test_nodes_are_what_they_have_in_all(ray_local: None) -> None:
    found = look()
    assert found.has("CPU") == ray.cluster_resources()["CPU"] and found.has("GPU") == 0
    assert not any(":" in name or "object_store" in name for node in found.nodes for name in node)


def test_a_cluster_that_scales_to_nobody_knows_what(autoscaled: None) -> None:
    found = look()
    assert found.grows_to_what_nobody_knows and verdict(ONE_GPU, found) == "perhaps"
    assert shortfall(ONE_GPU, found) == "needs 1 GPU, the cluster has 0 (and can scale, to what is not known)"


def test_the_launchers_configuration_says_to_what(
    autoscaled: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(NODE_TYPES))
    monkeypatch.setattr(cluster, "BOOTSTRAP", str(tmp_path / "config.yaml"))
    found = look()
    assert found.can_have("GPU") == 3 and found.accelerators() == ["L4"], (
        "no more nodes than max_workers of the cluster"
    )
    assert verdict(ONE_GPU, found) == "grown"
    assert shortfall(ONE_GPU, found) == "needs 1 GPU, the cluster has 0 (and can scale to 3)"
    assert verdict(FOUR_GPUS, found) == "never"


@pytest.mark.parametrize("text", ["", "{", "[]", "head_node_type: x", "available_node_types: 3", "\x00"])
def test_a_configuration_of_another_kind_says_nothing(
    autoscaled: None, tmp_path: Path, monkeypatch: Any, text: str
) -> None:
    (tmp_path / "config.yaml").write_text(text)
    monkeypatch.setattr(cluster, "BOOTSTRAP", str(tmp_path / "config.yaml"))
    assert look().grows_to_what_nobody_knows


def test_a_configuration_left_by_another_cluster_does_not_count(
    ray_local: None, tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(NODE_TYPES))
    monkeypatch.setattr(cluster, "BOOTSTRAP", str(tmp_path / "config.yaml"))
    assert not look().grows, "nothing scales this one"


def test_node_groups_that_are_reported_to_ray(ray_local: None, monkeypatch: pytest.MonkeyPatch) -> None:
    config = autoscaler_pb2.ClusterConfig()
    config.node_group_configs.add(name="gpu", resources={"CPU": 8, "GPU": 2}, max_count=2)
    config.node_group_configs.add(name="none", resources={"GPU": 8}, max_count=0)
    monkeypatch.setattr(ray._private.state.state, "get_cluster_config", lambda: config)
    found = look()
    assert found.can_have("GPU") == 4 and found.grows and verdict(FOUR_GPUS, found) == "grown"
