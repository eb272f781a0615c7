"""What the tables of docs/results.md that are no router's own have in common: how much to do, how a table is written.

A `Table` makes its own text from the data folder; a `Section` (sets.py) is the usual table of routers on one set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from routing.data.outcomes import Outcomes
from routing.metrics.pair import Interval, curve_apgr, router_curve
from routing.metrics.trials import N_BOOT, Floats, Statistic, two_way_bootstrap

S = TypeVar("S")
Say = Callable[[str], None]
QUICK_BOOT = 40


@dataclass(frozen=True, slots=True)
class Amount:
    """How much to do."""

    seeds: int = 5
    quick: bool = False
    """Few rows and draws: figures that mean nothing."""
    encoder: bool = True
    """Whether a sentence encoder may take part where it is installed."""
    live: Path | None = None
    """Folder of a run of the demo that asked everything."""

    @property
    def n_boot(self) -> int:
        """Replicates of a bootstrap."""
        return QUICK_BOOT if self.quick else N_BOOT


@dataclass(frozen=True, slots=True)
class Table:
    """One part of the page that measures something of its own."""

    key: str
    title: str
    text: str
    """What was done, in a paragraph above the tables."""
    make: Callable[[Path, Amount, Say], str]
    """Data folder → Markdown. Raises FileNotFoundError where nothing it needs is there."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; the first `left` columns are words, the others figures."""
    rule = ["---"] * left + ["--:"] * (len(head) - left)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def few(outcomes: Outcomes, rows: int) -> Outcomes:
    """At most `rows` rows, spread over the table."""
    return outcomes.select(np.linspace(0, len(outcomes) - 1, min(rows, len(outcomes))).astype(int))


def each_that_is_there(sets: Iterable[S], make: Callable[[S], str]) -> str:
    """The tables of all sets whose data are there, then what was missing. Raises FileNotFoundError where none is."""
    parts, missing = [], []
    for each in sets:
        try:
            parts.append(make(each))
        except FileNotFoundError as error:
            missing.append(str(error))
    if not parts:
        raise FileNotFoundError("; ".join(dict.fromkeys(missing)))
    return "\n\n".join([*parts, *(f"Not measured: {why}." for why in dict.fromkeys(missing))])


def apgr_interval(scores: Sequence[Floats], rows: Sequence[np.ndarray], table: Outcomes, n_boot: int) -> Interval:
    """APGR over trials: (k,) scores of each trial's test rows of the pair `table`."""
    statistics = [_apgr_of(score, table, own) for score, own in zip(scores, rows, strict=True)]
    means, draws = two_way_bootstrap(statistics, rows, len(table), n_boot, seed=0)
    low, high = np.nanpercentile(draws["apgr"], [2.5, 97.5])
    return Interval(means["apgr"], float(low), float(high))


def _apgr_of(score: Floats, table: Outcomes, rows: np.ndarray) -> Statistic:
    weak, strong = table.quality[rows].astype(np.float64).T

    def statistic(weights: Floats) -> dict[str, Floats]:
        return {"apgr": np.asarray(curve_apgr(router_curve(score, weak, strong, weights)))}

    return statistic
