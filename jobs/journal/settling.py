"""Which of several rows with one key counts.

The journal may hold a key more than once: a failed try and then an answer, or two answers. The best kind counts (answered before
rejected before failed), and of equal kinds the earliest. What the other rows cost is the winner's `lost_usd`, so that no dollar
vanishes. `one_per_key` does this to a table with any columns, for who wants the answers. `settle` does it to the few columns
that decide and cost, for who wants to know of a whole run. Cost: O(n log n); `settle` holds 34 bytes a row, and 16 more while it
sorts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.rows import PURPOSES, RANKS

DECIDING_COLUMNS = ("row_key", "bucket", "kind", "cost_usd", "lost_usd", "attempts", "settled_at")
"""What `one_per_key` needs, and the order of a journal's rows."""


def one_per_key(table: pa.Table) -> pa.Table:
    """The row of each row_key that counts; the others' dollars are in its lost_usd, their attempts in its attempts.

    Needs row_key, kind, cost_usd, lost_usd, attempts, settled_at. Order of the result: by row_key. O(n log n).
    """
    if not table.num_rows:
        return table
    keys = table["row_key"].to_numpy()
    found = _winners(keys, ranks_of(table["kind"]), table["settled_at"].to_numpy())
    result = table.take(pa.array(found.rows))
    if not len(found.losers):
        return result
    lost = found.lost_usd(table["cost_usd"].to_numpy(), table["lost_usd"].to_numpy())
    attempts = result["attempts"].to_numpy().copy()
    np.add.at(attempts, found.beaten_by, table["attempts"].to_numpy()[found.losers])
    for name, values in (("lost_usd", lost), ("attempts", attempts)):
        place = result.schema.get_field_index(name)
        result = result.set_column(place, result.schema.field(name), pa.array(values))
    return result


def ranks_of(kinds: pa.ChunkedArray | pa.Array) -> NDArray[np.int8]:
    """RANKS of a column of kinds."""
    return _codes(kinds, RANKS)


def purposes_of(purposes: pa.ChunkedArray | pa.Array) -> NDArray[np.int8]:
    """Place in PURPOSES of a column of purposes."""
    return _codes(purposes, {purpose: code for code, purpose in enumerate(PURPOSES)})


def _codes(column: pa.ChunkedArray | pa.Array, codes: dict[str, int]) -> NDArray[np.int8]:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    table = np.array([codes[value] for value in column.dictionary.to_pylist()], np.int8)
    return np.asarray(table[column.indices.to_numpy()]) if len(column) else np.empty(0, np.int8)


@dataclass(frozen=True, slots=True)
class Settlements:
    """What each key of one model came to, by the rule of `one_per_key`. Legend: k keys."""

    row_key: NDArray[np.int64]
    """(k,) Sorted, each once."""
    rank: NDArray[np.int8]
    """(k,) Of its kind, see RANKS."""
    purpose: NDArray[np.int8]
    """(k,) Place in PURPOSES."""
    cost_usd: NDArray[np.float64]
    lost_usd: NDArray[np.float64]
    """(k,) Its own, and all dollars of the key's other rows."""


SETTLING_COLUMNS = {
    "row_key": np.int64, "rank": np.int8, "purpose": np.int8, "cost_usd": np.float64, "lost_usd": np.float64,
    "settled_at": np.float64,
}  # fmt: skip
"""What `settle` needs, and as what."""


class Columns:
    """Columns that grow, piece by piece. Twice as large when they are full, of which the unused part costs no memory."""

    def __init__(self, types: Mapping[str, Any]) -> None:
        self._arrays: dict[str, NDArray[Any]] = {name: np.empty(0, kind) for name, kind in types.items()}
        self._rows = 0

    def add(self, piece: Mapping[str, NDArray[Any]]) -> None:
        """More rows: an array for each column."""
        end = self._rows + len(next(iter(piece.values())))
        for name, values in piece.items():
            array = self._arrays[name]
            if end > len(array):
                self._arrays[name] = np.empty(max(end, 2 * len(array)), array.dtype)
                self._arrays[name][: self._rows] = array[: self._rows]
            self._arrays[name][self._rows : end] = values
        self._rows = end

    def pop(self, name: str) -> NDArray[Any]:
        """A whole column, kept here no longer."""
        return self._arrays.pop(name)[: self._rows]


def settle(rows: Columns) -> Settlements:
    """All rows of one model, in SETTLING_COLUMNS, as one entry per key. Takes the columns out of `rows`, to save memory."""
    keys, ranks = rows.pop("row_key"), rows.pop("rank")
    found = _winners(keys, ranks, rows.pop("settled_at"))
    keys, ranks, purposes = keys[found.rows], ranks[found.rows], rows.pop("purpose")[found.rows]
    cost = rows.pop("cost_usd")
    lost = found.lost_usd(cost, rows.pop("lost_usd"))
    return Settlements(keys, ranks, purposes, cost[found.rows], lost)


@dataclass(frozen=True, slots=True)
class _Winners:
    """Which rows count. Legend: n rows, k keys; k is nearly n."""

    rows: NDArray[np.int64]
    """(k,) the row of each key that counts, by key."""
    losers: NDArray[np.int64]
    """(n - k,) the others."""
    beaten_by: NDArray[np.int64]
    """(n - k,) each loser's place in `rows`."""

    def lost_usd(self, cost: NDArray[np.float64], lost: NDArray[np.float64]) -> NDArray[np.float64]:
        """(k,) dollars of each key but the cost of its winner. cost, lost: (n,)."""
        total = lost[self.rows]
        np.add.at(total, self.beaten_by, cost[self.losers] + lost[self.losers])
        return total


def _winners(keys: NDArray[np.int64], ranks: NDArray[np.int8], settled_at: NDArray[np.float64]) -> _Winners:
    """Few keys have several rows, so only those are sorted by more than the key."""
    order = np.argsort(keys, kind="stable")
    new = np.ones(len(order), bool)
    ordered = keys[order]
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    del ordered
    others = np.flatnonzero(~new)
    if not len(others):
        return _Winners(order, others, others)
    shared = ~new
    shared[:-1] |= ~new[1:]
    rows = order[shared]
    order[shared] = rows[np.lexsort((settled_at[rows], ranks[rows], keys[rows]))]
    # A loser at place p with i losers before it, itself counted, has p - i winners before its own.
    return _Winners(order[new], order[others], others - np.arange(1, len(others) + 1))
