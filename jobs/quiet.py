"""A Ray that leaves the terminal to the job: no bars, no plans, no start-up lines; Ray's session logs have them.

Measured on Ray 2.60: a small read-map-write job prints 30 lines by itself, none with `init_ray`.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
from typing import Any

RAY_INIT_OPTIONS: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
"""For `ray.init`: workers' prints stay in their log files, and "Started a local Ray instance" is not printed."""
RAY_ENVIRONMENT = {
    # One line per kind of accelerator otherwise, on machines without one.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Ray Data wraps tqdm so that bars from workers reach the driver; there are none to carry.
    "RAY_TQDM": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
}


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
    for handler in logging.getLogger("ray.data").handlers:
        if (
            handler.name == "console"
        ):  # what aborts an execution is raised in the driver as well, which says it in one line
            handler.setLevel(logging.CRITICAL)


def init_ray(**options: Any) -> None:
    """`quiet_ray` and `ray.init(**RAY_INIT_OPTIONS, **options)`, without a line on the terminal unless it fails.

    The C++ part announces its log level on file descriptor 2 before it obeys it, so that descriptor is a file while Ray
    starts; where `ray.init` raises, what the file caught is printed before the error travels on.
    """
    quiet_ray()
    import ray

    sys.stderr.flush()
    screen = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            ray.init(**{**RAY_INIT_OPTIONS, **options})
        except BaseException:
            sys.stderr.flush()
            caught.seek(0)
            os.write(screen, caught.read())
            raise
        finally:
            sys.stderr.flush()
            os.dup2(screen, 2)
            os.close(screen)
