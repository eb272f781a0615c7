"""What a pilot is worth by its size: a table of docs/results.md per set.

A kNN router that was trained on another set and another strong model (base) is asked as it is, and with a head that was
fitted on n rows of the set at hand together with its scores, as a job with `sample` does
(routing/routers/calibrated/calibrated.py). Beside it: a router that saw the n rows alone, the average of a Gaussian
process and a forest that `auto` prefers, and the mean of the prompt's category, which routers are not told. A smaller
pilot is the beginning of a larger one; all sizes of a seed are measured on the same rows, of which none is in a pilot.
Cost: five minutes on one core, most of it the average's fits. Legend: N rows of the set, n pilot rows, k test rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.results.sets import Reference, mmlu_pro, mmlu_pro_training, routellm
from benchmarks.results.tables import Amount, Say, apgr_interval, each_that_is_there, few, markdown
from jobs.evaluation.sources import OutcomeSet, known_rows
from jobs.evaluation.terminal import with_interval
from routing.data.outcomes import Outcomes, split_by_prompt
from routing.routers.auto import encoder_installed
from routing.routers.base import Router
from routing.routers.baselines.category import category_scores
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.routers.registry import create

SIZES = (100, 200, 500, 1000, 2000)
TEST_ROWS, MAX_SEEDS = 2000, 3
QUICK_ROWS, QUICK_SIZES = 160, (40, 80)
ENCODER = {"kind": "encoder", "source": "minilm"}
Scores = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class PilotSet:
    """A set, and what its base router is trained on."""

    name: str
    load: Callable[[Path], OutcomeSet]
    train: Callable[[Path], Outcomes]
    """Outcomes of another set, under the names of this one's pair."""
    trained_on: str
    paper: Reference | None = None


def of_mmlu_pro(data: Path) -> Outcomes:
    """MMLU-Pro's questions that MMLU does not have."""
    trained, _ = mmlu_pro_training(data)
    assert isinstance(trained, Outcomes)
    return trained


def of_mmlu(data: Path) -> Outcomes:
    """MMLU's questions that MMLU-Pro does not have, under the names of its pair."""
    mmlu = routellm("mmlu")(data).outcomes
    pro = mmlu_pro("gpt-4o", "Llama-3.1-8B")(data).outcomes
    seen = {_question(prompt) for prompt in pro.prompts}
    kept = mmlu.select(mmlu.known() & np.array([_question(prompt) not in seen for prompt in mmlu.prompts]))
    return Outcomes(kept.ids, kept.prompts, kept.datasets, pro.models, kept.quality)


def _question(prompt: str) -> str:
    """Without the options, which are four in one set and ten in the other."""
    return prompt.partition("\n")[0].strip()


SETS = (
    PilotSet("MMLU", routellm("mmlu"), of_mmlu_pro, "MMLU-Pro", ("1,500 golden labels, SW", 0.603)),
    PilotSet("GSM8K", routellm("gsm8k"), of_mmlu_pro, "MMLU-Pro", ("120,000 judge labels, causal LLM", 0.622)),
    PilotSet("MMLU-Pro", mmlu_pro("gpt-4o", "Llama-3.1-8B"), of_mmlu, "MMLU"),
)


def uses_encoder(each: PilotSet, amount: Amount) -> bool:
    """MMLU-Pro's 12,000 prompts are left out: their vectors take minutes."""
    return amount.encoder and not amount.quick and encoder_installed() and each.name != "MMLU-Pro"


def load_set(data: Path, each: PilotSet, amount: Amount, say: Say) -> tuple[Outcomes, Router, Scores]:
    """The set's rows, the router trained elsewhere, and what that says of every row, (N, 2). Raises FileNotFoundError."""
    table = known_rows(each.load(data)).outcomes
    trained_on = each.train(data)
    if amount.quick:
        table, trained_on = few(table, QUICK_ROWS), few(trained_on, QUICK_ROWS)
    say(f"{each.name}: a router trained on {each.trained_on}")
    base = create("knn", **({"features": ENCODER} if uses_encoder(each, amount) else {})).fit(trained_on)
    return table, base, np.asarray(base.predict(table.prompts))


def pilot_tables(data: Path, amount: Amount, say: Say) -> str:
    """A table per set whose data are there."""
    return each_that_is_there(SETS, lambda each: _set_table(data, each, amount, say))


def _set_table(data: Path, each: PilotSet, amount: Amount, say: Say) -> str:
    table, base, scores = load_set(data, each, amount, say)
    sizes = tuple(n for n in (QUICK_SIZES if amount.quick else SIZES) if n <= len(table) / 2)
    with_encoder = uses_encoder(each, amount)
    rows: list[NDArray[np.intp]] = []
    gains: dict[str, dict[int, list[NDArray[np.float64]]]] = {}
    for seed in range(min(amount.seeds, MAX_SEEDS)):
        pool, test = pool_and_test(table, sizes[-1], seed)
        prompts = [table.prompts[row] for row in test]
        rows.append(test)
        gains.setdefault("none", {}).setdefault(0, []).append(gain(scores[test]))
        for n in sizes:
            say(f"{each.name}: a pilot of {n}, seed {seed + 1} of {min(amount.seeds, MAX_SEEDS)}")
            pilot = table.select(pool[:n])
            for name, predicted in {
                "calibrated": CalibratedRouter(seed=seed).fit_pilot(base, pilot).predict_from(scores[test], prompts),
                "average": average(pilot, prompts, seed, with_encoder),
                "category": category_scores(pilot, table.select(test)),
            }.items():
                gains.setdefault(name, {}).setdefault(n, []).append(gain(np.asarray(predicted)))
    vectors = ", MiniLM" if with_encoder else ""
    names = {
        "calibrated": f"**base and pilot**: kNN{vectors}, trained on {each.trained_on}, with a head",
        "average": f"pilot alone: Gaussian process and forest{vectors}",
        "category": "*category mean*",
    }
    if len(set(table.datasets)) < 2:
        del names["category"]
    lines = []
    for name, label in names.items():
        first = gains["none"][0] if name == "calibrated" else None
        cells = [with_interval(apgr_interval(first, rows, table, amount.n_boot)) if first else "-"]
        cells += [with_interval(apgr_interval(gains[name][n], rows, table, amount.n_boot)) for n in sizes]
        lines.append([label, *cells])
    lines.append(["*random*", *["0.500"] * (1 + len(sizes))])
    if each.paper:
        lines.append([f"*the paper's best ({each.paper[0]}; published)*", *[f"{each.paper[1]:.3f}"] * (1 + len(sizes))])
    weak, strong = (name.rpartition("/")[2] for name in table.models)
    return (
        f"**{each.name}**, {strong} against {weak}: APGR [95 %] on {len(rows[0]):,} rows, {len(rows)} seeds.\n\n"
        + markdown(["router", "no pilot", *[f"{n:,} rows" for n in sizes]], lines)
    )


def pool_and_test(table: Outcomes, most: int, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(at most `most` rows in random order, at most TEST_ROWS others); equal prompts are on one side."""
    pool, rest = split_by_prompt(table, train_rows=most, seed=seed)
    rng = np.random.default_rng(seed)
    return rng.permutation(pool), np.sort(rng.permutation(rest)[:TEST_ROWS])


def average(train: Outcomes, prompts: Sequence[str], seed: int, with_encoder: bool) -> Scores:
    """(k, 2) by what `auto` takes unless another is clearly better: a Gaussian process, a forest, and one that sees vectors."""
    router = create("auto", encoder=ENCODER if with_encoder else None, n_folds=0, seed=seed)
    return np.asarray(router.fit(train).predict(prompts))


def gain(predicted: Scores) -> NDArray[np.float64]:
    """(k,) what the strong model is expected to be better by."""
    return (predicted[:, 1] - predicted[:, 0]).astype(np.float64)
