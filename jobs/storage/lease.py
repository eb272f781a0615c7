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
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil

from jobs.errors import RunHeld, StoreError
from jobs.storage.store import Store

HEARTBEAT_S, WATCH_S = 10.0, 1.0
LOST_S, EXPIRY_S = 45.0, 60.0
FOLDER = "_headgate/lease"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who holds a run: the content of a lease's file."""

    host: str
    """As `_host` gives it."""
    pid: int
    started: float
    """Of the process, seconds since the epoch by its own clock."""
    session: str
    renewed: float = 0.0
    """Likewise."""
    released: bool = False

    @property
    def is_free(self) -> bool:
        """Released, or of a process on this host that is gone. Of another host nothing is known at a glance."""
        return self.released or (self.host == _host() and not _alive(self.pid, self.started))

    def __str__(self) -> str:
        since, renewed = (time.strftime("%H:%M:%S", time.localtime(at)) for at in (self.started, self.renewed))
        return f"process {self.pid} on {self.host.split('/')[0]} (since {since}, renewed {renewed})"

    def to_json(self) -> dict[str, Any]:
        said = asdict(self)
        if not self.released:
            del said["released"]
        return said

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Owner:
        """Raises KeyError, TypeError, ValueError for what is no owner."""
        host, session = data["host"], data.get("session", "")
        if not isinstance(host, str):
            raise TypeError(host)
        return cls(
            host, int(data["pid"]), float(data["started"]), session, float(data["renewed"]), bool(data.get("released"))
        )


@dataclass
class Lease:
    """The held lease; `release` it, or let it expire."""

    store: Store
    generation: int
    owner: Owner
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
                self.store.write(_name(self.generation), _record(replace(self.owner, released=True)))

    def remove(self) -> None:
        """After `release`, where there is no run to hold: as if it had never been taken."""
        for name in self.store.list(FOLDER):
            if name <= _name(self.generation):
                self.store.delete(name)

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
    own = Owner(_host(), os.getpid(), psutil.Process().create_time(), session)
    seen: tuple[int, Owner | None] | None = None
    since = 0.0
    while True:
        looked = time.monotonic()
        generation, owner = found = current(store)
        expired = found == seen and looked - since >= EXPIRY_S
        if owner is None or owner.is_free or expired:
            started = time.monotonic()
            if store.create(_name(generation + 1), _record(own)):
                lease = Lease(store, generation + 1, own, on_lost, started)
                lease.start()
                return lease
            continue
        if seen not in (None, found) or owner.host == own.host or wait is None:
            raise RunHeld(f"output {store.uri}: held by {owner}; wait for it, or stop it, then run again")
        if seen is None:
            seen, since = found, time.monotonic()
        wait(EXPIRY_S - (time.monotonic() - since))
        time.sleep(WATCH_S)


def current(store: Store) -> tuple[int, Owner | None]:
    """(generation, owner) of the newest lease; (0, None) where there never was one. Raises StoreError for a damaged one."""
    names = store.list(FOLDER)
    if not names:
        return 0, None
    try:
        owner = Owner.from_json(json.loads(store.read(names[-1])))
        str(owner)  # times that no calendar has are damage too
        return int(names[-1].rsplit("/", 1)[-1].removesuffix(".json")), owner
    except (ValueError, TypeError, KeyError, OverflowError):
        raise StoreError(f"{store.url(names[-1])}: damaged: no lease; delete it if nobody runs this output") from None


def _name(generation: int) -> str:
    return f"{FOLDER}/{generation:08d}.json"


def _record(owner: Owner) -> bytes:
    """What the file says; no two writes say the same."""
    return json.dumps(replace(owner, renewed=time.time()).to_json()).encode()


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
