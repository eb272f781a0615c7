"""`headgate evaluate`: one table of figures for many routers on one or more outcome sets.

    read sets → per seed: split by prompt, train every router, predict the test side → figures with intervals → table, JSON, page

With `--train` the training rows come from other sets and every row of the outcomes is test. No Ray: a table fits in memory, and the
cost is the routers' own. Vectors of prompts are computed once for all routers and seeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from jobs.errors import InputError, SpecError
from jobs.evaluation.candidates import Candidate, parse_candidate, predict
from jobs.evaluation.curves import RouterCurves, reference_curves, router_curves
from jobs.evaluation.folds import EvaluateOptions, Fold, make_folds
from jobs.evaluation.results import Evaluation, RouterResult, SetResult, SingleModel
from jobs.evaluation.sources import OutcomeSet, find_model, known_rows, name_sets, read_outcome_set
from jobs.evaluation.training_data import TrainingOptions, gather, without_contaminated
from jobs.storage.store import Store
from routing.data.outcomes import Outcomes, concat
from routing.data.training_data import TrainingData
from routing.features.cache import feature_cache
from routing.metrics.trials import Intervals, Trial, measure_references, measure_trials
from routing.routers.baselines.category import category_scores
from routing.routers.neural.training import FitProgress

CATEGORY_MEAN = "category mean"


def run_evaluate(options: EvaluateOptions, say: Callable[[str], None] = lambda text: None) -> Evaluation:
    """The whole evaluation. Raises HeadgateError or RoutingError."""
    candidates = [parse_candidate(text) for text in dict.fromkeys(options.routers)]
    say("reading")
    sets = [read_outcome_set(path, options.drop_contaminated, options.allow_code) for path in options.outcomes]
    sets = [known_rows(_narrowed(each, options)) for each in name_sets(sets)]
    training = _training(options) if options.train else None
    with feature_cache(options.cache):
        found = {each.name: evaluate_set(each, candidates, options, training, say) for each in sets}
        together = _pooled(sets) if len(sets) > 1 else None
        pooled = None
        if together is not None:
            pooled = evaluate_set(known_rows(together), candidates, options, training, say)
    return Evaluation(options.outcomes, options.train, found, pooled)


def _narrowed(each: OutcomeSet, options: EvaluateOptions) -> OutcomeSet:
    """The pair's two columns, weak first, where one is named."""
    if options.weak is None or options.strong is None:
        return each
    models = each.outcomes.models
    pair = [find_model(models, options.weak, "--weak"), find_model(models, options.strong, "--strong")]
    if pair[0] == pair[1]:
        raise SpecError(f"--strong and --weak are the same model, {pair[0]}")
    return replace(each, outcomes=each.outcomes.with_models(pair))


def _pooled(sets: Sequence[OutcomeSet]) -> OutcomeSet | None:
    """All sets as one table of the models they share; None where they share fewer than two."""
    shared = [m for m in sets[0].outcomes.models if all(m in each.outcomes.models for each in sets)]
    if len(shared) < 2:
        return None
    table = concat([each.outcomes.with_models(shared) for each in sets])
    return OutcomeSet("pooled", ", ".join(each.path for each in sets), table)


def _training(options: EvaluateOptions) -> tuple[TrainingData, list[str]]:
    return gather(
        TrainingOptions(
            either=options.train,
            weights=options.weights,
            weak=options.train_weak or options.weak,
            strong=options.train_strong or options.strong,
            tiers=options.tiers,
            all_battles=all("models=" in router for router in options.routers),
            seed=options.seed,
            allow_code=options.allow_code,
        )
    )


def evaluate_set(
    each: OutcomeSet,
    candidates: Sequence[Candidate],
    options: EvaluateOptions,
    training: tuple[TrainingData, list[str]] | None,
    say: Callable[[str], None],
) -> SetResult:
    """All routers and baselines on one set. Raises InputError for a table of one model.

    training: data from elsewhere with its notes; prompts too near the set's are left out of them. None: rows of the set itself.
    """
    table, pair, notes = each.outcomes, options.weak is not None, list(each.notes)
    if len(table.models) < 2:
        raise InputError(f"{each.path}: it has one model, {table.models[0]}; a router needs two to choose from")
    table, cost_notes = _with_known_cost(table, each.name)
    notes += cost_notes
    data, overlap = None, None
    if training is not None:
        data, overlap = without_contaminated(training[0], table.prompts)
        notes += training[1]
    folds = make_folds(table, candidates, options, data)
    drawn: dict[str, RouterCurves] = {}

    def measure(label: str, trials: list[Trial]) -> Intervals:
        say(f"{each.name}: {label}, intervals")
        drawn[label] = router_curves(trials, table, pair)
        return measure_trials(trials, table, pair, options.n_boot)

    routers: dict[str, RouterResult] = {}
    for candidate in candidates:
        asked = _ask(candidate, folds, table, each.name, say)
        seen = _has_seen(candidate, each)
        if seen:
            notes.append(f"{candidate.label} was trained on rows of {each.name}: its figures here are no test")
        intervals = measure(candidate.label, asked.trials)
        routers[candidate.label] = RouterResult(intervals, asked.fit_s, asked.rows_per_s, asked.chosen, seen)
    baselines = {
        label: measure(label if label == CATEGORY_MEAN else f"{label} (baseline)", trials)
        for label, trials in _baselines(folds, table, trained_elsewhere=data is not None)
    }
    say(f"{each.name}: Zero router and oracle")
    baselines |= measure_references([fold.test for fold in folds], table, pair, options.n_boot)
    return SetResult(
        routers, baselines, each.name, tuple(table.models), is_pair=pair, rows=len(table),
        train_rows=len(folds[0].train) if folds[0].train is not None else 0, test_rows=len(folds[0].test),
        seeds=tuple(fold.seed for fold in folds), single_models=_single_models(table), overlap=overlap,
        notes=(*notes, *_pair_notes(table, pair)), curves=drawn, references=reference_curves(table),
    )  # fmt: skip


def _with_known_cost(table: Outcomes, name: str) -> tuple[Outcomes, list[str]]:
    """The table, without its cost where that is unknown for some rows: a hull over them would compare different rows."""
    if table.cost_usd is None:
        return table, []
    unknown = int(np.isnan(table.cost_usd).any(axis=1).sum())
    if not unknown:
        return table, []
    return replace(table, cost_usd=None), [f"{name}: the cost is unknown in {unknown:,} rows, so there is no AIQ"]


@dataclass(frozen=True, slots=True)
class Asked:
    """A router trained and asked on every fold."""

    trials: list[Trial]
    fit_s: float
    """Seconds of training, mean over folds."""
    rows_per_s: float | None
    """Test rows a second; None where the clock saw no time pass."""
    chosen: str | None


def _ask(candidate: Candidate, folds: Sequence[Fold], table: Outcomes, name: str, say: Callable[[str], None]) -> Asked:
    trials, fit_s, predict_s, n_asked = [], 0.0, 0.0, 0
    fitted = None
    for number, fold in enumerate(folds, start=1):
        say(f"{name}: {candidate.label}, seed {number} of {len(folds)}")
        started = time.perf_counter()
        if fitted is None or candidate.varies or fold.train is not folds[0].train:
            fitted = candidate.fitted(
                fold.train, fold.seed, lambda report: say(_progress_text(candidate.label, report))
            )
        trained = time.perf_counter()
        prompts = [table.prompts[row] for row in fold.test]
        trials.append(Trial(fold.test, predict(fitted, candidate.label, prompts, table.models), fold.price))
        fit_s, predict_s = fit_s + trained - started, predict_s + time.perf_counter() - trained
        n_asked += len(prompts)
    chosen = getattr(fitted, "choice_", None)
    return Asked(
        trials, fit_s / len(folds), n_asked / predict_s if predict_s else None, None if chosen is None else str(chosen)
    )


def _progress_text(label: str, report: FitProgress) -> str:
    """What a router that trains in steps has to say."""
    return f"{label}: step {report.step} of {report.steps}, loss {report.loss:.4f}"


def _baselines(folds: Sequence[Fold], table: Outcomes, trained_elsewhere: bool) -> Iterator[tuple[str, list[Trial]]]:
    """Those that need the test rows' prompts or categories: random, length and, where rows of the table train, category mean."""
    for name in ("random", "length"):
        yield name, _baseline(Candidate(name, name), folds, table)
    if trained_elsewhere or len(set(table.datasets)) < 2:
        return
    own = [(fold, fold.train) for fold in folds if isinstance(fold.train, Outcomes)]
    if own:
        yield (
            CATEGORY_MEAN,
            [Trial(fold.test, category_scores(train, table.select(fold.test)), fold.price) for fold, train in own],
        )


def _baseline(candidate: Candidate, folds: Sequence[Fold], table: Outcomes) -> list[Trial]:
    """random and length: fitted on the fold's training rows, or untrained where those know other models."""
    trials = []
    for fold in folds:
        prompts = [table.prompts[row] for row in fold.test]
        own = isinstance(fold.train, Outcomes) and set(fold.train.models) >= set(table.models)
        if own:
            router = candidate.fitted(fold.train, fold.seed)
        else:
            arguments = {"models": table.models} | ({"seed": fold.seed} if candidate.varies else {})
            router = replace(candidate, hyperparameters=arguments).unfitted(fold.seed)
        trials.append(Trial(fold.test, predict(router, candidate.label, prompts, table.models), fold.price))
    return trials


def _single_models(table: Outcomes) -> dict[str, SingleModel]:
    cost = [None] * len(table.models) if table.cost_usd is None else table.cost_usd.mean(axis=0).tolist()
    quality = table.quality.astype(np.float64).mean(axis=0).tolist()
    return {name: SingleModel(q, c) for name, q, c in zip(table.models, quality, cost, strict=True)}


def _has_seen(candidate: Candidate, each: OutcomeSet) -> bool:
    """Whether an artifact was trained on rows of the set it is asked about, as far as its card tells."""
    if candidate.artifact is None:
        return False
    same = candidate.artifact.training_fingerprint_ == each.outcomes.fingerprint()
    return same or Store(each.path).uri in candidate.trained_on


def _pair_notes(table: Outcomes, pair: bool) -> list[str]:
    if not pair:
        missing = (
            [] if table.cost_usd is not None else ["no cost in the table, so no AIQ; name --strong and --weak for APGR"]
        )
        return missing
    weak, strong = table.quality.astype(np.float64).mean(axis=0)
    notes = [] if table.cost_usd is not None else ["the table has no cost, so AIQ is not known"]
    if strong <= weak:
        notes.append(
            f"{table.models[1]} ({strong:.3f}) is not better than {table.models[0]} ({weak:.3f}): PGR means little here"
        )
    return notes
