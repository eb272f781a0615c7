"""Blocked search against brute force: the same neighbours, ties included, whatever the blocks."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.features import neighbours
from routing.features.neighbours import NeighbourIndex


def brute_force(vectors, queries, k):
    similarity = queries @ vectors.astype(np.float32).T
    order = np.stack([np.lexsort((np.arange(len(vectors)), -row))[:k] for row in similarity])
    return np.sort(order, axis=1)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 12),
    st.integers(1, 70),
    st.integers(1, 20),
    st.integers(1, 50),
    st.integers(0, 9),
)
def test_same_as_brute_force(n_rows, d, n, k, rows_per_block, seed):
    # Small whole numbers: products are exact, and ties are many.
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (n_rows, d)).astype(np.float16)
    queries = rng.integers(-2, 3, (n, d)).astype(np.float32)
    before = neighbours.ROWS
    neighbours.ROWS = rows_per_block
    try:
        found = NeighbourIndex(vectors).nearest(queries, k)
    finally:
        neighbours.ROWS = before
    np.testing.assert_array_equal(found.rows, brute_force(vectors, queries, k))
    np.testing.assert_array_equal(
        found.similarity, np.take_along_axis(queries @ vectors.astype(np.float32).T, found.rows, 1)
    )


def test_alone_as_in_a_batch_and_over_blocks():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((neighbours.ROWS + 100, 8)).astype(np.float16)
    queries = rng.standard_normal((40, 8)).astype(np.float32)
    index = NeighbourIndex(vectors)
    together = index.nearest(queries, 5)
    for i in (0, 31, 32, 39):
        alone = index.nearest(queries[i : i + 1], 5)
        np.testing.assert_array_equal(alone.rows[0], together.rows[i])
        np.testing.assert_array_equal(alone.similarity[0], together.similarity[i])
    np.testing.assert_array_equal(together.rows, brute_force(vectors, queries, 5))
    assert index.nearest(queries[:0], 5).rows.shape == (0, 5)


def test_the_wide_copy_is_not_pickled():
    index = NeighbourIndex(np.ones((1000, 16), np.float16))
    before = len(pickle.dumps(index))
    index.nearest(np.ones((1, 16), np.float32), 3)
    assert len(pickle.dumps(index)) == before < 33_000
    with pytest.raises(ValueError, match="index"):
        index.nearest(np.ones((1, 15), np.float32), 3)
    with pytest.raises(ValueError, match="k 0"):
        index.nearest(np.ones((1, 16), np.float32), 0)
