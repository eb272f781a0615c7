"""The run's ledger on the store: which dollars were granted, which came back, and which were kept at a clean end.

    ledger/<session>/grant-NNNNNN.json    {"model", "sender", "usd"}   dollars handed out
    ledger/<session>/return-NNNNNN.json   {"model", "usd" < 0}         dollars that came back, and may be granted again
    ledger/<session>/close.json           {"kept": {model: usd}}       replaces all of the session's records

Each file is written before what it tells is done. The sum of a session's records is therefore never below what the session may
have spent, and never above the cap. A process that dies leaves its records without a `close.json`: what they sum to, and the
journal does not account for, is *stranded*, and counts as lost. Cost: one small file a record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jobs.errors import StoreError
from jobs.journal.reader import Spent
from jobs.storage.manifest import damaged, read_object
from jobs.storage.store import Store

LEDGER, CLOSE = "ledger", "close.json"


class Ledger:
    """One session's records. `store` None: nothing is written (tests of the arithmetic)."""

    def __init__(self, store: Store | None, session: str) -> None:
        self._store, self._session = store, session
        self._n_records = 0
        self.returned_usd: dict[str, float] = {}
        """Model → dollars recorded as given back."""

    def grant(self, alias: str, sender: str, usd: float) -> None:
        """Durable when this returns. Raises StoreError; the dollars are nobody's then."""
        self._record("grant", {"model": alias, "sender": sender, "usd": usd})

    def give_back(self, alias: str, usd: float) -> None:
        """Nobody holds these dollars any more, and they may be granted again. Raises StoreError.

        They count as recorded even then. A record written twice would free dollars that are held; one that is missing only makes
        a crash strand more than it has to.
        """
        self.returned_usd[alias] = self.returned_usd.get(alias, 0.0) + usd
        self._record("return", {"model": alias, "usd": -usd})

    def close(self, kept_usd: Mapping[str, float]) -> None:
        """Model → what was kept of its grants. Raises StoreError."""
        self._write(CLOSE, {"kept": dict(kept_usd)})

    def _record(self, kind: str, record: Mapping[str, object]) -> None:
        number = self._n_records
        self._n_records += 1  # a name is used once, also where nobody knows whether its file came to be
        self._write(f"{kind}-{number:06d}.json", record)

    def _write(self, name: str, record: Mapping[str, object]) -> None:
        if self._store is None:
            return
        if not self._store.create(f"{LEDGER}/{self._session}/{name}", json.dumps(record).encode()):
            raise StoreError(
                f"{self._store.url(LEDGER)}/{self._session}/{name}: stands already; is another run writing there?"
            )


def stranded_usd(store: Store, journaled: Mapping[str, Spent], without: str = "") -> dict[str, float]:
    """Model → dollars that sessions (but `without`) kept of their grants and did not journal.

    One small read per closed session, one per record of the others. Raises StoreError for a damaged file of the ledger:
    without it nobody knows what was granted.
    """
    files: dict[str, list[str]] = {}
    for name in store.list(LEDGER):
        if name.count("/") != 2:
            raise StoreError(f"{store.url(name)}: no part of the ledger; remove it")
        session, file = name.split("/")[1:3]
        if session != without:
            files.setdefault(session, []).append(file)
    closed = {session: [CLOSE] for session, of_session in files.items() if CLOSE in of_session}
    wanted = [(session, file) for session, of_session in (files | closed).items() for file in of_session]
    with ThreadPoolExecutor(16) as pool:
        records = list(pool.map(lambda place: read_object(store, f"{LEDGER}/{place[0]}/{place[1]}"), wanted))
    kept_usd: dict[tuple[str, str], float] = {}
    for (session, file), record in zip(wanted, records, strict=True):
        try:
            for alias, usd in _usd_by_model(file, record).items():
                kept_usd[alias, session] = kept_usd.get((alias, session), 0.0) + usd
        except (KeyError, TypeError, AttributeError):
            raise damaged(store, f"{LEDGER}/{session}/{file}") from None
    stranded: dict[str, float] = {}
    for (alias, session), usd in kept_usd.items():
        rest_usd = usd - (journaled[alias].by_session.get(session, 0.0) if alias in journaled else 0.0)
        if rest_usd > 1e-9:
            stranded[alias] = stranded.get(alias, 0.0) + rest_usd
    return stranded


def _usd_by_model(file: str, record: Mapping[str, Any]) -> dict[str, float]:
    """Model → what a file of the ledger adds to what its session kept. Raises KeyError for what is no such file."""
    return record["kept"] if file == CLOSE else {record["model"]: record["usd"]}
