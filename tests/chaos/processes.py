"""The processes of a scenario: found by its mark, ended at its end."""

from __future__ import annotations

import os
import re
import time

import psutil

MARK = "HEADGATE_CHAOS"
LANE = "ApiActor"
"""Ray names a sending process after its class."""


def marked(token: str) -> list[psutil.Process]:
    """Processes that inherited this mark, this one left out."""
    found = []
    for process in psutil.process_iter():
        try:
            mine = process.environ().get(MARK) == token and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        if mine and process.pid != os.getpid():
            found.append(process)
    return found


def end_marked(token: str, grace_s: float = 20.0) -> None:
    """Wait for what a scenario started to end by itself, then end the rest by pid."""
    deadline = time.monotonic() + grace_s
    while (left := marked(token)) and time.monotonic() < deadline:
        time.sleep(0.2)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=10)


def senders(driver_pid: int) -> list[psutil.Process]:
    """The lanes' sending processes below a driver."""
    return [p for p in psutil.Process(driver_pid).children(recursive=True) if re.search(LANE, _command(p))]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
