"""How fast the two pairwise routers score MMLU, beside RouteLLM's way of doing it.

    python -m benchmarks.pairwise_routers [--data ../shared/data] [--training mmlu_pro|arena] [--refits 5] [--epochs 1]

Both routers are fitted on battles (golden labels of MMLU-Pro: 120,120 between 5 models; or 1,135 arena votes between
29) and predict all RouteLLM MMLU prompts. RouteLLM's way is measured in the same run, on a few of the same prompts and
the same text vectors: similarity-weighted ranking by a scikit-learn logistic regression over all battles for every
query, matrix factorization by one forward pass of the factors per prompt. Text vectors are made once for both sides and
timed apart; ratios are of what comes after them. One JSON object on standard output.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from routing.data.outcome_readers import read_outcomes
from routing.data.preference_readers import read_preferences
from routing.data.preferences import Preferences
from routing.data.tiers import make_tiers, ratings
from routing.data.training_data import as_preferences
from routing.features.base import Features
from routing.routers.text.factorization import FactorizationRouter
from routing.routers.text.similarity import SimilarityRouter


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--training", choices=("mmlu_pro", "arena"), default="mmlu_pro")
    parser.add_argument("--refits", type=int, default=5, help="queries RouteLLM's ranking is refitted for")
    parser.add_argument("--epochs", type=int, default=1, help="of matrix factorization; what it predicts is not judged")
    options = parser.parse_args()
    prompts = list(read_outcomes(options.data / "routellm" / "mmlu", drop_contaminated=True).prompts)
    if options.training == "arena":
        battles = read_preferences(options.data / "arena" / "human_votes.jsonl")
    else:
        battles = as_preferences(read_outcomes(options.data / "mmlu_pro" / "outcomes.parquet"))
    report = {
        "prompts": len(prompts),
        "battles": len(battles),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
        "similarity": similarity(battles, prompts, options.refits),
        "mf": factorization(battles, prompts, options.epochs),
    }
    print(json.dumps(report, indent=1))


def similarity(battles: Preferences, prompts: list[str], refits: int) -> dict[str, Any]:
    """Ours over all prompts; RouteLLM's over `refits` of them; how far their win rates lie apart."""
    strength = ratings(battles)
    pair = (min(strength, key=strength.__getitem__), max(strength, key=strength.__getitem__))
    started = time.perf_counter()
    router = SimilarityRouter(models=pair).fit(battles)
    fit_s = time.perf_counter() - started
    vectors_s, ours_s, rates = predict(router, prompts)

    tiers = make_tiers(strength)
    sides = [np.array([tiers.tier_of(name) for name in names]) for names in (battles.model_a, battles.model_b)]
    position = {prompt: row for row, prompt in enumerate(dict.fromkeys(battles.prompts))}
    # RouteLLM keeps an embedding per battle.
    embeddings = router.vectors_.astype(np.float32)[[position[prompt] for prompt in battles.prompts]]
    chosen = np.linspace(0, len(prompts) - 1, refits).astype(int)
    queries = router._space.transform([prompts[row] for row in chosen])
    weak, strong = (tiers.tier_of(name) for name in pair)
    started = time.perf_counter()
    theirs = [_refitted(embeddings, query, sides, battles.winner, len(tiers.groups)) for query in queries]
    theirs_s = (time.perf_counter() - started) / refits
    expected = [1 / (1 + 10 ** (elo[weak] - elo[strong])) for elo in theirs]
    return {
        "fit_s": round(fit_s, 2),
        "text_vectors_s": round(vectors_s, 2),
        "ranking_s": round(ours_s, 2),
        "prompts_per_s": round(len(prompts) / (vectors_s + ours_s)),
        "ranked_per_s": round(len(prompts) / ours_s),
        "refitting_s_per_query": round(theirs_s, 3),
        "ratio": round(theirs_s / (ours_s / len(prompts))),
        "largest_difference_of_win_rate": float(np.abs(np.array(expected) - rates[chosen, 1]).max()),
    }


def _refitted(
    embeddings: NDArray[np.float32],
    query: NDArray[np.float32],
    sides: list[NDArray[np.intp]],
    winner: NDArray[np.float64],
    n_tiers: int,
) -> NDArray[np.float64]:
    """Tier coefficients on the base-10 scale (Elo / 400) as `routellm/routers/similarity_weighted/utils.py` gets them."""
    cosine = embeddings @ query / (np.linalg.norm(embeddings, axis=1) * np.linalg.norm(query))
    weights = 10 * 10 ** (cosine / cosine.max())
    rows = np.arange(len(winner))
    design = np.zeros((len(winner), n_tiers))
    design[rows, sides[0]] += math.log(10)
    design[rows, sides[1]] -= math.log(10)
    won = np.concatenate([winner > 0, winner == 1])
    # Its `penalty=None`, spelt as newer versions of scikit-learn want it; solver and tolerance are the defaults it uses.
    fit = LogisticRegression(fit_intercept=False, C=np.inf)
    fit.fit(np.concatenate([design, design]), won, sample_weight=np.tile(weights, 2))
    coefficients: NDArray[np.float64] = fit.coef_[0]
    return coefficients


def factorization(battles: Preferences, prompts: list[str], epochs: int) -> dict[str, Any]:
    """Ours over all prompts; the uncollapsed factors, one prompt at a time, over 500 of them."""
    import torch

    started = time.perf_counter()
    router = FactorizationRouter(epochs=epochs).fit(battles)
    fit_s = time.perf_counter() - started
    vectors_s, ours_s, _ = predict(router, prompts)
    width = router.n_components + router._space.features.structure([""]).shape[1]
    models, project = torch.nn.Embedding(64, 128), torch.nn.Linear(width, 128, bias=False)
    classify, q = torch.nn.Linear(128, 1, bias=False), torch.randn(width)
    started = time.perf_counter()
    with torch.no_grad():
        for _ in range(500):
            v = torch.nn.functional.normalize(models(torch.tensor([24, 36])), dim=1)
            logits = classify(v * project(q)).squeeze()
            torch.sigmoid(logits[0] - logits[1]).item()
    theirs_s = (time.perf_counter() - started) / 500
    return {
        "fit_s": round(fit_s, 2),
        "epochs": epochs,
        "text_vectors_s": round(vectors_s, 2),
        "scoring_s": round(ours_s, 3),
        "prompts_per_s": round(len(prompts) / (vectors_s + ours_s)),
        "forward_s_per_prompt": theirs_s,
        "ratio": round(theirs_s / (ours_s / len(prompts)), 1),
    }


def predict(
    router: SimilarityRouter | FactorizationRouter, prompts: list[str]
) -> tuple[float, float, NDArray[np.float32]]:
    """Seconds for the text vectors, seconds for the rest of `predict`, and what it gives.

    The features answer before the clock of `predict` starts, so that the rest is timed by itself.
    """
    features = router._space.features
    started = time.perf_counter()
    kept = Kept(features, prompts)
    vectors_s = time.perf_counter() - started
    router._space.features = kept
    started = time.perf_counter()
    rates = router.predict(prompts)
    rest_s = time.perf_counter() - started
    router._space.features = features
    return vectors_s, rest_s, rates


class Kept(Features):
    """Features that have answered once, for one list of prompts, and give the same answer again."""

    kind = "kept"

    def __init__(self, features: Features, prompts: list[str]) -> None:
        self.sparse = features.sparse  # type: ignore[misc]
        self._answer, self._counts, self._spec = (
            features.transform(prompts),
            features.structure(prompts),
            features.spec(),
        )

    def transform(self, prompts: Sequence[str]) -> Any:
        return self._answer

    def structure(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        return self._counts

    def spec(self) -> dict[str, Any]:
        return self._spec


if __name__ == "__main__":
    main()
