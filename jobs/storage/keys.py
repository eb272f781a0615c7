"""Keys of rows and of what is asked, and finding rows by them.

A row key is 64 bits made from the row's place in the input; a content key is 128 bits of hash, equal for equal requests. Look-ups
are binary searches in NumPy, O(n log k).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def content_key(messages: str, body: str) -> bytes:
    """16 bytes that are equal for equal (messages, body) JSON texts, as the score stage wrote them."""
    return digest16(messages, body)


def digest16(*parts: str) -> bytes:
    """128-bit key of texts; parts cannot run into each other."""
    hasher = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        hasher.update(len(raw).to_bytes(8, "little") + raw)
    return hasher.digest()


def request_key(*parts: str) -> int:
    """64-bit key of a request that is no row of the input, from texts that no other request has: half of their `digest16`.

    The journal and the lanes take it where a row has its row key.
    """
    return int.from_bytes(digest16(*parts)[:8], "little", signed=True)


def row_keys(position: NDArray[np.int64]) -> NDArray[np.int64]:
    """Row keys of input positions (file number << 40 | row number), the finaliser of SplitMix64 (Steele et al. 2014).

    A bijection on 64 bits: keys are unique because positions are, and in pseudo-random order, so that ties broken by key and
    samples drawn by key favour no part of the input.
    """
    z = position.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).view(np.int64)


def is_among(values: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of `values` are in the sorted array `wanted`. O(n log k)."""
    if not len(wanted):
        return np.zeros(len(values), bool)
    at = np.minimum(np.searchsorted(wanted, values), len(wanted) - 1)
    return np.asarray(wanted[at] == values)


def find_keys(
    keys: NDArray[np.int64], wanted: NDArray[np.int64], by_key: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """(k,) index in `keys` (n,) of each of `wanted` (k,); -1 for a key that is not there. O((n + k) log n).

    keys: each once, in any order. by_key: their argsort, for who looks things up more than once.
    """
    if not len(keys):
        return np.full(len(wanted), -1, np.intp)
    order = np.argsort(keys) if by_key is None else by_key
    at = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), len(keys) - 1)]
    return np.asarray(np.where(keys[at] == wanted, at, -1))


def positions(
    keys: NDArray[np.int64], wanted: NDArray[np.int64], by_key: NDArray[np.intp] | None = None
) -> NDArray[np.intp]:
    """`find_keys` where every key must be there. Raises KeyError for one that is not: another run's key has no row here."""
    at = find_keys(keys, wanted, by_key)
    if len(at) and at.min() < 0:
        raise KeyError(f"row_key {wanted[at < 0][0]} is none of the {len(keys):,} rows of the run")
    return at
