"""Reading scored/ back, as a Ray dataset or a table: one task per part, none where it is small.

Not `ray.data.read_parquet`: since 2.60 that starts a pool of actors to read footers for every dataset, a dozen processes for a
table whose files, sizes and order the manifest already knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from jobs.route.score.entries import Part
from jobs.storage.keys import is_among
from jobs.storage.store import Store

READ_CPUS = 0.5
HERE_ROWS = 1_000
HERE_BYTES = 16 * 2**20
"""Of prompts. So little is read in milliseconds; a worker process that has to start takes two seconds."""


def scored_rows(
    store: Store,
    parts: Sequence[Part],
    columns: Sequence[str],
    *,
    keys: NDArray[np.int64] | None = None,
    shadow: NDArray[np.int64] | None = None,
    order: NDArray[np.int64] | None = None,
    rows_per_block: int | None = None,
) -> ray.data.Dataset:
    """The `columns` of these parts of scored/, each part's rows in input order.

    keys: sorted row keys to keep (None: all). shadow: sorted row keys; adds the column `sample`, True where a row is one of them.
    order: aligned with `keys`; rows come in this order instead. rows_per_block: blocks of so many rows (None: one a part).
    Up to HERE_ROWS are read by this process: that is done before a task would have started.
    """
    wanted = _Wanted(tuple(columns), keys, shadow, order)
    if is_small(parts):
        table = _read_here(store, parts, wanted)
        size = rows_per_block or max(1, len(table))
        return ray.data.from_arrow([table.slice(at, size) for at in range(0, max(1, len(table)), size)])
    items = [{"name": part.name} for part in parts]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read_batch,  # type: ignore[arg-type]
        fn_kwargs={"output": store.uri, "wanted": [ray.put(wanted)]},
        batch_size=1,
        batch_format="numpy",
        num_cpus=READ_CPUS,
    )
    if order is not None:
        dataset = dataset.sort("order").drop_columns(["order"])
    return dataset if rows_per_block is None else dataset.repartition(target_num_rows_per_block=rows_per_block)


def read_scored(
    store: Store, parts: Sequence[Part], columns: Sequence[str], keys: NDArray[np.int64] | None = None
) -> pa.Table:
    """`scored_rows` as a table in this process's memory."""
    if is_small(parts):
        return _read_here(store, parts, _Wanted(tuple(columns), keys))
    batches = scored_rows(store, parts, columns, keys=keys).iter_batches(batch_size=None, batch_format="pyarrow")
    return pa.concat_tables(list(batches)).combine_chunks()


def is_small(parts: Sequence[Part]) -> bool:
    """Whether all of these are read faster here than a task starts."""
    return sum(part.rows for part in parts) <= HERE_ROWS and sum(part.prompt_bytes for part in parts) <= HERE_BYTES


def over_parts(parts: Sequence[Part], actor: type, *arguments: Any) -> None:
    """Call `actor(*arguments)` once with every part of scored/ (its columns `name` and `bucket`), in a pool of actors.

    What the calls return is not kept: they write what they make.
    """
    items = [{"name": part.name, "bucket": part.bucket} for part in parts]
    cpus = int(ray.cluster_resources().get("CPU", 1))  # type: ignore[no-untyped-call]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        actor,
        fn_constructor_args=arguments,
        batch_size=1,
        batch_format="numpy",
        compute=ray.data.ActorPoolStrategy(size=max(1, min(len(items), cpus // 4))),
        num_cpus=0.5,
    )
    for _ in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
        pass


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What is read of every part: the arguments of `scored_rows`."""

    columns: tuple[str, ...]
    keys: NDArray[np.int64] | None = None
    shadow: NDArray[np.int64] | None = None
    order: NDArray[np.int64] | None = None


def _read_here(store: Store, parts: Sequence[Part], wanted: _Wanted) -> pa.Table:
    """What a task a part would have read."""
    table = pa.concat_tables([_read_part(store, part.name, wanted) for part in parts]).combine_chunks()
    return table.sort_by("order").drop_columns("order") if wanted.order is not None else table


def _read_batch(batch: Mapping[str, NDArray[Any]], output: str, wanted: list[ray.ObjectRef[_Wanted]]) -> pa.Table:
    return _read_part(Store(output), str(batch["name"][0]), ray.get(wanted[0]))


def _read_part(store: Store, name: str, wanted: _Wanted) -> pa.Table:
    columns, keys = wanted.columns, wanted.keys
    by_key = keys is not None or wanted.shadow is not None
    table = store.read_table(name, columns=[*dict.fromkeys([*columns, "row_key"])] if by_key else columns)
    added = []
    if keys is not None:
        table = table.filter(pa.array(is_among(table["row_key"].to_numpy(), keys)))
        if wanted.order is not None:
            at = np.searchsorted(keys, table["row_key"].to_numpy())
            table = table.append_column("order", pa.array(wanted.order[at]))
            added.append("order")
    if wanted.shadow is not None:
        marks = is_among(table["row_key"].to_numpy(), wanted.shadow)
        table = table.append_column("sample", pa.array(marks))
        added.append("sample")
    return table.select([*columns, *added])


def matrix_of(predicted: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """(n, m) of the column `predicted`, a list of m float32 a row; NaN for a row that no prediction was made for."""
    array = predicted.combine_chunks() if isinstance(predicted, pa.ChunkedArray) else predicted
    values = array.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(len(array), array.type.list_size), np.float32)


def predicted_column(matrix: NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    """The column `predicted` of (n, m) expected qualities: what `matrix_of` reads back."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.float32()), matrix.shape[1])
