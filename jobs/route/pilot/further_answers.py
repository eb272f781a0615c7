"""Further answers of the weak model, drawn to see whether it says the same again.

    leaders → n requests each (temperature 0.7, seed 0..n-1) → the weak model's lane → answers/model=samples/ → agreement (k,)

`ray.data.llm` keeps one output of a request, so n answers are n requests. They have a place of their own in the journal and never
count as answers. A request's key is a hash of its row's key and its number: nothing is drawn twice, and more samples keep those
that are there. What is compared is the answer that a text commits to (routing/answers/features.py), a letter or a number where
there is one. Cost: n weak calls a row, reserved at the governor like any other.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.lanes.base import ASK_COLUMNS
from jobs.route.score.entries import Part
from jobs.route.score.scored import read_scored
from jobs.spec.sections import SAMPLES
from jobs.storage.keys import request_key
from jobs.storage.store import Store
from routing.answers.agreement import agreement_with
from routing.answers.features import extracted_answers

TEMPERATURE = 0.7


def sample_requests(
    store: Store, parts: Sequence[Part], leaders: NDArray[np.int64], n_samples: int, without: Collection[str] = ()
) -> pa.Table:
    """ASK_COLUMNS of `n_samples` requests for each of the sorted row keys `leaders`, row by row.

    without: parameters that the model does not take; without a temperature it draws at its own.
    """
    columns = [name for name in ASK_COLUMNS if name != "sample"]
    rows = read_scored(store, parts, columns, leaders)
    table = rows.take(np.repeat(np.arange(len(rows)), n_samples))
    keys = sample_keys(rows["row_key"].to_numpy(), n_samples).ravel()
    bodies = [
        json.dumps((json.loads(body) if body else {}) | how_drawn(number, without))
        for body in rows["body"].to_pylist() for number in range(n_samples)
    ]  # fmt: skip
    for name, values in (("row_key", pa.array(keys)), ("body", pa.array(bodies, pa.string()))):
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table.append_column("sample", pa.array(np.zeros(len(table), bool))).select(list(ASK_COLUMNS))


def how_drawn(number: int, without: Collection[str]) -> dict[str, float]:
    return {name: v for name, v in {"temperature": TEMPERATURE, "seed": number}.items() if name not in without}


def sample_keys(leaders: NDArray[np.int64], n_samples: int) -> NDArray[np.int64]:
    """(k, n_samples) keys of the requests."""
    keys = [request_key(str(leader), f"sample {number}") for leader in leaders.tolist() for number in range(n_samples)]
    return np.array(keys, np.int64).reshape(len(leaders), n_samples)


def read_agreement(
    store: Store, leaders: NDArray[np.int64], said: Sequence[str | None], n_samples: int
) -> NDArray[np.float64]:
    """(k,) share of a row's further answers that come to what its answer says; NaN where there are none.

    said: the weak answer of each row, None for none.
    """
    keys = sample_keys(leaders, n_samples)
    table = Journal(store).read(SAMPLES, None, ["row_key", "kind", "generated_text"], keys=keys.ravel())
    found = zip(*(table[name].to_pylist() for name in ("row_key", "kind", "generated_text")), strict=True)
    texts = {key: text for key, kind, text in found if kind == "answered"}
    further = np.array([texts.get(key) for key in keys.ravel().tolist()], object).reshape(keys.shape)
    own = np.empty(len(leaders), object)
    own[:] = list(said)
    return agreement_with(extracted_answers(own), extracted_answers(further))
