"""Where dollars are tight: the dear models' rows go out best first, in bands, and the rest is cut again between them.

A cut made before the run rests on expected output tokens. After some 10, 50 and 90 % of the money for upgrades the mean is known
better, so the cut moves, and only rows far from it have been decided for good. Weak-model rows just below the cut are held back
until the money for upgrades is settled, or they would be paid twice when the cut moves down. Pure arithmetic, O(n log n).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from jobs.route.plan.plan import Assignments
from jobs.storage.keys import positions

MILESTONES = (0.1, 0.5, 0.9, 1.0)
"""Shares of the money for upgrades after which the cut is made again."""
LEAST_ROWS = 64
"""A band of fewer costs more in starting lanes than its re-cut can mend."""
HELD_SHARE = 0.3
"""Weak rows held back, as a share of the rows still to upgrade: how far the cut may move down."""
Todo = dict[str, NDArray[np.int64]]


def next_band(plan: Assignments, todo: Todo, dear: tuple[str, ...], spent_usd: float) -> Todo:
    """The best rows of `todo` up to the next milestone; all of them where fewer than LEAST_ROWS would be left.

    dear: models whose dollars are tight. spent_usd: spent on them so far, by the plan's reckoning.
    """
    keys = np.concatenate([todo[name] for name in dear]) if dear else np.empty(0, np.int64)
    if len(keys) <= LEAST_ROWS:
        return {name: todo[name] for name in dear}
    at = positions(plan.row_key, keys)
    order = np.argsort(-plan.rank[at], kind="stable")
    running = np.cumsum(plan.cost_usd[at][order])
    total = spent_usd + running[-1]
    milestone = next((share for share in MILESTONES if share * total > spent_usd * (1 + 1e-9)), 1.0)
    taken = int(np.searchsorted(running, milestone * total - spent_usd, side="right"))
    taken = max(taken, LEAST_ROWS)
    if len(keys) - taken < LEAST_ROWS:
        taken = len(keys)
    chosen = np.sort(keys[order[:taken]])
    return {name: np.intersect1d(todo[name], chosen, assume_unique=True) for name in dear}


def held_back(plan: Assignments, todo: Todo, weak: str, dear: tuple[str, ...]) -> NDArray[np.int64]:
    """Sorted keys of the weak model's rows that the cut may still reach: the best of them. Rows of the sample never wait."""
    n_up = sum(len(todo[name]) for name in dear)
    keys = np.setdiff1d(todo[weak], plan.shadow, assume_unique=True)
    n_held = min(len(keys), int(np.ceil(HELD_SHARE * n_up)))
    order = np.argsort(-plan.rank[positions(plan.row_key, keys)], kind="stable")
    return np.sort(keys[order[:n_held]])
