"""What a call will cost before it is made: prices, prompt tokens, output tokens, and where each number comes from.

Order of trust, for every model on its own: measured in this run (the journal), the model's own tokenizer, the router's training
data, an assumption. The bill names the source, and assumptions are marked as such.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.journal.rows import empty_answers
from jobs.lanes.chat import prompt_tokens_bound
from jobs.money.excess import read_excess
from jobs.route.plan.prices import Rates, model_rates
from jobs.spec.job import JobSpec
from jobs.storage.store import Store
from routing.pricing import Price

MEASURED_ROWS = 30
"""Fewer answers than this say too little about a mean."""
SAMPLE_ROWS = 256
ASSUMED_BYTES_PER_TOKEN = 4.0
ASSUMED_COMPLETION_TOKENS = 256
ASSUMED_GPU_TOKENS_PER_S = 1500.0
"""Output tokens a second of one GPU, an 8B model in bf16 under load."""
HOUR_S = 3600.0
JUDGE_PROMPT_TOKENS = 220
"""Of a request to the judge beside question and answers: its rules, the marks around each part, the schema."""
JUDGE_COMPLETION_TOKENS = 60
"""A sentence or two and the verdict."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """Expected size and price of one model's calls."""

    price: Price
    price_source: str
    tokens_per_byte: float
    """Prompt tokens per byte of the bound (content bytes + 8 a message)."""
    completion_tokens: float
    completion_spread: float
    """Relative half-width of the range in the bill."""
    max_tokens: int
    """Of an answer at most: the job's limit, or what this run's answers have shown beyond it."""
    sources: tuple[str, ...]
    """One line per number, for the bill."""
    latency_s: float = 1.0
    measured: bool = False
    """The sizes are those of this run's own answers."""
    bound_price: Price | None = None
    """Most that a call may cost, where that is more than `price`: flex that is served in the standard tier."""
    rates: Mapping[str, Price] = field(default_factory=dict)
    """`standard`, `flex`, `batch` → what calls made that way would cost, where known."""

    def cost_usd(self, prompt_bytes: NDArray[Any], completion_tokens: float | None = None) -> NDArray[np.float64]:
        """Expected dollars per call, shape of `prompt_bytes`."""
        output = self.completion_tokens if completion_tokens is None else completion_tokens
        if self.price.gpu_hour_usd is not None:
            return np.full(prompt_bytes.shape, output / ASSUMED_GPU_TOKENS_PER_S / HOUR_S * self.price.gpu_hour_usd)
        prompt = prompt_bytes * self.tokens_per_byte * self.price.input_usd_per_million
        return np.asarray((prompt + output * self.price.output_usd_per_million) / 1e6, np.float64)

    def bound_usd(self, prompt_bytes: NDArray[Any]) -> NDArray[np.float64]:
        """Worst case per call: every byte a token, the whole of max_tokens used."""
        if self.price.gpu_hour_usd is not None:
            return np.zeros(prompt_bytes.shape)
        price = self.bound_price or self.price
        total = prompt_bytes * price.input_usd_per_million + self.max_tokens * price.output_usd_per_million
        return np.asarray(total / 1e6, np.float64)

    def usd_by_rate(self, prompt_bytes: NDArray[Any]) -> dict[str, float]:
        """Expected dollars of all these calls, by how they are made."""
        return {
            rate: float(replace(self, price=price).cost_usd(prompt_bytes).sum()) for rate, price in self.rates.items()
        }


def resolve_prices(spec: JobSpec) -> dict[str, Rates]:
    """Prices per model of the ladder. Raises SpecError for a metered model whose price nobody knows."""
    return {name: model_rates(spec, name) for name in spec.names}


def judge_usd(spec: JobSpec, estimates: Mapping[str, Estimate], prompt_bytes: NDArray[Any]) -> NDArray[np.float64]:
    """Expected dollars of having every model's answer to a row judged, shape of `prompt_bytes`; 0 without a judge, or by the hour.

    Counts every row: which of them a gold answer spares the judge shows when they are answered.
    """
    judge = spec.quality.judge
    price = None if judge is None else model_rates(spec, judge.model).used
    if judge is None or price is None or price.gpu_hour_usd is not None:
        return np.zeros(prompt_bytes.shape)
    question = prompt_bytes / ASSUMED_BYTES_PER_TOKEN + JUDGE_PROMPT_TOKENS
    said = [estimates[name].completion_tokens for name in spec.names]
    calls = (
        [2 * [output + said[-1]] for output in said[:-1]] if judge.mode == "pairwise" else [[output] for output in said]
    )
    total = np.zeros(prompt_bytes.shape)
    for answers in (tokens for pair in calls for tokens in pair):
        total += (question + answers) * price.input_usd_per_million
        total += JUDGE_COMPLETION_TOKENS * price.output_usd_per_million
    return total / 1e6


def estimate_all(
    spec: JobSpec,
    store: Store,
    parts: list[str],
    router_card: dict[str, Any],
    router_columns: list[int],
    count_tokens: Callable[[str], Callable[[list[list[dict[str, Any]]]], list[int]] | None],
    measured_bytes: Callable[[NDArray[np.int64]], NDArray[np.int64]],
) -> dict[str, Estimate]:
    """One Estimate per model.

    `count_tokens(alias)` gives an exact counter or None; `measured_bytes(row_keys)` the prompt bytes of those rows.
    """
    sample = _sample_messages(store, parts[0]) if parts else []
    known = router_card.get("completion_tokens") or {}
    estimates = {}
    for column, (name, rates) in zip(router_columns, resolve_prices(spec).items(), strict=True):
        ratio, completion, spread, sources, latency = 1 / ASSUMED_BYTES_PER_TOKEN, 0.0, 0.0, [], 1.0
        measured = _measured(store, name, measured_bytes)
        counter = count_tokens(name) if measured is None else None
        if measured:
            ratio, completion, spread, rows, latency = measured
            sources += [f"{name}: prompt and output tokens measured on {rows:,} answers of this run"]
        elif counter and sample:
            n_bytes = sum(prompt_tokens_bound(messages) for messages in sample)
            ratio = sum(counter(sample)) / max(1, n_bytes)
            sources.append(f"{name}: prompt tokens counted by its tokenizer on {len(sample)} rows")
        else:
            sources.append(f"{name}: prompt tokens assumed, one per {ASSUMED_BYTES_PER_TOKEN:g} bytes")
        max_tokens = read_excess(store, name).completion_bound(spec.max_tokens_of(name))
        models = router_card.get("models") or []
        trained = known.get(models[column]) if 0 <= column < len(models) else None
        if not measured and trained:
            completion, spread = min(float(trained), max_tokens), 0.15
            sources.append(f"{name}: output tokens as in the router's training data, {completion:.0f} a row")
        elif not measured:
            completion, spread = min(ASSUMED_COMPLETION_TOKENS, max_tokens), 0.5
            sources.append(f"{name}: output tokens assumed, {completion:.0f} a row")
        sources += [rates.assumed] if rates.assumed else []
        estimates[name] = Estimate(
            price=rates.used, price_source=rates.source, tokens_per_byte=ratio, completion_tokens=completion,
            completion_spread=spread, max_tokens=max_tokens, sources=tuple(sources), latency_s=latency,
            measured=measured is not None, bound_price=rates.full, rates=rates.known(),
        )  # fmt: skip
    return estimates


def _sample_messages(store: Store, part: str) -> list[list[dict[str, Any]]]:
    """Some rows' messages, evenly over the first part."""
    column = store.read_table(part, columns=["messages"])["messages"]
    step = max(1, len(column) // SAMPLE_ROWS)
    texts = column.take(list(range(0, len(column), step)))
    return [json.loads(text) for text in texts.to_pylist() if text]


def _measured(
    store: Store, name: str, measured_bytes: Callable[[NDArray[np.int64]], NDArray[np.int64]]
) -> tuple[float, float, float, int, float] | None:
    """(prompt tokens per byte, mean output tokens, relative half-width, answers, seconds a call) of this run's answers."""
    table = Journal(store).read(name, None, ["row_key", "kind", "prompt_tokens", "completion_tokens", "latency_s"])
    keep = (pc.equal(table["kind"], "answered").to_numpy() | empty_answers(table).to_numpy()).astype(bool)
    if keep.sum() < MEASURED_ROWS:
        return None
    prompt = np.nan_to_num(table["prompt_tokens"].to_numpy(zero_copy_only=False).astype(float)[keep])
    output = np.nan_to_num(table["completion_tokens"].to_numpy(zero_copy_only=False).astype(float)[keep])
    n_bytes = measured_bytes(table["row_key"].to_numpy()[keep])
    mean = float(output.mean())
    spread = 1.96 * float(output.std(ddof=1)) / max(1e-9, mean) / np.sqrt(len(output))
    latency = float(np.median(table["latency_s"].to_numpy(zero_copy_only=False)[keep]))
    return float(prompt.sum() / max(1, n_bytes.sum())), mean, float(spread), int(keep.sum()), latency
