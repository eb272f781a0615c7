"""The one Ray that the tests of a process share: 4 s of two cores to start, 2 s to end, so it is started once."""

from __future__ import annotations

from typing import Any

OPTIONS: dict[str, Any] = {
    "address": "local",
    "num_cpus": 8,  # logical: actor pools and Ray Data's own tasks all want one, on however few cores
    "object_store_memory": 256 * 1024**2,
    "include_dashboard": False,
    "log_to_driver": False,
}


def start() -> None:
    """Start it, unless it runs. Its workers have the environment of that moment."""
    import ray

    if not ray.is_initialized():
        ray.init(**OPTIONS)
