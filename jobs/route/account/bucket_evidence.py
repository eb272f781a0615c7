"""What one bucket says of the run's quality and dollars, small enough to send to the driver as JSON.

Sampled rows go one by one, since every interval is made from them; all other rows as counts and sums by route, which is all
that the estimates need of them (jobs/route/account/run_measures.py). Cost: one pass over the bucket's columns; texts are
looked at in sampled rows and in FORM_ROWS others only. Legend: k rows of the bucket, m models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

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


def evidence(rows: BucketRows) -> dict[str, Any]:
    """JSON-safe but for NaN. Keys: see the functions below."""
    told = rows.can_tell & (rows.route >= 0)
    quality = _filled(rows)
    return {
        "strata": _strata(rows, told),
        "sampled": _sampled(rows, told, quality),
        "elsewhere": _elsewhere(rows),
        "policy": _policy(rows, told),
        "categories": _grouped(rows, told, rows.category),
        "lengths": _grouped(rows, told, length_bins(rows.prompt_bytes)),
        "examples": _examples(rows, quality),
        "form": _form(rows),
    }


def length_bins(prompt_bytes: NDArray[np.int64]) -> NDArray[np.int64]:
    """The power of two at or below each prompt's bytes: bins that need no pass over the other buckets."""
    return np.asarray(2 ** np.floor(np.log2(np.maximum(prompt_bytes, 1))).astype(np.int64))


def _filled(rows: BucketRows) -> NDArray[np.float64]:
    """(k, m) where a model refused a row for good, the quality of the next one up: it answers in its place."""
    filled = rows.quality.copy()
    for j in range(filled.shape[1] - 2, -1, -1):
        moved = np.isnan(filled[:, j]) & (rows.kind[:, j] == "rejected")
        filled[moved, j] = filled[moved, j + 1]
    return filled


def _strata(rows: BucketRows, told: NDArray[np.bool_]) -> list[list[float]]:
    """Per route: rows outside the sample whose quality can be told, and the sums of their m predictions."""
    mine = [told & (rows.fold < 0) & (rows.route == j) for j in range(rows.predicted.shape[1])]
    return [[int(use.sum()), *rows.predicted[use].sum(axis=0).tolist()] for use in mine]


def _sampled(rows: BucketRows, told: NDArray[np.bool_], quality: NDArray[np.float64]) -> list[list[float]]:
    """Per row of the sample: key, fold, route, 1 where quality can be told, prompt bytes (0 for copies), 1 for leaders, m
    predictions, m qualities, m dollars (a copy's are 0)."""
    at = np.flatnonzero((rows.fold >= 0) & (rows.route >= 0))
    lead = rows.is_leader[at]
    paid = np.where(lead[:, None], rows.paid_usd[at], np.where(np.isnan(rows.paid_usd[at]), np.nan, 0.0))
    head = [rows.fold[at], rows.route[at], told[at], np.where(lead, rows.prompt_bytes[at], 0), lead]
    columns = np.column_stack([*head, rows.predicted[at], quality[at], paid]).astype(float)
    return [[int(key), *values] for key, values in zip(rows.row_key[at], columns.tolist(), strict=True)]


def _elsewhere(rows: BucketRows) -> list[list[float]]:
    """Per model: dollars of its own rows, and of the rows outside the sample that went elsewhere their number, how many of
    them are leaders, and the prompt bytes of these. What the policy routed to a model and it answered is no estimate."""
    out = []
    for j in range(rows.paid_usd.shape[1]):
        own = (rows.route == j) & np.isfinite(rows.paid_usd[:, j])
        rest = (rows.route >= 0) & ~own & (rows.fold < 0)
        leaders = rest & rows.is_leader
        usd = float(rows.paid_usd[own & rows.is_leader, j].sum())
        out.append([usd, int(rest.sum()), int(leaders.sum()), int(rows.prompt_bytes[leaders].sum())])
    return out


def _policy(rows: BucketRows, told: NDArray[np.bool_]) -> dict[str, Any]:
    """Rows whose quality can be told; those of them still open; known ones outside the sample; value → known rows."""
    known = told & np.isfinite(rows.policy)
    return {
        "told": int(told.sum()),
        "open": int((told & rows.open_rows & ~known).sum()),
        "outside": int((known & (rows.fold < 0)).sum()),
        "values": {str(entry["values"]): entry["counts"] for entry in pc.value_counts(rows.policy[known]).to_pylist()},
    }


def _grouped(
    rows: BucketRows, told: NDArray[np.bool_], names: Sequence[Any] | NDArray[Any] | pa.ChunkedArray | None
) -> dict[str, list[float]]:
    """Group → rows, rows on the strong model, rows whose quality can be told, is known, and its sum; the largest groups."""
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
    return {str(found.dictionary[group].as_py()): sums[group].tolist() for group in largest.tolist()}


def _examples(rows: BucketRows, quality: NDArray[np.float64]) -> dict[str, list[dict[str, Any]]]:
    """Sampled rows that were over- and under-routed, those first of which the router was surest."""
    strong = rows.predicted.shape[1] - 1
    at = np.flatnonzero((rows.fold >= 0) & (rows.route >= 0) & np.isfinite(quality).all(axis=1))
    given = quality[at, rows.route[at]]
    over = at[(rows.route[at] == strong) & (quality[at, 0] >= quality[at, strong])]
    under = at[(rows.route[at] != strong) & (quality[at, strong] > given)]
    over = over[np.lexsort((-rows.score[over], -quality[over, 0]))]  # both right before both wrong
    under = under[np.argsort(rows.score[under])]
    return {
        kind: [_example(rows, quality, int(row)) for row in found[:EXAMPLES]]
        for kind, found in (("over", over), ("under", under))
    }


def _example(rows: BucketRows, quality: NDArray[np.float64], row: int) -> dict[str, Any]:
    return {
        "id": rows.ids[row],
        "prompt": shown(router_text(json.loads(rows.messages[row]))),
        "score": float(rows.score[row]),
        "route": int(rows.route[row]),
        "quality": quality[row].tolist(),
        "answers": [shown(column[row]) for column in rows.texts],
    }


def shown(text: Any) -> str | None:
    """The start of a text on one line; None stays None."""
    if text is None:
        return None
    line = " ".join(str(text[: 4 * SHOWN_CHARS]).split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"


def _form(rows: BucketRows) -> dict[str, Any]:
    """Rows, sums and sums of squares of `routing.features.structure.structure`, of the rows with the
    smallest keys: a random draw."""
    at = np.flatnonzero(rows.route >= 0)
    at = at[np.argsort(rows.row_key[at])[:FORM_ROWS]]
    texts = [router_text(json.loads(rows.messages[i])) for i in at]
    frame = find_frame(texts)
    form = structure([frame.inner(text) for text in texts]).astype(np.float64)
    return {"rows": len(at), "sum": form.sum(axis=0).tolist(), "squares": (form**2).sum(axis=0).tolist()}
