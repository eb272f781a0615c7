"""The further tables of docs/results.md in their quick form, on a made-up GSM8K and MMLU-Pro."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.results import __main__ as results
from benchmarks.results import batch_tables, cascade_points, cascade_tables, live_tables, pilot_tables, promise_tables
from benchmarks.results.live_tables import in_band
from benchmarks.results.matcher_tables import matcher_tables
from benchmarks.results.sets import STRONG, WEAK
from benchmarks.results.tables import Amount, apgr_interval, markdown
from routing.answers.head import Evidence
from routing.metrics.pair import apgr
from routing.metrics.plane import CostQuality
from tests.jobs.evaluation.outcome_tables import two_topics

QUICK = Amount(seeds=1, quick=True, encoder=False)
MODELS = ("meta-llama/Meta-Llama-3.1-8B-Instruct", "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4o-2024-05-13")


def silent(line: str) -> None:
    """Progress that nobody reads."""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """GSM8K of 400 rows whose answers end in a number, MMLU-Pro of 300 whose answers name a letter."""
    folder = tmp_path_factory.mktemp("data")
    table = two_topics(400)
    gsm8k = folder / "routellm" / "gsm8k"
    gsm8k.mkdir(parents=True)
    with (gsm8k / "gsm8k_responses.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["prompt", WEAK, STRONG, f"{WEAK}_response", f"{STRONG}_response"])
        for number, (prompt, right) in enumerate(zip(table.prompts, table.quality == 1, strict=True)):
            said = [f"So it is {number + (0 if ok else 7)}." for ok in right]
            out.writerow([prompt, *map(bool, right), *said])
    with (gsm8k / "test.jsonl").open("w") as file:
        for number, prompt in enumerate(table.prompts):
            file.write(json.dumps({"question": prompt, "answer": f"Well.\n#### {number}"}) + "\n")
    rng = np.random.default_rng(0)
    columns: dict[str, list] = {
        "id": [str(i) for i in range(300)],
        "prompt": [f"Question {i} of {'law' if i % 2 else 'algebra'}?\nA. 1\nB. 2" for i in range(300)],
        "dataset": ["law" if i % 2 else "math" for i in range(300)], "answer": ["A"] * 300, "src": ["x"] * 300,
    }  # fmt: skip
    for model, rate in zip(MODELS, (0.4, 0.5, 0.8), strict=True):
        right = rng.random(300) < rate
        columns[f"{model}|quality"] = right.astype(float).tolist()
        columns[f"{model}|response"] = [f"The answer is ({'A' if ok else 'B'})." for ok in right]
    (folder / "mmlu_pro").mkdir()
    pq.write_table(pa.table(columns), folder / "mmlu_pro" / "outcomes.parquet")
    return folder


def test_pilots_by_size(data, monkeypatch):
    monkeypatch.setattr(pilot_tables, "SETS", pilot_tables.SETS[:2])
    text = pilot_tables.pilot_tables(data, QUICK, silent)
    assert "**GSM8K**" in text and "| 40 rows | 80 rows |" in text and "category mean" not in text
    assert "0.622 | 0.622" in text and "Not measured: mmlu" in text


@pytest.mark.slow
def test_the_same_seeds_give_the_same_figures(data):
    for make in (pilot_tables.pilot_tables, batch_tables.batch_tables):
        assert make(data, QUICK, silent) == make(data, QUICK, silent)


def test_a_smaller_pilot_begins_a_larger_one_and_no_tested_prompt_is_in_it(data):
    table = pilot_tables.SETS[1].load(data).outcomes
    pool, test = pilot_tables.pool_and_test(table, 80, seed=3)
    assert len(set(pool) & set(test)) == 0 and len(pool) <= 80
    assert not {table.prompts[i] for i in pool} & {table.prompts[i] for i in test}
    first, second = batch_tables.two_batches(table, 40, seed=3)
    every = [table.prompts[i] for part in (*first, *second) for i in part]
    samples = {table.prompts[i] for i in (*first.sample, *second.sample)}
    assert not samples & {table.prompts[i] for i in (*first.test, *second.test)} and len(every) > 150


def test_the_second_batch(data):
    text = batch_tables.batch_tables(data, QUICK, silent)
    assert text.count("| 2 | ") == 4 and text.count("| 1 | ") == 2 and "before any call of its own" in text


def test_cascades(data, monkeypatch):
    monkeypatch.setattr(cascade_tables, "CASES", (cascade_tables.CASES[0], cascade_tables.CASES[3]))
    text = cascade_tables.cascade_tables(data, QUICK, silent)
    assert text.count("| cascade, every row weak first |") == 2 and "PGR 80 %" in text
    oracle, alone = (
        float(next(line for line in text.splitlines() if line.startswith(f"| {name}")).split("|")[2].split()[0][1:])
        for name in ("oracle", "routing")
    )
    assert 0 < oracle < alone


def test_dollars_for_a_quality_are_those_of_mixing_settings():
    hull = CostQuality(np.array([1.0, 2.0]), np.array([0.4, 0.6]))
    assert cascade_points.usd_at(hull, 0.5) == pytest.approx(1.5)
    assert cascade_points.usd_at(hull, 0.3) == 1.0 and cascade_points.usd_at(hull, 0.7) == float("inf")


def test_further_answers_are_paid_in_the_band_alone_and_move_its_rows_alone():
    """Ten rows in the order of their plain gain; the full one turns that order round."""
    n = 10
    plain = np.stack([np.zeros(n), np.linspace(1, 0.1, n)], axis=1)
    quality = np.stack([np.zeros(n), np.r_[np.zeros(5), np.ones(5)]], axis=1)
    cost = np.tile([1.0, 10.0], (n, 1))
    found = in_band(plain, plain[::-1], quality, cost, np.full(n, 2.0))
    assert found.cost_usd[0] == 1 and found.quality[0] == 0 and found.quality[found.cost_usd == 11].tolist() == [0.5]
    # Half of the rows go up; rows at .45 and .55 are within .1 of that cut and change places, .35 and .65 do not.
    at = np.flatnonzero(np.isclose(found.cost_usd, 1 + 5 + 2 * 2 / n))
    assert len(at) and found.quality[at] == pytest.approx(0.1)


def test_log_probabilities_that_tell_the_wrong_answers_help_the_cascade():
    table, rng = two_topics(400), np.random.default_rng(0)
    right = rng.random(400) < 0.6
    table = replace(
        table, models=("weak", "strong"), quality=np.stack([right, np.ones(400)], axis=1).astype(np.float32),
        responses=np.array([["It is so."] * 2] * 400, object), cost_usd=np.tile([0.001, 0.02], (400, 1)),
    )  # fmt: skip
    told = np.where(right, -0.1, -1.0) + rng.normal(0, 0.3, 400)
    evidence = Evidence(
        table.prompts, ["It is so."] * 400, np.zeros((400, 2)), log_probabilities=np.stack([told, told], axis=1),
        agreement=np.where(right, 1.0, 0.25),
    )  # fmt: skip
    found = live_tables.trial(live_tables.Live(table, evidence, np.full(400, 0.004)), 150, 0)
    merit = {name: found[name][-1] for name in (live_tables.RESPONSE, live_tables.LOGPROB, live_tables.AGREEMENT)}
    assert merit[live_tables.LOGPROB] > merit[live_tables.RESPONSE] + 0.1
    assert merit[live_tables.AGREEMENT] > merit[live_tables.LOGPROB]
    assert found[live_tables.LOGPROB][2] < found[live_tables.ALONE][2], "dollars at nine tenths of the gap"


def test_intervals_and_promises(data):
    covered = promise_tables.coverage_tables(data, QUICK, silent)
    assert "| GSM8K | quality of the run | **assisted** |" in covered and "Wald" in covered and "% / 0." in covered
    assert "cells at 94.5 % or more" in covered
    broken = promise_tables.violation_tables(data, QUICK, silent)
    assert "| GSM8K | `min_quality 0.8` | 100 |" in broken and "`guarantee: agreement 0.9`" in broken


def test_matchers_agree_with_what_was_recorded(data):
    lines = matcher_tables(data, QUICK, silent).splitlines()
    assert len(lines) == 2 + 2 + len(MODELS)  # no disagreement, so no note below
    assert all("| 100.00 % | 0 | 0 | 100.0 % | 100.0 % |" in line for line in lines[2:])


def test_cents_are_told_apart_from_wrong_answers(tmp_path):
    folder = tmp_path / "routellm" / "gsm8k"
    folder.mkdir(parents=True)
    rows = [["one", "False", "True", "It is $18.00.", "18"], ["two", "False", "True", "It is 19.", "18"]]
    with (folder / "gsm8k_responses.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["prompt", WEAK, STRONG, f"{WEAK}_response", f"{STRONG}_response"], *rows])
    (folder / "test.jsonl").write_text(
        "".join(json.dumps({"question": row[0], "answer": "#### 18"}) + "\n" for row in rows)
    )
    text = matcher_tables(tmp_path, QUICK, silent)
    assert "1 of the 1 disagreements" in text and "| 50.00 % | 1 | 0 |" in text and "| 100.00 % |" in text


@pytest.mark.parametrize("table", results.TABLES, ids=lambda table: table.key)
def test_a_table_without_its_data_says_so(table, tmp_path):
    text = results.results(results.Options(tmp_path, quick=True, only=(table.key,)))
    assert f"## {table.title}" in text and "Not measured: " in text


def test_apgr_over_trials_is_the_mean_of_theirs(data):
    table = pilot_tables.SETS[1].load(data).outcomes
    rng = np.random.default_rng(0)
    rows = [np.arange(0, 200), np.arange(100, 400)]
    scores = [rng.random(len(own)) for own in rows]
    found = apgr_interval(scores, rows, table, 20)
    expected = [float(apgr(s, *table.quality[own].astype(float).T)) for s, own in zip(scores, rows, strict=True)]
    assert found.mean == pytest.approx(np.mean(expected)) and found.low <= found.mean <= found.high


def test_words_to_the_left_and_figures_to_the_right():
    assert markdown(["a", "b", "c"], [["x", "y", "1"]], left=2) == "| a | b | c |\n| --- | --- | --: |\n| x | y | 1 |"


def test_a_part_that_is_done_is_not_made_again(data, tmp_path):
    options = results.Options(data, quick=True, only=("matchers",), parts=tmp_path / "parts")
    first = results.results(options)
    kept = tmp_path / "parts" / "matchers.quick.md"
    assert kept.read_text() in first
    kept.write_text("## as it was")
    assert "## as it was" in results.results(options)
    assert [path.name for path in (tmp_path / "parts").iterdir()] == [kept.name]


def test_no_key_is_taken_twice():
    keys = [part.key for part in results.PARTS] + [results.NEURAL]
    assert len(set(keys)) == len(keys)
