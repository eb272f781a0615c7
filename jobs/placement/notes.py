"""What people are told of where the models will run: in the plan, and when a run starts. A line each, none where all is plain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jobs.placement.cluster import Cluster
from jobs.placement.fitting import replicas_to_start, shortfall, verdict
from jobs.placement.lent import built_for_gpus
from jobs.placement.needs import Need, amount
from jobs.spec.models import ModelSpec


def model_notes(model: ModelSpec, need: Need, cluster: Cluster) -> list[str]:
    """Of one model whose engine asks for `need`."""
    who = need.who
    if missing := shortfall(need, cluster):
        return [f"{who} {missing}"]
    notes = []
    fits = replicas_to_start(need, cluster)
    if fits < need.replicas:
        room = f"room for {fits} ({cluster.can_have('GPU'):g} GPUs, {cluster.can_have('CPU'):g} CPUs)"
        notes.append(
            f"{who} has {need.replicas} replicas of {need.words()} each, the cluster has {room}: {fits} will answer"
        )
    if need.gpus and not built_for_gpus():
        notes.append(f"{who} holds {amount(need.gpus, 'GPU')}, but the torch installed here is built for CPUs alone")
    if not need.gpus and model.gpus > 0 and built_for_gpus():
        notes.append(f"{who} runs on CPUs: the cluster has no GPU")
    if need.gpus and verdict(need, cluster) == "now":
        widest = max(node.get("GPU", 0.0) for node in cluster.nodes)
        if model.tensor_parallel > widest:
            notes.append(
                f"{who}: tensor_parallel_size {model.tensor_parallel} spans nodes (the largest has {widest:g} GPUs), slow without a"
                " fast network; pipeline_parallel_size divides a model over nodes better"
            )
    return notes


def turn_notes(turns: Sequence[Sequence[str]], needs: Mapping[str, Need], cluster: Cluster) -> list[str]:
    """Who answers after whom, where not all fit on the cluster together."""
    if len(turns) < 2:
        return []
    resource = "GPU" if any(need.gpus for need in needs.values()) else "CPU"
    asked = ", ".join(
        f"{name} {need.total(resource) * need.replicas:g}" for name, need in needs.items() if need.total(resource)
    )
    order = ", then ".join(" with ".join(turn) for turn in turns)
    has = f"the cluster has {cluster.can_have(resource):g}"
    return [f"one after the other: {order} ({resource}s: {asked}; {has})"]
