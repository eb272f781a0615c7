"""Time and memory of exact nearest neighbours over a million embeddings.

    python -m benchmarks.knn_scale [--rows 1000000] [--dimensions 384] [--queries 256] [--k 40]

Made vectors (clusters with noise, float16) are searched by `routing.features.neighbours`, then averaged into qualities as the
kNN router does. One JSON object on standard output: seconds, queries a second, the index's size, and by how much the
process's peak memory rose above it during the search. Run with OMP_NUM_THREADS=1 for the figure of one core.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.features.neighbours import NeighbourIndex

BLOCK = 2**14


def made_vectors(n: int, d: int, seed: int) -> NDArray[np.float16]:
    """(n, d) unit vectors around 1,000 centres, made a block at a time so that only float16 is ever whole."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((1000, d)).astype(np.float32)
    result = np.empty((n, d), np.float16)
    for start in range(0, n, BLOCK):
        size = min(BLOCK, n - start)
        block = centres[rng.integers(1000, size=size)] + rng.standard_normal((size, d), np.float32)
        result[start : start + size] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return result


def peak_mb() -> float:
    """Peak resident memory of this process so far, MB (Linux: ru_maxrss is in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(rows: int, dimensions: int, queries: int, k: int) -> dict[str, Any]:
    """Build an index of `rows`, search `queries`; figures by name."""
    index = NeighbourIndex(made_vectors(rows, dimensions, seed=1))
    asked = made_vectors(queries, dimensions, seed=2).astype(np.float32)
    before = peak_mb()
    start = time.perf_counter()
    found = index.nearest(asked, k)
    seconds = time.perf_counter() - start
    return {
        "rows": rows,
        "dimensions": dimensions,
        "queries": queries,
        "k": k,
        "seconds": round(seconds, 2),
        "queries_per_second": round(queries / seconds, 1),
        "index_mb": round(index.vectors.nbytes / 2**20, 1),
        "peak_mb": round(peak_mb(), 1),
        "search_mb": round(peak_mb() - before, 1),
        "mean_similarity": round(float(found.similarity.mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--dimensions", type=int, default=384)
    parser.add_argument("--queries", type=int, default=256)
    parser.add_argument("--k", type=int, default=40)
    arguments = parser.parse_args()
    print(json.dumps(measure(arguments.rows, arguments.dimensions, arguments.queries, arguments.k)))


if __name__ == "__main__":
    main()
