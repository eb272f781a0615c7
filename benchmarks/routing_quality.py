"""How well `auto` routes on recorded outcomes: mean and spread over seeds per work item, beside its floor and target.

    python -m benchmarks.routing_quality --data ../shared/data [--seeds 5] [--only mmlu-500 …] [--no-encoder] [--cache DIR]

Splits, training rows and metrics are those of `headgate evaluate`; nothing here looks at a test row before the router is
fitted. `--cache` keeps the encoder's vectors between runs (42,000 prompts: 10 minutes on two idle cores).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes, concat, split_by_prompt
from routing.features.cache import feature_cache
from routing.metrics.pair import apgr
from routing.metrics.plane import aiq, ndch
from routing.metrics.sweep import Sweep
from routing.routers.registry import create

PRO_PAIR = ("meta-llama/Meta-Llama-3.1-8B-Instruct", "gpt-4o-2024-05-13")


@dataclass(frozen=True, slots=True)
class Item:
    """A row of the table: data, training rows (or share of the prompts), floor and target."""

    read: Callable[[Path], Outcomes]
    train: int | float
    floor: float
    target: float


def read_mmlu(data: Path) -> Outcomes:
    return read_outcomes(data / "routellm" / "mmlu", drop_contaminated=True)


def read_gsm8k(data: Path) -> Outcomes:
    return read_outcomes(data / "routellm" / "gsm8k", drop_contaminated=True)


def read_mmlu_pro(data: Path) -> Outcomes:
    return read_outcomes(data / "mmlu_pro" / "outcomes.parquet").with_models(PRO_PAIR)


def read_routerbench(data: Path) -> Outcomes:
    """ARC-challenge, MBPP and WinoGrande, the rows that every model answered."""
    files = sorted((data / "routerbench").glob("*_t*.csv"))
    outcomes = concat([read_outcomes(file) for file in files])
    return outcomes.select(outcomes.known())


ITEMS = {
    "mmlu-500": Item(read_mmlu, 500, 0.620, 0.65),
    "mmlu-half": Item(read_mmlu, 0.5, 0.689, 0.72),
    "gsm8k-400": Item(read_gsm8k, 400, 0.615, 0.65),
    "mmlu-pro-1000": Item(read_mmlu_pro, 1000, 0.533, 0.57),
    "routerbench": Item(read_routerbench, 0.7, 0.833, 0.845),
}


def measure(name: str, outcomes: Outcomes, train: int | float, seed: int, encoder: bool) -> tuple[float, str]:
    """APGR of a pair or AIQ of many models on the test rows of one seed, and what was chosen."""
    whole = isinstance(train, int)
    rows, rest = split_by_prompt(
        outcomes, train_rows=int(train) if whole else None, fraction=None if whole else train, seed=seed
    )
    # `auto` alone knows about encoders; the other routers are measured as they come.
    router = create(name, **({} if encoder or name != "auto" else {"encoder": None})).fit(outcomes.select(rows))
    predicted = router.predict([outcomes.prompts[i] for i in rest]).astype(np.float64)
    choice = getattr(router, "choice_", name)
    quality = outcomes.quality[rest].astype(np.float64)
    if len(outcomes.models) == 2:
        return float(apgr(predicted[:, 1] - predicted[:, 0], quality[:, 0], quality[:, 1])), choice
    assert outcomes.cost_usd is not None
    cost, price = outcomes.cost_usd[rest], outcomes.cost_usd[rows].mean(axis=0)
    points = Sweep(predicted, quality, cost, price).points()
    single = cost.mean(axis=0)
    return float(aiq(ndch(*points), single.min(), single.max())), choice


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=list(ITEMS), default=list(ITEMS))
    parser.add_argument("--routers", nargs="*", default=["auto"])
    parser.add_argument("--no-encoder", action="store_true")
    parser.add_argument("--cache", type=Path, help="folder for the encoder's vectors")
    options = parser.parse_args()
    print(
        f"{'work':16s} {'router':10s} {'mean':>6s} {'spread':>6s} {'floor':>6s} {'target':>6s} {'s/seed':>6s}  chosen"
    )
    with feature_cache(options.cache):
        for name in options.only:
            item = ITEMS[name]
            outcomes = item.read(options.data)
            for router in options.routers:
                start = time.perf_counter()
                found = [
                    measure(router, outcomes, item.train, seed, not options.no_encoder) for seed in range(options.seeds)
                ]
                seconds = (time.perf_counter() - start) / options.seeds
                values = np.array([value for value, _ in found])
                chosen = "; ".join(dict.fromkeys(choice for _, choice in found))
                print(
                    f"{name:16s} {router:10s} {values.mean():6.3f} {values.std():6.3f} {item.floor:6.3f}"
                    f" {item.target:6.3f} {seconds:6.1f}  {chosen}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
