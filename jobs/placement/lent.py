"""What this process may compute on: the GPUs that Ray has lent it, and no others.

Ray leaves CUDA_VISIBLE_DEVICES as it is in a process that asked for no GPU, so torch sees all of the node's there: a scorer, a task
or the driver would take memory of a GPU that an engine counts as its own.
"""

from __future__ import annotations

from dataclasses import dataclass

import ray


@dataclass(frozen=True, slots=True)
class Device:
    """As torch names it, and what is odd about it."""

    name: str
    note: str = ""


def lent_device(what: str) -> Device:
    """`cuda` in an actor or task that was lent a GPU which torch can use; else `cpu`. what: the subject of the note."""
    if not (ray.is_initialized() and ray.get_gpu_ids()):
        return Device("cpu")
    import torch

    if torch.cuda.is_available():
        return Device("cuda")
    return Device("cpu", f"{what} was lent a GPU that torch {torch.__version__} cannot use; it ran on CPUs")


def built_for_gpus() -> bool:
    """Whether torch, and vLLM with it, can use a GPU at all; what is installed here is what is installed on the nodes."""
    import torch

    return bool(torch.version.cuda or torch.version.hip)
