"""What one bucket says of the run's quality and dollars, small enough to send to the driver.

Sampled rows go one by one, since every interval is made from them; all other rows as counts and sums by route, which is all
that the estimates need of them (jobs/route/account/run_measures.py). Cost: one pass over the bucket's columns; texts are
looked at in sampled rows and in FORM_ROWS others only. Legend: k rows of the bucket, m models.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.route.account.totals import Example, FormTotals, GroupTotals, PolicyQuality, RunEvidence, SampledRows
from routing.answers.thinking import behind_thinking
from routing.features.structure import structure
from routing.text import find_frame, router_text

EXAMPLES = 5
CATEGORIES = 30
SHOWN_CHARS = 200
FORM_ROWS = 200
"""Prompts of a bucket whose form is looked at: 0.1 ms each."""


@dataclass(frozen=True, slots=True)
class BucketRows:
    """Columns of one bucket, in input order."""

    row_key: NDArray[np.int64]
    ids: Sequence[Any]
    messages: Sequence[str]
    """JSON texts."""
    prompt_bytes: NDArray[np.int64]
    category: Sequence[Any] | pa.ChunkedArray | None
    route: NDArray[np.int8]
    """Ladder index of the plan, -1 for rows that cannot be asked."""
    fold: NDArray[np.int8]
    """Index into routing.pilot.folds.FOLD_NAMES, -1 outside the sample."""
    score: NDArray[np.float32]
    is_leader: NDArray[np.bool_]
    predicted: NDArray[np.float64]
    """(k, m) expected quality."""
    kind: NDArray[np.object_]
    """(k, m) what became of the row at each model: answered, rejected, failed, or "" for not asked."""
    paid_usd: NDArray[np.float64]
    """(k, m) dollars of this run's own answers, NaN where there is none."""
    quality: NDArray[np.float64]
    """(k, m) of each model's answer, NaN where there is none or it cannot be told."""
    policy: NDArray[np.float64]
    """(k,) quality of the answer that the plan wanted, or else of the one there is."""
    can_tell: NDArray[np.bool_]
    """(k,) rows with something to compare an answer with."""
    open_rows: NDArray[np.bool_]
    texts: Sequence[Sequence[Any]]
    """m columns of k answers."""
    moves: NDArray[np.bool_] | None = None
    """(k, m) refused by the model, and sent to the next one up; None: nothing was."""


def bucket_evidence(rows: BucketRows) -> RunEvidence:
    """What the run's figures are made from, of these rows."""
    told = rows.can_tell & (rows.route >= 0)
    quality = _filled(rows)
    m = rows.predicted.shape[1]
    strata = [told & (rows.fold < 0) & (rows.route == j) for j in range(m)]
    over, under = _examples(rows, quality)
    own_usd, elsewhere = _elsewhere(rows)
    return RunEvidence(
        strata_rows=np.array([int(use.sum()) for use in strata], np.int64),
        strata_predicted=np.stack([rows.predicted[use].sum(axis=0) for use in strata]),
        sampled=_sampled(rows, told, quality),
        own_usd=own_usd,
        elsewhere=elsewhere,
        policy=_policy(rows, told),
        categories=_grouped(rows, told, rows.category),
        lengths=_grouped(rows, told, length_bins(rows.prompt_bytes)),
        over_routed=over,
        under_routed=under,
        form=_form(rows),
    )


def length_bins(prompt_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The power of two at or below each prompt's bytes: bins that need no pass over the other buckets."""
    return np.asarray(2 ** np.floor(np.log2(np.maximum(prompt_bytes, 1))).astype(np.int64))


def _filled(rows: BucketRows) -> NDArray[np.float64]:
    """(k, m) where a model refused a row that goes up, the quality of the next one up: it answers in its place."""
    filled = rows.quality.copy()
    if rows.moves is None:
        return filled
    for j in range(filled.shape[1] - 2, -1, -1):
        moved = np.isnan(filled[:, j]) & rows.moves[:, j]
        filled[moved, j] = filled[moved, j + 1]
    return filled


def _sampled(rows: BucketRows, told: NDArray[np.bool_], quality: NDArray[np.float64]) -> SampledRows:
    at = np.flatnonzero((rows.fold >= 0) & (rows.route >= 0))
    lead = rows.is_leader[at]
    paid = np.where(lead[:, None], rows.paid_usd[at], np.where(np.isnan(rows.paid_usd[at]), np.nan, 0.0))
    return SampledRows(
        row_key=rows.row_key[at], fold=rows.fold[at].astype(np.int64), route=rows.route[at].astype(np.int64),
        told=told[at], prompt_bytes=np.where(lead, rows.prompt_bytes[at], 0).astype(float), is_leader=lead,
        predicted=rows.predicted[at].astype(float), quality=quality[at].astype(float), paid_usd=paid.astype(float),
    )  # fmt: skip


def _elsewhere(rows: BucketRows) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(m,) dollars of each model's own rows; (m, 3) of the rows that went elsewhere: see RunEvidence. What the policy routed to a
    model and it answered is no estimate."""
    usd, rest_of = [], []
    for j in range(rows.paid_usd.shape[1]):
        own = (rows.route == j) & np.isfinite(rows.paid_usd[:, j])
        rest = (rows.route >= 0) & ~own & (rows.fold < 0)
        leaders = rest & rows.is_leader
        usd.append(float(rows.paid_usd[own & rows.is_leader, j].sum()))
        rest_of.append([int(rest.sum()), int(leaders.sum()), int(rows.prompt_bytes[leaders].sum())])
    return np.array(usd), np.array(rest_of, np.int64)


def _policy(rows: BucketRows, told: NDArray[np.bool_]) -> PolicyQuality:
    known = told & np.isfinite(rows.policy)
    return PolicyQuality(
        told=int(told.sum()),
        open=int((told & rows.open_rows & ~known).sum()),
        outside=int((known & (rows.fold < 0)).sum()),
        values=Counter({entry["values"]: entry["counts"] for entry in pc.value_counts(rows.policy[known]).to_pylist()}),
    )


def _grouped(
    rows: BucketRows, told: NDArray[np.bool_], names: Sequence[Any] | NDArray[Any] | pa.ChunkedArray | None
) -> dict[str, GroupTotals]:
    """The largest groups."""
    if names is None:
        return {}
    column = names if isinstance(names, pa.ChunkedArray) else pa.chunked_array([pa.array(names)])
    if pa.types.is_nested(column.type):
        column = pa.chunked_array([pa.array([str(value) for value in column.to_pylist()], pa.string())])
    found = column.combine_chunks().dictionary_encode(null_encoding="encode")
    strong = rows.predicted.shape[1] - 1
    known = told & np.isfinite(rows.policy)
    columns = (np.ones(len(told)), rows.route == strong, told, known, np.where(known, rows.policy, 0.0))
    groups, n = found.indices.to_numpy(), len(found.dictionary)
    sums = np.stack([np.bincount(groups, values, n) for values in columns], axis=1)
    largest = np.argsort(-sums[:, 0], kind="stable")[:CATEGORIES]
    totals = {}
    for group in largest.tolist():
        n, n_strong, n_told, n_known, quality = sums[group].tolist()
        name = str(found.dictionary[group].as_py())
        totals[name] = GroupTotals(int(n), int(n_strong), int(n_told), int(n_known), quality)
    return totals


def _examples(rows: BucketRows, quality: NDArray[np.float64]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Sampled rows that were over-routed, and under-routed; those first of which the router was surest."""
    strong = rows.predicted.shape[1] - 1
    at = np.flatnonzero((rows.fold >= 0) & (rows.route >= 0) & np.isfinite(quality).all(axis=1))
    given = quality[at, rows.route[at]]
    over = at[(rows.route[at] == strong) & (quality[at, 0] >= quality[at, strong])]
    under = at[(rows.route[at] != strong) & (quality[at, strong] > given)]
    over = over[np.lexsort((-rows.score[over], -quality[over, 0]))]  # both right before both wrong
    under = under[np.argsort(rows.score[under])]
    return (
        tuple(_example(rows, quality, int(row)) for row in over[:EXAMPLES]),
        tuple(_example(rows, quality, int(row)) for row in under[:EXAMPLES]),
    )


def _example(rows: BucketRows, quality: NDArray[np.float64], row: int) -> Example:
    return Example(
        id=rows.ids[row],
        prompt=shown(router_text(json.loads(rows.messages[row]))),
        score=float(rows.score[row]),
        route=int(rows.route[row]),
        quality=tuple(quality[row].tolist()),
        answers=tuple(shown((text := column[row]) and behind_thinking(text)) for column in rows.texts),
    )


def shown(text: Any) -> str | None:
    """The start of a text on one line; None stays None."""
    if text is None:
        return None
    line = " ".join(str(text[: 4 * SHOWN_CHARS]).split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _form(rows: BucketRows) -> FormTotals:
    """Of the rows with the smallest keys: a random draw."""
    at = np.flatnonzero(rows.route >= 0)
    at = at[np.argsort(rows.row_key[at])[:FORM_ROWS]]
    texts = [router_text(json.loads(rows.messages[i])) for i in at]
    frame = find_frame(texts)
    form = structure([frame.inner(text) for text in texts]).astype(np.float64)
    return FormTotals(len(at), form.sum(axis=0), (form**2).sum(axis=0))
