"""What a cascade is worth: routing by the prompt alone, and after the weak model's answer, on recorded answers.

    python -m benchmarks.cascade_quality --data ../shared/data [--seeds 5] [--rows 3000] [--json]

Each seed draws a pilot that all models answered and, of the rest, the rows that are measured. By the prompt alone: a
Gaussian process on the pilot (routing/routers/gp.py). After the answer: the head that a cascade of a job uses
(routing/answer_head.py), response signals only, since the records hold no log-probabilities and no further answers. The
router has no training beside the pilot.

Dollars are for the quality that routing alone has with half of its calls at the strong model. A cascade pays the weak
model on every row. RouterBench's simulated judge (arXiv 2403.12031) sees which weak answers are right and errs in one of
ten; below and above its one point, rows are mixed at random with all-weak and all-strong. The oracle knows every outcome,
and asks one model a row. `tables` gives what is printed, as Markdown. Cost: on one idle core some two minutes a seed for
MMLU-Pro, half a minute for GSM8K.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from routing.answer_head import AnswerHead, Evidence, answer_marks
from routing.cascade import simulated_judge
from routing.metrics import apgr, curve_cpt, router_curve
from routing.outcomes import Outcomes, read_outcomes
from routing.routers.gp import GaussianProcessRouter

Floats = NDArray[np.float64]
PER_MILLION = {
    "gpt-4o-2024-05-13": (5.0, 15.0), "gpt-4-1106-preview": (10.0, 30.0),
    "mistralai/Mixtral-8x7B-Instruct-v0.1": (0.6, 0.6), "meta-llama/Meta-Llama-3.1-8B-Instruct": (0.06, 0.06),
    "meta-llama/Meta-Llama-3.1-70B-Instruct": (0.6, 0.6), "gemini-1.5-flash-002": (0.075, 0.3),
}  # fmt: skip
"""Dollars per million tokens, input and output."""
BYTES_PER_TOKEN = 4
"""Where the records hold no counts."""
ERROR_RATE = 0.1


@dataclass(frozen=True, slots=True)
class Case:
    """A set and a pair of models."""

    name: str
    path: str
    weak: str
    strong: str
    pilot: int


CASES = (
    Case("MMLU-Pro", "mmlu_pro/outcomes.parquet", "meta-llama/Meta-Llama-3.1-8B-Instruct", "gpt-4o-2024-05-13", 1000),
    Case("MMLU-Pro, 70B", "mmlu_pro/outcomes.parquet", "meta-llama/Meta-Llama-3.1-70B-Instruct", "gpt-4o-2024-05-13", 1000),
    Case(
        "GSM8K", "routellm/gsm8k/gsm8k_responses.csv", "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview", 400
    ),
)  # fmt: skip
FIGURES = ("APGR", "CPT 50 %", "CPT 80 %", "dollars per 1,000 rows")
ROWS = ("the prompt alone", "after the weak answer", "simulated judge, wrong in 10 %", "oracle")


def load(data: Path, case: Case) -> Outcomes:
    """The pair's rows whose quality is known. Raises FileNotFoundError."""
    if not (data / case.path).exists():
        raise FileNotFoundError(f"{case.path} is not in the data folder")
    outcomes = read_outcomes(data / case.path).with_models([case.weak, case.strong])
    return outcomes.select(outcomes.known())


def dollars(outcomes: Outcomes) -> Floats:
    """(n, 2) of each recorded call."""
    assert outcomes.responses is not None
    prompt, completion = outcomes.prompt_tokens, outcomes.completion_tokens
    if prompt is None:
        prompt = np.array([[len(text) / BYTES_PER_TOKEN] * 2 for text in outcomes.prompts])
    if completion is None:
        completion = np.array([[len(text or "") / BYTES_PER_TOKEN for text in row] for row in outcomes.responses])
    rates = np.array([PER_MILLION[name] for name in outcomes.models])
    return np.asarray((prompt * rates[:, 0] + completion * rates[:, 1]) / 1e6, np.float64)


def measure(outcomes: Outcomes, pilot: int, rows: int, seed: int) -> dict[str, dict[str, float]]:
    """Row of the table → figure → value, for one draw."""
    assert outcomes.responses is not None
    order = np.random.default_rng(seed).permutation(len(outcomes))
    train, test = outcomes.select(order[:pilot]), outcomes.select(order[pilot : pilot + rows])
    quality, cost = test.quality.astype(np.float64), dollars(test)
    alone = GaussianProcessRouter(seed=seed).fit(train).predict(test.prompts)
    head = AnswerHead(seed=seed).fit(_evidence(train), train.quality)
    after = head.predict(_evidence(test))
    predicted = {ROWS[0]: alone, ROWS[1]: after}
    scores = {name: (q[:, 1] - q[:, 0]).astype(np.float64) for name, q in predicted.items()}
    target = float(np.interp(0.5, *router_curve(scores[ROWS[0]], *quality.T)))
    found = {}
    for name, score in scores.items():
        curve = router_curve(score, *quality.T)
        usd = _upgrade_usd(score, quality, cost, target, weak_first=name == ROWS[1])
        cpt = [float(curve_cpt(curve, share)) for share in (0.5, 0.8)]
        found[name] = dict(zip(FIGURES, [float(apgr(score, *quality.T)), *cpt, 1000 * usd], strict=True))
    judged = simulated_judge(quality[:, :1], ERROR_RATE, seed)[:, 0] < 0.5
    nothing = dict.fromkeys(FIGURES, np.nan)
    found[ROWS[2]] = nothing | {FIGURES[3]: 1000 * _judge_usd(judged, quality, cost, target)}
    gain = quality[:, 1] - quality[:, 0]
    found[ROWS[3]] = {
        FIGURES[0]: float(apgr(gain, *quality.T)), FIGURES[1]: float(curve_cpt(router_curve(gain, *quality.T), 0.5)),
        FIGURES[2]: float(curve_cpt(router_curve(gain, *quality.T), 0.8)),
        FIGURES[3]: 1000 * _upgrade_usd(gain, quality, cost, target, weak_first=False),
    }  # fmt: skip
    return found


def _evidence(outcomes: Outcomes) -> Evidence:
    assert outcomes.responses is not None
    said = outcomes.responses[:, 0].tolist()
    return Evidence(
        outcomes.prompts, said, np.zeros(outcomes.quality.shape), marks=answer_marks(outcomes.prompts, said)
    )


def _upgrade_usd(score: Floats, quality: Floats, cost: Floats, target: float, weak_first: bool) -> float:
    """Mean dollars a row until the rows of highest score, sent up one by one, bring the mean quality to `target`."""
    order = np.argsort(-score, kind="stable")
    gain = (quality[:, 1] - quality[:, 0])[order]
    reached = quality[:, 0].mean() + np.concatenate([[0.0], np.cumsum(gain)]) / len(gain)
    taken = int(np.argmax(reached >= target - 1e-12)) if (reached >= target - 1e-12).any() else len(gain)
    up = order[:taken]
    weak_usd = cost[:, 0].sum() if weak_first else cost[:, 0].sum() - cost[up, 0].sum()
    return float(weak_usd + cost[up, 1].sum()) / len(gain)


def _judge_usd(rejected: NDArray[np.bool_], quality: Floats, cost: Floats, target: float) -> float:
    """Mean dollars a row at `target` on the line from all-weak over the judge's cascade to all-strong after the weak answer."""
    weak_usd, strong_usd = cost.mean(axis=0)
    reached = np.where(rejected, quality[:, 1], quality[:, 0]).mean()
    points = [(quality[:, 0].mean(), weak_usd), (reached, weak_usd + (cost[:, 1] * rejected).mean())]
    if target > reached:  # else the judge's own point is the end: it may be better than all-strong
        points.append((quality[:, 1].mean(), weak_usd + strong_usd))
    return float(np.interp(target, [q for q, _ in points], [usd for _, usd in points]))


def table(data: Path, case: Case, seeds: int, rows: int) -> tuple[str, dict[str, Any]]:
    """One case as Markdown, and its figures: mean over the seeds and their standard deviation."""
    outcomes = load(data, case)
    trials = [measure(outcomes, case.pilot, rows, seed) for seed in range(seeds)]
    found: dict[str, Any] = {}
    lines = [
        f"{case.name}: {case.weak} and {case.strong}, pilot of {case.pilot:,} rows, {seeds} seeds.", "",
        "| routing | " + " | ".join(FIGURES) + " |", "|---|" + "---|" * len(FIGURES),
    ]  # fmt: skip
    for name in ROWS:
        values = {figure: np.array([trial[name][figure] for trial in trials]) for figure in FIGURES}
        found[name] = {figure: {"mean": float(v.mean()), "sd": float(v.std())} for figure, v in values.items()}
        cells = ["-" if np.isnan(v).all() else f"{v.mean():.3f} ± {v.std():.3f}" for v in values.values()]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n", found


def tables(data: Path, seeds: int = 5, rows: int = 3000) -> str:
    """All cases whose data are there, as Markdown."""
    return "\n".join(table(data, case, seeds, rows)[0] for case in CASES if (data / case.path).exists())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--case", default="", help="only cases whose name begins so")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = {}
    for case in CASES:
        if case.name.startswith(options.case) and (options.data / case.path).exists():
            text, found[case.name] = table(options.data, case, options.seeds, options.rows)
            if not options.json:
                print(text, flush=True)
    if options.json:
        print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
