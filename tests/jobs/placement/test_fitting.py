"""What fits on which nodes, and what is said where it does not."""

from __future__ import annotations

import pytest

from jobs.placement.cluster import Cluster
from jobs.placement.fitting import in_turns, remedy, replicas_that_fit, shortfall, verdict
from jobs.placement.needs import Need, bundle

GPU = {"CPU": 8.0, "GPU": 1.0}
TWO = {"CPU": 8.0, "GPU": 2.0}
HEAD = {"CPU": 2.0}


def need(gpus: float = 1, workers: int = 1, replicas: int = 1, cpus: float = 1, **more) -> Need:
    return Need(more.pop("who", "m"), (bundle(cpus, gpus, more.pop("kind", None)),) * workers, replicas, **more)


@pytest.mark.parametrize(
    ("wanted", "nodes", "fits"),
    [
        (need(), [GPU], 1),
        (need(), [HEAD], 0),
        (need(replicas=3), [GPU, GPU], 2),
        (need(workers=2), [GPU, GPU], 1),
        (need(workers=2, one_node=True), [GPU, GPU], 0),
        (need(workers=2, one_node=True, replicas=2), [TWO, TWO], 2),
        (need(0.25, replicas=9), [TWO], 8),
        (need(0.6, replicas=3), [TWO], 2),  # 1.8 of 2, but none on two GPUs at once
        (need(0.5, workers=1, replicas=2, cpus=5), [GPU], 1),  # CPUs run out first
        (need(0, cpus=1, replicas=4), [HEAD], 2),
        (need(kind="L4"), [TWO], 0),
        (need(kind="L4", replicas=3), [TWO | {"accelerator_type:L4": 1.0}], 2),
    ],
)
def test_replicas_fit_as_ray_places_them(wanted: Need, nodes: list, fits: int) -> None:
    assert replicas_that_fit(wanted, nodes) == fits


def test_what_runs_beside_takes_no_cpu_that_a_gpu_needs() -> None:
    nodes = [{"CPU": 2.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 2.0}]
    assert replicas_that_fit(Need("m", (bundle(1, 1),) * 3, beside_cpus=1.5), nodes) == 1
    assert replicas_that_fit(Need("m", (bundle(1, 1),) * 3, beside_cpus=4), nodes) == 0
    assert replicas_that_fit(Need("m", (bundle(1, 1),), 3, beside_cpus=4), [*nodes, {"CPU": 4.0}]) == 3


@pytest.mark.parametrize(
    ("wanted", "cluster", "says", "line"),
    [
        (need(), Cluster((GPU,)), "now", ""),
        (need(workers=2), Cluster((GPU,)), "never", "needs 2 GPUs, the cluster has 1 (and cannot grow)"),
        (need(), Cluster((HEAD,)), "never", "needs 1 GPU, the cluster has 0 (and cannot grow)"),
        (
            need(workers=2), Cluster((GPU,), (GPU,) * 4, grows=True), "grown",
            "needs 2 GPUs, the cluster has 1 (and can scale to 4)",
        ),
        (
            need(workers=8), Cluster((GPU,), (GPU,) * 4, grows=True), "never",
            "needs 8 GPUs, the cluster has 1 (and can scale to 4)",
        ),
        (
            need(workers=2), Cluster((GPU,), grows=True), "perhaps",
            "needs 2 GPUs, the cluster has 1 (and can scale, to what is not known)",
        ),
        (
            need(workers=2, one_node=True), Cluster((GPU, GPU)), "never",
            "needs 2 GPUs on one node, the largest node has 1 (and cannot grow)",
        ),
        (
            need(kind="H100"), Cluster((TWO | {"accelerator_type:L4": 1.0},)), "never",
            "needs 1 GPU of type H100, the cluster has no such node (and cannot grow); types there: L4",
        ),
        (need(0, cpus=4), Cluster((HEAD,)), "never", "needs 4 CPUs, the cluster has 2 (and cannot grow)"),
        (
            need(cpus=4), Cluster(({"CPU": 1.0, "GPU": 1.0}, {"CPU": 8.0})), "never",
            "needs 1 GPU and 4 CPUs on a node, no node has room (nodes: 0 GPU, 8 CPU; 1 GPU, 1 CPU; and cannot grow)",
        ),
    ],
)  # fmt: skip
def test_a_need_and_a_cluster_are_judged_in_one_line(wanted: Need, cluster: Cluster, says: str, line: str) -> None:
    assert (verdict(wanted, cluster), shortfall(wanted, cluster)) == (says, line)


def test_the_remedy_is_for_what_is_missing() -> None:
    fix = "lower models.m.engine_kwargs.tensor_parallel_size"
    few_cpus = Cluster(({"CPU": 1.0, "GPU": 4.0},))
    assert remedy(need(workers=8, fix=fix), few_cpus) == fix
    assert remedy(need(workers=2, fix=fix), few_cpus) == "give the cluster more CPUs"
    assert remedy(need(0, cpus=4, fix=fix), few_cpus) == "give the cluster more CPUs"
    assert remedy(need(kind="L4", fix=fix), few_cpus) == fix


def test_who_goes_after_whom() -> None:
    one, two = Cluster((GPU,)), Cluster((GPU, GPU))
    weak, strong, judge = (need(who=name) for name in ("weak", "strong", "judge"))
    assert in_turns([weak, strong, judge], one) == [["weak"], ["strong"], ["judge"]]
    assert in_turns([weak, strong, judge], two) == [["weak", "strong"], ["judge"]]
    assert in_turns([need(0.5, who="weak"), need(0.5, who="strong")], one) == [["weak", "strong"]]
    # All its replicas first: two engines of which each has half of its own are slower than one after the other.
    assert in_turns([need(replicas=2, who="weak"), strong], two) == [["weak"], ["strong"]]
    # What fits beside the first goes with it, whoever comes between.
    assert in_turns([weak, need(workers=2, who="mid"), strong], two) == [["weak", "strong"], ["mid"]]
    # What fits nowhere keeps nobody waiting: it hears so at once.
    assert in_turns([need(workers=4, who="weak"), strong], two) == [["weak", "strong"]]
