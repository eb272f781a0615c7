"""A finished run read back as an outcomes table: today's run trains the next router.

    scored/ (messages, gold, category) + answers/ (the journal) → Outcomes of the rows that several models answered

The rows are those of the sample (every model answers them) and whatever else the journal holds of two models, one row per group
of equal prompts. Quality is measured again with the job's own gold matcher, from the texts: the report's figures and
these agree because the code is the same. Where the job had a judge, its verdicts on the sample are read back. Plain reads of the
store, no Ray, O(rows of the run) in time and O(rows kept) in memory beside one part of scored/.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.errors import InputError
from jobs.journal.reader import Journal
from jobs.route.pilot.judged import judged_quality, judged_rows
from jobs.route.plan.plan import latest_plan
from jobs.route.score.entries import ScoreEntry
from jobs.route.score.formats.arrow_values import python_values
from jobs.spec.sections import JUDGE
from jobs.storage.keys import find_keys
from jobs.storage.manifest import RUN, load_run
from jobs.storage.store import Store
from routing.answers.matching import make_matcher
from routing.data.outcomes import Outcomes
from routing.errors import RoutingError
from routing.text import find_frame, router_text

CATEGORY_COLUMNS = ("category", "dataset", "subject")
"""Kept input columns that say where a prompt comes from, the first that is there; as in the report."""
ANSWER_COLUMNS = ("row_key", "kind", "generated_text", "cost_usd", "prompt_tokens", "completion_tokens", "latency_s")
SCORED_COLUMNS = ("row_key", "id", "messages", "gold", "keep")


def is_run(store: Store) -> bool:
    """Whether the prefix holds a headgate run."""
    return store.exists(RUN)


def run_outcomes(output: str, allow_code: bool = False) -> Outcomes:
    """Outcomes of the rows of the run at `output` that at least two of its models answered.

    Models are the job's names for them, cheapest first. `prompts` is what the router saw (`routing.text`), `cost_usd` the dollars
    of the answer itself, `datasets` a kept column named category, dataset or subject ("run" where there is none). Raises InputError
    where the run has no such rows or the job names neither gold nor a judge (no quality is known then), StoreError for its storage.
    """
    run = load_run(output)
    scored, bill = run.entry("score", ScoreEntry), latest_plan(run.store)[1]
    if scored is None or bill is None:
        raise InputError(f"{output}: the run has no plan yet, so no answers; run it first")
    job = bill.job
    gold = (job.get("quality") or {}).get("gold") or {}
    judged = judged_quality(run.store, bill.pilot)
    if not gold and judged is None:
        raise InputError(
            f"{output}: the run measured no quality, so no router can learn from it; give its job quality.gold or quality.judge,"
            " and a sample, and run it again (what is answered is not asked again)"
        )
    try:
        compares = gold and gold["match"] != JUDGE
        matcher = make_matcher(gold["match"], allow_code=allow_code) if compares else _cannot_tell
    except RoutingError as error:
        raise InputError(f"{output}: {error}") from None
    names = run.identity.models
    answers = [_answered(run.store, name) for name in names]
    keys, counts = np.unique(np.concatenate([table["row_key"].to_numpy() for table in answers]), return_counts=True)
    wanted = keys[counts >= 2]
    if not len(wanted):
        raise InputError(
            f"{output}: no row was answered by more than one model; give the job `sample: {{rows: 500}}` and run it"
            " again: only the sample's missing answers are asked"
        )
    rows = _rows(run.store, [part.name for part in scored.parts], wanted, _category(job))
    table = _table(names, rows, answers, matcher)
    quality, is_judged = judged_rows(judged, rows["row_key"].to_numpy(), names)
    table.quality[is_judged] = quality[is_judged]
    return table


def _cannot_tell(answer: str, gold: str) -> float:
    """The matcher of a job whose answers only a judge can compare."""
    return math.nan


def _category(job: Mapping[str, Any]) -> int | None:
    """Place of the category among the kept columns."""
    keep = list((job.get("input") or {}).get("keep") or [])
    return next((keep.index(name) for name in CATEGORY_COLUMNS if name in keep), None)


def _answered(store: Store, name: str) -> pa.Table:
    """A model's answers, sorted by row key."""
    table = Journal(store).read(name, columns=ANSWER_COLUMNS)
    return table.filter(pc.equal(table["kind"], "answered")).sort_by("row_key")


def _rows(store: Store, parts: Sequence[str], wanted: np.ndarray, category: int | None) -> pa.Table:
    """Of the rows with these keys, in input order: `row_key`, `messages`, `gold`, and as text `id` and `dataset`; one part at a
    time."""
    among, tables = pa.array(wanted), []
    for part in parts:
        table = store.read_table(part, columns=SCORED_COLUMNS)
        table = table.filter(pc.is_in(table["row_key"], among))
        keep = table["keep"].combine_chunks()
        datasets = ["run"] * len(table) if category is None else python_values(keep.field(f"k{category}"))
        texts = {"id": table["id"].to_pylist(), "dataset": datasets}
        columns = {name: pa.array([str(value) for value in values], pa.string()) for name, values in texts.items()}
        tables.append(pa.table({**{name: table[name] for name in ("row_key", "messages", "gold")}, **columns}))
    return pa.concat_tables(tables)


def _table(
    names: tuple[str, ...],
    rows: pa.Table,
    answers: Sequence[pa.Table],
    matcher: Callable[[str, str], float],
) -> Outcomes:
    """Put the answers beside their rows; a model that did not answer a row is unknown there. Legend: n rows, m models."""
    keys, golds = rows["row_key"].to_numpy(), rows["gold"].to_pylist()
    n, m = len(rows), len(names)
    quality = np.full((n, m), np.nan, np.float32)
    responses = np.full((n, m), None, object)
    numbers = {name: np.full((n, m), np.nan) for name in ANSWER_COLUMNS[3:]}
    for j, table in enumerate(answers):
        at = find_keys(table["row_key"].to_numpy(), keys)
        here = np.flatnonzero(at >= 0)
        found = table.take(pa.array(at[here]))
        responses[here, j] = found["generated_text"].to_pylist()
        for name, values in numbers.items():
            values[here, j] = found[name].cast(pa.float64()).to_numpy()
        quality[here, j] = [
            math.nan if text is None or golds[row] is None else matcher(text, golds[row])
            for row, text in zip(here, responses[here, j], strict=True)
        ]
    texts = [router_text(json.loads(messages)) for messages in rows["messages"].to_pylist()]
    frame = find_frame(texts)
    return Outcomes(
        ids=rows["id"].to_pylist(),
        prompts=[frame.inner(text) for text in texts],
        datasets=rows["dataset"].to_pylist(),
        models=names,
        quality=quality,
        responses=responses,
        **numbers,
    )
