"""The transformers lane on a real checkpoint through real Ray, and its agreement with vLLM on the demo's models."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray.data
import torch

from jobs.errors import LaneDown
from jobs.lanes.base import LaneContext, RowHead
from jobs.lanes.local.rows import Decoding, LocalRequest
from jobs.lanes.local.transformers import TransformersLane, _Model, batches, until_end
from jobs.lanes.local.vllm import VLLMLane
from jobs.storage.store import Store
from tests.engine_killer import poisonous, the_process_itself
from tests.tiny_models import CONTEXT, answers_by_key, ask_rows, demo_model, lane_context, tiny_checkpoint

N_PLAIN = 100
SPECIAL: dict[str, tuple[str, dict[str, Any]]] = {
    "too_long": ("x" * 300, {}),
    "one_token_left": ("x" * (CONTEXT - 4), {}),
    "empty": ("", {}),
    "schema": ("give json", {"response_format": {"type": "json_object"}}),
    "short": ("What is 1+1?", {"max_tokens": 3}),
    "seed_7": ("Tell me more", {"temperature": 1.5, "seed": 7}),
    "seed_8": ("Tell me more", {"temperature": 1.5, "seed": 8}),
    "seed_7_again": ("Tell me more", {"temperature": 1.5, "seed": 7}),
    "tools": ("Use a tool", {"tools": [{"type": "function"}]}),
    "penalty": ("Tell me more", {"presence_penalty": 1.0}),
    "picture": ("", {}),
}


def run_lane(lane: Any, table: pa.Table, context: LaneContext) -> list[dict[str, Any]]:
    """Settle the rows; the lane's progress."""
    dataset = lane.answer(ray.data.from_arrow(table), context)
    return [row for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow") for row in batch.to_pylist()]


def test_rows_of_all_kinds_are_settled_once(ray_local: None, tmp_path: Path) -> None:
    context = lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path)
    prompts = [f"What is {i} + {i * 7}?" for i in range(N_PLAIN)] + [prompt for prompt, _ in SPECIAL.values()]
    bodies = [""] * N_PLAIN + [json.dumps(body) if body else "" for _, body in SPECIAL.values()]
    table = ask_rows(prompts, body=bodies, sample=[i == 0 for i in range(len(prompts))])
    texts = table["messages"].to_pylist()
    texts[-1] = json.dumps([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}])
    table = table.set_column(2, "messages", pa.array(texts))
    progress = run_lane(TransformersLane(), table, context)
    rows = answers_by_key(context, table.num_rows)
    named = {name: rows[key] for name, key in zip(SPECIAL, table["row_key"].to_pylist()[N_PLAIN:], strict=True)}

    assert sorted(rows) == table["row_key"].to_pylist()
    assert sum(p["settled"] for p in progress) == len(rows)
    assert sum(p["errors"] for p in progress) == sum(row["kind"] != "answered" for row in rows.values()) == 4
    assert sum(p["completion_tokens"] for p in progress) == sum(row["completion_tokens"] or 0 for row in rows.values())
    assert rows[1000]["purpose"] == "shadow"
    plain = [rows[1000 + i] for i in range(N_PLAIN)]
    assert all(
        row["kind"] == "answered" and row["prompt_tokens"] == len(p) + 3 for row, p in zip(plain, prompts, strict=False)
    )
    assert f"303 tokens; the model's context is {CONTEXT}" in named["too_long"]["error"]
    assert named["one_token_left"]["completion_tokens"] == 1
    assert named["empty"]["kind"] == named["schema"]["kind"] == "answered"
    assert named["short"]["completion_tokens"] <= 3
    assert named["seed_7"]["generated_text"] == named["seed_7_again"]["generated_text"]
    assert named["seed_7"]["generated_text"] != named["seed_8"]["generated_text"]
    for name, words in {"tools": "body.tools", "penalty": "presence_penalty", "picture": "image_url"}.items():
        assert named[name]["kind"] == "rejected"
        assert words in named[name]["error"]


@pytest.mark.slow
def test_one_row_that_the_process_dies_of_is_rejected(ray_local: None, tmp_path: Path) -> None:
    context = lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path)
    table = ask_rows([f"What is {i}?" for i in range(40)])
    with poisonous(context, 1013, the_process_itself) as killed:
        run_lane(TransformersLane(), table, context)
    rows = answers_by_key(context, table.num_rows)
    assert len(killed) == 3
    assert {key: row["kind"] for key, row in rows.items()} == {
        key: "rejected" if key == 1013 else "answered" for key in range(1000, 1040)
    }
    assert "died 3 times on this row, 1 of them alone with it" in rows[1013]["error"]


class Flawed:
    """A model that cannot answer prompts with these tokens."""

    def __init__(self, model: Any, tokens: set[int], error: Exception) -> None:
        self.model, self.tokens, self.error = model, tokens, error

    def generate(self, input_ids: Any, **options: Any) -> Any:
        if self.tokens & set(input_ids.ravel().tolist()):
            raise self.error
        return self.model.generate(input_ids=input_ids, **options)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("probability tensor contains nan")])
def test_what_one_row_breaks_costs_that_row_alone(tmp_path: Path, error: Exception) -> None:
    context = lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path)
    model = _Model(context)
    bad = model.tokenizer("~", add_special_tokens=False)["input_ids"]
    model.model = Flawed(model.model, set(bad), error)
    table = ask_rows([f"What is {'~~~~' if i == 3 else i}?" for i in range(9)])
    rows = model(table).to_pylist()
    assert [bool(row["rejected"]) for row in rows] == [i == 3 for i in range(9)]
    assert str(error) in rows[3]["rejected"]
    assert all(row["text"] is not None for i, row in enumerate(rows) if i != 3)
    model.model = Flawed(model.model, set(range(1000)), error)
    rows = model(table.slice(0, 5)).to_pylist()  # nothing works: nobody's fault yet
    assert all(str(error) in row["failed"] and not row["rejected"] for row in rows)
    for _ in range(2):
        model(table.slice(0, 5))
    with pytest.raises(LaneDown, match="failed 20 rows in a row"):
        model(table.slice(0, 5))


def test_batched_answers_equal_single_ones(tmp_path: Path) -> None:
    """Padding, sorting and grouping change no answer; a stop string ends it where it starts."""
    model = _Model(lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path))
    prompts = ["a", "What is 3?", "x" * 100, "Hello, hello", "b" * 40, "What is 3"]
    table = ask_rows(prompts)
    together = model(table).to_pylist()
    alone = [model(table.slice(i, 1)).to_pylist()[0] for i in range(len(prompts))]
    for one, other in zip(together, alone, strict=True):
        assert {**one, "latency_s": 0} == {**other, "latency_s": 0}
    text = together[0]["text"]
    stop = text[3]
    stopped = model(ask_rows(prompts, body=[json.dumps({"stop": stop})] * len(prompts))).to_pylist()
    for free, row in zip(together, stopped, strict=True):
        assert row["text"] == free["text"].split(stop)[0]
        assert row["finish_reason"] == "stop" or stop not in free["text"]
        # Special tokens between the characters count, and decode to nothing.
        needed = len(row["text"]) + (stop in free["text"])
        assert needed <= row["n_completion"] <= free["n_completion"]
    assert sum(row["n_completion"] for row in stopped) < sum(row["n_completion"] for row in together)


def test_batches_share_sampling_and_length() -> None:
    def request(n: int, error: str = "", **fields: Any) -> LocalRequest:
        decoding = Decoding(**{"max_tokens": 4, "temperature": 0.0} | fields)
        return LocalRequest(RowHead(n, 0, False), error, token_ids=[1] * n, decoding=decoding)

    rows = [request(3), request(9), request(5, temperature=1.0, seed=1), request(4, temperature=1.0, seed=1)]
    rows += [request(2, error="no"), request(7, seed=3), request(6, max_tokens=5)]
    assert sorted(batches(rows)) == [[1, 5, 0], [2], [3], [6]]


def test_an_answer_ends_at_its_first_end_token() -> None:
    assert until_end([5, 6, 2, 0, 0], [2], 0) == [5, 6, 2]
    assert until_end([5, 6, 0, 0], [2], 0) == [5, 6]
    assert until_end([5, 6, 7], [2], 0) == [5, 6, 7]


def test_check(tmp_path: Path) -> None:
    context = lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path)
    found = TransformersLane().check(context)
    assert (found.ok, found.context_tokens) == (True, CONTEXT)
    found = TransformersLane().check(replace(context, sampling={"max_tokens": 4, "presence_penalty": 1}))
    assert not found.ok
    assert "sampling.presence_penalty" in found.detail
    (tmp_path / "model" / "chat_template.jinja").unlink()
    again = tmp_path / "again"
    (tmp_path / "model").rename(again)
    model = context.model.model_copy(update={"source": str(again)})
    found = TransformersLane().check(replace(context, model=model))
    assert not found.ok
    assert "chat template" in found.detail


def test_a_model_on_object_storage(s3_moto: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    folder = tiny_checkpoint(tmp_path / "model")
    store = Store(s3_moto.uri("models/tiny"))
    for file in folder.iterdir():
        store.write(file.name, file.read_bytes())
    context = lane_context("transformers", folder, tmp_path)
    context = replace(context, model=context.model.model_copy(update={"source": store.uri}))
    found = TransformersLane().check(context)
    assert (found.ok, found.context_tokens) == (True, CONTEXT), found.detail
    here = _Model(lane_context("transformers", folder, tmp_path))(ask_rows(["a", "b"])).to_pylist()
    there = _Model(context)(ask_rows(["a", "b"])).to_pylist()
    assert [row["text"] for row in there] == [row["text"] for row in here]
    nowhere = context.model.model_copy(update={"source": s3_moto.uri("models/nowhere")})
    assert not TransformersLane().check(replace(context, model=nowhere)).ok


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(900)  # two engines start, each in half a minute alone and in minutes beside others
def test_greedy_answers_and_their_log_probabilities_equal_vllm_s(ray_local: None, tmp_path: Path) -> None:
    from jobs.demo.tasks import generate

    source = demo_model("weak")
    table = ask_rows([task.prompt for task in generate(200, 5, "outcomes")])
    found = {}
    for engine, lane in (("vllm", VLLMLane()), ("transformers", TransformersLane())):
        context = lane_context(engine, source, tmp_path / engine, sampling={"temperature": 0, "max_tokens": 24})
        run_lane(lane, table, replace(context, logprobs=True))
        found[engine] = answers_by_key(context, table.num_rows)
    pairs = [(found["vllm"][key], row) for key, row in found["transformers"].items()]
    same = [(vllm, row) for vllm, row in pairs if vllm["generated_text"] == row["generated_text"]]
    assert len(same) >= 0.95 * table.num_rows, f"vLLM and transformers agree on {len(same)} of {table.num_rows} rows"
    for vllm, row in same:
        assert vllm["mean_logprob"] == pytest.approx(row["mean_logprob"], abs=0.01)
        assert vllm["min_logprob"] == pytest.approx(row["min_logprob"], abs=0.05)
        assert vllm["min_logprob"] <= vllm["mean_logprob"] <= 0
    tokens = [[found[engine][key]["prompt_tokens"] for key in sorted(found[engine])] for engine in found]
    assert tokens[0] == tokens[1]
