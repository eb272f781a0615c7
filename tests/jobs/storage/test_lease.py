"""The lease: one holder, that knows it has lost it before another can have it; no two hosts' clocks are ever compared."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from jobs.errors import RunHeld, StoreError
from jobs.storage import lease
from jobs.storage.store import Store

FIRST = f"{lease.FOLDER}/00000001.json"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose leases live sixty times as fast, on a disk that makes nobody wait."""
    for name, seconds in (("HEARTBEAT_S", 0.15), ("WATCH_S", 0.01), ("LOST_S", 0.75), ("EXPIRY_S", 1.0)):
        monkeypatch.setattr(lease, name, seconds)
    monkeypatch.setattr("jobs.storage.store._sync", lambda path: None)
    return Store(str(tmp_path / "out"))


def write_owner(store: Store, clock: float = 0.0, **more: object) -> None:
    """What a run on another host writes, whose clock is `clock` seconds off."""
    owner = {"host": "elsewhere/1/2", "pid": 1, "started": 1.0, "session": "s", "renewed": time.time() + clock}
    # Its leases of before this file's format said when they end.
    store.write(FIRST, json.dumps(owner | {"expires": time.time() + clock + 60.0} | more).encode())


def until(condition: Callable[[], bool], seconds: float = 5.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


def test_pids_of_another_container_say_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Host networking: the same host name and boot, and a pid that here is nobody's."""
    with monkeypatch.context() as other:
        other.setattr(lease.os, "readlink", lambda path: "pid:[1]")
        there = lease._host()
    assert not lease.Owner(there, 2**30, 1.0, "s").is_free
    assert lease.Owner(lease._host(), 2**30, 1.0, "s").is_free
    assert not lease.Owner(lease._host(), os.getpid(), psutil.Process().create_time(), "s").is_free


@pytest.mark.parametrize("clock", [-70.0, 3600.0])
def test_clocks_that_differ_take_no_lease_from_a_living_owner(store: Store, clock: float) -> None:
    write_owner(store, clock)
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(0.2):
            write_owner(store, clock)

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(RunHeld, match="process 1 on elsewhere"):
            lease.acquire(store, "new", lambda: None, lambda seconds: None)
    finally:
        ended.set()
        thread.join()
    assert store.list(lease.FOLDER) == [FIRST]


@pytest.mark.parametrize("clock", [-3600.0, 3600.0])
def test_a_dead_owner_elsewhere_is_succeeded_once_its_record_stood_still(store: Store, clock: float) -> None:
    write_owner(store, clock)
    left: list[float] = []
    started = time.monotonic()
    held = lease.acquire(store, "new", lambda: None, left.append)
    assert 1.0 <= time.monotonic() - started < 4.0 and held.generation == 2
    assert left == sorted(left, reverse=True) and 0.8 < left[0] <= 1.0
    held.release()


def test_a_dead_owner_on_this_host_is_succeeded_at_once(store: Store) -> None:
    write_owner(store, host=lease._host(), pid=2**30)
    lease.acquire(store, "new", lambda: None).release()
    again = lease.acquire(store, "newer", lambda: None)
    assert again.generation == 3, "what is released is free"
    with pytest.raises(RunHeld):
        lease.acquire(store, "second", lambda: None, lambda seconds: None)
    again.release()


class Ailing(Store):
    """A store whose writes hang, or fail with what is no StoreError, while it is told so."""

    hang: threading.Event | None = None
    error: BaseException | None = None
    refused = 0

    def write(self, name: str, data: bytes) -> None:
        if self.hang is not None:
            self.hang.wait(30)
        if self.error is not None:
            self.refused += 1
            raise self.error
        super().write(name, data)


def test_a_holder_whose_renewal_hangs_is_told_before_anybody_can_take_over(store: Store) -> None:
    sick, lost = Ailing(store.uri), threading.Event()
    held = lease.acquire(sick, "one", lost.set)
    sick.hang = threading.Event()
    seen, since = store.read(FIRST), time.monotonic()
    while not lost.is_set() and time.monotonic() - since < 5.0:
        if (now := store.read(FIRST)) != seen:
            seen, since = now, time.monotonic()
        time.sleep(0.01)
    assert lost.is_set() and time.monotonic() - since < lease.EXPIRY_S
    sick.hang.set()
    held.release()


def test_an_error_of_any_kind_does_not_end_the_heartbeat(store: Store) -> None:
    sick, lost = Ailing(store.uri), threading.Event()
    held = lease.acquire(sick, "one", lost.set)
    sick.error = OSError(24, "Too many open files")
    assert until(lambda: sick.refused >= 2)
    sick.error, before = None, store.read(FIRST)
    assert until(lambda: store.read(FIRST) != before), "renewed again"
    assert not lost.wait(1.0)
    sick.error = OSError(24, "Too many open files")
    assert lost.wait(5.0), "it did not come back"
    sick.error = None
    held.release()


def test_a_holder_that_was_succeeded_is_told_once(store: Store) -> None:
    told: list[float] = []
    held = lease.acquire(store, "one", lambda: told.append(time.monotonic()))
    store.create(f"{lease.FOLDER}/00000002.json", store.read(FIRST))
    assert until(lambda: bool(told), 2.0)
    time.sleep(0.3)
    assert len(told) == 1
    held.release()


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"{}", b"\xff", b'{"host": 1, "pid": 1, "started": 1, "renewed": 1}']
)
def test_a_damaged_lease_is_named(store: Store, data: bytes) -> None:
    store.write(FIRST, data)
    with pytest.raises(StoreError, match=r"00000001\.json: damaged") as raised:
        lease.acquire(store, "new", lambda: None)
    assert "\n" not in str(raised.value)
