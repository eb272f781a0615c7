"""Exact nearest neighbours by cosine over millions of rows in bounded memory.

Blocked matrix products over training rows and over queries, with a running top k per query: O(n N d) multiplications,
memory = the index itself (2 bytes a number: 768 MB for 1 M x 384) + 4 N_BLOCK d bytes for the rows being compared + 12
n k for the answer, whatever N is. One core: 256 queries against 1 M x 384 in 12 s and 40 MB
beside the index (`benchmarks/knn_scale.py`). An approximate index (FAISS) would pay beyond that, or for one query at a
time. Legend: n queries, N rows, d dimensions,
k neighbours.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

QUERIES = 32
"""Queries per matrix product. Short blocks are padded to it: BLAS then sums every row the same way, and a query has
the same similarities alone and in a batch, down to ties."""
ROWS = 2**15
"""Rows per matrix product: 48 MB of float32 at 384 dimensions, 4 MB of similarities."""


class Neighbours(NamedTuple):
    """The k nearest rows of each query."""

    rows: NDArray[np.intp]
    """(n, k) row numbers, ascending within a query, so that sums over them have one order."""
    similarity: NDArray[np.float32]
    """(n, k) dot products, in the order of `rows`."""


class NeighbourIndex:
    """Unit vectors (N, d) in half precision, searched exactly; ties go to the lower row number.

    A small index (one block) keeps its float32 copy between calls; the copy is never pickled.
    """

    def __init__(self, vectors: NDArray[Any]) -> None:
        self.vectors: NDArray[np.float16] = vectors.astype(np.float16, copy=False)
        self._small: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.vectors)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_small": None}

    def nearest(self, queries: NDArray[np.float32], k: int) -> Neighbours:
        """The min(k, N) rows with the largest dot product per query; `queries` (n, d), unit vectors for cosine.

        Raises ValueError for k < 1 or another number of dimensions.
        """
        n, total = len(queries), len(self.vectors)
        if k < 1 or queries.ndim != 2 or queries.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"k {k}, queries {queries.shape}, index {self.vectors.shape}")
        k = min(k, total)
        rows = np.zeros((n, k), np.intp)
        similarity = np.full((n, k), -np.inf, np.float32)
        padded = np.zeros((QUERIES, queries.shape[1]), np.float32)
        # Rows outside, queries inside: every row is widened to float32 once, not once per block of queries.
        for start in range(0, total, ROWS):
            block = self._block(start)
            for first in range(0, n, QUERIES):
                part = queries[first : first + QUERIES]
                padded[: len(part)], padded[len(part) :] = part, 0
                # Rows times queries, then turned: twice as fast as queries times rows, which is short and wide.
                found = np.ascontiguousarray((block @ padded.T).T)
                for i in range(len(part)):
                    _merge(rows[first + i], similarity[first + i], found[i], start)
        return Neighbours(rows, similarity)

    def _block(self, start: int) -> NDArray[np.float32]:
        """(up to ROWS, d) rows from `start` on, widened."""
        if self._small is not None:
            return self._small
        block = self.vectors[start : start + ROWS].astype(np.float32)
        if len(self.vectors) <= ROWS:
            self._small = block
        return block


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Rows scaled to length 1, float32; a row of zeros stays."""
    norms = np.sqrt(np.square(vectors).sum(axis=1, keepdims=True))
    unit: NDArray[np.float32] = (vectors / np.where(norms > 0, norms, 1)).astype(np.float32)
    return unit


def _merge(rows: NDArray[np.intp], similarity: NDArray[np.float32], found: NDArray[np.float32], start: int) -> None:
    """Take the rows of a block that beat the worst of the k best so far into them, in place.

    `rows`, `similarity` (k,) are the best of rows 0..start - 1, ascending by row; the first min(k, start) are filled.
    Strictly better only: on a tie the earlier row stays.
    """
    k, filled = len(rows), min(len(rows), start)
    fresh = np.flatnonzero(found > similarity.min()) if filled == k else np.arange(len(found))
    if not len(fresh):
        return
    values = np.concatenate([similarity[:filled], found[fresh]])
    numbers = np.concatenate([rows[:filled], start + fresh])
    if len(values) > k:
        worst = np.partition(values, len(values) - k)[len(values) - k]
        better, equal = values > worst, np.flatnonzero(values == worst)
        better[equal[: k - np.count_nonzero(better)]] = True
        values, numbers = values[better], numbers[better]
    rows[: len(numbers)], similarity[: len(values)] = numbers, values
