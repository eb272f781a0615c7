"""What a run has paid or lost so far, by its journal and its ledger, for those who plan or account without a governor."""

from __future__ import annotations

from jobs.journal.reader import Journal, Spent
from jobs.money.ledger import stranded_usd
from jobs.spec.job import JobSpec
from jobs.spec.sections import JUDGE, SAMPLES
from jobs.storage.store import Store


def stranded(store: Store, names: tuple[str, ...], without: str = "") -> dict[str, float]:
    """Model → dollars granted to processes that died before they could say what they used: counted as lost.

    without: a session that still runs, whose grants are out on purpose.
    """
    journal = Journal(store)
    return stranded_usd(store, {name: journal.spent(name) for name in names}, without)


def samples_spent(store: Store, spec: JobSpec) -> Spent:
    """Dollars of further answers in the journal, also where the job file no longer has a cascade."""
    return Journal(store).spent(SAMPLES) if SAMPLES in spec.payees else Spent()


def judge_spent(store: Store, spec: JobSpec) -> Spent:
    """Dollars of the judge in the journal, also of one that the job file no longer names."""
    return Journal(store).spent(JUDGE) if JUDGE in spec.payees else Spent()
