"""What a bucket adds to the report: counts, dollars and tokens by model, errors by kind, and the evidence of its quality.

`jobs/route/account/run_summary.py` adds it up over the buckets. Legend: k rows of the bucket, m models.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.journal.rows import empty_answers
from jobs.route.account.bucket import EMPTY, Bucket, ModelAnswers
from jobs.route.account.bucket_evidence import EXAMPLES, BucketRows, bucket_evidence
from jobs.route.account.totals import REPORT, BucketTotals, ErrorKind, ModelTotals, SlowCall
from jobs.route.score.scored import matrix_of
from jobs.storage.keys import is_among
from jobs.storage.store import Store

HISTOGRAM_BINS = 40
ERROR_KINDS, ERROR_CHARS = 20, 200
"""Of a bucket's errors: the most frequent ones, told apart by their first characters."""


def bucket_totals(bucket: Bucket, table: pa.Table, own: list[ModelAnswers]) -> BucketTotals:
    """What the report adds up over all buckets. table: the bucket's rows of responses/. own: the journal rows of its own keys, per
    model: an answer that other buckets copy counts where it was asked."""
    given, model, names = bucket.given, bucket.model, bucket.task.names
    open_rows = int(bucket.open_rows.sum())
    bad = pc.not_equal(table["error"], "").to_numpy()
    quality, policy = _measured(bucket, table)
    return BucketTotals(
        rows=bucket.rows,
        errors=int(bad.sum()) - open_rows,
        open=open_rows,
        copied=int((~bucket.is_leader & (given >= 0)).sum()),
        given=Counter({n: int((given == j).sum()) for j, n in enumerate(names)}),
        routed=Counter({n: int((model == j).sum()) for j, n in enumerate(names)}),
        models={n: _model_totals(bucket, j, own[j]) for j, n in enumerate(names)},
        histogram=_histogram(bucket),
        errors_by_kind=_errors_by_kind(table.filter(pa.array(bad))),
        slowest=_slowest(bucket, table),
        evidence=bucket_evidence(_evidence_rows(bucket, table, quality, policy)),
    )


def _measured(bucket: Bucket, table: pa.Table) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(k, m) quality of every model's answer, and (k,) that of the answer the plan wanted, or else of the one there is."""
    quality = bucket.quality.copy()
    routed = quality[np.arange(bucket.rows), np.maximum(bucket.model, 0)]
    own_answer = (bucket.model >= 0) & np.isfinite(routed)
    policy = np.where(own_answer, routed, table["quality"].to_numpy(zero_copy_only=False).astype(float))
    if bucket.task.has_judge:
        # Gold that some rows have and others have not says nothing of the others; the judge's sample is drawn from all.
        quality[~bucket.sample], policy[~bucket.sample] = np.nan, np.nan
    return quality, policy


def _histogram(bucket: Bucket) -> dict[str, NDArray[np.int64]]:
    """Router scores, per model that the rows are routed to."""
    bins = np.clip((np.nan_to_num(bucket.score) * HISTOGRAM_BINS).astype(int), 0, HISTOGRAM_BINS - 1)
    scored = ~np.isnan(bucket.score) & (bucket.model >= 0)
    return {
        name: np.bincount(bins[scored & (bucket.model == j)], minlength=HISTOGRAM_BINS)
        for j, name in enumerate(bucket.task.names)
    }


def _errors_by_kind(bad: pa.Table) -> tuple[ErrorKind, ...]:
    """Of the rows of responses/ that have an error: the most frequent ones."""
    kinds = pc.utf8_slice_codeunits(bad["error"], 0, ERROR_CHARS).combine_chunks().dictionary_encode()
    codes, ids = kinds.indices.to_numpy(), bad["id"]
    count = np.bincount(codes, minlength=len(kinds.dictionary))
    return tuple(
        ErrorKind(
            error=kinds.dictionary[kind].as_py(),
            rows=int(count[kind]),
            ids=tuple(ids.take(pa.array(np.flatnonzero(codes == kind)[:EXAMPLES])).to_pylist()),
        )
        for kind in np.argsort(-count, kind="stable")[:ERROR_KINDS].tolist()
    )


def _slowest(bucket: Bucket, table: pa.Table) -> tuple[SlowCall, ...]:
    latency = table["latency_s"].to_numpy(zero_copy_only=False).astype(float)
    slow = np.argsort(-np.nan_to_num(np.where(bucket.is_leader, latency, 0)))[:EXAMPLES]
    return tuple(
        SlowCall(table["id"][i].as_py(), bucket.task.names[bucket.given[i]], float(latency[i]))
        for i in slow.tolist()
        if bucket.given[i] >= 0
    )


def _model_totals(bucket: Bucket, j: int, own: ModelAnswers) -> ModelTotals:
    """Money, tokens and calls of one model in this bucket, and what it was not asked."""
    table = own.table
    purpose = table["purpose"].to_numpy().astype(object)
    fitted = is_among(own.keys, np.sort(bucket.leader[(bucket.fold >= 0) & (bucket.fold < REPORT)]))
    purpose[fitted & (purpose == "shadow")] = "pilot"
    if j == 0 and bucket.task.cascade:  # asked first, and then not good enough
        upgraded = is_among(own.keys, np.sort(bucket.leader[bucket.model > 0]))
        purpose[upgraded & (purpose == "answer")] = "cascade"
    cost = table["cost_usd"].to_numpy()
    empty = empty_answers(table).to_numpy()
    answered = pc.equal(table["kind"], "answered").to_numpy() | empty
    n_bytes = bucket.scored["prompt_bytes"].to_numpy()
    mine = bucket.is_leader & (bucket.model >= 0)
    # An answer without an attempt is an earlier run's: this run paid nothing for it, and measured nothing.
    asked = mine & np.isin(bucket.kind[j], ("answered", EMPTY)) & (bucket.take(j, "attempts", 0) > 0)
    unasked = mine & ~asked
    tried = table["attempts"].to_numpy() > 0
    fresh = table.filter(pa.array(tried))

    def total(name: str) -> float:
        return float(pc.sum(fresh[name]).as_py() or 0)

    return ModelTotals(
        cost_usd=total("cost_usd"), lost_usd=total("lost_usd"), gpu_s=total("gpu_s"),
        prompt_tokens=int(total("prompt_tokens")), completion_tokens=int(total("completion_tokens")),
        requests=int(total("attempts")), answers=int((answered & tried).sum()), reused=int((answered & ~tried).sum()),
        asked_bytes=int(n_bytes[asked].sum()), unasked_bytes=int(n_bytes[unasked].sum()), unasked=int(unasked.sum()),
        empty=int(empty.sum()), by_purpose={p: float(cost[purpose == p].sum()) for p in set(purpose.tolist())},
    )  # fmt: skip


class _Column(Sequence[Any]):
    """An Arrow column as a sequence: only values that are looked at become Python objects."""

    def __init__(self, values: pa.ChunkedArray | pa.Array) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: Any) -> Any:
        return self._values[row].as_py()


def _evidence_rows(
    bucket: Bucket, table: pa.Table, quality: NDArray[np.float64], policy: NDArray[np.float64]
) -> BucketRows:
    """What the run is measured by. An answer without an attempt is an earlier run's, and has no price here."""
    paid = [
        np.where(
            np.isin(kind, ("answered", EMPTY)) & (bucket.take(j, "attempts", 0) > 0),
            bucket.take(j, "cost_usd", 0.0),
            np.nan,
        )
        for j, kind in enumerate(bucket.kind)
    ]
    category = bucket.task.category
    return BucketRows(
        row_key=bucket.key, ids=_Column(table["id"]), messages=_Column(bucket.scored["messages"]),
        prompt_bytes=bucket.scored["prompt_bytes"].to_numpy().astype(np.int64),
        category=None if category is None else table[category], route=bucket.model, fold=bucket.fold,
        score=bucket.score, is_leader=bucket.is_leader, predicted=_predicted(bucket), kind=np.stack(bucket.kind, axis=1),
        moves=bucket.moves,
        paid_usd=np.stack(paid, axis=1), quality=quality, policy=policy, can_tell=_can_tell(bucket),
        open_rows=bucket.open_rows, texts=[_Column(texts) for texts in bucket.texts],
    )  # fmt: skip


def _predicted(bucket: Bucket) -> NDArray[np.float64]:
    """(k, m) what the plan expected of every model: the pilot's word where it recalibrated the router."""
    table, task = bucket.scored, bucket.task
    if task.predictions:
        name = f"{task.predictions}/part-{table['bucket'][0].as_py():010d}.parquet"
        table = Store(task.output).read_table(name)
    return matrix_of(table["predicted"]).astype(np.float64)


def _can_tell(bucket: Bucket) -> NDArray[np.bool_]:
    """(k,) rows that have something to compare an answer with; with a judge all but what it left out of the sample."""
    gold = np.zeros(bucket.rows, bool)
    if bucket.task.gold_match is not None:
        gold = np.asarray(bucket.scored["gold"].is_valid())
    return gold | bucket.is_judged | ~bucket.sample if bucket.task.has_judge else gold
