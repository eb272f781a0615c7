"""One run at a time on one output: a lease that its holder renews, and that it gives up itself before anybody else may take it.

Generations make it work on any store that can create-if-absent: to take the lease is to create `lease/<n+1>.json`, which only one
of several takers can. The holder rewrites its own file every HEARTBEAT_S; nobody else ever writes it. A dead owner on this host
(pid and start time) is succeeded at once; an owner elsewhere once its file has stood unchanged for EXPIRY_S of the waiter's own
time, so that clocks are never compared. Whoever could not renew for LOST_S, for whatever reason, has lost it and is told to stop:
EXPIRY_S - LOST_S are left to do so.
"""

from __future__ import annotations

import contextlib
import json
import math
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
from jobs.storage.store import Store

HEARTBEAT_S, WATCH_S = 10.0, 1.0
LOST_S, EXPIRY_S = 45.0, 60.0
FOLDER = "_headgate/lease"


@dataclass
class Lease:
    """The held lease; `release` it, or let it expire."""

    store: Store
    generation: int
    owner: dict[str, Any]
    on_lost: Callable[[], None]
    """Called once, by a thread of the lease's own, when another run has it or soon may."""
    renewed: float
    """Start of the last write that the store took, monotonic; -inf: another run has the lease."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        """Renew it from now on, and watch that it is renewed: one write may hang for longer than the lease lasts."""
        for work in (self._beat, self._watch):
            threading.Thread(target=work, name="lease", daemon=True).start()

    def release(self) -> None:
        """Give the run free for the next start. Idempotent."""
        if not self._stop.is_set():
            self._stop.set()
            # A store that is full or gone: the lease expires by itself, and what the run came to is what has to be told.
            with contextlib.suppress(StoreError):
                self.store.write(_name(self.generation), _record(self.owner, released=True))

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            started = time.monotonic()
            try:
                if self.store.exists(_name(self.generation + 1)):
                    self.renewed = -math.inf
                    return
                self.store.write(_name(self.generation), _record(self.owner))
            except Exception:  # noqa: BLE001 - storage away, no file descriptor left: `_watch` counts the misses
                continue
            self.renewed = started

    def _watch(self) -> None:
        while not self._stop.wait(WATCH_S):
            if time.monotonic() - self.renewed > LOST_S:
                self.on_lost()
                return


def acquire(
    store: Store, session: str, on_lost: Callable[[], None], wait: Callable[[float], None] | None = None
) -> Lease:
    """Take the lease of a run, or raise RunHeld. `wait(seconds_left)` is called each second while an old lease expires."""
    identity = {"host": _host(), "pid": os.getpid(), "started": psutil.Process().create_time(), "session": session}
    seen: tuple[int, dict[str, Any] | None] | None = None
    since = 0.0
    while True:
        looked = time.monotonic()
        generation, owner = found = current(store)
        expired = found == seen and looked - since >= EXPIRY_S
        if owner is None or is_free(owner) or expired:
            started = time.monotonic()
            if store.create(_name(generation + 1), _record(identity)):
                lease = Lease(store, generation + 1, identity, on_lost, started)
                lease.start()
                return lease
            continue
        if seen not in (None, found) or owner["host"] == identity["host"] or wait is None:
            raise RunHeld(f"output {store.uri}: held by {describe(owner)}; wait for it, or stop it, then run again")
        if seen is None:
            seen, since = found, time.monotonic()
        wait(EXPIRY_S - (time.monotonic() - since))
        time.sleep(WATCH_S)


def current(store: Store) -> tuple[int, dict[str, Any] | None]:
    """(generation, owner) of the newest lease; (0, None) where there never was one. Raises StoreError for a damaged one."""
    names = store.list(FOLDER)
    if not names:
        return 0, None
    try:
        owner: dict[str, Any] = json.loads(store.read(names[-1]))
        describe(owner)
        return int(names[-1].rsplit("/", 1)[-1].removesuffix(".json")), owner
    except (ValueError, TypeError, KeyError, AttributeError):
        raise StoreError(f"{store.url(names[-1])}: damaged: no lease; delete it if nobody runs this output") from None


def is_free(owner: dict[str, Any]) -> bool:
    """Released, or of a process on this host that is gone. Of another host nothing is known at a glance."""
    return bool(owner.get("released")) or (owner["host"] == _host() and not _alive(owner["pid"], owner["started"]))


def describe(owner: dict[str, Any]) -> str:
    """The owner in words."""
    since, renewed = (time.strftime("%H:%M:%S", time.localtime(owner[key])) for key in ("started", "renewed"))
    return f"process {owner['pid']} on {owner['host'].split('/')[0]} (since {since}, renewed {renewed})"


def _name(generation: int) -> str:
    return f"{FOLDER}/{generation:08d}.json"


def _record(owner: dict[str, Any], released: bool = False) -> bytes:
    """What the file says; no two writes say the same."""
    return json.dumps(owner | {"renewed": time.time()} | ({"released": True} if released else {})).encode()


def _host() -> str:
    """Host, boot and pid namespace: the pids of before a restart, or of another container, mean nothing here."""
    boot_id, namespace = Path("/proc/sys/kernel/random/boot_id"), "/proc/self/ns/pid"
    boot = boot_id.read_text().strip() if boot_id.exists() else str(int(psutil.boot_time()))
    return "/".join([socket.gethostname(), boot, *([os.readlink(namespace)] if os.path.lexists(namespace) else [])])


def _alive(pid: int, started: float) -> bool:
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - started) < 1.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:  # another user's, and there
        return True
