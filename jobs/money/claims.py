"""Who asks which rows: what makes a block that Ray runs a second time skip what its first run paid for.

Ray Data gives the block of a dead actor to another one, restarts actors, and re-runs upstream tasks of a lost node. So
an actor claims the row keys of each block before it sends (one call a block), and finishes the claim when they are
settled and *committed to the store*. Of the keys a new claim wants:
* those of finished claims are skipped: they are on the store, whatever became of the actor;
* those of another's open claim mean that the other died, or was given up by Ray. Its logs are recovered first, on its
  own node, and what it settled is skipped. If it turns out to live after all, or its node does not answer, the keys it
  may still be paying for are held back: they stay open for the next run;
* those of its own open claim are held back too: Ray has given it a block again whose first run is still under way, or
  could not be committed.
The check belongs here, at the claim, and not in the reader of the journal: it is the one place that every re-execution
passes after the death and before the sending, and it costs no listing of the store unless somebody died. Finished keys
are kept as a few sorted int64 arrays, merged as they grow: 8 bytes a row, O(log n) a look-up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from jobs.journal.writer import Sender
from jobs.storage.keys import is_among

Keys = NDArray[np.int64]


class KeySet:
    """A growing set of int64 keys; equal-sized arrays are merged pairwise, so there are O(log n) of them."""

    def __init__(self) -> None:
        self._arrays: list[Keys] = []

    def add(self, keys: Keys) -> None:
        """O(k log n) amortised."""
        merged = np.unique(keys)
        while self._arrays and len(self._arrays[-1]) <= 2 * len(merged):
            merged = np.union1d(self._arrays.pop(), merged)
        if len(merged):
            self._arrays.append(merged)

    def contains(self, keys: Keys) -> NDArray[np.bool_]:
        """Bool per key."""
        found = np.zeros(len(keys), bool)
        for array in self._arrays:
            found |= is_among(keys, array)
        return found

    def __len__(self) -> int:
        return sum(len(array) for array in self._arrays)


@dataclass(slots=True)
class Claim:
    """Keys one sender is asking."""

    sender: Sender
    keys: Keys


@dataclass
class Claims:
    """All claims on one model's rows."""

    finished: KeySet = field(default_factory=KeySet)
    open: list[Claim] = field(default_factory=list)

    def conflicts(self, keys: Keys, unique: str) -> list[Sender]:
        """Other senders with an open claim on one of `keys`."""
        found = {}
        for claim in self.open:
            if claim.sender.unique != unique and np.isin(claim.keys, keys).any():
                found[claim.sender.unique] = claim.sender
        return list(found.values())

    def claim(self, sender: Sender, keys: Keys) -> None:
        self.open.append(Claim(sender, np.sort(keys)))

    def held(self, keys: Keys) -> NDArray[np.bool_]:
        """Bool per key: an open claim has it, whoever's."""
        held = np.zeros(len(keys), bool)
        for claim in self.open:
            held |= np.isin(keys, claim.keys)
        return held

    def finish(self, unique: str, keys: Keys, settled: Keys | None = None) -> None:
        """The sender is through with `keys`; it has settled and committed `settled` (None: all), the rest is free."""
        self.finished.add(keys if settled is None else settled)
        for claim in self.open:
            if claim.sender.unique == unique:
                claim.keys = np.setdiff1d(claim.keys, keys, assume_unique=True)
        self.open = [claim for claim in self.open if len(claim.keys)]

    def bury(self, unique: str, settled: Keys) -> None:
        """The sender is dead and its logs are committed: what it settled is finished, the rest is free again."""
        for claim in [claim for claim in self.open if claim.sender.unique == unique]:
            done = claim.keys[np.isin(claim.keys, settled)]
            self.finished.add(done)
        self.open = [claim for claim in self.open if claim.sender.unique != unique]
