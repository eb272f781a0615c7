"""A cluster that says it has a GPU: whatever asks Ray for one is placed and works, on a machine without any."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data

from jobs.lanes.local.transformers import TransformersLane
from jobs.route.score import stage as score
from jobs.route.score.files import list_files
from jobs.route.score.stage import plan_score, run_score
from jobs.spec.job import JobSpec
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from routing.data.outcomes import Outcomes
from routing.routers import create
from tests import local_ray
from tests.tiny_models import answers_by_key, ask_rows, lane_context, tiny_checkpoint


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A Ray with one pretended GPU."""
    ray.shutdown()
    ray.init(**local_ray.OPTIONS, num_gpus=1)
    yield
    ray.shutdown()


def trained(folder: Path) -> str:
    """A router that was fitted, and so is scored on a GPU where there is one."""
    prompts = [f"question {i} {'hard' if i % 2 else 'easy'}" for i in range(80)]
    quality = np.array([[float(i % 2 == 0), 1.0] for i in range(80)], np.float32)
    ids = [str(i) for i in range(80)]
    table = Outcomes(ids=ids, prompts=prompts, datasets=["d"] * 80, models=("a", "b"), quality=quality)
    create("linear").fit(table).save(folder)
    return str(folder)


def job(folder: Path, files: int, rows: int) -> JobSpec:
    (folder / "in").mkdir()
    for file in range(files):
        table = {"id": [f"{file}-{i}" for i in range(rows)], "q": [f"question {i} easy" for i in range(rows)]}
        pq.write_table(pa.table(table), folder / f"in/{file}.parquet")
    models = {"a": {"engine": "transformers", "source": "s"}, "b": {"engine": "openai"}}
    return parse_spec(
        {
            "input": {"path": str(folder / "in"), "prompt": "q", "id": "id"}, "output": str(folder / "out"),
            "router": trained(folder / "router"), "models": models, "weak": "a", "strong": "b",
            "policy": {"strong_share": 0.5},
        }
    )  # fmt: skip


def test_a_trained_router_scores_every_row_once(one_gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray Data refuses actors with a GPU where it is not told a number of rows; a shard stays whole all the same."""
    spec = job(tmp_path, files=3, rows=50)
    plan = plan_score(spec, list_files(spec.input))
    parts = run_score(plan, spec.output)
    tables = [Store(spec.output).read_table(part.name) for part in parts]
    assert sum(part.rows for part in parts) == sum(part.predicted_rows for part in parts) == 150
    assert len({part.name for part in parts}) == len(parts)
    ids = [identity for table in tables for identity in table["id"].to_pylist()]
    assert ids == [f"{file}-{i}" for file in range(3) for i in range(50)]
    for part, table in zip(parts, tables, strict=True):
        assert set(table["bucket"].to_pylist()) == {part.bucket}
    # One shard a row: small shards are not put together, large ones not cut.
    monkeypatch.setattr(score, "SHARD_ROWS", 7)
    packed = [score._packed(shard) for shard in score.read_split(0, [0], plan)]
    assert [len(score._unpacked(each["shard"][0])) for each in packed] == [7] * 7 + [1]


def test_a_model_in_transformers_answers(one_gpu: None, tmp_path: Path) -> None:
    context = lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path)
    table = ask_rows([f"What is {i} + 1?" for i in range(300)])  # more than a batch
    dataset = TransformersLane().answer(ray.data.from_arrow(table), context)
    progress = list(dataset.iter_rows())
    rows = answers_by_key(context, table.num_rows)
    assert sorted(rows) == sorted(table["row_key"].to_pylist())
    assert sum(row["settled"] for row in progress) == 300
    assert all(row["kind"] == "answered" for row in rows.values())
