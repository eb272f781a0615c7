"""Log-probabilities of answers as local engines tell them: the model's own, of the tokens that were drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from jobs.lanes.local.transformers import _Model
from jobs.lanes.local.vllm import token_logprobs
from tests.tiny_models import ask_rows, lane_context, tiny_checkpoint

PROMPTS = ["What is 3?", "a", "Hello, hello", "x" * 60]


def by_forward_pass(model: _Model, table: pa.Table) -> list[list[float]]:
    """Of each answer's tokens, greedy, one prompt at a time, without generate."""
    found = []
    for request in model.reader.read(table.to_pylist()):
        ids, logprobs = list(request.token_ids), []
        for _ in range(request.decoding.max_tokens):
            with torch.inference_mode():
                scores = model.model(torch.tensor([ids])).logits[0, -1].float().log_softmax(0)
            ids.append(int(scores.argmax()))
            logprobs.append(float(scores.max()))
            if ids[-1] in model.ends:
                break
        found.append(logprobs)
    return found


def test_transformers_tells_the_models_own_log_probabilities(tmp_path: Path) -> None:
    context = lane_context("transformers", tiny_checkpoint(tmp_path / "model"), tmp_path)
    table = ask_rows(PROMPTS)
    silent, model = _Model(context), _Model(replace(context, logprobs=True))
    without, told = silent(table).to_pylist(), model(table).to_pylist()
    assert [row["text"] for row in told] == [row["text"] for row in without]
    assert all(row["mean_logprob"] is None for row in without)
    for row, logprobs in zip(told, by_forward_pass(model, table), strict=True):
        assert row["n_completion"] == len(logprobs)
        assert row["mean_logprob"] == pytest.approx(np.mean(logprobs), abs=1e-3)
        assert row["min_logprob"] == pytest.approx(np.min(logprobs), abs=1e-3)


def test_token_logprobs_takes_what_ray_data_makes_of_a_mapping() -> None:
    entry = {"logprob": -0.5, "rank": 1, "decoded_token": "a"}
    for told in ([{5: entry}, {6: entry}], [{"5": entry}, {"6": entry}], [[(5, entry)], [(6, entry), (7, entry)]]):
        assert token_logprobs([5, 6], told) == [-0.5, -0.5]
    assert token_logprobs([5, 6], None) == [] and token_logprobs([5, 6], [{5: entry}]) == []
    assert token_logprobs([5], [{"5": None, "6": entry}]) == [] and token_logprobs([], []) == []
