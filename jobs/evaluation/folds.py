"""How rows become training and test: one fold per seed, split by prompt; or all rows test, with training data from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jobs.errors import SpecError
from jobs.evaluation.candidates import Candidate
from routing.data.outcomes import Outcomes, split_by_prompt
from routing.data.training_data import TrainingData
from routing.errors import RoutingError
from routing.metrics.trials import N_BOOT


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What the command line asks for. Paths are local or URIs."""

    outcomes: tuple[str, ...]
    routers: tuple[str, ...]
    weak: str | None = None
    strong: str | None = None
    train: tuple[str, ...] = ()
    """Other sets to train on; every row of `outcomes` is test then."""
    train_weak: str | None = None
    train_strong: str | None = None
    """The pair's names in the training sets, where they are others."""
    train_rows: int | None = None
    fraction: float | None = None
    """Of the rows, for training; 0.5 where neither this nor train_rows is given."""
    seeds: int = 5
    seed: int = 0
    """The first seed."""
    drop_contaminated: bool | None = None
    """None: where RouteLLM's list lies beside the table."""
    tiers: str = "0,1:2"
    weights: tuple[float, ...] = ()
    n_boot: int = N_BOOT
    cache: str | None = None
    """Folder that keeps encoders' vectors."""
    allow_code: bool = False

    def __post_init__(self) -> None:
        if not self.outcomes:
            raise SpecError("--outcomes: name at least one set")
        if not self.routers:
            raise SpecError("--router: name at least one router, such as knn")
        if (self.weak is None) != (self.strong is None):
            raise SpecError("--strong and --weak belong together; without both, all models take part")
        if (self.train_weak is None) != (self.train_strong is None):
            raise SpecError("--train-strong and --train-weak belong together")
        if self.train_rows is not None and self.fraction is not None:
            raise SpecError("--train-rows and --fraction: give one of the two")
        if self.fraction is not None and not 0 < self.fraction < 1:
            raise SpecError(f"--fraction: {self.fraction} is not between 0 and 1")


@dataclass(slots=True)
class Fold:
    """One seed's division of the rows."""

    seed: int
    train: TrainingData | None
    """None where nothing is trained (artifacts alone)."""
    test: NDArray[np.intp]
    price: NDArray[np.float64] | None = None


def make_folds(
    table: Outcomes, candidates: Sequence[Candidate], options: EvaluateOptions, data: TrainingData | None
) -> list[Fold]:
    """One fold per seed: the table split by prompt, or all of it as test where training data come from elsewhere.

    Folds that could not differ (nothing is trained, or no router has a random choice) are made once.
    """
    seeds = range(options.seed, options.seed + options.seeds)
    if data is None and all(candidate.artifact is not None for candidate in candidates):
        return [Fold(options.seed, None, np.arange(len(table)), _price(table))]
    folds = []
    if data is not None:
        sampled = options.train_rows is not None and options.train_rows < len(data)
        if not sampled and not any(candidate.varies for candidate in candidates):
            seeds = range(options.seed, options.seed + 1)
        for seed in seeds:
            part = data
            if sampled:
                rows, _ = split_by_prompt(data, train_rows=options.train_rows, seed=seed)
                part = data.select(rows)
            priced = part if isinstance(part, Outcomes) and part.models == table.models else table
            folds.append(
                Fold(seed, part, np.arange(len(table)), _price(priced) if table.cost_usd is not None else None)
            )
        return folds
    fraction = None if options.train_rows is not None else options.fraction or 0.5
    for seed in seeds:
        try:
            train, test = split_by_prompt(table, train_rows=options.train_rows, fraction=fraction, seed=seed)
        except RoutingError as error:
            raise SpecError(f"--train-rows: {error}") from None
        part = table.select(train)
        folds.append(Fold(seed, part, test, _price(part)))
    return folds


def _price(table: Outcomes) -> NDArray[np.float64] | None:
    """(m,) mean dollars a call, None where unknown for a model."""
    if table.cost_usd is None:
        return None
    price: NDArray[np.float64] = np.nanmean(table.cost_usd, axis=0)
    return None if np.isnan(price).any() else price
