"""Which request fails, and how: one uniform number per request number, cut by the faults' probabilities.

A hash of (seed, request number) instead of a stateful generator: the draw of request i does not depend on how many
draws were made before it, so a run is the same whatever was turned away first. About 2 µs a draw.
"""

from __future__ import annotations

import hashlib
import itertools
import struct
from bisect import bisect_right
from collections.abc import Mapping


class FaultPlan:
    """Draws a fault name, or None, for each request number."""

    def __init__(self, shares: Mapping[str, float], seed: int) -> None:
        given = {name: share for name, share in shares.items() if share > 0}
        self._names = tuple(given)
        self._edges = tuple(itertools.accumulate(given.values()))
        self._key = hashlib.blake2b(str(seed).encode(), digest_size=32).digest()

    def draw(self, ordinal: int) -> str | None:
        """The fault of request number `ordinal` (from 0)."""
        if not self._names:
            return None
        digest = hashlib.blake2b(struct.pack("<Q", ordinal), key=self._key, digest_size=8).digest()
        uniform = int.from_bytes(digest, "little") / 2**64
        place = bisect_right(self._edges, uniform)
        return self._names[place] if place < len(self._names) else None
