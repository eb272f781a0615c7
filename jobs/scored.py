"""Reading scored/ back, as a Ray dataset: one task per part.

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
