"""Getting a Ray to run on: the cluster the job was submitted to, or one of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.quiet import init_ray

LOGICAL_CPUS = 8
"""Stages are pipelines of actors and tasks with fractional CPUs; on a small machine they need more slots than cores."""
OBJECT_STORE_BYTES = 512 * 2**20
"""Of a local Ray. Blocks are small (rows_per_block), so a laptop's memory stays its owner's."""


@contextmanager
def ray_running() -> Iterator[None]:
    """Ray for the length of a command. `RAY_ADDRESS` (set by `ray job submit`) names a cluster; otherwise a local Ray is
    started and ended here, apart from any other on the machine. Nothing of the environment is copied into Ray's own state.
    """
    import ray

    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"address": address}
    if address == "local":
        options |= {"num_cpus": max(LOGICAL_CPUS, os.cpu_count() or 1), "include_dashboard": False}
        options["object_store_memory"] = OBJECT_STORE_BYTES
    # The raylet's remarks (many workers started, …) are printed on standard output by Ray; that belongs to the result. What
    # libraries log below an error stays in Ray's session logs: the terminal is the progress display's.
    logging.disable(logging.WARNING)
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        init_ray(**options)
        try:
            yield
        finally:
            ray.shutdown()
            logging.disable(logging.NOTSET)
