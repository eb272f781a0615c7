"""What a cascade is worth where the weak model's own signals are there: the demo's two live models, every answer asked in a job.

The job (benchmarks/results/live_tables.py) asks both models every prompt, keeps the weak model's log-probabilities and
draws further answers of every row. Here each seed takes a pilot of its rows and measures on the others, as
cascade_tables.py does for recorded answers: the demo's router with a head fitted on the pilot; the head after the
answer, with response signals, then log-probabilities, then agreement too. Further answers are drawn, and paid, in a band
around the cut alone, as in a job; so that curve has a point per share of the strong model. Dollars are those the job was
charged. Cost: some 20 s a seed. Legend: n rows.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import JsonValue

from benchmarks.results.cascade_points import compared, dollars_table, judged, on_top, reached, straight_up
from benchmarks.results.tables import Amount, Say
from jobs.demo.run import ASSETS, PROMPTS, is_complete, run_demo
from jobs.errors import LaneDown
from jobs.evaluation.run_outcomes import run_outcomes
from jobs.journal.reader import Journal
from jobs.route.pilot.further_answers import read_agreement, sample_keys
from jobs.route.score.entries import ScoreEntry
from jobs.spec.sections import SAMPLES
from jobs.storage.keys import find_keys
from jobs.storage.manifest import load_run
from routing.answers.head import AnswerHead, Evidence, answer_marks
from routing.data.outcomes import Outcomes
from routing.metrics.plane import CostQuality, by_cost
from routing.metrics.sweep import oracle_points
from routing.metrics.trials import Floats
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.routers.registry import load

SAMPLES_A_ROW = 4
JOB: dict[str, JsonValue] = {
    "sample": {"rows": PROMPTS},
    "policy": {"strong_share": 0.5},
    "cascade": {"signals": ["response", "logprob", "agreement"], "band": 1.0, "samples": SAMPLES_A_ROW},
}
PILOT, QUICK_PILOT, MAX_SEEDS = 360, 80, 3
BAND = 0.2
"""As a job's `cascade.band` has it by default."""
SHARES = np.linspace(0.05, 0.95, 19)
ALONE, RESPONSE, LOGPROB, STRAIGHT, AGREEMENT, ORACLE, JUDGE = (
    "routing by the prompt alone", "cascade: response", "cascade: response, logprob",
    "the same, straight up where the prompt says so", f"cascade: response, logprob, agreement in a band of {BAND:g}", "oracle",
    "simulated judge, wrong in 10 %",
)  # fmt: skip
ROWS = (ALONE, RESPONSE, LOGPROB, STRAIGHT, AGREEMENT, JUDGE, ORACLE)


@dataclass(frozen=True, slots=True)
class Live:
    """The rows that both models answered, and what the weak one showed."""

    outcomes: Outcomes
    evidence: Evidence
    samples_usd: Floats
    """(n,) of each row's further answers."""

    def select(self, rows: NDArray[np.intp]) -> Live:
        """The rows at these positions."""
        return Live(self.outcomes.select(rows), self.evidence.select(rows), self.samples_usd[rows])


def live_tables(data: Path, amount: Amount, say: Say) -> str:
    """The table; the job is run where it has not been. Raises FileNotFoundError where no folder is named, LaneDown for engines."""
    if amount.live is None:
        raise FileNotFoundError("no folder for the demo's answers was named (--live DIR)")
    if not is_complete(amount.live / "run"):
        say("live cascade: asking the demo's models everything, some five minutes")
        if ask_everything(amount.live) != 0:
            raise LaneDown(f"{amount.live}: the demo's models did not answer everything; the same command goes on")
    live = read_live(str(amount.live / "run"))
    pilot, seeds = (QUICK_PILOT, 1) if amount.quick else (PILOT, min(amount.seeds, MAX_SEEDS))
    trials = []
    for seed in range(seeds):
        say(f"live cascade: seed {seed + 1} of {seeds}")
        trials.append(trial(live, pilot, seed))
    weak, strong = live.outcomes.quality.mean(axis=0)
    done = f"Pilot of {pilot:,} rows, {len(live.outcomes) - pilot:,} others measured, {seeds} seeds"
    return f"{done}; quality {weak:.3f} and {strong:.3f}.\n\n{dollars_table(ROWS, trials)}"


def read_live(output: str) -> Live:
    """A finished run whose every row both models answered, with further answers of every row."""
    outcomes = run_outcomes(output)
    run = load_run(output)
    scored, weak = run.entry("score", ScoreEntry), outcomes.models[0]
    assert scored is not None and outcomes.responses is not None and outcomes.cost_usd is not None
    parts = [run.store.read_table(part.name, columns=["row_key", "id", "predicted"]) for part in scored.parts]
    rows = pa.concat_tables(parts)
    place = {name: i for i, name in enumerate(rows["id"].to_pylist())}
    rows = rows.take(pa.array([place[name] for name in outcomes.ids]))
    keys = rows["row_key"].to_numpy()
    journal = Journal(run.store)
    answers = journal.read(weak, columns=["row_key", "finish_reason", "mean_logprob", "min_logprob"])
    answers = answers.take(pa.array(find_keys(answers["row_key"].to_numpy(), keys)))
    further = journal.read(SAMPLES, columns=["row_key", "cost_usd"])
    at = find_keys(further["row_key"].to_numpy(), sample_keys(keys, SAMPLES_A_ROW).ravel())
    paid = np.where(at >= 0, further["cost_usd"].to_numpy()[at], 0.0).reshape(len(keys), SAMPLES_A_ROW).sum(axis=1)
    said = outcomes.responses[:, 0].tolist()
    told = [answers[name].cast(pa.float64()).to_numpy() for name in ("mean_logprob", "min_logprob")]
    finish = answers["finish_reason"].to_pylist()
    evidence = Evidence(
        outcomes.prompts, said, np.zeros(outcomes.quality.shape), finish, log_probabilities=np.stack(told, axis=1),
        agreement=read_agreement(run.store, keys, said, SAMPLES_A_ROW),
        marks=answer_marks(outcomes.prompts, said, finish),
    )  # fmt: skip
    return Live(outcomes, evidence, paid)


def trial(live: Live, pilot: int, seed: int) -> dict[str, Floats]:
    """Row of the table → what `compared` gives."""
    order = np.random.default_rng(seed).permutation(len(live.outcomes))
    train, test = live.select(order[:pilot]), live.select(order[pilot:])
    quality, cost, taught = (np.asarray(x, np.float64) for x in (test.outcomes.quality, *map(_usd, (test, train))))
    price = taught.mean(axis=0)
    router = load(ASSETS / "router")
    alone = (
        CalibratedRouter(seed=seed).fit_pilot(router, train.outcomes).predict(test.outcomes.prompts).astype(np.float64)
    )
    seen = [replace(part.evidence, scores=router.predict(part.outcomes.prompts)) for part in (train, test)]
    without = [replace(each, agreement=None) for each in seen]
    after = {}
    for name, (fitted, told) in (
        (RESPONSE, [replace(each, log_probabilities=None) for each in without]), (LOGPROB, without), (AGREEMENT, seen),
    ):  # fmt: skip
        after[name] = AnswerHead(seed=seed).fit(fitted, train.outcomes.quality).predict(told).astype(np.float64)
    points = {
        ALONE: reached(alone, quality, cost, price),
        RESPONSE: reached(after[RESPONSE], quality, on_top(cost), on_top(price)),
        LOGPROB: reached(after[LOGPROB], quality, on_top(cost), on_top(price)),
        STRAIGHT: straight_up(alone, after[LOGPROB], quality, cost, price),
        AGREEMENT: in_band(after[LOGPROB], after[AGREEMENT], quality, cost, test.samples_usd),
        JUDGE: judged(train.outcomes.quality.astype(np.float64), taught, quality, cost, seed),
        ORACLE: oracle_points(quality, cost),
    }
    return compared(points, {ALONE: alone, ORACLE: quality} | after, quality)


def in_band(plain: Floats, full: Floats, quality: Floats, cost: Floats, samples_usd: Floats) -> CostQuality:
    """A pair, weak first; rows whose place is near the cut get further answers, and are looked at again. plain, full: (n, 2)."""
    n, gains = len(quality), [each[:, 1] - each[:, 0] for each in (plain, full)]
    place = np.empty(n)
    place[np.argsort(-gains[0], kind="stable")] = (np.arange(n) + 0.5) / n
    points = [(cost[:, 0].mean(), quality[:, 0].mean())]
    for share in SHARES:
        near = np.abs(place - share) <= BAND / 2
        up = np.argsort(-np.where(near, gains[1], gains[0]), kind="stable")[: round(share * n)]
        last = np.zeros(n, np.intp)
        last[up] = 1
        paid = cost[:, 0] + np.where(last == 1, cost[:, 1], 0.0) + np.where(near, samples_usd, 0.0)
        points.append((paid.mean(), quality[np.arange(n), last].mean()))
    points.append((cost.sum(axis=1).mean(), quality[:, 1].mean()))
    return by_cost(*np.array(points).T)


def _usd(live: Live) -> Floats:
    assert live.outcomes.cost_usd is not None
    return np.asarray(live.outcomes.cost_usd, np.float64)


def ask_everything(folder: Path) -> int:
    """Run the job, or go on with it; the exit code."""
    return run_demo(str(folder), live=False, change=JOB)[0]
