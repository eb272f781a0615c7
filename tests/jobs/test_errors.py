"""Whatever goes wrong, in a task, an actor, Ray itself or this process, is one line for a person: no frames, no colours, no advice.

The errors are real ones of a real Ray, raised in its processes and caught where a command catches them.
"""

from __future__ import annotations

import errno
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray
import ray.data
import ray.exceptions as rays
from ray.data import ActorPoolStrategy

from jobs.errors import (
    EXIT_OPEN,
    LINE_CHARS,
    ClusterDown,
    HeadgateError,
    InputError,
    LaneDown,
    StoreError,
    find_known,
    one_line,
    plain,
)
from jobs.report.console import in_one_line
from jobs.route.cluster import ray_running
from routing.errors import RoutingError

ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # Ray's processes cannot import a test


class Made(Exception):
    """Cannot be pickled."""

    def __init__(self, a: int, b: int) -> None:
        super().__init__(f"made of {a} and {b}")
        self.lock = threading.Lock()


RED = "first\nsecond \x1b[31mred\x1b[0m"


def raising(error: Callable[[], BaseException]) -> Callable[[Any], Any]:
    def of_batch(batch: Any) -> Any:
        raise error()

    return of_batch


def in_a_task(error: Callable[[], BaseException]) -> None:
    ray.data.range(10).map_batches(raising(error)).take_all()


def in_a_generator(error: Callable[[], BaseException]) -> None:
    def pieces(batch: Any) -> Any:
        yield batch
        raise error()

    ray.data.range(10).map_batches(pieces).take_all()


def in_an_actor(error: Callable[[], BaseException]) -> None:
    class Actor:
        def __call__(self, batch: Any) -> Any:
            raise error()

    ray.data.range(10).map_batches(Actor, compute=ActorPoolStrategy(size=1)).take_all()


def in_a_constructor(error: Callable[[], BaseException]) -> None:
    class Actor:
        def __init__(self) -> None:
            raise error()

        def __call__(self, batch: Any) -> Any:
            return batch

    ray.data.range(10).map_batches(Actor, compute=ActorPoolStrategy(size=1)).take_all()


def in_a_call(error: Callable[[], BaseException]) -> None:
    def call() -> None:
        raise error()

    ray.get(ray.remote(max_retries=0)(call).remote())


WAYS = [in_a_task, in_a_generator, in_an_actor, in_a_constructor, in_a_call]
ERRORS: list[tuple[Callable[[], BaseException], str]] = [
    (lambda: ValueError(RED), "ValueError: first second red"),
    (lambda: KeyError("absent"), "KeyError: "),
    (lambda: Made(1, 2), "Made: made of 1 and 2"),
    (lambda: pa.ArrowInvalid("a\n\tb " + "x" * 900), "ArrowInvalid: a b xxx"),
    (lambda: RuntimeError(""), "RuntimeError"),
    (lambda: UnicodeDecodeError("utf-8", b"\xff", 0, 1, "no"), "UnicodeDecodeError: 'utf-8"),
]


def check_line(line: str, chars: int = LINE_CHARS) -> None:
    assert len(line) <= chars and line.isprintable(), line
    for never in ("\x1b", "pid=", 'File "', "Traceback", "direct cause", "attempts (total", "RayTaskError", "====="):
        assert never not in line, line


def caught(way: Callable[[Any], None], error: Callable[[], BaseException]) -> BaseException:
    with ray_running(), pytest.raises(Exception) as raised:  # noqa: PT011 - of any class
        way(error)
    return raised.value


@pytest.mark.parametrize("way", WAYS)
def test_an_error_of_ours_arrives_as_it_was_raised(ray_local: None, way: Callable[[Any], None]) -> None:
    """The kind decides the exit code."""
    errors: list[tuple[Callable[[], BaseException], type[HeadgateError], str]] = [
        (
            lambda: StoreError("s3://b/x: no such bucket (reading it)"),
            StoreError,
            "s3://b/x: no such bucket (reading it)",
        ),
        (lambda: LaneDown("models.m: out of credit; add some"), LaneDown, "models.m: out of credit; add some"),
        (lambda: RoutingError("router: it knows a, not b"), HeadgateError, "router: it knows a, not b"),
    ]
    for error, kind, says in errors:
        known = find_known(caught(way, error))
        assert isinstance(known, kind) and str(known) == says


@pytest.mark.parametrize("way", WAYS)
def test_any_other_error_is_its_own_words_in_one_line(ray_local: None, way: Callable[[Any], None]) -> None:
    for error, says in ERRORS if way in (in_a_task, in_a_call) else ERRORS[::2]:  # actors take their time to start
        line = one_line(caught(way, error))
        check_line(line)
        assert line.startswith(says), line


def dying_call(_: Any) -> None:
    ray.get(ray.remote(max_retries=0)(lambda: os._exit(1)).remote())


def dying_actor(_: Any) -> None:
    class Dying:
        def end(self) -> None:
            os._exit(1)

    ray.get(ray.remote(max_restarts=0)(Dying).remote().end.remote())


def too_late(_: Any) -> None:
    ray.get(ray.remote(lambda: time.sleep(5)).remote(), timeout=0.1)


def no_memory(_: Any) -> None:
    in_a_task(lambda: MemoryError())


def full_disk(_: Any) -> None:
    in_a_call(lambda: OSError(errno.ENOSPC, "No space left on device", "/data/x"))


@pytest.mark.parametrize(
    ("way", "says"),
    [
        (dying_call, "a process of the job died"),
        (dying_actor, "a process of the job died"),
        (too_late, "Ray did not answer in time"),
        (no_memory, "out of memory"),
        (full_disk, "no space left on the device"),
    ],
)
def test_what_the_work_runs_on_fails_and_rows_stay_open(
    ray_local: None, tmp_path: Any, monkeypatch: pytest.MonkeyPatch, way: Callable[[Any], None], says: str
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    error = caught(way, lambda: ValueError())
    assert isinstance(find_known(error), ClusterDown)
    line, code = in_one_line(error)
    details = line.rpartition("details: ")[2]
    check_line(line.removesuffix(details))
    assert line.startswith(says) and code == EXIT_OPEN and "the same command goes on" in line
    assert "Error" in Path(details).read_text()


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (rays.NodeDiedError("Some nodes died.\nMore"), "a node of the Ray cluster died"),
        (
            rays.OutOfMemoryError("Task was killed due to the node running low on memory.\nTop 10: " + "x" * 3000),
            "a node ran out",
        ),
        (rays.ObjectStoreFullError("No\nroom"), "Ray's object store is full"),
        (rays.OutOfDiskError("No\nroom"), "the disk of a node is full"),
        (rays.ObjectLostError("ab" * 14, None, "somewhere"), "data on their way"),
        (rays.OwnerDiedError("ab" * 14, None, "somewhere"), "data on their way"),
        (rays.RuntimeEnvSetupError("pip\nfailed"), "a node could not set up the runtime_env"),
        (rays.ActorUnschedulableError("no node\nfits"), "no node of the Ray cluster can take"),
        (rays.RaySystemError("broken\npipe", "Traceback:\n  x"), "Ray failed: System error: broken"),
        (rays.RpcError("gone"), "the Ray cluster cannot be reached"),
    ],
)
def test_rays_own_errors_are_said_in_the_jobs_words(error: BaseException, says: str) -> None:
    """Made here, not met: a node that dies or fills takes a cluster."""
    known = find_known(error)
    assert isinstance(known, ClusterDown) and str(known).startswith(says)
    check_line(str(known))


def test_an_object_that_cannot_be_sent_is_named_without_the_manual(ray_local: None) -> None:
    lock = threading.Lock()

    def send(_: Any) -> None:
        ray.data.range(3).map_batches(lambda batch: batch if lock else None).take_all()

    line = one_line(caught(send, lambda: ValueError()))
    check_line(line)
    assert line.startswith("TypeError: Could not serialize")


def test_an_error_that_came_of_another_names_the_first() -> None:
    later = RuntimeError("beside the point")
    later.__cause__ = InputError("input.path: no such file")
    assert str(find_known(later)) == "input.path: no such file"
    other = RuntimeError("another fault")
    other.__context__, other.__suppress_context__ = InputError("input.path: dealt with"), True
    assert find_known(other) is None and one_line(other) == "RuntimeError: another fault"


def test_a_line_too_long_keeps_its_head_and_its_end() -> None:
    line = plain(f"field: {'x' * 5000}; do this")
    assert len(line) <= LINE_CHARS and line.startswith("field: ") and line.endswith("; do this")
    assert plain("a\r\n\tb\x1b]0;title\x07c\x1b[1;31md\x1b[m\x00e\u2028f") == "a b cd e f".replace("b c", "bc")
    assert pickle.loads(pickle.dumps(ClusterDown("x"))).exit_code == EXIT_OPEN
