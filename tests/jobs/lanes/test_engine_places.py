"""What every way to size an engine asks Ray for, and what reaches vLLM, on a Ray with four pretended GPUs; no engine is started."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.data
from ray.util import placement_group_table, remove_placement_group

from jobs.errors import SpecError
from jobs.lanes.local import places, vllm
from jobs.lanes.local.places import engine_place
from jobs.lanes.local.vllm import VLLMLane, engine_config
from jobs.placement.cluster import Cluster, look, node_types
from jobs.placement.fitting import replicas_that_fit, shortfall, verdict
from jobs.placement.notes import model_notes
from jobs.spec.loader import parse_spec
from jobs.spec.models import ModelSpec
from tests import local_ray
from tests.tiny_models import lane_context, tiny_checkpoint

CPUS_ONLY = Cluster(({"CPU": 8.0},))


@pytest.fixture(scope="module")
def four_gpus() -> Iterator[None]:
    ray.shutdown()
    ray.init(**local_ray.OPTIONS, num_gpus=4, resources={"accelerator_type:L4": 1})
    yield
    ray.shutdown()


@pytest.fixture
def cuda_build(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where torch is built for GPUs."""
    monkeypatch.setattr(places, "built_for_gpus", lambda: True)
    monkeypatch.setattr(vllm, "built_for_gpus", lambda: True)


def stage(folder: Path, **model: Any) -> Any:
    """The engine stage that ray.data.llm makes of a model."""
    from ray.data.llm import build_processor

    context = lane_context("vllm", tiny_checkpoint(folder / "model"), folder, model=model)
    processor = build_processor(engine_config(context, str(context.model.source)))
    return processor.get_stage_by_name("vLLMEngineStage")


WANTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {"num_gpus": 1, "num_cpus": 1}),
    ({"gpus": 0}, {"num_cpus": 1}),
    ({"gpus": 0.5}, {"num_gpus": 0.5, "num_cpus": 1}),
    ({"replicas": 3}, {"num_gpus": 1, "num_cpus": 1}),
    ({"accelerator_type": "L4"}, {"num_gpus": 1, "num_cpus": 1, "resources": {"accelerator_type:L4": 0.001}}),
]


@pytest.mark.parametrize(("model", "asked"), WANTED)
def test_one_gpu_or_less_is_asked_for_by_the_engine_itself(
    four_gpus: None, cuda_build: None, tmp_path: Path, model: dict[str, Any], asked: dict[str, Any]
) -> None:
    found = stage(tmp_path, **model)
    kwargs = found.map_batches_kwargs
    assert {name: kwargs[name] for name in ("num_gpus", "num_cpus", "resources") if kwargs.get(name)} == asked
    assert "ray_remote_args_fn" not in kwargs
    pool = kwargs["compute"]
    assert (pool.min_size, pool.max_size) == (model.get("replicas", 1),) * 2
    engine = found.fn_constructor_kwargs["engine_kwargs"]
    assert engine.get("gpu_memory_utilization") == (0.45 if model.get("gpus") == 0.5 else None)
    on_cpu = model.get("gpus") == 0
    assert (engine.get("dtype"), engine.get("enforce_eager")) == (("float32", True) if on_cpu else (None, None))
    assert engine["max_num_seqs"] == (64 if on_cpu else 256)


@pytest.mark.parametrize(
    ("kwargs", "bundles"),
    [
        ({"tensor_parallel_size": 2}, 2),
        ({"pipeline_parallel_size": 2}, 2),
        ({"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, 4),
    ],
)
def test_several_gpus_are_one_placement_group_a_replica(
    four_gpus: None, cuda_build: None, tmp_path: Path, kwargs: dict[str, int], bundles: int
) -> None:
    found = stage(tmp_path, engine_kwargs=kwargs, accelerator_type="L4")
    assert found.map_batches_kwargs["num_gpus"] == 0  # Ray Data must not ask for them beside the group
    assert found.fn_constructor_kwargs["engine_kwargs"]["distributed_executor_backend"] == "ray"
    strategy = found.map_batches_kwargs["ray_remote_args_fn"]()["scheduling_strategy"]
    try:
        assert strategy.placement_group.wait(10)
        assert strategy.placement_group_capture_child_tasks
        table = placement_group_table(strategy.placement_group)
        asked = {"CPU": 1.0, "GPU": 1.0, "accelerator_type:L4": 0.001}
        assert list(table["bundles"].values()) == [asked] * bundles
    finally:
        remove_placement_group(strategy.placement_group)
    # A batch more than the sequences that all stages of a pipeline take at a time.
    batches = found.fn_constructor_kwargs["max_concurrent_batches"]
    assert batches * vllm.BATCH_ROWS >= 256 * kwargs.get("pipeline_parallel_size", 1)


@pytest.mark.parametrize("built", [False, True])
def test_the_engines_environment_holds_settings_and_no_secret(
    four_gpus: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: bool
) -> None:
    """What stands in runtime_env is stored by Ray, and shown."""
    monkeypatch.setattr(vllm, "built_for_gpus", lambda: built)
    monkeypatch.setenv("HF_TOKEN", "hf-secret")
    env = stage(tmp_path).map_batches_kwargs["runtime_env"]["env_vars"]
    assert "hf-secret" not in str(env)
    of_cpus = {"OMP_NUM_THREADS", "VLLM_CPU_KVCACHE_SPACE"}
    assert set(env) == {"VLLM_LOGGING_LEVEL", "VLLM_NO_USAGE_STATS", "HF_HUB_OFFLINE"} | (set() if built else of_cpus)


@pytest.mark.parametrize(
    ("model", "gpus", "fits"),
    [
        ({}, 1, 1),
        ({"replicas": 9}, 1, 4),
        ({"gpus": 0.25, "replicas": 9}, 0.25, 6),  # each takes a CPU too, of eight, and leaves some to who feeds it
        ({"gpus": 2, "engine_kwargs": {"tensor_parallel_size": 2}}, 2, 1),
        ({"engine_kwargs": {"tensor_parallel_size": 4}}, 4, 1),
        ({"engine_kwargs": {"tensor_parallel_size": 4, "pipeline_parallel_size": 2}}, 8, 0),
        ({"gpus": 0, "replicas": 4}, 0, 4),
        ({"accelerator_type": "A100"}, 1, 0),
    ],
)
def test_the_need_is_what_the_engine_asks_for(
    four_gpus: None, tmp_path: Path, model: dict, gpus: float, fits: int
) -> None:
    context = lane_context("vllm", tmp_path, tmp_path, model=model)
    need = VLLMLane().need(context)
    assert need.gpus == gpus and need.replicas == model.get("replicas", 1)
    assert replicas_that_fit(need, look().nodes) == fits
    assert (verdict(need, look()) == "now") == (fits > 0) == (shortfall(need, look()) == "")
    notes = model_notes(context.model, need, look())
    assert any("replicas" in note for note in notes) == (0 < fits < need.replicas)


def test_gpus_that_are_still_to_come_are_counted_on(cuda_build: None) -> None:
    """The clusters of deploy/ have no GPU node until something waits for one."""
    model = ModelSpec(engine="vllm", source="m")
    grows = Cluster(({"CPU": 4.0},), ({"CPU": 4.0}, {"CPU": 8.0, "GPU": 1.0}), grows=True)
    assert engine_place(model, grows).on_gpu
    assert engine_place(model, Cluster(({"CPU": 4.0},), grows=True)).on_gpu, (
        "to what is not known, but vLLM is built for it"
    )


def test_without_any_gpu_a_build_for_cpus_runs_there(four_gpus: None) -> None:
    assert not engine_place(ModelSpec(engine="vllm", source="m"), CPUS_ONLY).on_gpu
    assert not engine_place(ModelSpec(engine="vllm", source="m"), Cluster(({"CPU": 4.0},), grows=True)).on_gpu
    assert not engine_place(ModelSpec(engine="transformers", source="m"), CPUS_ONLY).on_gpu


def test_without_any_gpu_vllm_for_gpus_cannot_run_and_transformers_can(cuda_build: None) -> None:
    assert engine_place(ModelSpec(engine="vllm", source="m"), CPUS_ONLY).on_gpu  # a need that is refused with a line
    assert not engine_place(ModelSpec(engine="transformers", source="m"), CPUS_ONLY).on_gpu


def test_node_types_of_the_cluster_launcher() -> None:
    import yaml

    config = yaml.safe_load((Path(__file__).parents[3] / "cluster.yaml").read_text())
    assert node_types(config) == [({"CPU": 0.0}, 1), ({"CPU": 16.0}, 8), ({"CPU": 8.0, "GPU": 1.0}, 4)]


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (
            {"gpus": 2},
            "models.m: gpus: 2, but engine_kwargs use 1 (tensor_parallel_size x pipeline_parallel_size); set",
        ),
        (
            {"gpus": 0.5, "engine_kwargs": {"tensor_parallel_size": 2}},
            "models.m: gpus: 0.5 is a share of one GPU, but engine_kwargs use 2; remove gpus",
        ),
        ({"gpus": 1.5}, "models.m.gpus: must be a share of one GPU (0 to 1) or a whole number (found 1.5)"),
        ({"gpus": -1}, "models.m.gpus: must be 0 or more (found -1)"),
        ({"gpus": True}, "models.m.gpus: must be a number (found true)"),
        (
            {"engine_kwargs": {"data_parallel_size": 2}},
            "models.m: engine_kwargs.data_parallel_size: engines side by side are replicas here; set replicas instead",
        ),
        (
            {"engine_kwargs": {"tensor_parallel_size": "two"}},
            "models.m: engine_kwargs.tensor_parallel_size: must be a whole number of 1 or more (found 'two')",
        ),
        (
            {"engine_kwargs": {"pipeline_parallel_size": 0}},
            "models.m: engine_kwargs.pipeline_parallel_size: must be a whole number of 1 or more (found 0)",
        ),
        (
            {"engine": "transformers", "gpus": 2},
            "models.m: gpus: engine transformers runs on one GPU (found 2); use engine",
        ),
    ],
)
def test_sizes_that_do_not_add_up_are_one_line(model: dict[str, Any], line: str) -> None:
    job = {
        "input": {"path": "x.jsonl", "prompt": "q"}, "output": "out", "router": "random", "weak": "m", "strong": "s",
        "models": {"m": {"engine": "vllm", "source": "m", **model}, "s": {"engine": "openai"}},
        "policy": {"strong_share": 0.5},
    }  # fmt: skip
    with pytest.raises(SpecError) as refused:
        parse_spec(job)
    assert str(refused.value).startswith(line)
