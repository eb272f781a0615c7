"""Answers that rows of other buckets copy: each file of responses/ gets those that its own copies need, and no others.

    the plan's keys → (leader, its file, the file of its copy) → one task per file with such leaders reads its own buckets once
    and cuts what it finds by the file that copies → Ray's object store, which spills to disk → the task of that file

Cost: one more pass over the buckets with such leaders. Memory: a task holds the shared answers of one file's leaders, or those
that one file's copies need; this process only keys. Reading them where they are needed instead would read the journal once per
file: copies of one prompt lie anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.route.account.column_types import InputTypes
from jobs.route.plan.plan import Assignments
from jobs.route.score.entries import Part
from jobs.storage.keys import is_among, positions
from jobs.storage.store import Store

Shared = dict[str, pa.Table]
"""Model → journal rows of leaders; "" → row_key and id of those leaders."""


def shared_answers(
    store: Store,
    names: tuple[str, ...],
    types: InputTypes,
    plan: Assignments,
    parts: Sequence[Part],
    files: Sequence[range],
) -> list[list[Any]]:
    """Per file of responses/ references to `Shared`, one for each file with leaders that it copies. Waits until all are made."""
    wanted = _wanted(plan, parts, files)
    found: list[list[Any]] = [[] for _ in files]
    for source, by_file in wanted.items():
        buckets = [parts[index].bucket for index in files[source]]
        read = _read_shared_task.options(num_returns=len(by_file))
        made = read.remote(store.uri, names, types, buckets, list(by_file.values()))
        for file, ref in zip(by_file, made if len(by_file) > 1 else [made], strict=True):
            found[file].append(ref)
    refs = [ref for of_file in found for ref in of_file]
    if refs:  # before the tasks that need them take the processors
        ray.wait(refs, num_returns=len(refs), fetch_local=False)
    return found


def for_bucket(shared: Sequence[Shared], plan: Assignments) -> Shared:
    """Of the file's, what the bucket with the plan `plan` needs; {} where it copies nothing from elsewhere."""
    leaders = np.setdiff1d(plan.leader[plan.model >= 0], plan.row_key)
    if not len(leaders) or not shared:
        return {}
    return {name: pa.concat_tables([_cut(each[name], leaders) for each in shared]) for name in shared[0]}


def _wanted(
    plan: Assignments, parts: Sequence[Part], files: Sequence[range]
) -> dict[int, dict[int, NDArray[np.int64]]]:
    """File of the leaders → file of their copies → sorted row keys of leaders with a copy there in another bucket."""
    copies = np.flatnonzero((plan.row_key != plan.leader) & (plan.model >= 0))
    if not len(copies):
        return {}
    of_leader = plan.bucket[positions(plan.row_key, plan.leader[copies])]
    elsewhere = of_leader != plan.bucket[copies]
    copies, of_leader = copies[elsewhere], of_leader[elsewhere]
    numbers = np.array([part.bucket for part in parts])
    file_of_part = np.repeat(np.arange(len(files)), [len(file) for file in files])
    source = file_of_part[np.searchsorted(numbers, of_leader)]
    target = file_of_part[np.searchsorted(numbers, plan.bucket[copies])]
    wanted: dict[int, dict[int, NDArray[np.int64]]] = {}
    pair = source * len(files) + target
    order = np.argsort(pair, kind="stable")
    pairs, starts = np.unique(pair[order], return_index=True)
    for each, keys in zip(pairs.tolist(), np.split(plan.leader[copies[order]], starts[1:]), strict=False):
        wanted.setdefault(each // len(files), {})[each % len(files)] = np.unique(keys)
    return wanted


def _cut(table: pa.Table, keys: NDArray[np.int64]) -> pa.Table:
    """Its rows with one of these sorted keys."""
    return table.filter(pa.array(is_among(table["row_key"].to_numpy(), keys)))


def _read_shared(
    uri: str, names: tuple[str, ...], types: InputTypes, buckets: list[int], by_file: list[NDArray[np.int64]]
) -> Shared | tuple[Shared, ...]:
    """`Shared` of the leaders in these buckets for each of `by_file`, sorted row keys."""
    store = Store(uri)
    journal, leaders = Journal(store), np.unique(np.concatenate(by_file))
    found = {name: pa.concat_tables([journal.read(name, bucket, keys=leaders) for bucket in buckets]) for name in names}
    rows = [store.read_table(f"scored/part-{bucket:010d}.parquet", columns=["row_key", "id"]) for bucket in buckets]
    found[""] = pa.concat_tables([pa.table({"row_key": each["row_key"], "id": types.ids(each)}) for each in rows])
    cut = tuple({name: _cut(table, keys) for name, table in found.items()} for keys in by_file)
    return cut if len(cut) > 1 else cut[0]


_read_shared_task: Any = ray.remote(num_cpus=0.5)(_read_shared)
