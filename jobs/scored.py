"""Reading scored/ back, as a Ray dataset: one task per part; and finding its rows by key.

Not `ray.data.read_parquet`: since 2.60 that starts a pool of actors to read footers for every dataset, a dozen processes for a
table whose files, sizes and order the manifest already knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
import ray.data
from numpy.typing import NDArray

from jobs.store import Store

READ_CPUS = 0.5


def scored_rows(
    store: Store,
    parts: Sequence[str],
    columns: Sequence[str],
    keys: NDArray[np.int64] | None = None,
    shadow: NDArray[np.int64] | None = None,
    order: NDArray[np.int64] | None = None,
) -> ray.data.Dataset:
    """The `columns` of scored/ `parts`, each part's rows in input order.

    keys: sorted row keys to keep (None: all). shadow: sorted row keys; adds the column `sample`, True where a row is one of them.
    order: aligned with `keys`; adds it as the column `order`.
    """
    items = [{"name": name} for name in parts]
    refs = [None if array is None else [ray.put(array)] for array in (keys, shadow, order)]
    return ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _read_part,  # type: ignore[arg-type]
        fn_kwargs={"output": store.uri, "columns": list(columns), "keys": refs[0], "shadow": refs[1], "order": refs[2]},
        batch_size=1,
        batch_format="numpy",
        num_cpus=READ_CPUS,
    )


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


def _read_part(
    batch: dict[str, Any],
    output: str,
    columns: list[str],
    keys: list[Any] | None,
    shadow: list[Any] | None,
    order: list[Any] | None,
) -> pa.Table:
    needed = columns if keys is None and shadow is None else [*dict.fromkeys([*columns, "row_key"])]
    table = Store(output).read_table(str(batch["name"][0]), columns=needed)
    added = []
    if keys is not None:
        wanted = ray.get(keys[0])
        table = table.filter(pa.array(is_among(table["row_key"].to_numpy(), wanted)))
        if order is not None:
            at = np.searchsorted(wanted, table["row_key"].to_numpy())
            table = table.append_column("order", pa.array(ray.get(order[0])[at]))
            added.append("order")
    if shadow is not None:
        marks = is_among(table["row_key"].to_numpy(), ray.get(shadow[0]))
        table = table.append_column("sample", pa.array(marks))
        added.append("sample")
    return table.select([*columns, *added])


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


def matrix_of(predicted: pa.ChunkedArray | pa.Array) -> NDArray[np.float32]:
    """(n, m) of the column `predicted`, a list of m float32 a row; NaN for a row that no prediction was made for."""
    array = predicted.combine_chunks() if isinstance(predicted, pa.ChunkedArray) else predicted
    values = array.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(values.reshape(len(array), array.type.list_size), np.float32)


def predicted_column(matrix: NDArray[np.floating[Any]]) -> pa.FixedSizeListArray:
    """The column `predicted` of (n, m) expected qualities: what `matrix_of` reads back."""
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel(), pa.float32()), matrix.shape[1])
