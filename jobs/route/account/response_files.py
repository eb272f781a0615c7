"""Which buckets share a file of responses/: few large files where the set is large, the same ones at every accounting.

A bucket's 50,000 rows come to 2-30 MB; FILE_BYTES is some ten of them. How long answers are is known when the first
accounting starts, from the journal: it decides, and what it decided stands (`_headgate/responses.json`), because a file
that is replaced by one of other rows would show rows twice, or not at all, to whoever reads the folder in between.
Cost: the footers of a few segments.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from jobs.journal.reader import Journal
from jobs.route.score.entries import Part
from jobs.storage.manifest import FOLDER, read_json
from jobs.storage.store import Store

FILE_BYTES = 128 * 2**20
"""Aimed at; kept input columns come on top, and answers still to come may be longer: between 64 and 512 MB."""
ASSUMED_ROW_BYTES = 500
LOOKED_AT = 16
"""Segments of each model whose size is looked at."""
ENTRY = f"{FOLDER}/responses.json"


def response_files(store: Store, names: tuple[str, ...], parts: Sequence[Part]) -> list[range]:
    """Indices into `parts` (the score stage's entry) per file, in order: file n is responses/part-<n>.parquet."""
    entry = read_json(store, ENTRY)
    if entry is None:
        alone = list(range(len(parts)))  # a run that an earlier version accounted
        first = alone if store.list("responses") else _first_parts(store, names, parts)
        store.create(ENTRY, json.dumps({"first": first}).encode())
        entry = read_json(store, ENTRY) or {"first": first}
    borders = [*entry["first"], len(parts)]
    return [range(low, high) for low, high in pairwise(borders)]


def _first_parts(store: Store, names: tuple[str, ...], parts: Sequence[Part]) -> list[int]:
    rows_per_file = FILE_BYTES / _row_bytes(store, names)
    first, rows = [0], 0
    for index, part in enumerate(parts):
        if rows and rows + part.rows > rows_per_file:
            first.append(index)
            rows = 0
        rows += part.rows
    return first


def _row_bytes(store: Store, names: tuple[str, ...]) -> float:
    """Bytes that an answer takes in the journal, compressed."""
    size = rows = 0
    for name in names:
        segments = Journal(store).segments(name)
        for at in np.unique(np.linspace(0, len(segments) - 1, LOOKED_AT).astype(int)) if segments else ():
            footer, n_bytes = store.footer(segments[at])
            size += n_bytes
            rows += footer.num_rows
    # Small segments have more footer than rows.
    return max(50.0, min(size / rows, 20_000.0)) if rows >= 1000 else ASSUMED_ROW_BYTES
