"""One job over files that do not agree: scored on Ray, accounted, and every file of responses/ has the same columns."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.route.account import response_files
from jobs.route.account.stage import run_account
from jobs.route.plan.cut import decide
from jobs.route.plan.rows import read_rows
from jobs.route.plan.situation import Situation
from jobs.route.score import stage
from jobs.route.score.files import list_files
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from tests.jobs.route.carried import MODELS, write_parquet
from tests.jobs.route.test_account import EST

KEPT = ["n", "s", "u"]
UUIDS = [uuid.UUID(int=i) for i in range(4)]


def write_input(folder: Path) -> None:
    """Ids, numbers and structs of other types in each file; the prompt of the first is the last one's too."""
    uuids = pa.array([each.bytes for each in UUIDS], pa.uuid())
    columns: list[dict[str, Any]] = [
        {"id": pa.array([7]), "n": pa.array([2**60 + 1]), "s": pa.array([{"x": 1}]), "u": uuids.slice(0, 1)},
        {"id": pa.array(["A7"]), "n": pa.array([0.87]), "s": pa.array([{"x": 1, "y": "z"}]), "u": uuids.slice(1, 1)},
        {"id": pa.array([2**64 - 1], pa.uint64()), "n": pa.nulls(1), "s": pa.nulls(1), "u": uuids.slice(2, 1)},
    ]
    for number, each in enumerate(columns):
        write_parquet(folder / f"in/{number}.parquet", **each | {"q": ["what is it"]})


def test_every_part_of_the_responses_has_the_same_columns(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_input(tmp_path)
    monkeypatch.setattr(stage, "make_splits", lambda files: [[index] for index in range(len(files))])
    monkeypatch.setattr(response_files, "_first_parts", lambda store, names, parts: list(range(len(parts))))
    spec = parse_spec({
        "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id", "keep": KEPT}, "output": str(tmp_path / "out"),
        "router": "random", "models": MODELS, "weak": "a", "strong": "b", "policy": {"strong_share": 0.5},
        "sampling": {"temperature": 0},
    })  # fmt: skip
    parts = stage.run_score(stage.plan_score(spec, list_files(spec.input)), spec.output)
    store = Store(spec.output)
    plan, _ = decide(Situation(spec, read_rows(store, parts), EST, np.zeros((3, 2), bool)))
    model, key = int(plan.model[0]), int(plan.leader[0])
    with JournalWriter(store.uri, spec.names[model], str(tmp_path / "logs"), "s") as writer:
        writer.append(Answer(key, int(plan.bucket[0]), "answered", b"k" * 16, "this", "stop", 8, 2))
    run_account(spec, store, parts, plan, False)
    tables = [pq.read_table(tmp_path / "out" / name) for name in store.list("responses")]
    assert len(tables) == 3 and len({str(table.schema) for table in tables}) == 1
    rows = pa.concat_tables(tables).to_pylist()
    assert [row["id"] for row in rows] == ["7", "A7", str(2**64 - 1)]
    assert [row["copied_from"] for row in rows] == [None, "7", "7"] and {row["generated_text"] for row in rows} == {
        "this"
    }
    assert [row["n"] for row in rows] == [str(2**60 + 1), "0.87", None]
    assert [row["s"] for row in rows] == [{"x": 1, "y": None}, {"x": 1, "y": "z"}, None]
    assert [row["u"] for row in rows] == [str(each) for each in UUIDS[:3]]
