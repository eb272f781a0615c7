"""Getting a Ray to run on: the cluster the job was submitted to, or one of our own on this machine."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from jobs.errors import ClusterDown, HeadgateError, SpecError, one_line

RAY_INIT_OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""For `ray.init`: workers' prints stay in their log files, and "Started a local Ray instance" is not printed."""
RAY_ENVIRONMENT = {
    # One line per kind of accelerator otherwise, on machines without one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray Data wraps tqdm so that bars from workers reach the driver; there are none to carry.
    "RAY_TQDM": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}
LOGICAL_CPUS = 8
"""Stages are pipelines of actors and tasks with fractional CPUs; on a small machine they need more slots than cores."""
ADDRESS_TIMEOUT_S = 15.0
OBJECT_STORE_BYTES = 512 * 2**20
"""Of a local Ray. Blocks are small (rows_per_block), so a laptop's memory stays its owner's."""


@contextmanager
def ray_running() -> Iterator[None]:
    """Ray for the length of a command. `RAY_ADDRESS` (set by `ray job submit`) names a cluster; otherwise a local Ray is
    started and ended here, apart from any other on the machine. Nothing of the environment is copied into Ray's own state.
    """
    import ray

    if ray.is_initialized():
        errors_as_raised()
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
        try:
            if address != "local":
                look_for(address)
            init_ray(**options)
        except Exception as error:
            raise not_started(address, error) from error
        try:
            yield
        finally:
            ray.shutdown()
            logging.disable(logging.NOTSET)


def look_for(address: str) -> None:
    """Raises OSError where nobody listens at host:port: Ray itself would try for minutes, without a word."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal() and "/" not in host:
        socket.create_connection((host.strip("[]"), int(port)), ADDRESS_TIMEOUT_S).close()


def not_started(address: str, error: Exception) -> HeadgateError:
    """Why there is no Ray, for a person: a mistake where the user named one, else this machine's."""
    if address == "local":
        return ClusterDown(f"Ray did not start on this machine ({one_line(error, 160)}); the same command tries again")
    return SpecError(
        f"RAY_ADDRESS: no Ray to work with at {address} ({one_line(error, 160)}); mend it, or unset it to start one here"
    )


def errors_as_raised() -> None:
    """What a task raises arrives as an instance of its own class, not as a report that something was raised."""
    from ray.data import DataContext

    DataContext.get_current().raise_original_map_exception = True


def quiet_ray() -> None:
    """Keep Ray's own lines off the terminal; for a driver that calls `ray.init(**RAY_INIT_OPTIONS)` itself.

    Bars, plans, resource and error lines of Ray Data go to the session's `logs/ray-data` only; what aborts an execution
    is raised in the driver as well, and a worker that died is still told. The driver's C++ part prints harmless errors
    (ray#53727: one per actor pool) past every Python switch: its level is raised in this process's C environment alone,
    which the raylet and the workers, started with Python's, do not inherit.
    """
    for key, value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    if "RAY_BACKEND_LOG_LEVEL" not in os.environ:
        os.putenv("RAY_BACKEND_LOG_LEVEL", "fatal")
    logging.getLogger("ray").setLevel(logging.ERROR)

    import ray.data  # configures its own logger at import

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    context.use_ray_tqdm = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    errors_as_raised()
    for handler in logging.getLogger("ray.data").handlers:
        if (
            handler.name == "console"
        ):  # what aborts an execution is raised in the driver as well, which says it in one line
            handler.setLevel(logging.CRITICAL)


def init_ray(**options: Any) -> None:
    """`quiet_ray` and `ray.init(**RAY_INIT_OPTIONS, **options)`, without a line on the terminal unless it fails.

    The C++ part announces its log level on file descriptor 2 before it obeys it, so that descriptor is a file while Ray
    starts; where `ray.init` raises, what the file caught travels on as a note of the error.
    """
    quiet_ray()
    import ray

    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            ray.init(**{**RAY_INIT_OPTIONS, **options})
        except BaseException as error:
            sys.stderr.flush()
            caught.seek(0)
            error.add_note(caught.read().decode("utf-8", "replace"))
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
