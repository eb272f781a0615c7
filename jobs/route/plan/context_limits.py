"""Which prompts do not fit a model's context: found before anything is sent, or refused by the model for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.lanes.faults import is_too_long_error
from jobs.route.plan.rows import Rows
from jobs.route.score.entries import Part
from jobs.route.score.scored import scored_rows
from jobs.route.start import Job
from jobs.spec.job import JobSpec
from jobs.storage.store import Store

Counter = Callable[[list[list[dict[str, Any]]]], list[int]]


def token_counter(spec: JobSpec, name: str) -> Counter | None:
    """Prompt tokens of chats by the model's own tokenizer; None where that is not at hand."""
    model = spec.models[name]
    if not (model.tokenizer or model.source):
        return None
    from jobs.lanes.local.model_source import (
        prompt_token_counter,
    )  # transformers: a second to import, for those who need it

    return prompt_token_counter(model, spec.sampling_of(name).get("chat_template_kwargs"))


def maybe_too_long(job: Job, rows: Rows) -> NDArray[np.bool_]:
    """(n, m) True where nobody can count the tokens of a prompt, and its bytes may be too many for a model's context."""
    out = np.zeros((len(rows.row_key), len(job.spec.names)), bool)
    for j, name in enumerate(job.spec.names):
        context = job.contexts.get(name)
        if context is not None and not (job.spec.models[name].tokenizer or job.spec.models[name].source):
            out[:, j] = rows.prompt_bytes > max(1, context - job.spec.max_tokens_of(name))
    return out


def going_up(store: Store, spec: JobSpec, name: str, refused: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of the row keys that a model refused, sorted, those that go to the next one up: too long for it, or `on_refused` says so."""
    if spec.on_refused == "strong" or not len(refused):
        return refused
    table = Journal(store).read(name, None, ["row_key", "kind", "error"], refused)
    told = zip(*(table[column].to_pylist() for column in ("row_key", "kind", "error")), strict=True)
    keys = [key for key, kind, error in told if kind == "rejected" and is_too_long_error(error)]
    return np.sort(np.array(keys, np.int64))


def find_too_long(
    job: Job,
    store: Store,
    parts: Sequence[Part],
    rows: Rows,
    places: Callable[[NDArray[np.int64]], NDArray[np.intp]],
) -> NDArray[np.bool_]:
    """(n, m) True where a prompt of `rows` and its answer do not fit a model's context. `places`: row keys to indices in `rows`.

    A token is at least a byte, so only prompts of more bytes than the context are counted: exactly where the tokenizer is
    at hand, else the engine has the last word.
    """
    names = job.spec.names
    out = np.zeros((len(rows.row_key), len(names)), bool)
    limits = {n: c - job.spec.max_tokens_of(n) for n in names if (c := job.contexts.get(n)) is not None}
    suspects = {n: rows.prompt_bytes > max(1, limit) for n, limit in limits.items()}
    if not any(s.any() for s in suspects.values()):
        return out
    keys = np.sort(rows.row_key[np.logical_or.reduce(list(suspects.values()))])
    dataset = scored_rows(store, parts, ["row_key", "messages"], keys=keys)
    counters = {name: token_counter(job.spec, name) for name in limits}
    batches: Iterator[pa.Table] = dataset.iter_batches(batch_size=4096, batch_format="pyarrow")  # type: ignore[assignment]
    for batch in batches:
        messages = [json.loads(text) if text else [] for text in batch["messages"].to_pylist()]
        at = places(batch["row_key"].to_numpy())
        for j, name in enumerate(names):
            count = counters.get(name)
            if count is not None and len(at):
                out[at, j] = np.array(count(messages)) > max(1, limits[name])
    return out
