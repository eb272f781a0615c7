"""How to test each router of the registry (`ROWS`), and the made outcomes to fit it on.

A row says which small hyperparameters to test a router with, and where it may differ: transformers predict the same alone
and in a batch to 1e-5 rather than to the bit, win rates are no qualities, and a fine-tuned model refuses data with nothing
to learn instead of predicting the mean.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from routing.data.outcomes import Outcomes
from routing.routers.registry import create

HASHED = {"kind": "hashed", "n_features": 256}
SMALL = {"features": HASHED, "n_components": 16}
ODD = ["", " ", "?", "ÄÖÜ 漢字 😀", "\ud83d", "x" * 3000, "one\ntwo", "\x00"]


def neural_settings(kind: str) -> dict[str, Any]:
    import tiny_neural  # imports torch and transformers

    shared = {"steps": 2, "batch_size": 4, "max_length": 64}
    if kind == "bert":
        return {"source": tiny_neural.encoder_folder(), **shared}
    return {"source": tiny_neural.decoder_folder(), "lora_rank": 0, **shared}


@dataclass(frozen=True)
class Row:
    """How to test one router."""

    settings: Callable[[], dict[str, Any]]
    tolerance: float = 0.0
    """Batched against single; 0: to the bit."""
    constant: Literal["quality", "finite", "refused"] = "quality"
    """What constant outcomes lead to: their quality everywhere; something finite; or a RoutingError."""
    learns: bool = True
    """Whether 300 rows of `make_outcomes` teach it to tell the two kinds of prompt apart."""
    slow: bool = False


ROWS = {
    "random": Row(dict, constant="finite", learns=False),
    "always": Row(dict, constant="finite", learns=False),
    "length": Row(dict),
    "category": Row(lambda: SMALL),
    "knn": Row(lambda: {"k": 10, **SMALL}),
    "linear": Row(lambda: SMALL),
    "mlp": Row(lambda: {"hidden": 16, "n_nets": 1, "epochs": 30, **SMALL}),
    "svm": Row(lambda: SMALL),
    "gp": Row(lambda: SMALL),
    "forest": Row(lambda: {"n_trees": 20, **SMALL}),
    "auto": Row(lambda: {"features": HASHED, "encoder": None, "n_folds": 2}),
    "calibrated": Row(lambda: {"base": "knn", "base_hyperparameters": {"k": 10, **SMALL}, **SMALL}),
    "similarity": Row(lambda: SMALL, constant="finite"),
    "mf": Row(lambda: {"dim": 8, "epochs": 30, **SMALL}, constant="finite"),
    "bert": Row(lambda: neural_settings("bert"), 1e-5, "refused", learns=False, slow=True),
    "causal": Row(lambda: neural_settings("causal"), 1e-5, "refused", learns=False, slow=True),
}


def make_outcomes(n=200, m=2, seed=0, odd=False):
    """Sums (easy for all) and proofs (hard for the early models), with lengths that differ; some entries unknown."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    prompts = [
        f"Prove carefully that theorem {i} of the {'long ' * rng.integers(5, 20)}chapter holds"
        if h
        else f"Add {i} + {i % 7}"
        for i, h in enumerate(hard)
    ]
    if odd:
        prompts[: len(ODD)] = ODD
    chance = np.where(hard[:, None], np.linspace(0.1, 0.9, m), 0.9)
    quality = (rng.random((n, m)) < chance).astype(np.float32)
    quality[rng.random((n, m)) < 0.05] = np.nan
    ids = [str(i) for i in range(n)]
    datasets = ["proofs" if h else "sums" for h in hard]
    return Outcomes(ids, prompts, datasets, tuple(f"model-{j}" for j in range(m)), quality)


def fresh(name, **more):
    return create(name, **{**ROWS[name].settings(), **more})
