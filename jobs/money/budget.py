"""Dollars under a cap that holds through crashes: none can be spent before its grant is on the store.

A sender is granted a chunk of dollars (`grant`). From it the sender reserves the worst case of each request, reports what was paid
(`settle`), and returns what it has no use for (`give_back`). At every moment spent + lost + outstanding ≤ cap, where *outstanding*
is what senders were granted and have neither paid nor returned; a group of models can have a cap of its own inside the run's.

The order of writes keeps that true when a process dies (jobs.money.ledger): a grant is on the store before the sender has it, and
a return before its dollars are granted again. What an earlier session was granted, did not return and did not journal may have been
spent: `resume` counts it as lost. Cost: one small file a chunk; where dollars are short, one more for what came back.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jobs.journal.reader import Spent
from jobs.money.ledger import Ledger, stranded_usd
from jobs.money.messages import Dollars
from jobs.storage.store import Store

CHUNK_SHARES = (0.002, 0.01)
"""What a chunk has above the need of the moment, as shares of the cap (without one: of what is spent so far): at least
the first, so that there are some hundred grants and not one for every few requests; at most the second, because it is
what a crash can strand."""
SILENT_S = 30.0
"""A sender reports every second. After this long without a word nobody waits for what it may give back."""
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
    """A batch (jobs.money.reservations): its grant is not in the session's ledger, and it may outlive the session."""
    heard_s: float = 0.0
    """When the sender last told or asked something, by the budget's clock."""

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
    caps_usd: Mapping[tuple[str, ...], float] = field(default_factory=dict)
    """Models → what they may have together, inside `cap_usd`. No model stands in two of these groups."""
    used_usd: Mapping[str, float] = field(default_factory=dict)
    """Model → spent, lost and stranded before this session."""
    store: Store | None = None
    session: str = ""
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self.accounts: dict[str, Account] = {}
        self._ledger = Ledger(self.store, self.session)
        self.unfollowed: set[str] = set()
        """Models whose lane has stopped: what their batches hold does not come back in this session."""
        self._short: set[str] = set()
        self._all_short = False

    @classmethod
    def resume(
        cls,
        store: Store,
        session: str,
        cap_usd: float | None,
        journaled: Mapping[str, Spent],
        caps_usd: Mapping[tuple[str, ...], float] | None = None,
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
        """(under the run's cap, under that of the model's group)."""
        run = math.inf if self.cap_usd is None else self.cap_usd - self.committed_usd
        group = self._group(alias)
        if group not in self.caps_usd:
            return run, math.inf
        ours = (a.granted_usd - a.returned_usd + self._over(a) for a in self.accounts.values() if a.alias in group)
        used = math.fsum(self.used_usd.get(name, 0.0) for name in group)
        return run, self.caps_usd[group] - used - math.fsum(ours)

    def _group(self, alias: str) -> tuple[str, ...]:
        """The models that share a cap with this one; itself alone where none is set."""
        return next((names for names in self.caps_usd if alias in names), (alias,))

    def grant(
        self, alias: str, sender: str, need_usd: float, want_usd: float | None = None, free_usd: float = 0.0
    ) -> Grant:
        """Dollars for a sender: at least `need_usd`, at most a chunk, or 0. Durable when this returns.

        `free_usd`: what the sender has and has not reserved; it needs `need_usd` more. `want_usd`: what it has use for.
        Raises StoreError where the ledger cannot be written: nothing is granted then.
        """
        account = self.accounts.setdefault(sender, Account(alias))
        account.heard_s = self.clock()
        under_run, under_model = self._left_usd(alias)
        available = max(0.0, min(under_run, under_model))
        if need_usd > available + _EPSILON:
            group = self._group(alias)
            self._short |= set(group)
            self._all_short |= need_usd > under_run
            living = [a for a in self.accounts.values() if self._may_give_back(a)]
            all_out = math.fsum(a.outstanding_usd for a in living)
            group_out = math.fsum(a.outstanding_usd for a in living if a.alias in group)
            later = min(max(0.0, under_run) + all_out, max(0.0, under_model) + group_out) - free_usd
            return Grant(0.0, exhausted=need_usd > later + _EPSILON)
        usd = min(self._chunk_usd(alias, need_usd, want_usd or 0.0), available)
        if usd <= 0:
            return Grant(0.0)
        self.record_returned(available, usd)
        self._ledger.grant(alias, sender, usd)
        account.granted_usd += usd
        return Grant(usd)

    def _may_give_back(self, account: Account) -> bool:
        if account.own_ledger:
            return not account.gone and account.alias not in self.unfollowed
        return not account.gone and self.clock() - account.heard_s < SILENT_S

    def record_returned(self, available_usd: float, usd: float) -> None:
        """To be called before `usd` of `available_usd` are granted: where they hold dollars that came back, the ledger says so
        first, or each crash would strand them once for every time they were handed out. Raises StoreError."""
        back = {alias: max(0.0, self._unrecorded_usd(alias)) for alias in {a.alias for a in self.accounts.values()}}
        if usd <= available_usd - math.fsum(back.values()):
            return
        for alias, back_usd in back.items():
            if back_usd > _EPSILON:
                self._ledger.give_back(alias, back_usd)

    def _unrecorded_usd(self, alias: str) -> float:
        """Dollars of a model's grants that came back, and of which the ledger knows nothing. Those of the dead count too:
        what they gave back while they lived they could not spend."""
        back = (a.returned_usd for a in self.accounts.values() if a.alias == alias and not a.own_ledger)
        return math.fsum(back) - self._ledger.returned_usd.get(alias, 0.0)

    def _chunk_usd(self, alias: str, need_usd: float, want_usd: float) -> float:
        if self.tight(alias):
            return need_usd
        base = self.cap_usd if self.cap_usd is not None else self.committed_usd
        least, most = (need_usd + share * base for share in CHUNK_SHARES)
        return max(need_usd, min(max(want_usd, least), most if self.cap_usd is not None else math.inf))

    def retire(self, alias: str) -> None:
        """All senders of a model have ended in order, and told what they paid: the rest of their dollars is free again.

        Not that of batches: those that are not closed run on at the provider. Durable when this returns. Raises StoreError;
        the dollars are not free then.
        """
        ended = [a for a in self.accounts.values() if a.alias == alias and not a.gone and not a.own_ledger]
        back_usd = self._unrecorded_usd(alias) + math.fsum(account.outstanding_usd for account in ended)
        if back_usd > _EPSILON:
            self._ledger.give_back(alias, back_usd)
        for account in ended:
            account.returned_usd += account.outstanding_usd

    def recap(self, cap_usd: float | None, caps_usd: Mapping[tuple[str, ...], float]) -> None:
        """Another cap, and others for groups of models; what was short before may not be so now."""
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
            account.heard_s = self.clock()

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
        self._ledger.close(kept)

    def state(self) -> Dollars:
        accounts = list(self.accounts.values())
        stranded = self.stranded_usd + math.fsum(a.outstanding_usd for a in accounts if a.gone)
        return Dollars(
            cap_usd=self.cap_usd,
            spent_usd=self.spent_usd + math.fsum(a.cost_usd for a in accounts),
            lost_usd=self.lost_usd + math.fsum(a.lost_usd for a in accounts) + stranded,
            stranded_usd=stranded,
            reserved_usd=math.fsum(a.outstanding_usd for a in accounts if not a.gone),
        )

    def reserved_usd(self) -> dict[str, float]:
        """Model → what its living senders hold; no entry for a model without any."""
        held: dict[str, float] = {}
        for account in self.accounts.values():
            if not account.gone:
                held[account.alias] = held.get(account.alias, 0.0) + account.outstanding_usd
        return held
