"""Where an engine goes: on GPUs or on CPUs, and what one replica of it asks Ray for.

On GPUs wherever the cluster has some or can come to have some, unless `gpus: 0`. Whether a replica then computes on its GPU is the
build's affair: what is built for CPUs alone has them all the same, and the plan says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from jobs.lanes.base import LaneContext
from jobs.placement.cluster import Cluster, look
from jobs.placement.lent import built_for_gpus
from jobs.placement.needs import Need, Resources, bundle
from jobs.spec.models import ModelSpec

BESIDE_CPUS = 1.5
"""Of a lane: its tasks, one after the other in the worst case (1), its reader and its writer."""


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """Of one replica."""

    on_gpu: bool
    bundles: tuple[Resources, ...]

    @property
    def gpus(self) -> float:
        return sum(each.get("GPU", 0.0) for each in self.bundles)


def engine_place(model: ModelSpec, cluster: Cluster, cpus: float = 1.0) -> EnginePlace:
    """cpus: of one worker of the engine."""
    on_gpu = model.gpus > 0 and (
        cluster.can_have("GPU") > 0
        or model.accelerator_type is not None
        or (built_for_gpus() and (cluster.grows_to_what_nobody_knows or model.engine == "vllm"))
    )
    share = (model.gpus if model.gpus < 1 else 1.0) if on_gpu else 0.0
    each = bundle(cpus, share, model.accelerator_type)
    return EnginePlace(on_gpu, tuple(each for _ in range(model.workers)))


def local_need(context: LaneContext, cpus: float = 1.0) -> Need:
    """What the lane of a model that runs here asks for."""
    model = context.model
    place = engine_place(model, look(), cpus)
    fix = _fix(f"models.{context.alias}", model)
    # Without Ray's executor the workers are processes of one machine.
    backend = model.engine_kwargs.get(
        "distributed_executor_backend", "ray" if place.on_gpu and built_for_gpus() else "mp"
    )
    one_node = model.workers > 1 and backend != "ray"
    return Need(context.alias, place.bundles, model.replicas, one_node, BESIDE_CPUS, fix)


def _fix(where: str, model: ModelSpec) -> str:
    if model.accelerator_type:
        return f"change {where}.accelerator_type"
    if model.workers > 1:
        size = "tensor_parallel_size" if model.tensor_parallel > 1 else "pipeline_parallel_size"
        return f"lower {where}.engine_kwargs.{size}"
    return f"set {where}.gpus to a share of one, or to 0 for CPUs"
