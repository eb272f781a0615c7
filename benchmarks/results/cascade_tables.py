"""What a cascade is worth: dollars for equal quality, by the prompt alone and after the weak model's answer, on recorded answers.

Each seed draws a pilot that all models answered and, of the rest, the rows that are measured. By the prompt alone: a
Gaussian process on the pilot (routing/routers/text/gp.py); a pair is cut by its gain, more models by RouterBench's rule
over all budgets (routing/metrics/sweep.py). After the answer: the head that a job's cascade uses
(routing/answers/head.py), response signals only, since the records hold no log-probabilities and no further answers. It
is paid on every row; or only on those that the prompt alone, at the same willingness to pay, would leave with the weak
model, the others going straight to a dearer one. RouterBench's simulated judge (arXiv 2403.12031) sees which answers are
right and errs in one of ten; its ladders and thresholds are chosen on the pilot. The oracle knows every outcome. Dollars
between two settings are those of mixing them, for all alike (cascade_points.py).
Cost: some 15 s a seed and case on one core.
Legend: n rows, m models, cheapest (weak) first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.cascade_points import compared, dollars_table, judged, on_top, reached, straight_up
from benchmarks.results.sets import STRONG, WEAK
from benchmarks.results.tables import Amount, Say
from routing.answers.head import AnswerHead, Evidence, answer_marks
from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes
from routing.metrics.sweep import oracle_points
from routing.metrics.trials import Floats
from routing.routers.text.gp import GaussianProcessRouter

LLAMA_8B, LLAMA_70B, MIXTRAL = "meta-llama/Meta-Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-70B-Instruct", WEAK
GPT_4O, GEMINI = "gpt-4o-2024-05-13", "gemini-1.5-flash-002"
PER_MILLION = {
    GPT_4O: (5.0, 15.0), STRONG: (10.0, 30.0), MIXTRAL: (0.6, 0.6), LLAMA_8B: (0.06, 0.06), LLAMA_70B: (0.6, 0.6),
    GEMINI: (0.075, 0.3),
}  # fmt: skip
"""Dollars per million tokens, input and output."""
BYTES_PER_TOKEN = 4
"""Where the records hold no counts."""
TEST_ROWS, QUICK_ROWS, QUICK_PILOT, MAX_SEEDS = 1500, 100, 80, 3
ALONE, AFTER, BOTH, JUDGE, ORACLE = ROWS = (
    "routing by the prompt alone", "cascade, every row weak first", "cascade, straight up where the prompt says so",
    "simulated judge, wrong in 10 %", "oracle",
)  # fmt: skip


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
    measured = min(rows, len(answers.outcomes) - pilot)
    done = f"Pilot of {pilot:,} rows, {measured:,} others measured, {n_seeds} seeds."
    return f"**{case.name}.** {done}\n\n{dollars_table(ROWS, trials)}"


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
        ALONE: reached(alone, quality, cost, price),
        AFTER: reached(after, quality, on_top(cost), on_top(price)),
        BOTH: straight_up(alone, after, quality, cost, price),
        JUDGE: judged(train.quality.astype(np.float64), taught, quality, cost, seed),
        ORACLE: oracle_points(quality, cost),
    }
    return compared(points, {ALONE: alone, AFTER: after, ORACLE: quality}, quality)


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
