"""What `train` and `evaluate` read: outcomes, preferences, a finished run, MT-Bench judgements; any path a job reads.

One function per kind, and names of models as people type them (`Mixtral-8x7B-Instruct-v0.1` for
`mistralai/Mixtral-8x7B-Instruct-v0.1`). Everything is read once, in memory.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from jobs.errors import InputError, SpecError
from jobs.storage.filesystems import storage_errors
from jobs.storage.store import Store
from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes
from routing.data.training_data import TrainingData, as_preferences
from routing.errors import RoutingError

CONTAMINATED = "contaminated_prompts.jsonl"
"""RouteLLM's list, beside an outcomes table: prompts that are too near its training data; its own evaluation drops them."""
MT_BENCH = ("judgements.jsonl", "question.jsonl")
PREFERENCE_COLUMNS = {"model_a", "model_b", "winner"}


@dataclass(frozen=True, slots=True)
class OutcomeSet:
    """One table, as it will be measured."""

    name: str
    """Last part of the path, made unique by `name_sets`."""
    path: str
    outcomes: Outcomes
    notes: tuple[str, ...] = ()
    """What was left out of it, in words."""


def read_outcome_set(path: str, drop_contaminated: bool | None = None, allow_code: bool = False) -> OutcomeSet:
    """Outcomes at a path or URI: a file, a folder of files, MT-Bench's folder, or the output prefix of a finished run.

    `drop_contaminated`: leave out the prompts that a `contaminated_prompts.jsonl` beside the table lists; None does so where the
    list is there, as RouteLLM's own evaluation does. Raises InputError or StoreError with the path in it.
    """
    store = Store(path)
    name = PurePosixPath(store.root).stem if not store.root.endswith("/") else "outcomes"
    if not store.root or store.root == "/":
        raise InputError(f"{path}: names no file or folder")
    from jobs.evaluation.run_outcomes import is_run, run_outcomes

    if is_run(store):
        return OutcomeSet(name, path, run_outcomes(path, allow_code))
    folder = store if not _is_file(store) else Store(store.url().rpartition("/")[0] or "/")
    listed = folder.exists(CONTAMINATED)
    if drop_contaminated and not listed:
        raise InputError(
            f"--drop-contaminated: {folder.url(CONTAMINATED)} is not there; it lists the prompts to leave out"
        )
    with storage_errors(path, "reading it"):
        try:
            if all(folder.exists(part) for part in MT_BENCH) and folder is store:
                outcomes = read_mt_bench(store)
            else:
                outcomes = read_outcomes(store.root, store.fs)
        except RoutingError as error:
            raise InputError(str(error).replace(store.root, path, 1)) from None
    notes: tuple[str, ...] = ()
    if listed and drop_contaminated is not False:
        barred = _contaminated(folder)
        keep = np.array([prompt not in barred for prompt in outcomes.prompts], np.bool_)
        notes = (
            f"{name}: {int((~keep).sum())} rows left out that RouteLLM lists as contaminated (--keep-contaminated keeps them)",
        )
        outcomes = outcomes.select(keep)
    if not len(outcomes):
        raise InputError(f"{path}: no rows")
    return OutcomeSet(name, path, outcomes, notes)


def _is_file(store: Store) -> bool:
    import pyarrow.fs as pafs

    with storage_errors(store.uri, "looking it up"):
        return bool(store.fs.get_file_info(store.root).type == pafs.FileType.File)


def _contaminated(folder: Store) -> set[str]:
    return {str(row["eval_prompt"]) for row in _json_lines(folder, CONTAMINATED, "eval_prompt")}


def _json_lines(folder: Store, name: str, *keys: str) -> list[dict[str, Any]]:
    """The objects of a JSONL file, each with these keys. Raises InputError."""
    try:
        rows = [json.loads(line) for line in folder.read(name).decode().splitlines() if line.strip()]
        for row in rows:
            for key in keys:
                row[key]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{folder.url(name)}: must have a JSON object with {', '.join(keys)} per line") from None
    return rows


def read_mt_bench(folder: Store) -> Outcomes:
    """RouteLLM's MT-Bench: GPT-4's scores of two turns per question and model. Quality = mean score / 10, prompt = first turn.

    As in RouteLLM's evaluation, the first turn decides the route of both. Raises InputError for broken files.
    """
    questions = _json_lines(folder, "question.jsonl", "question_id", "turns", "category")
    scores: dict[tuple[Any, str], list[float]] = defaultdict(list)
    for row in _json_lines(folder, "judgements.jsonl", "question_id", "model", "score"):
        if row["score"] >= 0:  # -1: the judge's reply held no score
            scores[row["question_id"], row["model"]].append(float(row["score"]))
    models = tuple(dict.fromkeys(model for _, model in scores))
    quality = [
        [np.mean(scores[q["question_id"], m]) / 10 if scores[q["question_id"], m] else np.nan for m in models]
        for q in questions
    ]
    return Outcomes(
        ids=[str(q["question_id"]) for q in questions],
        prompts=[str(q["turns"][0]) for q in questions],
        datasets=[str(q["category"]) for q in questions],
        models=models,
        quality=np.array(quality, np.float32).reshape(len(questions), len(models)),
    )


def name_sets(sets: Sequence[OutcomeSet]) -> list[OutcomeSet]:
    """The sets with distinct names: the last part of the path, the whole path where two have the same."""
    names = [each.name for each in sets]
    return [each if names.count(each.name) == 1 else replace(each, name=each.path) for each in sets]


def model_matches(models: Sequence[str], name: str) -> list[str]:
    """The models a person may mean: the exact name, else those that end in it (after a slash), else those that contain it."""
    low = name.lower()
    exact = [m for m in models if m == name]
    ending = [m for m in models if low and m.lower().endswith("/" + low)]
    return exact or ending or [m for m in models if low and low in m.lower()]


def find_model(models: Sequence[str], name: str, field: str) -> str:
    """The one model that `name` means. Raises SpecError that lists the models where there is none, or more than one."""
    found = model_matches(models, name)
    if len(found) > 1:
        raise SpecError(f"{field}: {name!r} may be {' or '.join(found)}; give the whole name")
    if not found:
        raise SpecError(f"{field}: no model {name!r} in the table; it has {', '.join(models)}")
    return found[0]


def known_rows(each: OutcomeSet) -> OutcomeSet:
    """The set without rows in which the quality of one of its models is unknown; says how many. Raises InputError for none left."""
    known = each.outcomes.known()
    if known.all():
        return each
    if not known.any():
        silent = [m for j, m in enumerate(each.outcomes.models) if np.isnan(each.outcomes.quality[:, j]).all()]
        raise InputError(
            f"{each.path}: no row has a quality for every model"
            + (f" ({', '.join(silent)}: none at all)" if silent else "")
        )
    note = (
        f"{each.name}: {int((~known).sum()):,} of {len(known):,} rows left out, the quality of a model is unknown there"
    )
    return replace(each, outcomes=each.outcomes.select(known), notes=(*each.notes, note))


def read_training_set(path: str, kind: str = "", allow_code: bool = False) -> TrainingData:
    """Outcomes or Preferences at a path, by what its columns say (`kind` "preferences" or "outcomes" where a flag says it).

    Contaminated prompts listed beside it stay in: that list is about testing.
    """
    from routing.data.preference_readers import read_preferences

    store = Store(path)
    from jobs.evaluation.run_outcomes import is_run

    if not kind:
        kind = "outcomes" if is_run(store) or not _holds_battles(store) else "preferences"
    if kind == "outcomes":
        return read_outcome_set(path, drop_contaminated=False, allow_code=allow_code).outcomes
    with storage_errors(path, "reading it"):
        try:
            if is_run(store):
                return as_preferences(read_outcome_set(path, allow_code=allow_code).outcomes)
            return read_preferences(store.root, store.fs)
        except RoutingError as error:
            raise InputError(str(error).replace(store.root, path, 1)) from None


def _holds_battles(store: Store) -> bool:
    """Whether the first file there has the columns of a preference table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if _is_file(store):
        folder, name = Store(store.url().rpartition("/")[0] or "/"), store.root.rpartition("/")[2]
    else:
        names = [
            n
            for n in store.list(recursive=False)
            if n.endswith((".parquet", ".jsonl", ".json")) and not n.startswith((".", "_"))
        ]
        if not names or all(part in names for part in MT_BENCH):
            return False
        folder, name = store, names[0]
    if name.endswith((".jsonl", ".json")):
        return True  # no outcomes table is JSON
    if not name.endswith(".parquet"):
        return False
    with storage_errors(store.uri, "reading its columns"), folder.fs.open_input_file(folder.path(name)) as stream:
        try:
            return set(pq.ParquetFile(stream).schema_arrow.names) >= PREFERENCE_COLUMNS
        except (OSError, pa.ArrowInvalid):
            return False  # the reader of outcomes says what is wrong with the file
