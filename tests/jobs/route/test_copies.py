"""Each file of responses/ gets the answers that its own copies need, whatever bucket they were given in, and no others."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import ray

from jobs.journal.rows import Answer, answers_table
from jobs.journal.segments import segment_name
from jobs.route.account.column_types import InputTypes
from jobs.route.account.copies import for_bucket, shared_answers
from jobs.route.plan.plan import Assignments
from jobs.route.score.entries import Part
from jobs.storage.store import Store

BUCKETS, ROWS = 7, 40
FILES = [range(3), range(3, 5), range(5, 7)]
NAMES = ("weak", "strong")
TYPES = InputTypes(pa.string(), ())


@pytest.fixture
def plan() -> Assignments:
    """Every third row is a copy of some other one that is none; some of them cannot be asked."""
    rng, n = np.random.default_rng(0), BUCKETS * ROWS
    keys = rng.permutation(10 * n)[:n].astype(np.int64)
    leader = keys.copy()
    leader[::3] = keys[rng.choice(np.setdiff1d(np.arange(n), np.arange(0, n, 3)), len(keys[::3]))]
    model = rng.integers(-1, 2, n).astype(np.int8)
    values: dict[str, Any] = {each.name: np.zeros(n) for each in fields(Assignments)}
    bucket = 10 + 5 * np.repeat(np.arange(BUCKETS), ROWS)
    return Assignments(
        **values | {"row_key": keys, "leader": leader, "model": model, "bucket": bucket.astype(np.int32)}
    )


@pytest.fixture
def run(tmp_path: Path, plan: Assignments) -> tuple[Store, list[Part]]:
    """Journal and scored/ of that plan: the weak model has answered every row that is no copy, the strong one some."""
    store = Store(str(tmp_path / "out"))
    parts = []
    for number, bucket in enumerate(np.unique(plan.bucket).tolist()):
        keys = plan.row_key[plan.bucket == bucket]
        name = f"scored/part-{bucket:010d}.parquet"
        store.write_table(name, pa.table({"row_key": keys, "id": [f"row {key}" for key in keys]}))
        parts.append(Part(bucket=bucket, name=name, rows=len(keys)))
        for model, every in zip(NAMES, (1, 4), strict=True):
            own = np.intersect1d(keys, plan.leader)[::every]
            rows = [Answer(key, bucket, "answered", bytes(16), f"{model} {key}") for key in own.tolist()]
            store.write_table(segment_name(model, f"s--{'a' * 12}--{number:06d}", [bucket]), answers_table(rows))
    return store, parts


def elsewhere(plan: Assignments, buckets: list[int]) -> set[int]:
    """Leaders that rows of these buckets copy from another bucket."""
    of = dict(zip(plan.row_key.tolist(), plan.bucket.tolist(), strict=True))
    rows = zip(plan.leader.tolist(), plan.bucket.tolist(), plan.model.tolist(), strict=True)
    return {leader for leader, bucket, model in rows if bucket in buckets and model >= 0 and of[leader] != bucket}


def test_a_file_gets_what_its_copies_need(ray_local: None, plan: Assignments, run: Any) -> None:
    store, parts = run
    refs = shared_answers(store, NAMES, TYPES, plan, parts, FILES)
    assert len(refs) == len(FILES)
    for file, of_file in zip(FILES, refs, strict=True):
        shared = ray.get(of_file)
        buckets = [parts[index].bucket for index in file]
        given = [key for each in shared for key in each["weak"]["row_key"].to_pylist()]
        assert sorted(given) == sorted(elsewhere(plan, buckets)), "no other leader's, and none twice"
        for bucket in buckets:
            here = plan.bucket == bucket
            of_bucket = Assignments(**{each.name: getattr(plan, each.name)[here] for each in fields(Assignments)})
            needed, found = elsewhere(plan, [bucket]), for_bucket(shared, of_bucket)
            assert set(found[""]["row_key"].to_pylist()) == needed == set(found["weak"]["row_key"].to_pylist())
            assert set(found["strong"]["generated_text"].to_pylist()) <= {f"strong {key}" for key in needed}
            assert found[""]["id"].to_pylist() == [f"row {key}" for key in found[""]["row_key"].to_pylist()]
    strong = {key for of_file in refs for each in ray.get(of_file) for key in each["strong"]["row_key"].to_pylist()}
    assert strong and strong < elsewhere(plan, [part.bucket for part in parts])


def test_without_copies_nothing_is_read(ray_local: None, plan: Assignments, tmp_path: Path) -> None:
    alone = replace(plan, leader=plan.row_key)
    parts = [Part(bucket=bucket, name="", rows=0) for bucket in np.unique(plan.bucket).tolist()]
    assert shared_answers(Store(str(tmp_path)), NAMES, TYPES, alone, parts, FILES) == [[], [], []]
    assert for_bucket([], alone) == {}
