"""Fine-tuning a transformer router: micro-batches of a token budget, one loop for every architecture.

AdamW, linear warm-up and decay, gradients clipped at 1; bf16 autocast on a GPU, float32 elsewhere. Every step takes
`batch_size` random rows, sorts them by length and works through them in micro-batches of `tokens_per_batch` padded
tokens, so memory depends on the budget and not on the batch. Cost of a full fine-tune: 6 FLOPs per parameter and
token (`benchmarks.training_cost` has the table). torch is imported in the functions: a job whose router needs none
should not wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.features.encoder import micro_batches

WARMUP_SHARE = 0.05
"""Of the steps; without it Adam's first steps, made on a handful of gradients, undo some of the pretraining."""
MAX_GRADIENT_NORM = 1.0
REPORTS = 10
"""How often `on_progress` is called, validation included, the last step among them."""
VALIDATION_ROWS = 256
"""At most so many rows are held out: ten passes over them cost 3 % of 2,000 steps of 16 rows."""
FEWEST_PROMPTS = 20
"""Below so many different prompts nothing is held out."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a model is fine-tuned."""

    steps: int
    batch_size: int
    """Rows a step."""
    learning_rate: float
    """At its highest, after the warm-up."""
    weight_decay: float
    """On matrices; biases and norms have none."""
    tokens_per_batch: int
    """Padded tokens of one forward and backward pass."""
    seed: int


@dataclass(frozen=True, slots=True)
class FitProgress:
    """How far a fine-tuning has come."""

    step: int
    """1 to `steps`."""
    steps: int
    loss: float
    """Mean over the steps since the last report."""
    validation_loss: float | None
    """None without held-out rows."""
    learning_rate: float
    """Of this step."""


Progress: TypeAlias = Callable[[FitProgress], None]


@dataclass(frozen=True, slots=True)
class TrainingRows:
    """What a model is fine-tuned on, N rows."""

    row_losses: Callable[[NDArray[np.intp]], Any]
    """Row numbers (b,) → one differentiable loss per row, a tensor (b,)."""
    lengths: Sequence[int]
    """N, tokens of every row."""
    training: NDArray[np.intp]
    """Row numbers that are learnt from."""
    validation: NDArray[np.intp]
    """Row numbers held out; may be none."""

    def parts(self, rows: NDArray[np.intp], budget: int) -> Iterator[NDArray[np.intp]]:
        """`rows` in micro-batches of at most `budget` padded tokens."""
        return (rows[part] for part in micro_batches([self.lengths[row] for row in rows], budget))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """torch's random numbers from `seed` inside, and as if nothing had happened outside."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def hold_out(prompts: Sequence[str], share: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers (training, validation), each ascending; equal prompts are on one side.

    Validation has about `share` of the rows and at most `VALIDATION_ROWS`; it is empty for a share of 0 or fewer than
    `FEWEST_PROMPTS` different prompts.
    """
    from sklearn.model_selection import GroupShuffleSplit

    rows = np.arange(len(prompts))
    if not share or len(set(prompts)) < FEWEST_PROMPTS:
        return rows, rows[:0]
    share = min(share, VALIDATION_ROWS / len(prompts))
    _, groups = np.unique(np.array(prompts, dtype=object), return_inverse=True)
    split = GroupShuffleSplit(1, test_size=max(share, 1 / (groups.max() + 1)), random_state=seed)
    training, validation = next(split.split(rows, groups=groups))
    return np.sort(training), np.sort(validation)[:VALIDATION_ROWS]


def train(model: Any, data: TrainingRows, recipe: Recipe, on_progress: Progress | None = None) -> None:
    """Fine-tune the parameters of `model` that require gradients; leaves it in evaluation mode.

    Random numbers of dropout are torch's (see `seeded`); batches are drawn from `recipe.seed`. Raises RoutingError where
    the loss is not finite or the GPU's memory is too small.

    model: a torch module on its device.
    data: the rows, and the losses of `model` on them.
    recipe: see `Recipe`.
    on_progress: called `REPORTS` times, after the last step too.
    """
    import torch
    from transformers import get_linear_schedule_with_warmup

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": recipe.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=recipe.learning_rate,
        fused=True,
    )
    warmup = round(WARMUP_SHARE * recipe.steps)
    schedule = get_linear_schedule_with_warmup(optimizer, warmup, recipe.steps)  # type: ignore[no-untyped-call]
    report_at = {round(recipe.steps * (i + 1) / REPORTS) for i in range(REPORTS)}
    losses: list[float] = []
    model.train()
    for step, rows in enumerate(_batches(data.training, recipe), start=1):
        total = _backward(data, rows, recipe.tokens_per_batch)
        if not math.isfinite(total):
            raise RoutingError(f"training: the loss is {total} at step {step}; lower learning_rate")
        torch.nn.utils.clip_grad_norm_(trained, MAX_GRADIENT_NORM)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
        if on_progress is not None and step in report_at:
            held_out = _validation_loss(model, data, recipe.tokens_per_batch)
            on_progress(FitProgress(step, recipe.steps, float(np.mean(losses)), held_out, rate))
            losses = []
    model.eval()


def _backward(data: TrainingRows, rows: NDArray[np.intp], budget: int) -> float:
    """Add the gradients of the mean loss of `rows`, micro-batch by micro-batch; that loss."""
    import torch

    total = 0.0
    try:
        for part in data.parts(rows, budget):
            loss = data.row_losses(part).sum() / len(rows)
            loss.backward()
            total += loss.item()
    except torch.OutOfMemoryError as error:
        raise RoutingError(
            f"training: no memory for {budget} tokens at once; lower tokens_per_batch or max_length"
        ) from error
    return total


def _batches(rows: NDArray[np.intp], recipe: Recipe) -> Iterator[NDArray[np.intp]]:
    """`steps` batches of `batch_size` rows (or all there are): a fresh order every epoch, its last short batch dropped."""
    rng = np.random.default_rng(recipe.seed)
    size = min(recipe.batch_size, len(rows))
    left = recipe.steps
    while left > 0:
        order = rng.permutation(rows)
        starts = range(0, len(order) - size + 1, size)[:left]
        yield from (order[start : start + size] for start in starts)
        left -= len(starts)


def _validation_loss(model: Any, data: TrainingRows, budget: int) -> float | None:
    """Mean loss of the held-out rows without dropout, or None without such rows."""
    import torch

    if not len(data.validation):
        return None
    model.eval()
    with torch.no_grad():
        total = sum(data.row_losses(part).sum().item() for part in data.parts(data.validation, budget))
    model.train()
    return float(total / len(data.validation))
