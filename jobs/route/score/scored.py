"""Reading scored/ back, as a Ray dataset: one task per part, none where it is small; and finding its rows by key.

Not `ray.data.read_parquet`: since 2.60 that starts a pool of actors to read footers for every dataset, a dozen processes for a
table whose files, sizes and order the manifest already knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray

from jobs.storage.keys import is_among
from jobs.storage.store import Store

READ_CPUS = 0.5
HERE_ROWS = 1_000
HERE_BYTES = 16 * 2**20
"""Of prompts. So little is read in milliseconds; a worker process that has to start takes two seconds."""


def scored_rows(
    store: Store,
    parts: Sequence[dict[str, Any]],
    columns: Sequence[str],
    keys: NDArray[np.int64] | None = None,
    shadow: NDArray[np.int64] | None = None,
    order: NDArray[np.int64] | None = None,
    rows_per_block: int | None = None,
) -> ray.data.Dataset:
    """The `columns` of scored/ `parts` (entries of the score stage), each part's rows in input order.

    keys: sorted row keys to keep (None: all). shadow: sorted row keys; adds the column `sample`, True where a row is one of them.
    order: aligned with `keys`; rows come in this order instead. rows_per_block: blocks of so many rows (None: one a part).
    Up to HERE_ROWS are read by this process: that is done before a task would have started.
    """
    if is_small(parts):
        table = _read_here(store, parts, columns, keys, shadow, order)
        size = rows_per_block or max(1, len(table))
        return ray.data.from_arrow([table.slice(at, size) for at in range(0, max(1, len(table)), size)])
    items = [{"name": part["name"]} for part in parts]
    refs = [None if array is None else [ray.put(array)] for array in (keys, shadow, order)]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read_batch,  # type: ignore[arg-type]
        fn_kwargs={"output": store.uri, "columns": list(columns), "refs": refs},
        batch_size=1,
        batch_format="numpy",
        num_cpus=READ_CPUS,
    )
    if order is not None:
        dataset = dataset.sort("order").drop_columns(["order"])
    return dataset if rows_per_block is None else dataset.repartition(target_num_rows_per_block=rows_per_block)


def read_scored(
    store: Store, parts: Sequence[dict[str, Any]], columns: Sequence[str], keys: NDArray[np.int64] | None = None
) -> pa.Table:
    """`scored_rows` as a table in this process's memory."""
    if is_small(parts):
        return _read_here(store, parts, columns, keys, None, None)
    batches = scored_rows(store, parts, columns, keys).iter_batches(batch_size=None, batch_format="pyarrow")
    return pa.concat_tables(list(batches)).combine_chunks()


def is_small(parts: Sequence[dict[str, Any]]) -> bool:
    """Whether all of these are read faster here than a task starts."""
    rows, n_bytes = (sum(int(part[name]) for part in parts) for name in ("rows", "prompt_bytes"))
    return rows <= HERE_ROWS and n_bytes <= HERE_BYTES


def over_parts(parts: Sequence[dict[str, Any]], actor: type, *arguments: Any) -> None:
    """Call `actor(*arguments)` once with every part of scored/ (its columns `name` and `bucket`), in a pool of actors.

    What the calls return is not kept: they write what they make.
    """
    items = [{"name": part["name"], "bucket": part["bucket"]} for part in parts]
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


def _read_here(store: Store, parts: Sequence[dict[str, Any]], columns: Sequence[str], *arrays: Any) -> pa.Table:
    """What a task a part would have read. arrays: keys, shadow and order of `scored_rows`."""
    tables = [_read_part(store, part["name"], columns, *arrays) for part in parts]
    table = pa.concat_tables(tables).combine_chunks()
    return table.sort_by("order").drop_columns("order") if "order" in table.column_names else table


def _read_batch(batch: dict[str, Any], output: str, columns: list[str], refs: list[list[Any] | None]) -> pa.Table:
    arrays = (None if ref is None else ray.get(ref[0]) for ref in refs)
    return _read_part(Store(output), str(batch["name"][0]), columns, *arrays)


def _read_part(
    store: Store,
    name: str,
    columns: Sequence[str],
    keys: NDArray[np.int64] | None,
    shadow: NDArray[np.int64] | None,
    order: NDArray[np.int64] | None,
) -> pa.Table:
    needed = columns if keys is None and shadow is None else [*dict.fromkeys([*columns, "row_key"])]
    table = store.read_table(name, columns=list(needed))
    added = []
    if keys is not None:
        table = table.filter(pa.array(is_among(table["row_key"].to_numpy(), keys)))
        if order is not None:
            at = np.searchsorted(keys, table["row_key"].to_numpy())
            table = table.append_column("order", pa.array(order[at]))
            added.append("order")
    if shadow is not None:
        marks = is_among(table["row_key"].to_numpy(), shadow)
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
