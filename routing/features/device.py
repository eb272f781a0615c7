"""Which device torch computes on in this process."""

from __future__ import annotations

_chosen: list[str] = []


def use_device(name: str) -> None:
    """From now on this one (`cpu`, `cuda`), whatever else torch sees: in a job, GPUs are lent to some processes only."""
    _chosen[:] = [name]


def choose_device() -> str:
    """ "cuda" where there is a GPU, else "cpu", unless `use_device` said which."""
    import torch

    return _chosen[0] if _chosen else "cuda" if torch.cuda.is_available() else "cpu"
