"""What a run has paid or lost so far, by its journal and its ledger, for those who plan or account without a governor."""

from __future__ import annotations

import pyarrow.compute as pc

from jobs.journal.reader import Journal, Spent
from jobs.money.ledger import stranded_usd
from jobs.spec.job import JobSpec
from jobs.spec.sections import JUDGE, SAMPLES
from jobs.storage.store import Store

HOUR_S = 3600.0


def stranded(store: Store, names: tuple[str, ...], without: str = "") -> dict[str, float]:
    """Model → dollars granted to processes that died before they could say what they used: counted as lost.

    without: a session that still runs, whose grants are out on purpose.
    """
    journal = Journal(store)
    return stranded_usd(store, {name: journal.spent(name) for name in names}, without)


def samples_spent(store: Store, spec: JobSpec) -> Spent:
    """Dollars of further answers in the journal, also where the job file no longer has a cascade."""
    return Journal(store).spent(SAMPLES) if SAMPLES in spec.payees else Spent()


def beside_gpu_usd(store: Store, spec: JobSpec) -> float | None:
    """GPU time of a judge and of a cascade's further answers, where their model is paid by the hour; None where neither is."""
    judge, cascade = spec.quality.judge, spec.cascade
    models = {JUDGE: judge and judge.model, SAMPLES: spec.names[0] if cascade else None}
    found: float | None = None
    for payee, model in models.items():
        price = spec.models[model].price if model else None
        if price is not None and price.gpu_hour_usd is not None:
            gpu_s = pc.sum(Journal(store).read(payee)["gpu_s"]).as_py() or 0.0
            found = (found or 0.0) + gpu_s / HOUR_S * price.gpu_hour_usd
    return found


def judge_spent(store: Store, spec: JobSpec) -> Spent:
    """Dollars of the judge in the journal, also of one that the job file no longer names."""
    return Journal(store).spent(JUDGE) if JUDGE in spec.payees else Spent()
