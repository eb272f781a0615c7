"""What the sections of docs/results.md are made of: sets, training data, and rows that need the models' answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks.results.tables import markdown
from jobs.evaluation.folds import Fold
from jobs.evaluation.sources import OutcomeSet, find_model, known_rows, read_outcome_set
from routing.answers.response_judge import ResponseJudge
from routing.data.outcomes import Outcomes, concat
from routing.data.training_data import TrainingData
from routing.metrics.cascades import ERROR_RATES, cascade, cascade_orders, simulated_judge, sweep
from routing.metrics.pair import Interval
from routing.metrics.plane import aiq, aiq_published, by_cost, row_mean, single_models
from routing.metrics.trials import FIGURES, Floats, Intervals, Statistic, Trial, measure_trials, two_way_bootstrap
from routing.routers.registry import create

STRONG, WEAK = "gpt-4-1106-preview", "mistralai/Mixtral-8x7B-Instruct-v0.1"
Reference = tuple[str, float]


@dataclass(frozen=True, slots=True)
class Section:
    """One table."""

    key: str
    title: str
    text: str
    load: Callable[[Path], OutcomeSet]
    """Raises FileNotFoundError where the data are not there."""
    train: Callable[[Path], tuple[TrainingData, list[str]]] | None = None
    """Training data from elsewhere; None: rows of the set itself."""
    train_rows: int | None = None
    fraction: float = 0.5
    figure: str = "apgr"
    floor: Reference | None = None
    target: Reference | None = None
    reference: Reference | None = None
    """What every row is held against."""
    published: str = ""
    """A table of the paper's, in Markdown."""
    after_answer: bool = False
    """Also route after the weak model's answer was seen."""
    cascades: bool = False
    most_seeds: int | None = None
    """Where many test rows and slow fits make more seeds dear and the mean no surer."""
    without: tuple[str, ...] = ()
    """Routers left out: they take minutes with so many rows, and smaller sections have them."""


def published_table(rows: Sequence[tuple[str, str, str, str, str]]) -> str:
    """RouteLLM's table of one benchmark: CPT50 % / CPT80 % / APGR per router."""
    head = ["trained on (published: CPT 50 % / CPT 80 % / APGR)", "BERT", "causal LLM", "MF", "SW"]
    return markdown(head, rows, left=len(head))


def _need(path: Path) -> str:
    if not path.exists():
        raise FileNotFoundError(f"{path.name} is not in the data folder")
    return str(path)


def _pair(each: OutcomeSet, strong: str, weak: str) -> OutcomeSet:
    from dataclasses import replace

    models = each.outcomes.models
    return replace(
        each,
        outcomes=each.outcomes.with_models([find_model(models, weak, "weak"), find_model(models, strong, "strong")]),
    )


def routellm(folder: str) -> Callable[[Path], OutcomeSet]:
    """One of RouteLLM's three benchmarks, contaminated prompts left out as its evaluation does."""
    return lambda data: _pair(read_outcome_set(_need(data / "routellm" / folder)), STRONG, WEAK)


def mmlu_pro(strong: str, weak: str) -> Callable[[Path], OutcomeSet]:
    return lambda data: _pair(read_outcome_set(_need(data / "mmlu_pro" / "outcomes.parquet")), strong, weak)


def mmlu_pro_training(data: Path) -> tuple[TrainingData, list[str]]:
    """gpt-4o and Mixtral on the MMLU-Pro questions that are not MMLU's own: training data for MMLU and GSM8K."""
    path = _need(data / "mmlu_pro" / "outcomes.parquet")
    sources = pq.read_table(path, columns=["src"])["src"].to_pylist()
    outcomes = read_outcome_set(path).outcomes.select(
        np.array([not str(src).startswith("ori_mmlu-") for src in sources])
    )
    names = [find_model(outcomes.models, name, "model") for name in ("Mixtral-8x7B-Instruct-v0.1", "gpt-4o-2024-05-13")]
    pair = outcomes.with_models(names)
    kept = pair.select(pair.known())
    # Named as the test's pair, so that baselines fitted on the training rows answer for the same columns.
    renamed = Outcomes(kept.ids, kept.prompts, kept.datasets, (WEAK, STRONG), kept.quality)
    return renamed, [f"trained on {len(kept):,} MMLU-Pro questions that MMLU does not have (gpt-4o against Mixtral)"]


def routerbench(*names: str) -> Callable[[Path], OutcomeSet]:
    """RouterBench tasks as one table of the 11 models."""

    def load(data: Path) -> OutcomeSet:
        paths = [_need(data / "routerbench" / f"{name}_{part}.csv") for name in names for part in ("train", "test")]
        table = concat([read_outcome_set(path).outcomes for path in paths])
        return known_rows(OutcomeSet("RouterBench " + ", ".join(names), "RouterBench", table))

    return load


def after_the_weak_answer(folds: Sequence[Fold], table: Outcomes) -> Intervals:
    """A judge that reads the weak answer: the strong model is called where it gains most over that answer.

    Score = what a linear router expects of the strong model - P(the weak answer is right). The weak model is asked for
    every row, so this is a cascade of two; its calls are not counted as strong ones.
    """
    trials = []
    for fold in folds:
        assert fold.train is not None
        judge = ResponseJudge(order=table.models, seed=fold.seed).fit(fold.train)
        test = table.select(fold.test)
        assert test.responses is not None
        right = judge.judge(test.prompts, test.responses)[:, 0]
        strong = create("linear", seed=fold.seed).fit(fold.train).predict(test.prompts)[:, 1]
        trials.append(Trial(fold.test, np.stack([right, strong], axis=1)))
    return measure_trials(trials, table, pair=True)


def cascade_rows(folds: Sequence[Fold], table: Outcomes, quick: bool = False) -> list[tuple[str, Intervals]]:
    """RouterBench's simulated cascades at each error rate: settings chosen on the training rows, run on the test rows."""
    assert table.cost_usd is not None
    found = []
    for rate in ERROR_RATES:
        statistics = [_cascade_statistic(fold, table, rate) for fold in folds]
        means, draws = two_way_bootstrap(statistics, [fold.test for fold in folds], len(table), 40 if quick else 200, 0)
        row: Intervals = dict.fromkeys(FIGURES)
        for name, mean in means.items():
            low, high = np.percentile(draws[name], [2.5, 97.5])
            row[name] = Interval(mean, float(low), float(high))
        found.append((f"cascade, simulated judge wrong {100 * rate:g} %", row))
    return found


def _cascade_statistic(fold: Fold, table: Outcomes, rate: float) -> Statistic:
    assert isinstance(fold.train, Outcomes)
    (q_train, c_train), (q_test, c_test) = _arrays(fold.train), _arrays(table.select(fold.test))
    tried = sweep(simulated_judge(q_train, rate, fold.seed), q_train, c_train, cascade_orders(q_train, c_train))
    judged = simulated_judge(q_test, rate, fold.seed + 1)
    runs = []
    for setting in tried.best():
        order, threshold, budget = tried.settings[setting]
        runs.append(cascade(judged, q_test, c_test, order, threshold, budget))
    quality, cost = np.stack([run.quality for run in runs], 1), np.stack([run.cost_usd for run in runs], 1)

    def statistic(weights: Floats) -> dict[str, Floats]:
        points = by_cost(row_mean(cost, weights), row_mean(quality, weights))
        singles = single_models(q_test, c_test, weights)
        low, high = singles.cost_usd[:, 0], singles.cost_usd[:, -1]
        own = np.asarray(aiq(points, low, high))
        return {
            "aiq": own,
            "aiq_published": np.asarray(aiq_published(points, high)),
            "aiq_gain": own - np.asarray(aiq(singles, low, high)),
        }

    return statistic


def _arrays(table: Outcomes) -> tuple[Floats, Floats]:
    """(quality, cost), (n, m) each."""
    assert table.cost_usd is not None
    return table.quality.astype(np.float64), table.cost_usd


def neural_text() -> str:
    """BERT and the causal LLM: nothing measured at full size, and why; what they would need, by arithmetic."""
    from benchmarks.training_cost import cost_table  # imports torch and transformers

    return f"""## BERT and causal LLM routers

No pretrained weights are part of this project, so these two are not measured here: the columns named BERT and causal LLM
in the published tables are the paper's. The classes (`bert`, `causal`) train, save and load, and pass the checks of every
router on a tiny configuration. What full size takes, by arithmetic (`benchmarks/training_cost.py`), activations left out:

{cost_table()}"""
