"""One run at a time on one output: a lease with an owner and an expiry.

Generations make it work on any store that can create-if-absent: to take the lease is to create `lease/<n+1>.json`, which only one
of several takers can. The holder rewrites its own file every HEARTBEAT_S; nobody else ever writes it. A dead owner on this host
(pid and start time) is succeeded at once, an owner elsewhere once its lease has expired.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from jobs.errors import RunHeld, StoreError
from jobs.store import Store

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
FOLDER = "_headgate/lease"


@dataclass
class Lease:
    """The held lease; `release` it, or let it expire."""

    store: Store
    generation: int
    session: str
    on_lost: Callable[[], None]
    _stop: threading.Event = field(default_factory=threading.Event)

    def release(self) -> None:
        """Give the run free for the next start. Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            # A store that is full or gone: the lease expires by itself, and what the run came to is what has to be told.
            with contextlib.suppress(StoreError):
                self.store.write(_name(self.generation), json.dumps(_owner(self.session) | {"released": True}).encode())

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self.store.exists(_name(self.generation + 1)):
                    self.on_lost()
                    return
                self.store.write(_name(self.generation), json.dumps(_owner(self.session)).encode())
            except StoreError:
                continue  # the store is away for a moment; the expiry leaves room for several misses


def acquire(
    store: Store, session: str, on_lost: Callable[[], None], wait: Callable[[float], None] | None = None
) -> Lease:
    """Take the lease of a run, or raise RunHeld. `wait(seconds_left)` is called each second while an old lease expires."""
    seen: dict[str, Any] | None = None
    deadline = time.time() + EXPIRY_S + HEARTBEAT_S
    while True:
        generation, owner = current(store)
        if owner is None or is_free(owner):
            lease = Lease(store, generation + 1, session, on_lost)
            if store.create(_name(generation + 1), json.dumps(_owner(session)).encode()):
                threading.Thread(target=lease._beat, name="lease", daemon=True).start()
                return lease
            continue
        renewed = seen is not None and owner["expires"] != seen["expires"]
        if renewed or owner["host"] == _host() or wait is None or time.time() > deadline:
            raise RunHeld(f"output {store.uri}: held by {describe(owner)}; wait for it, or stop it, then run again")
        seen = owner
        wait(owner["expires"] - time.time())
        time.sleep(1.0)


def current(store: Store) -> tuple[int, dict[str, Any] | None]:
    """(generation, owner) of the newest lease; (0, None) where there never was one."""
    names = store.list(FOLDER)
    if not names:
        return 0, None
    owner: dict[str, Any] = json.loads(store.read(names[-1]))
    return int(names[-1].rsplit("/", 1)[-1].removesuffix(".json")), owner


def is_free(owner: dict[str, Any]) -> bool:
    """Released, expired, or of a process on this host that is gone."""
    if owner.get("released") or owner["expires"] < time.time():
        return True
    return owner["host"] == _host() and not _alive(owner["pid"], owner["started"])


def describe(owner: dict[str, Any]) -> str:
    """The owner in words."""
    since = time.strftime("%H:%M:%S", time.localtime(owner["started"]))
    return f"process {owner['pid']} on {owner['host'].split('/')[0]} (since {since})"


def _name(generation: int) -> str:
    return f"{FOLDER}/{generation:08d}.json"


def _owner(session: str) -> dict[str, Any]:
    started = psutil.Process().create_time()
    return {
        "host": _host(),
        "pid": os.getpid(),
        "started": started,
        "session": session,
        "expires": time.time() + EXPIRY_S,
    }


def _host() -> str:
    """Host and boot: pids of before a restart mean nothing."""
    boot_id = Path("/proc/sys/kernel/random/boot_id")
    boot = boot_id.read_text().strip() if boot_id.exists() else str(int(psutil.boot_time()))
    return f"{socket.gethostname()}/{boot}"


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
