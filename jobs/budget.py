"""Dollars: a cap that holds through crashes. Every dollar is granted, on the store, before it can be spent.

Senders get dollars in chunks (`grant`), reserve the worst case of each request from their chunk, and report what was
paid (`settle`) and what they do not need (`give_back`). Invariant, at every moment: spent + lost + outstanding ≤ cap,
and no model passes its own cap. A grant is a file `ledger/<session>/grant-NNNNNN.json`, created before it is handed
out; a clean end writes `ledger/<session>/close.json`, which says what was kept. `Budget.resume` counts what earlier
sessions kept and did not journal as lost: it may have been spent. Cost: one small file a chunk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from jobs.errors import StoreError
from jobs.journal import Spent
from jobs.store import Store

LEDGER = "ledger"
CHUNK_SHARES = (0.002, 0.01)
"""What a chunk has above the need of the moment, as shares of the cap (without one: of what is spent so far): at least
the first, so that there are some hundred grants and not one for every few requests; at most the second, because it is
what a crash can strand."""
_EPSILON = 1e-12


@dataclass(frozen=True, slots=True)
class Grant:
    """Answer to a request for dollars."""

    usd: float
    """0 where nothing can be had now."""
    exhausted: bool = False
    """Nothing will be had later either: no other sender holds dollars that could come back."""


@dataclass(slots=True)
class Account:
    """One sender's dollars in this session."""

    alias: str
    granted_usd: float = 0.0
    cost_usd: float = 0.0
    lost_usd: float = 0.0
    returned_usd: float = 0.0
    gone: bool = False
    """The sender died: what is outstanding stays so."""
    own_ledger: bool = False
    """A batch (jobs.reservations): its grant is not in the session's ledger, and it may outlive the session."""

    @property
    def outstanding_usd(self) -> float:
        return max(0.0, self.granted_usd - self.cost_usd - self.lost_usd - self.returned_usd)


@dataclass
class Budget:
    """All dollars of a run. Not thread-safe, knows no Ray: the governor owns it.

    `store` None: grants are not durable (tests of the arithmetic).
    """

    cap_usd: float | None
    spent_usd: float = 0.0
    """Journaled before this session: what counts."""
    lost_usd: float = 0.0
    """Journaled before this session: what brought nothing."""
    stranded_usd: float = 0.0
    """Granted by earlier sessions, neither journaled nor given back."""
    caps_usd: Mapping[str, float] = field(default_factory=dict)
    """Model → its own cap, inside `cap_usd`."""
    used_usd: Mapping[str, float] = field(default_factory=dict)
    """Model → spent, lost and stranded before this session."""
    store: Store | None = None
    session: str = ""

    def __post_init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._n_grants = 0
        self._short: set[str] = set()
        self._all_short = False

    @classmethod
    def resume(
        cls,
        store: Store,
        session: str,
        cap_usd: float | None,
        journaled: Mapping[str, Spent],
        caps_usd: Mapping[str, float] | None = None,
    ) -> Budget:
        """The budget of a run that goes on. `journaled`: Journal.spent of every model, after orphans were recovered."""
        stranded = stranded_usd(store, journaled, without=session)
        used = {alias: spent.cost_usd + spent.lost_usd + stranded.get(alias, 0.0) for alias, spent in journaled.items()}
        return cls(
            cap_usd=cap_usd,
            spent_usd=math.fsum(spent.cost_usd for spent in journaled.values()),
            lost_usd=math.fsum(spent.lost_usd for spent in journaled.values()),
            stranded_usd=math.fsum(stranded.values()),
            caps_usd=dict(caps_usd or {}),
            used_usd=used,
            store=store,
            session=session,
        )

    @property
    def committed_usd(self) -> float:
        """spent + lost + stranded + outstanding: what may not pass the cap."""
        return self.before_usd + math.fsum(
            a.granted_usd - a.returned_usd + self._over(a) for a in self.accounts.values()
        )

    @property
    def before_usd(self) -> float:
        return self.spent_usd + self.lost_usd + self.stranded_usd

    @staticmethod
    def _over(account: Account) -> float:
        """Paid beyond what was granted: a provider that charges more than the bound. It takes from what is left."""
        return max(0.0, account.cost_usd + account.lost_usd + account.returned_usd - account.granted_usd)

    def available_usd(self, alias: str) -> float:
        """Dollars that could be granted to a model now."""
        return max(0.0, min(self._left_usd(alias)))

    def _left_usd(self, alias: str) -> tuple[float, float]:
        """(under the run's cap, under the model's own)."""
        run = math.inf if self.cap_usd is None else self.cap_usd - self.committed_usd
        if alias not in self.caps_usd:
            return run, math.inf
        mine = (a.granted_usd - a.returned_usd + self._over(a) for a in self.accounts.values() if a.alias == alias)
        return run, self.caps_usd[alias] - self.used_usd.get(alias, 0.0) - math.fsum(mine)

    def grant(
        self, alias: str, sender: str, need_usd: float, want_usd: float | None = None, free_usd: float = 0.0
    ) -> Grant:
        """Dollars for a sender: at least `need_usd`, at most a chunk, or 0. Durable when this returns.

        `free_usd`: what the sender has and has not reserved; it needs `need_usd` more. `want_usd`: what it has use for.
        Raises StoreError where the ledger cannot be written: nothing is granted then.
        """
        account = self.accounts.setdefault(sender, Account(alias))
        under_run, under_model = self._left_usd(alias)
        available = max(0.0, min(under_run, under_model))
        if need_usd > available + _EPSILON:
            self._short.add(alias)
            self._all_short |= need_usd > under_run
            living = [a for a in self.accounts.values() if not a.gone]
            all_out = math.fsum(a.outstanding_usd for a in living)
            model_out = math.fsum(a.outstanding_usd for a in living if a.alias == alias)
            later = min(max(0.0, under_run) + all_out, max(0.0, under_model) + model_out) - free_usd
            return Grant(0.0, exhausted=need_usd > later + _EPSILON)
        usd = min(self._chunk_usd(alias, need_usd, want_usd or 0.0), available)
        if usd <= 0:
            return Grant(0.0)
        self._write(f"grant-{self._n_grants:06d}.json", {"model": alias, "sender": sender, "usd": usd})
        self._n_grants += 1
        account.granted_usd += usd
        return Grant(usd)

    def _chunk_usd(self, alias: str, need_usd: float, want_usd: float) -> float:
        if self.tight(alias):
            return need_usd
        base = self.cap_usd if self.cap_usd is not None else self.committed_usd
        least, most = (need_usd + share * base for share in CHUNK_SHARES)
        return max(need_usd, min(max(want_usd, least), most if self.cap_usd is not None else math.inf))

    def retire(self, alias: str) -> None:
        """All senders of a model have ended in order, and told what they paid: the rest of their dollars is free again.

        Not that of batches: those that are not closed run on at the provider.
        """
        for account in self.accounts.values():
            if account.alias == alias and not account.gone and not account.own_ledger:
                account.returned_usd += account.outstanding_usd

    def recap(self, cap_usd: float | None, caps_usd: Mapping[str, float]) -> None:
        """Another cap, and others for the models; what was short before may not be so now."""
        self.cap_usd = cap_usd
        self.caps_usd = dict(caps_usd)
        self._short.clear()
        self._all_short = False

    def tight(self, alias: str) -> bool:
        """Somebody was refused: senders give back what they do not need now, and get no more than that."""
        return self._all_short or alias in self._short

    def unstrand(self, alias: str, usd: float) -> None:
        """Dollars that an earlier session left stranded are held by somebody again."""
        self.stranded_usd = max(0.0, self.stranded_usd - usd)
        self.used_usd = {**self.used_usd, alias: max(0.0, self.used_usd.get(alias, 0.0) - usd)}

    def settle(self, sender: str, cost_usd: float, lost_usd: float) -> None:
        """A sender's totals since its start. Totals, so that a report lost or told twice does no harm."""
        account = self.accounts.get(sender)
        if account is not None and not account.gone:
            account.cost_usd = max(account.cost_usd, cost_usd)
            account.lost_usd = max(account.lost_usd, lost_usd)

    def give_back(self, sender: str, returned_usd: float) -> None:
        """A sender's total of dollars given back since its start."""
        account = self.accounts.get(sender)
        if account is not None and not account.gone:
            account.returned_usd = max(account.returned_usd, returned_usd)

    def bury(self, sender: str, cost_usd: float, lost_usd: float) -> float:
        """A sender died having journaled this much. What it had besides stays outstanding: dollars so stranded."""
        account = self.accounts.get(sender)
        if account is None or account.gone:
            return 0.0
        self.settle(sender, cost_usd, lost_usd)
        account.gone = True
        return account.outstanding_usd

    def close(self) -> None:
        """Write what was kept of the grants, once: of it only what is not journaled counts as lost from now on."""
        kept: dict[str, float] = {}
        for account in self.accounts.values():
            if account.own_ledger:
                continue
            back = 0.0 if account.gone else account.outstanding_usd
            usd = account.granted_usd - account.returned_usd - back
            kept[account.alias] = kept.get(account.alias, 0.0) + usd
        self._write("close.json", {"kept": kept})

    def _write(self, name: str, record: Mapping[str, object]) -> None:
        if self.store is None:
            return
        if not self.store.create(f"{LEDGER}/{self.session}/{name}", json.dumps(record).encode()):
            raise StoreError(
                f"{self.store.url(LEDGER)}/{self.session}/{name}: stands already; is another run writing there?"
            )

    def state(self) -> dict[str, float | None]:
        """Dollars as a report wants them; `lost_usd` includes what is stranded."""
        accounts = list(self.accounts.values())
        stranded = self.stranded_usd + math.fsum(a.outstanding_usd for a in accounts if a.gone)
        return {
            "cap_usd": self.cap_usd,
            "spent_usd": self.spent_usd + math.fsum(a.cost_usd for a in accounts),
            "lost_usd": self.lost_usd + math.fsum(a.lost_usd for a in accounts) + stranded,
            "stranded_usd": stranded,
            "reserved_usd": math.fsum(a.outstanding_usd for a in accounts if not a.gone),
        }


def stranded_usd(store: Store, journaled: Mapping[str, Spent], without: str = "") -> dict[str, float]:
    """Model → dollars that sessions (but `without`) kept of their grants and did not journal.

    One small read per closed session, one per grant of the others.
    """
    files: dict[str, list[str]] = {}
    for name in store.list(LEDGER):
        session, file = name.split("/")[1:3]
        if session != without:
            files.setdefault(session, []).append(file)
    closed = {session: ["close.json"] for session, of_session in files.items() if "close.json" in of_session}
    wanted = [(session, file) for session, of_session in (files | closed).items() for file in of_session]
    with ThreadPoolExecutor(16) as pool:
        records = list(pool.map(lambda place: json.loads(store.read(f"{LEDGER}/{place[0]}/{place[1]}")), wanted))
    kept: dict[tuple[str, str], float] = {}
    for (session, file), record in zip(wanted, records, strict=True):
        usd_of = record["kept"] if file == "close.json" else {record["model"]: record["usd"]}
        for alias, usd in usd_of.items():
            kept[alias, session] = kept.get((alias, session), 0.0) + usd
    stranded: dict[str, float] = {}
    for (alias, session), usd in kept.items():
        spent = journaled.get(alias)
        rest = usd - ((spent.by_session or {}).get(session, 0.0) if spent else 0.0)
        if rest > 1e-9:
            stranded[alias] = stranded.get(alias, 0.0) + rest
    return stranded
