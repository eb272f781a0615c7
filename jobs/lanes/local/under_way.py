"""What an engine process was at when it died, so that one bad row cannot take engines down for ever.

A row is noted in a small memory-mapped file before it is asked and struck out afterwards. The file outlives its process (kill -9,
a segfault, the exit after a GPU ran out of memory), and the next process of the same start reads what the dead ones left:

* under way at SUSPECT_DEATHS deaths: a suspect, asked alone from then on;
* under way alone at a death, and the engine has answered others since the first: the culprit, not asked again;
* MAX_BARREN deaths in a row without one answer: it is the engine that is broken. LaneDown.

A node that is lost, or one crash by chance, so costs nothing but the rows being asked again. Cost: some microseconds a row.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.errors import LaneDown
from jobs.lanes.base import LaneContext

SLOTS = 1 << 13
"""Rows that one process may have under way: more are not noted."""
SUSPECT_DEATHS, MAX_BARREN = 2, 5
FREE, BESIDE_OTHERS, ALONE = 0, 1, 2
_SLOT = np.dtype([("row_key", np.int64), ("state", np.int64)])
NOTES = np.dtype([("n_through", np.int64), ("slots", _SLOT, SLOTS)])
"""The file of one process: how many rows it is through with, and those that it has under way."""
PREFIX = "under-way-"


class UnderWay:
    """The rows of one engine process, and what killed those before it."""

    def __init__(self, context: LaneContext) -> None:
        """Raises LaneDown where engines die without ever answering."""
        here = Path(context.local_dir)
        home = here / f"{PREFIX}{context.session}-{context.alias}"
        for old in here.glob(f"{PREFIX}*"):
            if not old.name.startswith(
                f"{PREFIX}{context.session}-"
            ):  # of an earlier start: it may have been killed at will
                shutil.rmtree(old, ignore_errors=True)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._n_deaths: Counter[int] = Counter()
        self._n_alone: Counter[int] = Counter()
        self._first_death: dict[int, str] = {}
        self._others: dict[str, NDArray[np.void]] = {}
        """Name of a process's file → its NOTES, (1,)."""
        self._read(home)
        barren = self._barren()
        if barren >= MAX_BARREN:
            raise LaneDown(
                f"models.{context.alias}: its engine died {barren} times in a row without an answer; Ray's session logs say of what"
            )
        self._name = f"{time.time_ns():020d}-{os.getpid()}"
        self._file = open(home / self._name, "w+b")  # noqa: SIM115 - held as long as the process lives
        fcntl.lockf(self._file, fcntl.LOCK_EX)
        self._file.truncate(NOTES.itemsize)
        self._notes = np.memmap(self._file, NOTES)
        self._slots = self._notes["slots"][0]
        self._free = list(range(SLOTS))

    def begin(self, row_key: int, alone: bool = False) -> int | None:
        """Note a row. Its slot, for `end`; None where all are taken."""
        if not self._free:
            return None
        slot = self._free.pop()
        self._slots[slot] = (row_key, ALONE if alone else BESIDE_OTHERS)
        return slot

    def end(self, slot: int | None) -> None:
        """The engine is through with a row, whatever came of it."""
        self._notes["n_through"] += 1
        if slot is not None:
            self._slots[slot] = (0, FREE)
            self._free.append(slot)

    def is_suspect(self, row_key: int) -> bool:
        return self._n_deaths[row_key] >= SUSPECT_DEATHS

    def is_culprit(self, row_key: int) -> bool:
        return self._n_alone[row_key] > 0 and self._answered_since(self._first_death[row_key]) > 0

    def deaths_alone(self, row_key: int) -> int:
        return self._n_alone[row_key]

    def why_not_asked(self, row_key: int) -> str:
        """Why a culprit is not asked."""
        return f"the engine died {self._n_deaths[row_key]} times on this row, {self._n_alone[row_key]} of them alone with it"

    def _read(self, home: Path) -> None:
        for path in sorted(home.iterdir()):
            with path.open("r+b") as file:
                # Empty: its process ended before it could make room for its notes.
                notes = np.memmap(file, NOTES) if os.fstat(file.fileno()).st_size else np.zeros(1, NOTES)
                self._others[path.name] = notes
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:  # another replica, alive
                    continue
            self._count(path.name, _left(notes))

    def _count(self, name: str, left: NDArray[np.void]) -> None:
        for row_key, state in zip(left["row_key"].tolist(), left["state"].tolist(), strict=True):
            self._n_deaths[row_key] += 1
            self._n_alone[row_key] += int(state == ALONE)
            self._first_death.setdefault(row_key, name)

    def _barren(self) -> int:
        """Processes, from the newest on, that ended with rows under way and not one answer."""
        n = 0
        for name in sorted(self._others, reverse=True):
            notes = self._others[name]
            if notes["n_through"][0] or not len(_left(notes)):
                break
            n += 1
        return n

    def _answered_since(self, name: str) -> int:
        """Rows that any process got through after the one called `name` had died."""
        later = sum(int(notes["n_through"][0]) for other, notes in self._others.items() if other > name)
        return later + int(self._notes["n_through"][0])


def _left(notes: NDArray[np.void]) -> NDArray[np.void]:
    """The slots in which a row is under way, in order. notes: (1,) NOTES."""
    slots: NDArray[np.void] = notes["slots"][0]
    return np.asarray(slots[slots["state"] != FREE])
