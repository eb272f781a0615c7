"""What every test runs in: a clean environment, one local Ray, S3 servers, shared data, and nothing left behind.

Every process that a test starts, however far down, carries this session's mark in its environment. Whatever still
carries it when the last fixture is torn down is named (with the test that started it), ended by its process id, and
fails the session.
"""

from __future__ import annotations

import os
import secrets
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent
MARK = "HEADGATE_TEST_SESSION"
SESSION = secrets.token_hex(8)
ENVIRONMENT = {
    MARK: SESSION,
    # No model hub, no usage reports, nothing that leaves the machine.
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    # Two cores: threads of one process must not starve the next.
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    # Ray's bars and repeated warnings would bury a failure's text.
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_DEDUP_LOGS": "1",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    # A key that Ray's workers have from the start, as a user's do.
    "HEADGATE_TEST_KEY": "sk-test-4f1d77a0c2",
}
# A developer's own account, cluster and endpoint are never a test's.
FOREIGN = ("AWS_", "OPENAI_", "HEADGATE_", "RAY_ADDRESS", "GOOGLE_APPLICATION_CREDENTIALS")
for name in [name for name in os.environ if name.startswith(FOREIGN)]:
    del os.environ[name]
# Some containers forbid bytecode; tests start hundreds of processes, each of which would compile Headgate anew (0.4 s).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
os.environ.update(ENVIRONMENT)  # before anything imports ray, torch or transformers: they read it once

import local_ray  # noqa: E402
import psutil  # noqa: E402
import pytest  # noqa: E402
from ports import free_port  # noqa: E402
from s3_server import S3Bucket, ceph_gateway, moto_endpoint, s3_ceph, s3_moto  # noqa: E402
from shared_files import SHARED, WHY  # noqa: E402

__all__ = ["S3Bucket", "ceph_gateway", "moto_endpoint", "s3_ceph", "s3_moto"]

LONGEST_FIRST = (
    # Minutes: whole jobs as programs, engines, clusters of several nodes.
    "system/test_chaos.py", "jobs/demo/test_demo.py", "system/test_multinode.py", "system/test_kill.py",
    "system/test_canary.py", "jobs/lanes/test_batch_job.py", "jobs/lanes/test_lane_vllm.py", "jobs/route/test_judge_job.py",
    "jobs/route/test_gpu_jobs.py", "jobs/route/test_on_gpus.py",
    "jobs/route/test_pipeline.py", "jobs/lanes/test_lane_openai_deaths.py", "jobs/lanes/test_lane_openai.py",
    "jobs/lanes/test_lane_transformers.py", "system/test_s3_job.py", "jobs/route/test_pilot_job.py",
    # Half a minute: several jobs in the shared Ray, or a store that is waited for.
    "jobs/route/test_bands.py", "jobs/route/test_cascade_job.py", "jobs/route/test_spending.py", "jobs/route/test_reuse.py",
    "jobs/storage/test_store.py", "jobs/route/test_account.py", "routing/routers/test_calibrated.py", "jobs/test_cli.py",
    "jobs/report/test_progress.py",
)  # fmt: skip
"""Files are shared out to processes in this order, all others after them: a long one that comes last is waited for alone."""
GRACE_S = 20
"""How long processes may take to end after the last test: Ray's own need a few seconds."""
LEFT_BEHIND: list[str] = []
HARMLESS = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "torch/_inductor/compile_worker")
"""Helpers of the standard library and torch that live as long as the process that uses them."""


@pytest.fixture
def ray_local() -> None:
    """The session's Ray, in this process; started by the first test that asks, or anew where a test has shut it down.

    Its workers have the environment of that moment: with `s3_moto` and the like use `own_ray`. Programs that a test
    starts bring their own Ray and need neither.
    """
    local_ray.start()


@pytest.fixture
def own_ray() -> Iterator[None]:
    """A Ray for this test alone: fresh, with the environment the test has set up so far, and gone afterwards."""
    import ray

    ray.shutdown()
    ray.init(**local_ray.OPTIONS)
    yield
    ray.shutdown()


@pytest.fixture
def no_ray() -> Iterator[None]:
    """No Ray in this process, before or after: for tests that start clusters of their own, or measure memory."""
    import ray

    ray.shutdown()
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def checkout() -> Path:
    """Root of the checkout."""
    return TESTS.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """`../shared/data` beside the checkout: published outcome tables. Skips where it is not there."""
    if not SHARED.is_dir():
        pytest.skip(WHY)
    return SHARED


@pytest.fixture
def port() -> int:
    """A free TCP port of 127.0.0.1."""
    return free_port()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first; within a file, and among all others, the order of collection stays."""
    place = {name: at for at, name in enumerate(LONGEST_FIRST)}
    items.sort(key=lambda item: place.get(item.path.relative_to(TESTS).as_posix(), len(place)))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End the session's Ray, then fail loudly if anything that a test started is still there."""
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()
    left = survivors()
    deadline = time.monotonic() + GRACE_S
    while left and time.monotonic() < deadline:
        time.sleep(0.2)
        left = survivors()
    for process, culprit in left:
        LEFT_BEHIND.append(f"LEFT BEHIND: process {process.pid} ({describe(process)}), started by {culprit}")
        process.kill()
    if hasattr(session.config, "workeroutput"):  # one of several: the process that started this one tells
        session.config.workeroutput["left_behind"] = LEFT_BEHIND
        return
    report = session.config.pluginmanager.get_plugin("terminalreporter")
    for line in LEFT_BEHIND:
        report.write_line(line, red=True)
    if LEFT_BEHIND and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """pytest-xdist: one of the processes is through; what its tests left behind."""
    LEFT_BEHIND.extend(getattr(node, "workeroutput", {}).get("left_behind", []))


def survivors() -> list[tuple[psutil.Process, str]]:
    """Processes with this session's mark that still run, itself and harmless helpers left out, and who started each."""
    found = []
    for process in psutil.process_iter():
        if process.pid == os.getpid():
            continue
        try:
            environment = process.environ()
            if environment.get(MARK) != SESSION or process.status() == psutil.STATUS_ZOMBIE:
                continue
            if any(word in " ".join(process.cmdline()) for word in HARMLESS):
                continue
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        found.append((process, environment.get("PYTEST_CURRENT_TEST", "no test")))
    return found


def describe(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:160] or process.name()
    except psutil.NoSuchProcess:
        return "gone by now"
