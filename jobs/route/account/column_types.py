"""The types of those columns of responses/ that come from the input: one for all its files, found when all of scored/ is there.

Every part of scored/ has kept columns and ids in types of its own (`jobs/route/score/values`). Cost: a footer a part, read by a few
threads; figures of row groups are looked at only where the parts' types differ.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.route.score.entries import Part
from jobs.route.score.values.widest import Held, cast_to, plain, plain_type, widest
from jobs.storage.store import Store

THREADS = 8


@dataclass(frozen=True, slots=True)
class InputTypes:
    """Of the columns that are carried from the input."""

    id: pa.DataType
    keep: tuple[pa.DataType, ...]
    """In the order of input.keep."""

    def ids(self, scored: pa.Table) -> pa.Array:
        """(n,) the column `id` of (a piece of) a part."""
        return cast_to(scored["id"].combine_chunks(), self.id)

    def kept(self, scored: pa.Table) -> list[pa.Array]:
        """The kept columns of a part, each (n,)."""
        keep = scored["keep"].combine_chunks()
        return [cast_to(plain(keep.field(f"k{place}")), kind) for place, kind in enumerate(self.keep)]


def input_types(store: Store, parts: Sequence[Part], n_kept: int) -> InputTypes:
    """Of all parts of scored/. n_kept: how many columns are kept."""
    with ThreadPoolExecutor(min(THREADS, len(parts))) as pool:
        footers = list(pool.map(lambda part: store.footer(part.name)[0], parts))
    kept = tuple(_type_of(footers, f"keep.k{place}") for place in range(n_kept))
    return InputTypes(_type_of(footers, "id"), kept)


def _type_of(footers: Sequence[pq.FileMetaData], path: str) -> pa.DataType:
    kind = widest(_held(footer, path) for footer in footers)
    return pa.string() if pa.types.is_null(kind) else kind


def _held(footer: pq.FileMetaData, path: str) -> Held:
    """What a part holds of one column."""
    name, _, field = path.partition(".")
    kind = footer.schema.to_arrow_schema().field(name).type
    kind = plain_type(kind.field(field).type if field else kind)
    if not pa.types.is_integer(kind) and not pa.types.is_timestamp(kind):
        return Held(kind)
    found = [chunk.statistics for chunk in _chunks(footer, path)]
    told = [figures for figures in found if figures is not None and figures.has_min_max]
    if len(told) < len(found):
        return Held(kind)
    if pa.types.is_timestamp(kind):  # as a number: Python's dates end in the year 9999
        low, high = [figures.min_raw for figures in told], [figures.max_raw for figures in told]
    else:
        low, high = [figures.min for figures in told], [figures.max for figures in told]
    return Held(kind, min(low, default=0), max(high, default=0))


def _chunks(footer: pq.FileMetaData, path: str) -> Iterator[pq.ColumnChunkMetaData]:
    """A column in each row group, but those where all of it is null."""
    for number in range(footer.num_row_groups):
        group = footer.row_group(number)
        chunk = next(chunk for chunk in map(group.column, range(group.num_columns)) if chunk.path_in_schema == path)
        figures = chunk.statistics
        if figures is None or not figures.has_null_count or figures.null_count < group.num_rows:
            yield chunk
