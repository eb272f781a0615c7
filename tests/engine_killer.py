"""A row that no engine survives: kills whatever has it under way, as a segfault or an out-of-memory kill would."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil

from jobs.lanes.base import LaneContext
from jobs.lanes.local.under_way import FREE, NOTES, PREFIX, UnderWay


def the_process_itself(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def its_engine(pid: int) -> None:
    """vLLM's engine is a child of the actor."""
    for child in psutil.Process(pid).children(recursive=True):
        child.kill()


@contextmanager
def poisonous(context: LaneContext, row_key: int, kill: Callable[[int], None]) -> Iterator[list[int]]:
    """While this lasts, `kill(pid)` befalls a process once it has the row under way. Yields the pids so far."""
    killed: list[int] = []
    dead = set(Path(context.local_dir).glob(f"{PREFIX}*/*"))
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.001):
            for path in set(Path(context.local_dir).glob(f"{PREFIX}*/*")) - dead:
                pid = int(path.name.rsplit("-", 1)[1])
                with contextlib.suppress(OSError, ValueError, IndexError, psutil.Error):
                    slots = np.fromfile(path, NOTES)[0]["slots"]
                    if pid not in killed and row_key in slots["row_key"][slots["state"] != FREE]:
                        killed.append(pid)
                        kill(pid)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield killed
    finally:
        done.set()
        watcher.join(10)


def died(context: LaneContext, *rows: int, alone: bool = False, answered: int = 0) -> None:
    """A process that answers some rows and dies with others under way."""
    pid = os.fork()
    if pid == 0:
        under_way = UnderWay(context)
        for n in range(answered):
            under_way.end(under_way.begin(1000 + n))
        for row in rows:
            under_way.begin(row, alone)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
