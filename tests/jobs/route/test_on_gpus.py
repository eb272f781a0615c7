"""A cluster that says it has a GPU: whatever asks Ray for one is placed and works, on a machine without any."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import ray.data
import torch

from jobs.lanes.local.transformers import TransformersLane
from jobs.placement.cluster import Cluster, look
from jobs.placement.fitting import verdict
from jobs.placement.lent import lent_device
from jobs.route.score import stage as score
from jobs.route.score.entries import Part
from jobs.route.score.files import list_files
from jobs.route.score.scorers import Scorers, scorer_need, scorer_notes, scorers_of
from jobs.route.score.stage import plan_score, run_score
from jobs.spec.job import JobSpec
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from tests import local_ray
from tests.jobs.route.gpu_jobs import trained
from tests.tiny_models import answers_by_key, ask_rows, lane_context, tiny_checkpoint
from tests.tiny_neural import decoder_folder, encoder_folder


@pytest.fixture(scope="module")
def one_gpu() -> Iterator[None]:
    """A Ray with one pretended GPU."""
    ray.shutdown()
    ray.init(**local_ray.OPTIONS, num_gpus=1)
    yield
    ray.shutdown()


def job(folder: Path, files: int, rows: int, router: str = "", **more: Any) -> JobSpec:
    (folder / "in").mkdir()
    for file in range(files):
        table = {"id": [f"{file}-{i}" for i in range(rows)], "q": [f"question {i} easy" for i in range(rows)]}
        pq.write_table(pa.table(table), folder / f"in/{file}.parquet")
    models = {"a": {"engine": "transformers", "source": "s"}, "b": {"engine": "openai"}}
    return parse_spec(
        {
            "input": {"path": str(folder / "in"), "prompt": "q", "id": "id"}, "output": str(folder / "out"),
            "router": router or trained(folder / "router"), "models": models, "weak": "a", "strong": "b",
            "policy": {"strong_share": 0.5}, **more,
        }
    )  # fmt: skip


def scored(spec: JobSpec) -> list[Part]:
    """The score stage by itself, all rows of it."""
    parts = run_score(plan_score(spec, list_files(spec.input)), spec.output)
    assert sum(part.predicted_rows for part in parts) == sum(part.rows for part in parts)
    return parts


ROUTERS: dict[str, tuple[str, dict[str, Any], float]] = {
    "text": ("linear", {}, 0),
    "neural": ("bert", {"source": encoder_folder(), "steps": 2}, 1),
    "of battles and logits": ("causal", {"source": decoder_folder(), "steps": 2}, 1),
    "text over an encoder": ("knn", {"features": {"kind": "encoder", "source": encoder_folder()}}, 1),
    "calibrated": ("calibrated", {"base": "bert", "base_hyperparameters": {"source": encoder_folder(), "steps": 2}}, 1),
    "calibrated text": ("calibrated", {"base": "linear"}, 0),
}


@pytest.mark.parametrize("kind", ROUTERS)
def test_a_router_of_every_kind_scores_and_only_networks_hold_a_gpu(one_gpu: None, tmp_path: Path, kind: str) -> None:
    name, hyperparameters, gpus = ROUTERS[kind]
    spec = job(tmp_path, files=1, rows=20, router=trained(tmp_path / "router", name, **hyperparameters))
    assert scorers_of(spec, look()).gpus == gpus
    parts = scored(spec)
    # A pretended GPU is lent, and torch sees none: the CPU does it, and the run says so.
    assert [bool(part.note) for part in parts] == [bool(gpus)] * len(parts)
    if gpus:
        assert parts[0].note.startswith("the router was lent a GPU that torch ")
    deadline = time.monotonic() + 20
    while ray.available_resources().get("GPU", 0) < 1:  # the models come next, and want it
        assert time.monotonic() < deadline, "a scorer still holds the GPU"
        time.sleep(0.1)


@pytest.mark.parametrize(("share", "gpus", "most"), [(0.25, 0.25, 4), (0.4, 0.4, 2), (1, 1, 1), (0, 0, 2)])
def test_router_gpus_says_how_many_scorers_share_a_gpu(
    one_gpu: None, tmp_path: Path, share: float, gpus: float, most: int
) -> None:
    spec = job(tmp_path, files=1, rows=5, router_gpus=share)
    assert scorers_of(spec, look()) == Scorers(gpus, most)
    need = scorer_need(spec, look())
    assert need.gpus == gpus and verdict(need, look()) == "now"


def test_a_share_of_a_gpu_is_what_each_scorer_gets(one_gpu: None, tmp_path: Path) -> None:
    parts = scored(job(tmp_path, files=3, rows=10, router_gpus=0.25))
    assert sum(part.rows for part in parts) == 30 and all(part.note for part in parts)


def test_a_router_in_a_cluster_without_gpus_asks_for_none(tmp_path: Path) -> None:
    spec = job(tmp_path, files=1, rows=5, router_gpus=0.5)
    cpus = Cluster(({"CPU": 16.0},))
    assert scorers_of(spec, cpus) == Scorers(0, 4)
    assert "router_gpus is 0.5, and the cluster has no GPU" in scorer_notes(spec, cpus)[0]
    # From none: one scorer makes the first node come, and does not wait for all that might.
    grows = Cluster(({"CPU": 4.0},), ({"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}, {"CPU": 8.0, "GPU": 1.0}), grows=True)
    assert scorers_of(spec, grows) == Scorers(0.5, 1)


def test_a_process_that_was_lent_no_gpu_uses_none(one_gpu: None) -> None:
    """Ray leaves the node's GPUs in sight of those who asked for none."""

    @ray.remote(num_cpus=0)
    def device(sees: bool) -> str:
        torch.cuda.is_available = lambda: sees
        return lent_device("x").name

    assert lent_device("x").name == "cpu", "the driver"
    assert ray.get(device.remote(True)) == "cpu"
    assert ray.get(device.options(num_gpus=0.5).remote(True)) == "cuda"
    assert ray.get(device.options(num_gpus=0.5).remote(False)) == "cpu"


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
