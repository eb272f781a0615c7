"""Dollars of provider batches: the worst case of a whole batch, reserved before it exists and held for as long as it runs.

A request of the synchronous lane is paid under its session's grants. A batch outlives its session, so it has a folder of its own in
the ledger, as if it were a session:

    ledger/batch-<nonce>/grant-000000.json   the worst case of all its rows, before anything is uploaded; it also keeps the nonce
    ledger/batch-<nonce>/close.json          what its rows came to, once all of them are on the store

Its answers are journaled under the session `batch-<nonce>`. A batch without `close.json` counts in `ledger.stranded_usd` like a
session that was killed: while it runs, its worst case weighs on the cap of every start. Cost: two small files a batch.
"""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import StoreError
from jobs.journal.reader import Journal, Spent
from jobs.money.budget import Account, Budget
from jobs.money.ledger import CLOSE, LEDGER
from jobs.storage.manifest import damaged, read_object
from jobs.storage.store import Store

PREFIX = "batch-"
GRANT = "grant-000000.json"
LEAST_SHARE = 0.005
"""A batch takes up to a day: one that could spend less than this share of the cap is not made, unless all rows fit."""
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class BatchGrant:
    """What a batch may cost: its grant in the ledger."""

    alias: str
    usd: float
    """The worst case of all its rows."""
    rows: int
    at: float
    """When, seconds since the epoch by its maker's clock."""

    def to_json(self, name: str) -> dict[str, str | float]:
        return {"model": self.alias, "sender": name, "usd": self.usd, "rows": self.rows, "at": self.at}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BatchGrant:
        """Raises KeyError, TypeError, ValueError for what is no grant of a batch."""
        return cls(str(data["model"]), float(data["usd"]), int(data["rows"]), float(data["at"]))


def new_name() -> str:
    """A batch's name, new in the world: its nonce with PREFIX before it."""
    return PREFIX + secrets.token_hex(12)


def nonce_of(name: str) -> str:
    """What the batch's metadata carries."""
    return name.removeprefix(PREFIX)


def unfinished(store: Store, alias: str = "") -> list[str]:
    """Names of the batches (of one model, or of all) that were granted dollars and are not closed, oldest first."""
    by_model = unfinished_by_model(store)
    return by_model.get(alias, []) if alias else [name for names in by_model.values() for name in names]


def unfinished_by_model(store: Store) -> dict[str, list[str]]:
    """Model → names of its batches that were granted dollars and are not closed, oldest first."""
    files: dict[str, set[str]] = {}
    for path in store.list(LEDGER):
        folder, file = path.split("/")[1:3]
        if folder.startswith(PREFIX):
            files.setdefault(folder, set()).add(file)
    found = []
    for name, of_batch in files.items():
        if GRANT in of_batch and CLOSE not in of_batch:
            grant = _read_grant(store, name)
            found.append((grant.at, name, grant.alias))
    by_model: dict[str, list[str]] = {}
    for _, name, alias in sorted(found):
        by_model.setdefault(alias, []).append(name)
    return by_model


def age_s(store: Store, name: str) -> float:
    """Seconds since a batch was granted its dollars, by the clocks of two hosts."""
    return time.time() - _read_grant(store, name).at


def write_close(store: Store, alias: str, name: str, kept_usd: float) -> None:
    """A batch is done with, and kept these dollars of its grant. The first word stands."""
    store.create(f"{LEDGER}/{name}/{CLOSE}", json.dumps({"kept": {alias: kept_usd}}).encode())


def _read_grant(store: Store, name: str) -> BatchGrant:
    path = f"{LEDGER}/{name}/{GRANT}"
    try:
        return BatchGrant.from_json(read_object(store, path))
    except (KeyError, TypeError, ValueError):
        raise damaged(store, path) from None


@dataclass(frozen=True, slots=True)
class Taken:
    """Answer to a request for the dollars of a batch."""

    rows: int
    """How many of its rows, from the first, are paid for; 0: nothing is reserved."""
    exhausted: bool = False
    """Not one row will be affordable later either."""


class Reservations:
    """The batches' part of a budget. Not thread-safe; the governor owns it."""

    def __init__(self, budget: Budget, store: Store, journal: Journal) -> None:
        self._budget, self._store, self._journal = budget, store, journal
        self._before: dict[str, Spent] = {}

    def take(self, alias: str, name: str, worst_usd: NDArray[np.float64]) -> Taken:
        """Reserve the worst case of the first rows of a batch to be made, as many as the caps allow. Durable on return.

        worst_usd: (k,) dollars, one per row. Raises StoreError where the ledger cannot be written.
        """
        sums = np.cumsum(worst_usd)
        available_usd = self._budget.available_usd(alias)
        n = int(np.searchsorted(sums, available_usd + _EPSILON, side="right"))
        least_usd = min(float(sums[-1]), max(float(sums[0]), LEAST_SHARE * (self._budget.cap_usd or 0.0)))
        if available_usd + _EPSILON < least_usd:
            # Refused there too, and so the senders of other lanes give back what they do not need.
            grant = self._budget.grant(alias, name, least_usd)
            self._budget.accounts.pop(name, None)
            return Taken(0, grant.exhausted)
        usd = float(sums[n - 1])
        self._budget.record_returned(available_usd, usd)
        record = BatchGrant(alias, usd, n, time.time()).to_json(name)
        if not self._store.create(f"{LEDGER}/{name}/{GRANT}", json.dumps(record).encode()):
            raise StoreError(f"{self._store.url(LEDGER)}/{name}: stands already; is another run writing there?")
        self._budget.accounts[name] = Account(alias, granted_usd=usd, own_ledger=True)
        self._before[name] = Spent()
        return Taken(n)

    def adopt(self, alias: str, name: str) -> None:
        """Take over a batch of an earlier start: what counted as lost with it is reserved again. Twice does no harm."""
        if name in self._budget.accounts or self._store.exists(f"{LEDGER}/{name}/{CLOSE}"):
            return
        granted_usd = _read_grant(self._store, name).usd
        before = self._journal.spent(alias, session=name)
        rest_usd = max(0.0, granted_usd - before.by_session.get(name, 0.0))
        self._budget.unstrand(alias, rest_usd)
        self._budget.accounts[name] = Account(alias, granted_usd=rest_usd, own_ledger=True)
        self._before[name] = before

    def close(self, alias: str, name: str, gone: bool = False) -> float:
        """All that will ever come of a batch is on the store: book it, give back the rest. Twice does no harm.

        gone: the provider does not know the batch any more, so nobody can say what it charged: nothing is given back, and
        what is not journaled of the grant counts as lost from now on. Returns those dollars.
        """
        spent = self._journal.spent(alias, session=name)
        paid_usd = spent.by_session.get(name, 0.0)
        lost_usd = max(0.0, _read_grant(self._store, name).usd - paid_usd) if gone else 0.0
        write_close(self._store, alias, name, paid_usd + lost_usd)
        account, before = self._budget.accounts.get(name), self._before.get(name)
        if account is not None and before is not None:
            account.cost_usd = spent.cost_usd - before.cost_usd
            account.lost_usd = spent.lost_usd - before.lost_usd
            account.gone |= gone
            if not account.gone:
                account.returned_usd += account.outstanding_usd
        return lost_usd
