"""The vLLM lane with a real engine, started once, beside a second Ray Data execution in another thread."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data
from ray.data import ExecutionResources

from jobs.lanes.base import LaneContext
from jobs.lanes.local.model_source import prompt_token_counter
from jobs.lanes.local.rows import RequestReader
from jobs.lanes.local.vllm import VLLMLane, engine_params, finish_reason
from jobs.storage.store import Store
from tests import local_ray
from tests.engine_killer import died, its_engine, poisonous
from tests.tiny_models import CONTEXT, answers_by_key, ask_rows, lane_context, tiny_checkpoint

N_PLAIN = 96
SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False}
SCHEMA_BODY = {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}}
SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "too_long": ("x" * 300, {}),
    "just_too_long": ("x" * (CONTEXT - 3), {}),
    "one_token_left": ("x" * (CONTEXT - 4), {}),
    "empty": ("", {}),
    "schema": ("give json", SCHEMA_BODY | {"max_tokens": 60}),
    "bad_schema": (
        "give json",
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "no"}}}},
    ),
    "short": ("What is 1+1?", {"max_tokens": 3}),
    "seed_7": ("Tell me more", {"temperature": 1.5, "seed": 7}),
    "seed_7_again": ("Tell me more", {"temperature": 1.5, "seed": 7}),
    "seed_8": ("Tell me more", {"temperature": 1.5, "seed": 8}),
    "no_seed": ("Tell me more", {"temperature": 1.5}),
    "float_seed": ("Tell me more", {"seed": 7.5}),
    "tools": ("Use a tool", {"tools": [{"type": "function"}]}),
    "top_p": ("Tell me more", {"temperature": 2, "top_p": 1e-6, "user": "someone"}),
    "two": ("Tell me more", {"n": 2}),
}


@dataclass(frozen=True)
class Done:
    """What the one run left behind."""

    context: LaneContext
    rows: dict[str, dict[str, Any]]
    """Name (or number, for plain rows) → row of the journal."""
    progress: list[dict[str, Any]]
    first_s: float
    """Seconds from the start to the first settled block."""
    total_s: float
    beside: int
    """Rows of the other execution that were through before the engine's first."""
    segments: list[str]


def _table() -> pa.Table:
    prompts = [f"What is {i} + {i * 7}?" for i in range(N_PLAIN)] + [prompt for prompt, _ in SPECIAL.values()]
    bodies = [""] * N_PLAIN + [json.dumps(body) if body else "" for _, body in SPECIAL.values()]
    return ask_rows(prompts, body=bodies, sample=[i == 0 for i in range(len(prompts))])


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Done:
    folder = tmp_path_factory.mktemp("vllm")
    context = lane_context("vllm", tiny_checkpoint(folder / "model"), folder)
    local_ray.start()
    return _run(context)


def _run(context: LaneContext) -> Done:
    table = _table()
    started = time.monotonic()
    first: list[float] = []
    beside: list[tuple[float, int]] = []
    errors: list[BaseException] = []

    class Asks:
        """Stands where the API lane does: an actor that waits for its rows without using the CPU."""

        def __call__(self, block: pa.Table) -> pa.Table:
            time.sleep(0.02 * block.num_rows)
            return block

    def other() -> None:
        try:
            rows = ray.data.range(400, override_num_blocks=20)
            rows.context.execution_options.resource_limits = ExecutionResources(cpu=4)
            asked = rows.map_batches(
                Asks, batch_size=None, batch_format="pyarrow", num_cpus=0.5, compute=ray.data.ActorPoolStrategy(size=2)
            )
            for batch in asked.iter_batches(batch_size=None, batch_format="pyarrow"):
                beside.append((time.monotonic(), batch.num_rows))
        except BaseException as error:  # noqa: BLE001 - a thread has nobody above it; raised below
            errors.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    rows = ray.data.from_arrow([table.slice(0, 60), table.slice(60)])
    rows.context.execution_options.resource_limits = ExecutionResources(cpu=4)
    progress = []
    for batch in VLLMLane().answer(rows, context).iter_batches(batch_size=None, batch_format="pyarrow"):
        first.append(time.monotonic())
        progress += batch.to_pylist()
    ended = time.monotonic()
    thread.join(60)
    assert not errors, errors
    assert sum(n for _, n in beside) == 400
    by_key = answers_by_key(context, table.num_rows)
    names = [str(i) for i in range(N_PLAIN)] + list(SPECIAL)
    named = {name: by_key.pop(key) for name, key in zip(names, table["row_key"].to_pylist(), strict=True)}
    assert not by_key
    segments = Store(context.output).list("answers/model=weak")
    before = sum(n for at, n in beside if at < first[0])
    return Done(context, named, progress, first[0] - started, ended - started, before, segments)


@pytest.mark.vllm
def test_every_row_is_settled_once(done: Done) -> None:
    print(f"\nvLLM: first block after {done.first_s:.1f} s, all after {done.total_s:.1f} s; {done.segments}")
    assert sum(p["settled"] for p in done.progress) == N_PLAIN + len(SPECIAL)
    assert sum(p["errors"] for p in done.progress) == sum(r["kind"] != "answered" for r in done.rows.values())
    plain = [done.rows[str(i)] for i in range(N_PLAIN)]
    assert all(row["kind"] == "answered" and row["error"] == "" and row["attempts"] == 1 for row in plain)
    assert all(row["finish_reason"] in ("stop", "length") for row in plain)
    assert all((row["finish_reason"] == "length") <= (row["completion_tokens"] == 16) for row in plain)
    assert sum(p["completion_tokens"] for p in done.progress) == sum(
        r["completion_tokens"] or 0 for r in done.rows.values()
    )


@pytest.mark.vllm
def test_tokens_are_counted_exactly_and_priced(done: Done) -> None:
    counter = prompt_token_counter(done.context.model)
    assert counter is not None
    row = done.rows["5"]
    assert counter([[{"role": "user", "content": "What is 5 + 35?"}]]) == [row["prompt_tokens"]]
    assert row["prompt_tokens"] == len("What is 5 + 35?") + 3  # bos, user, assistant: none of them twice
    assert row["token_source"] == "provider"
    assert row["cost_usd"] == pytest.approx((row["prompt_tokens"] * 1.0 + row["completion_tokens"] * 2.0) / 1e6)
    assert row["gpu_s"] is None
    assert row["latency_s"] > 0


@pytest.mark.vllm
def test_long_prompts_are_rejected_with_both_numbers(done: Done) -> None:
    for name, n in (("too_long", 303), ("just_too_long", CONTEXT)):
        row = done.rows[name]
        assert (row["kind"], row["generated_text"], row["cost_usd"]) == ("rejected", None, 0)
        assert f"{n} tokens" in row["error"]
        assert f"{CONTEXT}" in row["error"]
        assert "xxx" not in row["error"]
    assert done.rows["one_token_left"]["kind"] == "answered"
    assert done.rows["one_token_left"]["completion_tokens"] == 1


@pytest.mark.vllm
def test_bad_rows_cost_only_themselves(done: Done) -> None:
    expected = {
        "float_seed": "seed is not a whole number",
        "tools": "body.tools is not supported by engine vllm",
        "two": "n: this engine gives one answer",
        "bad_schema": "vllm: ",
    }
    for name, text in expected.items():
        assert done.rows[name]["kind"] == "rejected"
        assert text in done.rows[name]["error"]
        assert "\n" not in done.rows[name]["error"]
    assert done.rows["empty"]["kind"] == "answered"
    assert done.rows["empty"]["prompt_tokens"] == 3


@pytest.mark.vllm
def test_a_row_s_own_parameters_are_obeyed(done: Done) -> None:
    assert done.rows["short"]["completion_tokens"] <= 3
    assert done.rows["seed_7"]["generated_text"] == done.rows["seed_7_again"]["generated_text"]
    assert done.rows["seed_7"]["generated_text"] != done.rows["seed_8"]["generated_text"]
    assert done.rows["no_seed"]["kind"] == done.rows["top_p"]["kind"] == "answered"
    answer = done.rows["schema"]
    if answer["finish_reason"] == "stop":  # a random model may fill its 60 tokens with blanks
        assert json.loads(answer["generated_text"])["a"] in (1, 2)
    assert answer["generated_text"].lstrip().startswith("{")


@pytest.mark.vllm
def test_sampled_rows_are_marked(done: Done) -> None:
    assert done.rows["0"]["purpose"] == "shadow"
    assert {row["purpose"] for name, row in done.rows.items() if name != "0"} == {"answer"}


@pytest.mark.vllm
def test_the_last_answers_reach_the_store_without_recovery(done: Done) -> None:
    assert done.segments
    assert not list(Path(done.context.local_dir).glob("*.log"))


@pytest.mark.vllm
def test_two_executions_run_side_by_side(done: Done) -> None:
    """400 rows of a second execution (4 s of its actors' time) were through while the engine was starting."""
    assert done.beside == 400


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_one_row_that_the_engine_dies_of_is_rejected(own_ray: None, tmp_path: Path) -> None:
    context = lane_context("vllm", tiny_checkpoint(tmp_path / "model"), tmp_path)
    table = ask_rows([f"What is {i}?" for i in range(40)])
    for _ in range(2):  # two engine starts less: those deaths are had by test_lane_transformers.py
        died(context, 1013, answered=1)
    with poisonous(context, 1013, its_engine) as killed:
        for _ in VLLMLane().answer(ray.data.from_arrow(table), context).iter_batches(batch_size=None):
            pass
    rows = answers_by_key(context, table.num_rows)
    assert len(killed) == 1  # alone
    assert {key: row["kind"] for key, row in rows.items()} == {
        key: "rejected" if key == 1013 else "answered" for key in range(1000, 1040)
    }
    assert "the engine died 3 times on this row, 1 of them alone with it" in rows[1013]["error"]


def test_requests_have_one_type_per_parameter(tmp_path: Path) -> None:
    context = lane_context("vllm", tiny_checkpoint(tmp_path / "model"), tmp_path)
    reader = RequestReader(context)
    rows = reader.read(ask_rows(["a", "b"], body=['{"seed": 7, "temperature": 1, "stop": "x"}', ""]).to_pylist())
    kinds = [{name: type(value) for name, value in engine_params(row.decoding).items()} for row in rows]
    assert kinds[0] == kinds[1]
    assert engine_params(rows[1].decoding)["seed"] == -1


def test_finish_reason_is_read_from_the_tokens(tmp_path: Path) -> None:
    source = str(tiny_checkpoint(tmp_path / "model"))
    a, end = 40, 2
    assert finish_reason([a, a], 3, [], source) == "stop"
    assert finish_reason([a, a, end], 3, [], source) == "stop"
    assert finish_reason([a, a, a], 3, [], source) == "length"
    text = RequestReader(lane_context("vllm", Path(source), tmp_path)).tokenizer.decode([a])
    assert finish_reason([a, a, a], 3, [text], source) == "stop"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "./nowhere"}, "models.weak.source: ./nowhere holds no config.json"),
        ({"engine_kwargs": {"max_model_len": 128}}, "context 128 tokens"),
        ({}, f"context {CONTEXT} tokens"),
        ({"source": "org/model-of-a-hub"}, "context unknown"),
    ],
)
def test_check(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    context = lane_context("vllm", tiny_checkpoint(tmp_path / "model"), tmp_path)
    found = VLLMLane().check(replace(context, model=context.model.model_copy(update=change)))
    assert words in found.detail
    assert found.ok == ("nowhere" not in words)


def test_check_names_an_unknown_parameter(tmp_path: Path) -> None:
    sampling = {"temperature": 0, "max_tokens": 4, "top_q": 1}
    found = VLLMLane().check(lane_context("vllm", tiny_checkpoint(tmp_path / "model"), tmp_path, sampling=sampling))
    assert not found.ok
    assert "sampling.top_q" in found.detail
