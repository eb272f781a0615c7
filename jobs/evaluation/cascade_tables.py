"""What a cascade is worth: dollars for equal quality, by the prompt alone and after the weak model's answer, on recorded answers.

Each seed draws a pilot that all models answered and, of the rest, the rows that are measured. By the prompt alone: a
Gaussian process on the pilot (routing/routers/gp.py); a pair is cut by its gain, more models by RouterBench's rule over all budgets
(routing/sweep.py). After the answer: the head that a job's cascade uses (routing/answer_head.py), response signals only, since the
records hold no log-probabilities and no further answers. It is paid on every row; or only on those that the prompt alone, at the
same willingness to pay, would leave with the weak model, the others going straight to a dearer one. RouterBench's simulated judge
(arXiv 2403.12031) sees which answers are right and errs in one of ten; its ladders and thresholds are chosen on the pilot. The
oracle knows every outcome. Dollars between two settings are those of mixing them, for all alike.
Cost: some 15 s a seed and case on one core.
Legend: n rows, m models, cheapest (weak) first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jobs.evaluation.measure import Floats
from jobs.evaluation.result_sets import STRONG, WEAK
from jobs.evaluation.tables import Amount, Say, markdown
from routing.answer_head import AnswerHead, Evidence, answer_marks
from routing.cascade import cascade, cascade_orders, simulated_judge, sweep
from routing.metrics import apgr
from routing.outcomes import Outcomes, read_outcomes
from routing.plane import CostQuality, by_cost, ndch
from routing.routers.gp import GaussianProcessRouter
from routing.sweep import Sweep, choose, oracle_points, pair_points

LLAMA_8B, LLAMA_70B, MIXTRAL = "meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-70B-Instruct", WEAK
GPT_4O, GEMINI = "gpt-4o-2024-05-13", "gemini-1.5-flash-002"
PER_MILLION = {
    GPT_4O: (5.0, 15.0), STRONG: (10.0, 30.0), MIXTRAL: (0.6, 0.6), LLAMA_8B: (0.06, 0.06), LLAMA_70B: (0.6, 0.6),
    GEMINI: (0.075, 0.3),
}  # fmt: skip
"""Dollars per million tokens, input and output."""
BYTES_PER_TOKEN = 4
"""Where the records hold no counts."""
ERROR_RATE = 0.1
TEST_ROWS, QUICK_ROWS, QUICK_PILOT, MAX_SEEDS = 1500, 100, 80, 3
RECOVERED = (0.5, 0.8, 0.9)
"""PGR at which dollars are compared: shares of the quality from the weak model to the best one."""
ALONE, AFTER, BOTH, JUDGE, ORACLE = ROWS = (
    "routing by the prompt alone", "cascade, every row weak first", "cascade, straight up where the prompt says so",
    "simulated judge, wrong in 10 %", "oracle",
)  # fmt: skip
WILLINGNESS = 120
"""Points of the cascade that leaves weak calls out; the others' curves are exact."""


@dataclass(frozen=True, slots=True)
class Case:
    """A set and its models, cheapest first."""

    name: str
    path: str
    models: tuple[str, ...]
    pilot: int


MMLU_PRO = "mmlu_pro/outcomes.parquet"
CASES = (
    Case("MMLU-Pro: Llama-3.1-8B and gpt-4o", MMLU_PRO, (LLAMA_8B, GPT_4O), 600),
    Case("MMLU-Pro: Llama-3.1-70B and gpt-4o", MMLU_PRO, (LLAMA_70B, GPT_4O), 600),
    Case("MMLU-Pro: five models", MMLU_PRO, (LLAMA_8B, GEMINI, MIXTRAL, LLAMA_70B, GPT_4O), 600),
    Case("GSM8K: Mixtral and GPT-4", "routellm/gsm8k/gsm8k_responses.csv", (WEAK, STRONG), 400),
)


@dataclass(slots=True)
class Answers:
    """A set's rows, and the marks of one model's answers, each made once for all seeds."""

    outcomes: Outcomes
    made: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def evidence(self, rows: NDArray[np.intp]) -> Evidence:
        """What the weak model's answers to these rows show."""
        part = self.outcomes.select(rows)
        assert part.responses is not None
        said = part.responses[:, 0].tolist()
        new = [i for i, row in enumerate(rows.tolist()) if row not in self.made]
        marks = answer_marks([part.prompts[i] for i in new], [said[i] for i in new])
        self.made |= {int(rows[i]): mark for i, mark in zip(new, marks, strict=True)}
        known = np.stack([self.made[row] for row in rows.tolist()])
        return Evidence(part.prompts, said, np.zeros(part.quality.shape), marks=known)


def cascade_tables(data: Path, amount: Amount, say: Say) -> str:
    """A table per case whose data are there."""
    parts = []
    for case in CASES:
        if (data / case.path).exists():
            parts.append(_case_table(data, case, amount, say))
    if not parts:
        raise FileNotFoundError("neither mmlu_pro nor routellm/gsm8k is in the data folder")
    return "\n\n".join(parts)


def _case_table(data: Path, case: Case, amount: Amount, say: Say) -> str:
    outcomes = read_outcomes(data / case.path).with_models(case.models)
    answers = Answers(outcomes.select(outcomes.known()))
    n_seeds = min(amount.seeds, MAX_SEEDS)
    pilot, rows = (QUICK_PILOT, QUICK_ROWS) if amount.quick else (case.pilot, TEST_ROWS)
    trials = []
    for seed in range(n_seeds):
        say(f"{case.name}: seed {seed + 1} of {n_seeds}")
        trials.append(trial(answers, pilot, rows, seed))
    is_pair = len(case.models) == 2
    lines = []
    for name in ROWS:
        cells = [_dollars([(t[name], t[ALONE]) for t in trials], column) for column in range(len(RECOVERED))]
        merit = np.mean([t[name][-1] for t in trials])
        lines.append([name, *cells, *([f"{merit:.3f}" if np.isfinite(merit) else "-"] if is_pair else [])])
    quality = np.mean([t["quality"] for t in trials], axis=0)
    targets = [f"PGR {100 * share:.0f} % (quality {q:.3f})" for share, q in zip(RECOVERED, quality, strict=True)]
    head = ["dollars per 1,000 rows", *targets, *(["APGR"] if is_pair else [])]
    measured = min(rows, len(answers.outcomes) - pilot)
    return f"**{case.name}.** Pilot of {pilot:,} rows, {measured:,} others measured, {n_seeds} seeds.\n\n{markdown(head, lines)}"


def _dollars(pairs: Sequence[tuple[Floats, Floats]], column: int) -> str:
    """Mean dollars per 1,000 rows, and how they compare with routing alone's; "not reached" where a seed does not get there."""
    own, alone = np.array([(mine[column], base[column]) for mine, base in pairs]).T * 1000
    if not np.isfinite(own).all():
        return "not reached"
    if not np.isfinite(alone).all():
        return f"${own.mean():.2f}"
    change = own.mean() / alone.mean() - 1
    return f"${own.mean():.2f}" + (f" ({100 * change:+.0f} %)" if pairs[0][0] is not pairs[0][1] else "")


def trial(answers: Answers, pilot: int, rows: int, seed: int) -> dict[str, Floats]:
    """Row of the table → dollars a row at each quality, then APGR; "quality" → those qualities."""
    order = np.random.default_rng(seed).permutation(len(answers.outcomes))
    at, test_at = order[:pilot], order[pilot : pilot + rows]
    train, test = answers.outcomes.select(at), answers.outcomes.select(test_at)
    quality, cost, taught = test.quality.astype(np.float64), dollars(test), dollars(train)
    price = taught.mean(axis=0)
    alone = GaussianProcessRouter(seed=seed).fit(train).predict(test.prompts).astype(np.float64)
    head = AnswerHead(seed=seed).fit(answers.evidence(at), train.quality)
    after = head.predict(answers.evidence(test_at)).astype(np.float64)
    points = {
        ALONE: _points(alone, quality, cost, price),
        AFTER: _points(after, quality, _on_top(cost), _on_top(price)),
        BOTH: _straight_up(alone, after, quality, cost, price),
        JUDGE: _judged(train.quality.astype(np.float64), taught, quality, cost, seed),
        ORACLE: oracle_points(quality, cost),
    }
    hulls = {name: ndch(*each) for name, each in points.items()}
    weak, best = quality[:, 0].mean(), quality.mean(axis=0).max()
    wanted = weak + np.array(RECOVERED) * (best - weak)
    scores = {ALONE: alone, AFTER: after, ORACLE: quality}
    found = {}
    for name, hull in hulls.items():
        merit = np.nan
        if quality.shape[1] == 2 and name in scores:
            merit = float(apgr(scores[name][:, 1] - scores[name][:, 0], *quality.T))
        found[name] = np.append([usd_at(hull, target) for target in wanted], merit)
    return found | {"quality": wanted}


def usd_at(hull: CostQuality, target: float) -> float:
    """Least dollars a row for a mean quality of `target`, mixing settings of the hull; infinite where it is not reached."""
    if target > hull.quality[-1] + 1e-12:
        return float("inf")
    return float(np.interp(target, hull.quality, hull.cost_usd))


def _points(predicted: Floats, quality: Floats, cost: Floats, price: Floats) -> CostQuality:
    """A pair's prefixes by gain, down to all-strong; more models by the rule of willingness to pay."""
    if quality.shape[1] == 2:
        return pair_points(predicted[:, 1] - predicted[:, 0], *quality.T, *cost.T)
    return Sweep(predicted, quality, cost, price).points()


def _straight_up(alone: Floats, after: Floats, quality: Floats, cost: Floats, price: Floats) -> CostQuality:
    """Routing and cascading in one: asked the weak model first are the rows that the prompt alone would leave with it."""
    rows, points = np.arange(len(quality)), []
    dearer = price.copy()
    dearer[0] = 0.0  # its answer is paid for
    for willingness in np.geomspace(price.min() / 10, price.max() * 1000, WILLINGNESS):
        first = choose(alone, price, willingness)
        asked = first == 0
        last = np.where(asked, choose(after, dearer, willingness), first)
        paid = cost[rows, last] + np.where(asked & (last > 0), cost[:, 0], 0.0)
        points.append((paid.mean(), quality[rows, last].mean()))
    # Both ends are settings too: nobody goes up, everybody goes straight to the dearest model.
    points += [(cost[:, j].mean(), quality[:, j].mean()) for j in (0, -1)]
    return by_cost(*np.array(points).T)


def _on_top(cost: Floats) -> Floats:
    """What a row costs once its weak answer is paid: (..., m)."""
    paid = cost + cost[..., :1]
    paid[..., 0] = cost[..., 0]
    return paid


def _judged(q_pilot: Floats, c_pilot: Floats, quality: Floats, cost: Floats, seed: int) -> CostQuality:
    """Points of the simulated judge's cascades that are on the pilot's hull."""
    tried = sweep(simulated_judge(q_pilot, ERROR_RATE, seed), q_pilot, c_pilot, cascade_orders(q_pilot, c_pilot))
    judged = simulated_judge(quality, ERROR_RATE, seed + 1)
    runs = [cascade(judged, quality, cost, *tried.settings[setting]) for setting in tried.best()]
    return by_cost(np.array([run.cost_usd.mean() for run in runs]), np.array([run.quality.mean() for run in runs]))


def dollars(outcomes: Outcomes) -> Floats:
    """(n, m) of each recorded call, tokens estimated where the records hold no counts."""
    assert outcomes.responses is not None
    prompt, completion = outcomes.prompt_tokens, outcomes.completion_tokens
    if prompt is None:
        prompt = np.repeat([[len(text) / BYTES_PER_TOKEN] for text in outcomes.prompts], len(outcomes.models), axis=1)
    if completion is None:
        completion = np.array([[len(text or "") / BYTES_PER_TOKEN for text in row] for row in outcomes.responses])
    rates = np.array([PER_MILLION[name] for name in outcomes.models])
    return np.asarray((prompt * rates[:, 0] + completion * rates[:, 1]) / 1e6, np.float64)
