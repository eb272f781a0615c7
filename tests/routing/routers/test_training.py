"""Micro-batches, held-out prompts, and the arithmetic of fine-tuning."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.training_cost import build, cost_table, forward_flops, training_cost, training_costs
from routing.errors import RoutingError
from routing.features.encoder import micro_batches
from routing.routers.neural.training import VALIDATION_ROWS, Recipe, TrainingRows, hold_out, seeded, train


@given(st.lists(st.integers(0, 300), max_size=200), st.integers(1, 2000))
def test_every_row_once_within_the_budget(lengths, budget):
    batches = list(micro_batches(lengths, budget))
    assert sorted(np.concatenate(batches).tolist() if batches else []) == list(range(len(lengths)))
    for rows in batches:
        assert len(rows) == 1 or len(rows) * max(lengths[row] for row in rows) <= budget


def test_hardly_any_padding():
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 16_000).clip(2, 512).astype(int).tolist()
    padded = sum(len(rows) * max(lengths[row] for row in rows) for rows in micro_batches(lengths, 16_384))
    assert sum(lengths) / padded > 0.97
    few = lengths[:128]
    padded = sum(len(rows) * max(few[row] for row in rows) for rows in micro_batches(few, 16_384))
    assert sum(few) / padded > 0.75


def test_equal_prompts_stay_on_one_side():
    prompts = [f"prompt {i % 70}" for i in range(300)]
    training, validation = hold_out(prompts, 0.1, 0)
    assert 20 <= len(validation) <= 40 and len(training) + len(validation) == 300
    assert not {prompts[row] for row in training} & {prompts[row] for row in validation}
    np.testing.assert_array_equal(hold_out(prompts, 0.1, 0)[1], validation)
    assert not len(hold_out(prompts[:19], 0.1, 0)[1])
    assert not len(hold_out(prompts, 0, 0)[1])
    many = [str(i) for i in range(20_000)]
    training, validation = hold_out(many, 0.5, 0)
    assert len(validation) == VALIDATION_ROWS and len(training) == 20_000 - VALIDATION_ROWS


def test_micro_batches_do_not_change_the_gradients():
    """A linear fit: the same weights whether a batch goes through at once or row by row."""
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
    y = x @ torch.tensor([1.0, -2.0, 0.5])
    lengths = [1 + i % 5 for i in range(40)]
    found = []
    for budget in (10_000, 1):
        with seeded(0):
            model = torch.nn.Linear(3, 1)
            start = model.weight.detach().clone()
            recipe = Recipe(20, 8, 0.2, 0.0, budget, seed=1)
            losses = lambda rows, model=model: (model(x[rows])[:, 0] - y[rows]) ** 2  # noqa: E731
            train(model, TrainingRows(losses, lengths, np.arange(40), np.arange(0)), recipe)
        found.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(found[0], found[1], atol=1e-4, rtol=0)
    target = torch.tensor([1.0, -2.0, 0.5])
    assert (found[0][:3] - target).norm() < 0.5 * (start[0] - target).norm()


def test_arithmetic_of_known_models():
    assert forward_flops("BERT-base", 64) == pytest.approx(172e6, rel=0.01)
    assert forward_flops("BERT-base", 512) == pytest.approx(189e6, rel=0.01)
    bert, xlmr, lora, full = training_costs()
    assert bert.parameters == 109_482_240  # the published checkpoints' own counts
    assert xlmr.parameters == 278_043_648
    assert full.parameters == full.trained == 8_030_261_248
    assert lora.trained == 41_943_040
    assert bert.bytes == 16 * bert.parameters  # float32 weights, gradients and two moments
    assert lora.bytes == 2 * lora.parameters + 16 * lora.trained
    assert bert.flops == pytest.approx(6 * 85e6 * 2000 * 16 * 512, rel=0.15)
    assert full.hours["H100"] is None and lora.hours["A10G"] == pytest.approx(14 * lora.hours["H100"], rel=0.02)
    assert cost_table().count("does not fit") == 2 and cost_table().count("\n") == 5
    with pytest.raises(RoutingError, match="known are MiniLM-L6"):
        build("GPT-2")
    with pytest.raises(RoutingError, match="full and LoRA"):
        training_cost("BERT-base", "prefix")


@pytest.mark.slow
def test_the_scorer_benchmark_runs():
    command = [sys.executable, "-m", "benchmarks.scorer", "--shape", "MiniLM-L6", "--rows", "8", "--tokens", "16"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True)
    assert '"share_of_peak"' in done.stdout
