"""Record what both demo models answer, and train the demo's router on it: `python -m jobs.demo.record [--router NAME]`.

Prompts are of the `outcomes` split: neither the models' training nor the demo has them. Both models answer all of
them at temperature 0 through transformers, answers are checked against the key, and three quarters of the rows train
the router; the others give the figures in its card. Cost: about a minute on two cores. `--fit-only` reads the
recorded table.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from jobs.demo.greedy import greedy_answers, render
from jobs.demo.tasks import CATEGORIES, generate
from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes, split_by_prompt, write_outcomes
from routing.metrics.pair import apgr, bootstrap
from routing.routers.registry import create

HERE = Path(__file__).parent
MODELS = ("weak", "strong")
SEED = 11


def record(models_dir: Path, n: int, seed: int = SEED) -> Outcomes:
    """Answers of both models to `n` prompts of the `outcomes` split; quality 1 where an answer equals the key."""
    tasks = generate(n, seed, "outcomes")
    prompts = [task.prompt for task in tasks]
    responses = np.empty((n, len(MODELS)), object)
    n_prompt, n_completion = np.empty((n, len(MODELS))), np.empty((n, len(MODELS)))
    for j, name in enumerate(MODELS):
        tokenizer = PreTrainedTokenizerFast.from_pretrained(models_dir / name)
        model: Any = LlamaForCausalLM.from_pretrained(models_dir / name, dtype=torch.float32)
        model.eval()
        responses[:, j] = greedy_answers(model, tokenizer, prompts)
        n_prompt[:, j] = [len(tokenizer(render(tokenizer, p), add_special_tokens=False)["input_ids"]) for p in prompts]
        # The end token is generated, and billed, too.
        n_completion[:, j] = [
            len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1 for text in responses[:, j]
        ]
    key = np.array([task.answer for task in tasks], object)
    return Outcomes(
        ids=[task.id for task in tasks],
        prompts=prompts,
        datasets=[task.category for task in tasks],
        models=MODELS,
        quality=(responses == key[:, None]).astype(np.float32),
        responses=responses,
        prompt_tokens=n_prompt,
        completion_tokens=n_completion,
    )


def fit_router(outcomes: Outcomes, router_name: str, folder: Path) -> dict[str, float]:
    """Train a router on 75 % of the prompts, measure it on the rest, save it to `folder`; returns the figures."""
    train, test = split_by_prompt(outcomes, fraction=0.75, seed=SEED)
    router = create(router_name).fit(outcomes.select(train))
    held_out = outcomes.select(test)
    predicted = router.predict(held_out.prompts)
    weak, strong = (held_out.quality[:, held_out.models.index(name)] for name in MODELS)
    score = predicted[:, router.models_.index("strong")] - predicted[:, router.models_.index("weak")]
    interval = bootstrap(lambda weights: apgr(score, weak, strong, weights), len(test))
    metrics = {
        "n_train": len(train),
        "n_test": len(test),
        "quality_weak": round(float(weak.mean()), 4),
        "quality_strong": round(float(strong.mean()), 4),
        "apgr": round(interval.mean, 4),
        "apgr_low": round(interval.low, 4),
        "apgr_high": round(interval.high, 4),
    }
    router.save(folder, metrics)
    return metrics


def main() -> None:
    """Record, print the accuracies, fit, print the router's figures."""
    parser = argparse.ArgumentParser(
        description="Record both demo models' answers and train the demo's router on them."
    )
    parser.add_argument("--models", type=Path, default=HERE / "models", help="folder with weak/ and strong/")
    parser.add_argument("--outcomes", type=Path, default=HERE / "outcomes.parquet", help="the recorded table")
    parser.add_argument("--out", type=Path, default=HERE / "router", help="folder of the router artifact")
    parser.add_argument("--router", default="linear", help="name of a router in routing.routers")
    parser.add_argument("--rows", type=int, default=9000, help="prompts to answer")
    parser.add_argument("--fit-only", action="store_true", help="read the recorded table, answer nothing")
    args = parser.parse_args()
    if not args.fit_only:
        write_outcomes(record(args.models, args.rows), args.outcomes)
    outcomes = read_outcomes(args.outcomes)
    datasets = np.array(outcomes.datasets)
    print(f"{'category':14s}{'rows':>6s}{'weak':>8s}{'strong':>8s}")
    for category in (*CATEGORIES, "all"):
        rows = datasets == category if category != "all" else np.full(len(outcomes), True)
        weak, strong = outcomes.with_models(MODELS).quality[rows].mean(axis=0)
        print(f"{category:14s}{rows.sum():6d}{weak:8.3f}{strong:8.3f}")
    for name, value in fit_router(outcomes, args.router, args.out).items():
        print(f"{name:16s}{value}")


if __name__ == "__main__":
    main()
