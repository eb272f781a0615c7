"""Which rows can be asked, and which of them are one request: rows of equal content are a group, asked once.

A group's leader is its first row of the input. Rows that cannot be asked (an input error, a second row of the same id, a prompt
too long for every model) are in no group. Cost: two sorts of 16-byte keys. Legend: n rows, g groups, m models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jobs.errors import SpecError
from jobs.route.plan.rows import Rows
from jobs.spec.job import JobSpec


@dataclass(frozen=True, slots=True)
class Groups:
    """The requests that a set of rows comes to."""

    leader: NDArray[np.int64]
    """(n,) index of the row that is asked for each row; rows that cannot be asked stand for themselves."""
    at: NDArray[np.int64]
    """(g,) indices of the leaders, ascending."""
    weight: NDArray[np.int64]
    """(g,) rows of each group."""
    askable: NDArray[np.bool_]
    """(n,)."""
    duplicate_id: NDArray[np.bool_]
    """(n,) True where an earlier row of the input has the id."""
    no_model: NDArray[np.bool_]
    """(n,) True where the prompt fits no model."""

    def of_rows(self, rows: NDArray[np.int64]) -> NDArray[np.intp]:
        """(k,) number of the group that each of these askable rows (indices) is in."""
        return np.searchsorted(self.at, self.leader[rows])


def group_rows(spec: JobSpec, rows: Rows, too_long: NDArray[np.bool_]) -> Groups:
    """Group the set. `too_long`: (n, m) True where a prompt does not fit a model. Raises SpecError where nothing can be asked."""
    n = len(rows.row_key)
    duplicate_id = (first_of_equal(rows.id_key, np.ones(n, bool)) != np.arange(n)) & ~rows.error
    no_model = too_long.all(axis=1) & ~rows.error & ~duplicate_id
    askable = ~(rows.error | duplicate_id | no_model)
    leader = first_of_equal(rows.content_key, askable) if spec.deduplicates() else np.arange(n)
    at = np.flatnonzero(askable & (leader == np.arange(n)))
    if not len(at):
        raise SpecError("input.path: not one row can be asked; the first errors are shown by `headgate plan`")
    weight = np.bincount(leader[askable], minlength=n)[at]
    return Groups(leader, at, weight, askable, duplicate_id, no_model)


def first_of_equal(keys: NDArray[Any], use: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) index of the first row with the same key, of the rows in `use`; rows outside `use` stand for themselves."""
    first = np.arange(len(keys))
    at = np.flatnonzero(use)
    if not len(at):
        return first
    order = at[np.lexsort((at, keys[at, 1], keys[at, 0]))]
    same = np.zeros(len(order), bool)
    same[1:] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    first[order] = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
    return first


def why_not_once(spec: JobSpec) -> str:
    """Why `dedup: auto` asks equal prompts one by one, "" where it does not."""
    if spec.dedup != "auto" or spec.deduplicates():
        return ""
    found = {name: spec.sampling_of(name).get("temperature") for name in spec.names}
    name, temperature = next((name, value) for name, value in found.items() if value != 0)
    why = (
        f"models.{name} has no temperature"
        if temperature is None
        else f"models.{name} answers at temperature {temperature:g}"
    )
    return f"dedup: auto is off, since {why}: equal prompts are asked one by one; dedup: true asks them once"
