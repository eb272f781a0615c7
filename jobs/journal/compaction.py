"""Merges a journal's many small files into few large ones, when a run starts.

A writer commits a segment every two seconds. A long run leaves tens of thousands of them, and every reader pays for each. A
merge reads the segments of one session after the other (dollars are accounted by session), in the order of their buckets. It
fills a file with as many rows as MERGED_BYTES holds, sorted by bucket, and begins the next. Rows are not changed, and none is
left out: a key that stood there twice still does, and it is the reader who picks one (`jobs.journal.settling.one_per_key`).

A merge takes three steps, and may die after any of them:

1. It writes the merged files. No manifest names them, so no reader looks at them.
2. It creates one manifest (`jobs.journal.segments`), which puts the merged files in the place of the segments. Only one process
   can create the manifest of a number.
3. It deletes the segments.

Dead before the manifest: the journal reads as before. Dead after it: the next start deletes the rest. Two merges at once write
files of different names and want the same number; whoever comes second has merged for nothing. Its files, and those of a merge
that died, are deleted once a manifest has taken their number, for then none can name them any more. Writers may commit
meanwhile: the manifest does not name their new segments, so they stay.

Cost: every row is read and written once, some 50 MB of table a second and core. Memory: some 4 x MERGED_BYTES.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from jobs.journal.rows import ANSWER_SCHEMA, completed
from jobs.journal.segments import Merges, Segment, Segments, folder_of, manifest, merged_name, merges_of, parse_name
from jobs.storage.store import Store

MOST_SEGMENTS = 1000
"""Up to so many are left as they are: a second of reading at a start."""
MERGED_BYTES = 128 * 2**20
"""Of a merged file's rows in memory; a third of it, or less, on the store."""
ROW_GROUP_ROWS = 2**14
"""What a reader of one bucket reads too much of, at most twice."""
FEW_VALUES = ["bucket", "kind", "purpose", "finish_reason", "token_source", "attempts", "error"]
"""Columns worth a dictionary."""
THREADS = 8
READ_AHEAD = 32
"""Segments read at a time; some MB each at most."""


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did."""

    segments: int
    """Files before."""
    files: int
    """Files after."""
    rows: int


def compact_journal(store: Store, names: Sequence[str], most_segments: int = MOST_SEGMENTS) -> dict[str, Merged]:
    """Merge the journal of every model in `names` that has more than `most_segments` segments. Model → what was done.

    To be called where the run's lease is held. Raises StoreError; the journal reads the same then as before.
    """
    done = {}
    for name in names:
        segments = Segments(store)
        # The number first: a merge that lands after this takes it, one before it is known to `visible`. Never do two count.
        merges = segments.merges(name)
        visible = [segment for segment in segments.visible(name) if not segment.merge]
        _tidy(store, name, merges)
        if len(visible) > most_segments:
            merged = _merge(store, name, visible, merges.last + 1)
            if merged is not None:
                done[name] = merged
    return done


def _merge(store: Store, alias: str, segments: list[Segment], number: int) -> Merged | None:
    """Merge these segments. None where another merge took the number."""
    nonce = secrets.token_hex(6)
    files: list[str] = []
    n_rows = 0
    ordered = sorted(segments, key=lambda s: (s.session, s.low, s.high, s.name))
    for session, of_session in groupby(ordered, key=lambda s: s.session):
        for table in _tables(store, list(of_session)):
            buckets = pc.unique(table["bucket"]).to_pylist()
            name = merged_name(alias, merge=number, nonce=nonce, number=len(files), session=session, buckets=buckets)
            files.append(name)
            _write(store, name, table)
            n_rows += len(table)
    record = manifest(files, [segment.name for segment in segments])
    created = store.create(f"{merges_of(alias)}/{number:04d}.json", record)
    # Who has the number is told by the manifests alone: also one that was refused may turn out to be this merge's own.
    _tidy(store, alias, Segments(store).merges(alias))
    return Merged(len(segments), len(files), n_rows) if created else None


def _tables(store: Store, segments: list[Segment]) -> Iterator[pa.Table]:
    """All rows of the segments in pieces of MERGED_BYTES, each sorted by (bucket, row_key)."""
    tables: list[pa.Table] = []
    size = 0
    with ThreadPoolExecutor(THREADS) as pool:
        for start in range(0, len(segments), READ_AHEAD):
            ahead = segments[start : start + READ_AHEAD]
            for table in pool.map(lambda segment: _rows(store, segment), ahead):
                tables.append(table)
                size += table.nbytes
                if size >= MERGED_BYTES:
                    yield _sorted(tables)
                    size = 0
    if tables:
        yield _sorted(tables)


def _rows(store: Store, segment: Segment) -> pa.Table:
    batches = store.batches(segment.name, ANSWER_SCHEMA.names)
    return pa.Table.from_batches([completed(batch, ANSWER_SCHEMA) for batch in batches], ANSWER_SCHEMA)


def _sorted(tables: list[pa.Table]) -> pa.Table:
    """One table of them, in the order of a segment. Empties `tables`."""
    whole = pa.concat_tables(tables).combine_chunks()
    tables.clear()
    # Stable, so that rows of one key and time stay in the order in which they would be read unmerged.
    return whole.take(pc.sort_indices(whole, [("bucket", "ascending"), ("row_key", "ascending")]))


def _write(store: Store, name: str, table: pa.Table) -> None:
    buckets = ",".join(map(str, pc.unique(table["bucket"]).to_pylist()))
    table = table.replace_schema_metadata({"buckets": buckets})
    store.write_table(name, table, row_group_size=ROW_GROUP_ROWS, use_dictionary=FEW_VALUES)


def _tidy(store: Store, alias: str, merges: Merges) -> None:
    """Delete what no reader believes in, and none ever will."""
    dead = []
    for name in store.list(folder_of(alias)):
        segment = parse_name(name)
        given_up = segment is not None and 0 < segment.merge <= merges.last and name not in merges.new
        if given_up or name in merges.replaced:
            dead.append(name)
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(store.delete, dead))
