"""Stage 4: every input row once in responses/, and what it all cost.

    for each bucket: scored/part + plan + the journal's segments of that bucket → its rows of responses/part-NNNNN.parquet

A file is one task, which holds one of its buckets at a time (jobs/route/account/response_files.py). The only rows that
cross buckets are answers with copies elsewhere, read once beforehand (jobs/route/account/copies.py). A file is replaced
whole and always by one of the same rows, so whoever reads the folder sees each row at most once at any moment.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data
from numpy.typing import NDArray
from ray.util.annotations import RayDeprecationWarning

from jobs.journal.reader import Journal
from jobs.route.account.bucket import AccountTask, Bucket, ModelAnswers
from jobs.route.account.bucket_totals import bucket_totals
from jobs.route.account.column_types import input_types
from jobs.route.account.copies import Shared, for_bucket, shared_answers
from jobs.route.account.response_files import response_files
from jobs.route.account.totals import BucketTotals
from jobs.route.plan.plan import Assignments
from jobs.route.score.entries import Part
from jobs.spec.job import JobSpec
from jobs.storage.store import Store

TASK_RETRIES = 5
"""Also for a node that is taken back under it."""


def run_account(
    spec: JobSpec, store: Store, parts: Sequence[Part], plan: Assignments, allow_code: bool, predictions: str = "",
    judged: pa.Table | None = None,
) -> list[BucketTotals]:  # fmt: skip
    """Write responses/. Returns what each bucket adds to the report, for `summarise`. `predictions`, `judged`: see AccountTask."""
    category = next((c for c in spec.input.keep if c in ("category", "dataset", "subject")), None)
    task = AccountTask(
        output=store.uri, names=spec.names, keep=tuple(spec.input.keep),
        types=input_types(store, parts, len(spec.input.keep)), gold_match=spec.quality.matcher,
        allow_code=allow_code, schema=(spec.response_format or {}).get("json_schema"), category=category,
        predictions=predictions, has_judge=spec.quality.judge is not None, judged=judged,
        cascade=spec.cascade is not None, refused_go_up=spec.on_refused == "strong",
    )  # fmt: skip
    order = np.argsort(plan.bucket, kind="stable")
    buckets = plan.bucket[order]
    numbers = [part.bucket for part in parts]
    borders = zip(np.searchsorted(buckets, numbers), np.searchsorted(buckets, numbers, "right"), strict=True)
    files = response_files(store, spec.names, parts)
    kwargs = {
        "task": task, "parts": parts, "files": files,
        "plan_refs": [ray.put(_rows_of(plan, order[low:high])) for low, high in borders],
        "shared_refs": shared_answers(store, spec.names, task.types, plan, parts, files),
    }  # fmt: skip
    items = [{"file": number} for number in range(len(files))]
    with warnings.catch_warnings(category=RayDeprecationWarning, action="ignore"):  # nothing else sets it yet
        dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
            _write_file,  # type: ignore[arg-type]
            fn_kwargs=kwargs,
            num_cpus=0.5,
            ray_remote_args_fn=_tries,
        )
    done = sorted(dataset.take_all(), key=lambda row: row["file"])
    return [totals for row in done for totals in pickle.loads(row["totals"])]


def _tries() -> dict[str, int]:
    """Ray Data begins a task anew for ever where its process dies of it, as of a matcher of the user's that takes all memory."""
    return {"max_retries": TASK_RETRIES}


def _rows_of(plan: Assignments, at: NDArray[np.int64]) -> Assignments:
    """The plan of some rows."""
    return Assignments(**{field.name: getattr(plan, field.name)[at] for field in fields(Assignments)})


def _write_file(
    item: dict[str, Any],
    task: AccountTask,
    parts: Sequence[Part],
    files: list[range],
    plan_refs: list[Any],
    shared_refs: list[list[Any]],
) -> dict[str, Any]:
    """One file of responses/, bucket by bucket, and what each adds to the report."""
    store = Store(task.output)
    number = int(item["file"])
    shared: list[Shared] = ray.get(shared_refs[number])
    totals: list[BucketTotals] = []
    with ExitStack() as stack:
        writer = None
        for index in files[number]:
            table, of_bucket = _merge(store, task, parts[index], ray.get(plan_refs[index]), shared)
            if writer is None:
                name = f"responses/part-{number:05d}.parquet"
                writer = stack.enter_context(store.table_writer(name, table.schema))
            writer.write_table(table)
            totals.append(of_bucket)
    return {"file": number, "totals": pickle.dumps(totals)}


def _merge(
    store: Store, task: AccountTask, part: Part, plan: Assignments, shared: list[Shared]
) -> tuple[pa.Table, BucketTotals]:
    """One bucket: its rows of responses/, and what it adds to the report."""
    scored = store.read_table(part.name)
    # A part and its slice of the plan are both in input order.
    assert (plan.row_key == scored["row_key"].to_numpy()).all(), f"plan and {part.name} do not match"
    journal, foreign = Journal(store), for_bucket(shared, plan)
    answers = []
    for name in task.names:
        table = journal.read(name, part.bucket)
        merged = pa.concat_tables([table, foreign[name]]) if foreign else table
        answers.append((ModelAnswers(table), ModelAnswers(merged)))
    bucket = Bucket(task, scored, plan, [merged for _, merged in answers], foreign)
    table = bucket.table()
    return table, bucket_totals(bucket, table, [own for own, _ in answers])
