"""Stage 4: every input row once in responses/, and what it all cost.

    for each bucket: scored/part + plan + the journal's segments of that bucket → its rows of responses/part-NNNNN.parquet

No shuffle: a file is one task, which holds one of its buckets at a time (jobs/response_files.py). The only rows that cross
buckets are answers with copies elsewhere, gathered once beforehand. A file is replaced whole and always by one of the same
rows, so whoever reads the folder sees each row at most once at any moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray

from jobs.bucket_sums import bucket_sums
from jobs.journal import Journal
from jobs.merging import AccountTask, Answers, Bucket
from jobs.plan import Assignments
from jobs.response_files import response_files
from jobs.scored import positions
from jobs.spec import JobSpec
from jobs.store import Store


def run_account(
    spec: JobSpec, store: Store, parts: list[dict[str, Any]], plan: Assignments, allow_code: bool, predictions: str = "",
    judged: pa.Table | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Write responses/. Returns one dict of sums per bucket, for `summarise`. `predictions`, `judged`: see AccountTask."""
    category = next((c for c in spec.input.keep if c in ("category", "dataset", "subject")), None)
    task = AccountTask(
        store.uri, spec.names, tuple(spec.input.keep), spec.quality.matcher, allow_code,
        (spec.response_format or {}).get("json_schema"), category, predictions, spec.quality.judge is not None, judged,
        spec.cascade is not None,
    )  # fmt: skip
    order = np.argsort(plan.bucket, kind="stable")
    buckets = plan.bucket[order]
    numbers = [part["bucket"] for part in parts]
    borders = zip(np.searchsorted(buckets, numbers), np.searchsorted(buckets, numbers, "right"), strict=True)
    files = response_files(store, spec.names, parts)
    kwargs = {
        "task": task, "parts": parts, "files": files,
        "plan_refs": [ray.put(_rows_of(plan, order[low:high])) for low, high in borders],
        "shared_ref": [ray.put(_gather_shared(store, spec.names, plan))],
    }  # fmt: skip
    items = [{"file": number} for number in range(len(files))]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _write_file,  # type: ignore[arg-type]
        fn_kwargs=kwargs,
        num_cpus=0.5,
    )
    done = sorted(dataset.take_all(), key=lambda row: row["file"])
    return [sums for row in done for sums in json.loads(row["sums"])]


def predicted_folder(pilot: Mapping[str, Any] | None) -> str:
    """Where the predictions of a pilot's head are, by its manifest entry; "" where the router's own stand."""
    return f"{pilot['folder']}/predicted" if pilot and pilot["head"] != "none" and "folder" in pilot else ""


def _rows_of(plan: Assignments, at: NDArray[np.int64]) -> Assignments:
    """The plan of some rows."""
    return Assignments(**{field.name: getattr(plan, field.name)[at] for field in fields(Assignments)})


def _gather_shared(store: Store, names: tuple[str, ...], plan: Assignments) -> dict[str, pa.Table]:
    """Answers of leaders that have copies in other buckets, and those leaders' ids, per model."""
    copies = np.flatnonzero((plan.row_key != plan.leader) & (plan.model >= 0))
    of_leader = plan.bucket[positions(plan.row_key, plan.leader[copies])]
    elsewhere = of_leader != plan.bucket[copies]
    leaders = np.unique(plan.leader[copies[elsewhere]])
    if not len(leaders):
        return {}
    journal = Journal(store)
    buckets = np.unique(of_leader[elsewhere]).tolist()
    tables = {name: journal.read(name, buckets, keys=leaders) for name in names}
    ids = [store.read_table(f"scored/part-{b:010d}.parquet", columns=["row_key", "id"]) for b in buckets]
    joined = pa.concat_tables(ids)
    tables[""] = joined.filter(pc.is_in(joined["row_key"], pa.array(leaders)))
    return tables


def _write_file(
    item: dict[str, Any],
    task: AccountTask,
    parts: list[dict[str, Any]],
    files: list[range],
    plan_refs: list[Any],
    shared_ref: list[Any],
) -> dict[str, Any]:
    """One file of responses/, bucket by bucket, and the sums of each as JSON."""
    store = Store(task.output)
    shared: dict[str, pa.Table] = ray.get(shared_ref[0])
    number = int(item["file"])
    sums = []
    with ExitStack() as stack:
        writer = None
        for index in files[number]:
            table, of_bucket = _merge(store, task, parts[index], ray.get(plan_refs[index]), shared)
            if writer is None:
                name = f"responses/part-{number:05d}.parquet"
                writer = stack.enter_context(store.table_writer(name, table.schema))
            writer.write_table(table)
            sums.append(of_bucket)
    return {"file": number, "sums": json.dumps(sums)}


def _merge(
    store: Store, task: AccountTask, part: dict[str, Any], plan: Assignments, shared: dict[str, pa.Table]
) -> tuple[pa.Table, dict[str, Any]]:
    """One bucket: its rows of responses/, and its sums."""
    scored = store.read_table(part["name"])
    # A part and its slice of the plan are both in input order.
    assert (plan.row_key == scored["row_key"].to_numpy()).all(), f"plan and {part['name']} do not match"
    journal = Journal(store)
    answers = []
    for name in task.names:
        table = journal.read(name, int(part["bucket"]))
        own = Answers(table)
        if name in shared:
            foreign = shared[name].filter(pc.invert(pc.is_in(shared[name]["row_key"], table["row_key"])))
            table = pa.concat_tables([table, foreign])
        answers.append((own, Answers(table)))
    bucket = Bucket(task, scored, plan, [merged for _, merged in answers], shared)
    table = bucket.table()
    return table, bucket_sums(bucket, table, [own for own, _ in answers])
