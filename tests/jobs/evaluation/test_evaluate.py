"""`headgate evaluate`: the figures, their intervals, what a person types, and what comes out."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from outcome_tables import two_topics

from jobs import cli
from jobs.errors import HeadgateError, InputError, SpecError
from jobs.evaluation.evaluate import run_evaluate
from jobs.evaluation.folds import EvaluateOptions
from jobs.evaluation.page import render_page
from jobs.evaluation.sources import find_model, read_outcome_set
from routing.data.outcomes import concat, write_outcomes
from routing.errors import RoutingError
from routing.metrics.pair import apgr, routellm_measures
from routing.metrics.trials import FIGURES, Trial, measure_trials
from routing.routers.registry import create

CONTRACT = ("apgr", "apgr_routellm", "cpt50", "cpt80", "aiq")
SMALL = "knn:k=10,n_components=8,features={kind: hashed, n_features: 256}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("outcomes")
    write_outcomes(two_topics(), path / "pair.parquet")
    write_outcomes(two_topics(200, 1), path / "more.parquet")
    write_outcomes(two_topics(200, 2, ("a", "b", "c")), path / "three.parquet")
    return path


def options(folder: Path, *routers: str, name: str = "pair", **more) -> EvaluateOptions:
    pair = {"weak": "weak-7b", "strong": "strong-model"}
    defaults = {"seeds": 2, "n_boot": 60, "train_rows": 80} | (pair if name != "three" else {})
    return EvaluateOptions((str(folder / f"{name}.parquet"),), routers or (SMALL,), **defaults | more)


def evaluated(asked: EvaluateOptions) -> dict:
    """evaluation.json, as Python."""
    return run_evaluate(asked).to_json()


def headgate(monkeypatch, capsys, *arguments: str) -> tuple[int, str, str]:
    """The command in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["headgate", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_the_command_prints_one_json_object_with_every_figure(folder, monkeypatch, capsys):
    arguments = ["--outcomes", str(folder / "pair.parquet"), "--strong", "strong-model", "--weak", "weak-7b"]
    arguments += ["--router", "knn", "--train-rows", "120", "--seeds", "2", "--json"]
    code, out, err = headgate(monkeypatch, capsys, "evaluate", *arguments)
    assert code == 0, err
    found = json.loads(out)
    row = found["routers"]["knn"]
    for name in CONTRACT:
        assert row[name]["low"] <= row[name]["mean"] <= row[name]["high"]
    assert row["apgr"]["mean"] > 0.65  # the topic decides, and it is in the words
    assert (found["weak"], found["strong"]) == ("org/weak-7b", "strong-model")
    assert found["seeds"] == [0, 1] and found["train_rows"] == 120 and found["test_rows"] == 120
    assert set(found["baselines"]) == {"random", "length", "category mean", "zero", "oracle"}
    assert "curves" not in found and all(line.startswith("headgate: ") for line in err.splitlines())


def test_one_seed_and_all_rows_agree_with_the_measures_themselves(folder):
    found = evaluated(options(folder, "length", seeds=1, train_rows=None, fraction=0.5))
    table = two_topics()
    from routing.data.outcomes import split_by_prompt

    train, test = split_by_prompt(table, fraction=0.5, seed=0)
    router = create("length").fit(table.select(train))
    score = np.diff(router.predict([table.prompts[i] for i in test]).astype(np.float64), axis=1)[:, 0]
    weak, strong = table.quality[test].astype(np.float64).T
    assert found["routers"]["length"]["apgr"]["mean"] == pytest.approx(apgr(score, weak, strong))
    published = routellm_measures(score, weak, strong)["apgr"]
    assert found["routers"]["length"]["apgr_routellm"]["mean"] == pytest.approx(published)


def test_without_a_pair_all_models_take_part_and_aiq_is_the_figure(folder):
    found = evaluated(options(folder, name="three"))
    row = found["routers"][SMALL]
    assert all(row[name] is None for name in CONTRACT if name != "aiq")
    base = found["baselines"]
    assert base["zero"]["aiq"]["mean"] < row["aiq"]["mean"] < base["oracle"]["aiq"]["mean"]
    assert row["aiq_gain"]["mean"] == pytest.approx(row["aiq"]["mean"] - base["zero"]["aiq"]["mean"])


def test_without_cost_aiq_is_null_and_said(tmp_path):
    write_outcomes(two_topics(cost=False), tmp_path / "pair.parquet")
    found = evaluated(options(tmp_path))
    assert found["routers"][SMALL]["aiq"] is None and found["routers"][SMALL]["apgr"]
    assert any("no cost" in note for note in found["notes"])
    everything = evaluated(replace(options(tmp_path), weak=None, strong=None))
    assert everything["routers"][SMALL]["best_quality"] and any("--strong" in note for note in everything["notes"])


def test_equal_seeds_give_equal_figures_and_random_is_a_half(folder):
    once, again = (evaluated(options(folder, "random")) for _ in range(2))
    assert once["routers"]["random"]["apgr"] == again["routers"]["random"]["apgr"]
    row = evaluated(options(folder, "random", seeds=8, train_rows=40))["routers"]["random"]["apgr"]
    assert row["low"] < 0.5 < row["high"]


def test_the_interval_of_a_mean_is_that_of_its_standard_error():
    table = two_topics(600)
    rows = np.arange(600)
    predicted = np.tile(np.array([1, 0], np.float32), (600, 1))
    found = measure_trials([Trial(rows, predicted)], table, pair=True, n_boot=1500)["best_quality"]
    weak = table.quality[:, 0]
    assert found.mean == pytest.approx(weak.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * weak.std() / np.sqrt(600), rel=0.1)
    # Five trials that say the same of the same rows know no more than one.
    five = measure_trials([Trial(rows, predicted)] * 5, table, pair=True, n_boot=1500)["best_quality"]
    assert five == pytest.approx(found)


def test_no_interval_where_the_gap_may_be_chance():
    table = two_topics(40)
    table = replace(table, quality=np.tile(table.quality[:, 1:], (1, 2)))
    trial = Trial(np.arange(40), np.random.default_rng(0).random((40, 2), np.float32))
    found = measure_trials([trial], table, pair=True, n_boot=50)
    assert found["apgr"] is None and not np.isnan(found["best_quality"].low)


def test_several_sets_and_all_of_them_together(folder):
    paths = (str(folder / "pair.parquet"), str(folder / "more.parquet"))
    whole = run_evaluate(replace(options(folder), outcomes=paths))
    found = whole.to_json()
    assert set(found["sets"]) == {"pair", "more"} and found["pooled"]["rows"] == 440
    assert found["routers"] == found["pooled"]["routers"]
    assert "curves" not in json.dumps(whole.to_json(with_curves=False)) and "curves" in json.dumps(whole.to_json())
    apart = replace(options(folder, name="three"), outcomes=(paths[0], str(folder / "three.parquet")))
    assert evaluated(apart)["pooled"] is None


def test_equal_prompts_are_on_one_side_and_unknown_rows_left_out(tmp_path):
    table = two_topics(120)
    quality = table.quality.copy()
    quality[:10, 1] = np.nan
    twice = concat([replace(table, quality=quality), table.select(np.arange(10, 60))])
    write_outcomes(twice, tmp_path / "pair.parquet")
    found = evaluated(options(tmp_path, "length", train_rows=60))
    assert found["rows"] == 160 and found["train_rows"] + found["test_rows"] == 160
    assert any("10 of 170 rows left out" in note for note in found["notes"])


def test_training_on_another_set_drops_what_is_in_the_test(folder, tmp_path):
    test, other = two_topics(), two_topics(150, 5)
    leaking = concat([other, test.select(np.arange(30))])
    write_outcomes(leaking, tmp_path / "train.parquet")
    found = evaluated(options(folder, train=(str(tmp_path / "train.parquet"),), train_rows=None))
    assert found["test_rows"] == 240 and found["training"]["contaminated"] >= 30
    assert found["train_rows"] == 180 - found["training"]["contaminated"]
    assert 0 < found["training"]["similarity"] <= 1 and found["routers"][SMALL]["apgr"]["mean"] > 0.6


def test_an_artifact_is_measured_and_named_where_it_has_seen_the_rows(folder, tmp_path):
    create("knn", n_components=8).fit(two_topics(200, 7)).save(tmp_path / "fresh")
    create("knn", n_components=8).fit(two_topics()).save(tmp_path / "seen")
    fresh, seen = str(tmp_path / "fresh"), str(tmp_path / "seen")
    found = evaluated(options(folder, fresh, seen))
    assert found["routers"][fresh]["apgr"]["mean"] > 0.6 and len(found["seeds"]) == 1 and found["test_rows"] == 240
    assert [note for note in found["notes"] if "no test" in note and seen in note]
    assert not [note for note in found["notes"] if fresh in note]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--router", "nope"], "names are"),
        (["--router", "knn:k=-1"], "k is -1"),
        (["--router", "knn:neighbours=3"], "neighbours"),
        (["--router", "knn", "--outcomes", "nowhere.parquet"], "nowhere.parquet"),
        (["--router", "knn", "--strong", "strong-model"], "--weak belong together"),
        (["--router", "knn", "--strong", "gpt-9", "--weak", "weak"], "it has org/weak-7b, strong-model"),
        (["--router", "knn", "--strong", "o", "--weak", "weak"], "may be"),
        (["--router", "knn", "--train-rows", "5", "--fraction", "0.5"], "one of the two"),
        (["--router", "knn", "--train-rows", "9999"], "--train-rows"),
        (["--router", "knn", "--drop-contaminated"], "contaminated_prompts.jsonl"),
        (["--router", "knn", "--seeds", "0"], "seeds"),
        ([], "--router"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(folder, monkeypatch, capsys, more, says):
    outcomes = [] if "--outcomes" in more else ["--outcomes", str(folder / "pair.parquet")]
    code, out, err = headgate(monkeypatch, capsys, "evaluate", *outcomes, *more, "--json")
    assert code == 2 and out == "", err
    last = err.strip().splitlines()[-1]
    assert says in last and last.startswith("headgate: ")


def test_names_of_models():
    models = ("mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4", "gpt-4-1106-preview")
    assert find_model(models, "Mixtral-8x7B-Instruct-v0.1", "--weak") == models[0]
    assert find_model(models, "mixtral", "--weak") == models[0]
    assert find_model(models, "gpt-4", "--strong") == "gpt-4"
    for name in ("gpt", "", "claude"):
        with pytest.raises(SpecError, match="--strong"):
            find_model(models, name, "--strong")


def test_contaminated_prompts_are_dropped_where_they_are_listed(tmp_path):
    table = two_topics(50)
    write_outcomes(table, tmp_path / "pair.parquet")
    (tmp_path / "contaminated_prompts.jsonl").write_text(json.dumps({"eval_prompt": table.prompts[3]}) + "\n")
    path = str(tmp_path / "pair.parquet")
    assert len(read_outcome_set(path).outcomes) == 49 == len(read_outcome_set(path, True).outcomes)
    assert "1 rows left out" in read_outcome_set(path).notes[0]
    assert len(read_outcome_set(path, False).outcomes) == 50
    (tmp_path / "contaminated_prompts.jsonl").write_text("[]\n")
    with pytest.raises(InputError, match="eval_prompt"):
        read_outcome_set(path)


def test_mt_bench_judgements_are_outcomes(tmp_path):
    questions = [{"question_id": i, "category": "math", "turns": [f"question {i}", "and then?"]} for i in range(3)]
    scores = [
        {"question_id": i, "model": model, "turn": turn, "score": score}
        for i in range(3) for model, score in (("strong", 9), ("weak", 4 + i)) for turn in (1, 2)
    ]  # fmt: skip
    scores.append({"question_id": 0, "model": "weak", "turn": 1, "score": -1})
    for name, rows in (("question.jsonl", questions), ("judgements.jsonl", scores)):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_outcome_set(str(tmp_path)).outcomes
    assert table.models == ("strong", "weak") and list(table.prompts) == ["question 0", "question 1", "question 2"]
    np.testing.assert_allclose(table.quality, [[0.9, 0.4], [0.9, 0.5], [0.9, 0.6]], rtol=1e-6)


def test_the_page_holds_text_and_pictures_and_nothing_that_runs(folder, tmp_path):
    attack = "<script>document.title='owned'</script>"
    write_outcomes(replace(two_topics(80), models=(f"weak{attack}", "strong-model")), tmp_path / "pair.parquet")
    found = run_evaluate(replace(options(tmp_path, train_rows=40), weak=f"weak{attack}", seeds=1))
    html = render_page(found)
    assert "<script" not in html and "&lt;script" in html
    assert html.count("<svg") == 4 and "http://" not in html.replace("http://www.w3.org", "") and "https://" not in html
    assert re.search(r"is best: APGR 0\.\d{3}", html)
    for name in ("three",):
        page = render_page(run_evaluate(options(folder, name=name)))
        assert page.count("<svg") == 2 and "Zero router" in page


def test_the_files_of_out_are_written(folder, tmp_path, monkeypatch, capsys):
    arguments = [
        "--outcomes",
        str(folder / "three.parquet"),
        "--router",
        "length",
        "--seeds",
        "1",
        "--out",
        str(tmp_path / "e"),
    ]
    code, out, err = headgate(monkeypatch, capsys, "evaluate", *arguments)
    assert code == 0, err
    assert max(len(line) for line in out.splitlines() if "report:" not in line) <= 80 and "AIQ" in out
    data = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    assert data["curves"]["zero"]["oracle"] and set(data["routers"]["length"]) >= set(FIGURES)
    assert (tmp_path / "e" / "report.html").stat().st_size > 5000


def test_errors_are_the_projects_own(folder):
    for routers in (("knn:k=0",), ("category:structure_weight=-1",)):
        with pytest.raises((HeadgateError, RoutingError)):
            run_evaluate(options(folder, *routers))
