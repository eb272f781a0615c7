"""Whether the second batch is routed better than the first: a table of docs/results.md.

Each seed parts a set into two batches without a prompt in common. Both draw a sample that every model answers. Batch 1
is routed by a router trained elsewhere, then by that router with a head from its own pilot. `auto` is fitted on all that
run 1's sample shows, which is what `headgate train --from-run` reads (jobs/evaluation/run_outcomes.py): every sampled
row, since the run is over. Batch 2 is routed by it, alone and with its own pilot. All are measured on the batch's other
rows. Cost: five minutes on one core.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.pilot_tables import ENCODER, SETS, TEST_ROWS, PilotSet, Scores, gain, load_set, uses_encoder
from benchmarks.results.tables import Amount, Say, apgr_interval, each_that_is_there, markdown
from jobs.evaluation.terminal import with_interval
from routing.data.outcomes import Outcomes, split_by_prompt
from routing.pilot.folds import fold_sizes
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.routers.registry import create

SAMPLE = {"MMLU": 500, "GSM8K": 200}
"""Rows of each batch that every model answers."""
QUICK_SAMPLE = 40


class Batch(NamedTuple):
    """Row numbers of one batch."""

    sample: NDArray[np.intp]
    """Random order; its first rows are the fit fold."""
    test: NDArray[np.intp]


LABELS = {
    "old 1": ("1", "trained elsewhere, no pilot"),
    "old 1 pilot": ("1", "trained elsewhere, and its own pilot"),
    "old 2": ("2", "trained elsewhere, no pilot"),
    "old 2 pilot": ("2", "trained elsewhere, and its own pilot"),
    "new 2": ("2", "**trained on run 1**, no pilot"),
    "new 2 pilot": ("2", "**trained on run 1**, and its own pilot"),
}


def batch_tables(data: Path, amount: Amount, say: Say) -> str:
    """A table per set whose data are there."""
    return each_that_is_there(
        (each for each in SETS if each.name in SAMPLE), lambda each: _set_table(data, each, amount, say)
    )


def _set_table(data: Path, each: PilotSet, amount: Amount, say: Say) -> str:
    table, base, scores = load_set(data, each, amount, say)
    sample = QUICK_SAMPLE if amount.quick else SAMPLE[each.name]
    fit = fold_sizes(sample).fit or sample
    encoder = ENCODER if uses_encoder(each, amount) else None
    rows: dict[str, list[NDArray[np.intp]]] = {key: [] for key in LABELS}
    gains: dict[str, list[NDArray[np.float64]]] = {key: [] for key in LABELS}

    def note(key: str, batch: Batch, predicted: Scores) -> None:
        rows[key].append(batch.test)
        gains[key].append(gain(predicted))

    for seed in range(amount.seeds):
        say(f"{each.name}: two batches, seed {seed + 1} of {amount.seeds}")
        batches = two_batches(table, sample, seed)
        for number, batch in enumerate(batches, start=1):
            prompts = [table.prompts[row] for row in batch.test]
            note(f"old {number}", batch, scores[batch.test])
            head = CalibratedRouter(seed=seed).fit_pilot(base, table.select(batch.sample[:fit]))
            note(f"old {number} pilot", batch, head.predict_from(scores[batch.test].astype(np.float32), prompts))
        first, second = batches
        prompts = [table.prompts[row] for row in second.test]
        trained = create("auto", encoder=encoder, n_folds=2 if amount.quick else 4, seed=seed).fit(
            table.select(first.sample)
        )
        new = trained.predict(prompts)
        note("new 2", second, new)
        head = CalibratedRouter(seed=seed).fit_pilot(trained, table.select(second.sample[:fit]))
        note("new 2 pilot", second, head.predict_from(new, prompts))
    lines = []
    for key, (batch_name, label) in LABELS.items():
        apgr = apgr_interval(gains[key], rows[key], table, amount.n_boot)
        lines.append([batch_name, label, with_interval(apgr)])
    shown = [float(line[2].split()[0]) for line in lines]
    n_test = int(np.mean([len(own) for own in rows["old 2"]]))
    return (
        f"**{each.name}**: samples of {sample} rows ({fit} of them for a batch's own head), {n_test:,} other rows a batch,"
        f" {amount.seeds} seeds.\n\n{markdown(['batch', 'router', 'APGR [95 %]'], lines, left=2)}\n\n"
        f"Batch 2 with the router of run 1: {shown[4] - shown[2]:+.3f} over the one trained elsewhere before any call of its own,"
        f" {shown[5] - shown[3]:+.3f} with its pilot."
    )


def two_batches(table: Outcomes, sample: int, seed: int) -> tuple[Batch, Batch]:
    """Halves of the set by prompt; each one's sample, and at most TEST_ROWS of its other rows."""
    rng = np.random.default_rng(seed)
    halves = split_by_prompt(table, fraction=0.5, seed=seed)
    return tuple(_batch(table, rng.permutation(half), sample) for half in halves)  # type: ignore[return-value]


def _batch(table: Outcomes, rows: NDArray[np.intp], sample: int) -> Batch:
    taken = {table.prompts[row] for row in rows[:sample]}
    # A copy of a sampled row has its answer already.
    others = np.array([row for row in rows[sample:] if table.prompts[row] not in taken], np.intp)
    return Batch(rows[:sample], np.sort(others[:TEST_ROWS]))
