"""`headgate train`: what it reads, what it writes, what it refuses."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from outcome_tables import two_topics

from jobs import cli
from jobs.errors import SpecError
from jobs.evaluation.evaluate import run_evaluate
from jobs.evaluation.folds import EvaluateOptions
from jobs.evaluation.train import TrainOptions, run_train, train_candidate
from jobs.evaluation.training_data import TrainingOptions, gather, parse_tiers
from routing import routers
from routing.data.outcomes import write_outcomes
from routing.data.preferences import Preferences, write_preferences
from routing.data.training_data import as_preferences

SMALL = {"n_components": 8, "features": {"kind": "hashed", "n_features": 256}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("training")
    write_outcomes(two_topics(), path / "pair.parquet")
    write_preferences(as_preferences(two_topics()), path / "battles.parquet")
    return path


def options(folder: Path, out: Path, **more) -> TrainOptions:
    sets = more.pop("sets", TrainingOptions((str(folder / "pair.parquet"),)))
    return TrainOptions(sets, more.pop("router", "knn"), str(out), more.pop("hyperparameters", SMALL), **more)


def test_the_artifact_predicts_carries_its_figures_and_is_measured_elsewhere(folder, tmp_path):
    summary = run_train(options(folder, tmp_path / "router")).to_json()
    assert {path.name for path in (tmp_path / "router").iterdir()} == {"router.json", "weights.safetensors"}
    router = routers.load(tmp_path / "router")
    assert router.models_ == ("org/weak-7b", "strong-model")
    card = json.loads((tmp_path / "router" / "router.json").read_text())["metrics"]
    assert (
        card["validation"]["apgr"]["low"] < card["validation"]["apgr"]["mean"] == summary["validation"]["apgr"]["mean"]
    )
    assert card["validation"]["rows"] == 24 and card["training"]["rows"] == 216
    assert card["training"]["fingerprint"] == router.training_fingerprint_ and "numpy" in card["versions"]
    write_outcomes(two_topics(200, 9), tmp_path / "new.parquet")
    both = tuple(str(path) for path in (tmp_path / "new.parquet", folder / "pair.parquet"))
    asked = EvaluateOptions(both, (str(tmp_path / "router"),), "weak", "strong", n_boot=20)
    sets = run_evaluate(asked).to_json()["sets"]
    assert sets["new"]["routers"][str(tmp_path / "router")]["apgr"]["mean"] > 0.6
    seen = [each["routers"][str(tmp_path / "router")]["seen"] for each in sets.values()]
    assert seen == [False, True]


def test_an_older_artifact_is_replaced_and_nothing_else_ever_is(folder, tmp_path):
    run_train(options(folder, tmp_path / "router"))
    run_train(options(folder, tmp_path / "router", router="length", hyperparameters={}))
    assert routers.load(tmp_path / "router").name == "length"
    assert [path.name for path in tmp_path.iterdir()] == ["router"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(SpecError, match="holds no router"):
        run_train(options(folder, tmp_path / "mine"))
    with pytest.raises(SpecError, match="file"):
        run_train(options(folder, tmp_path / "mine" / "thesis.txt"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_held_out_prompts_are_not_trained_on(folder, tmp_path):
    write_outcomes(two_topics().select(np.arange(40)), tmp_path / "exam.parquet")
    summary = run_train(
        options(folder, tmp_path / "router", held_out=(str(tmp_path / "exam.parquet"),), validation=0.0)
    ).to_json()
    training = summary["training"]
    assert training["contaminated"] >= 40 and training["rows"] == 240 - training["contaminated"]
    assert summary["validation"] is None and "no rows held out" in summary["notes"][0]


def test_battles_train_what_outcomes_do(folder, tmp_path):
    sets = TrainingOptions(preferences=(str(folder / "battles.parquet"),))
    summary = run_train(options(folder, tmp_path / "router", sets=sets, router="linear")).to_json()
    assert summary["training"]["kind"] == "preferences" and summary["models"] == ["org/weak-7b", "strong-model"]
    assert summary["validation"]["apgr"]["mean"] > 0.5


def test_battles_of_other_models_become_classes(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"model-{level}" for level in range(6)]
    a, b = rng.integers(6, size=(2, 900))
    a, b = a[a != b], b[a != b]
    won = (rng.random(len(a)) < 1 / (1 + np.exp(-1.0 * (a - b)))).astype(float)
    battles = Preferences(
        [f"prompt {i}" for i in range(len(a))], [names[i] for i in a], [names[i] for i in b], won, ["arena"] * len(a)
    )
    write_preferences(battles, tmp_path / "arena.parquet")
    sets = TrainingOptions(either=(str(tmp_path / "arena.parquet"),), weak="mixtral", strong="gpt-4", tiers="0,1:4,5")
    data, notes = gather(sets)
    assert data.models == ("strong", "weak") and "model-5, model-4" in notes[0] and "model-1, model-0" in notes[0]
    # The same two names fought here: their own battles, no classes.
    named, notes = gather(replace(sets, weak="model-1", strong="model-4"))
    assert set(named.models) == {"model-1", "model-4"} and not notes
    assert len(gather(replace(sets, all_battles=True))[0]) == len(battles)


def test_sets_are_mixed_by_weight(folder):
    path = str(folder / "pair.parquet")
    data, _ = gather(TrainingOptions((path, path), weights=(1, 0.5)))
    assert len(data) == 360
    mixed, _ = gather(TrainingOptions((path,), (str(folder / "battles.parquet"),)))
    assert isinstance(mixed, Preferences)
    with pytest.raises(SpecError, match="--weights"):
        gather(TrainingOptions((path, path), weights=(1,)))


def test_what_is_typed(folder, tmp_path, monkeypatch, capsys):
    def headgate(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(
            sys, "argv", ["headgate", "train", "--router", "knn", "--out", str(tmp_path / "r"), *arguments]
        )
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return int(ended.value.code or 0), *capsys.readouterr()

    data = ["--outcomes", str(folder / "pair.parquet")]
    for more, says in (
        ([], "--preferences"),
        ([*data, "--strong", "strong"], "belong together"),
        ([*data, "--set", "k=0"], "k is 0"),
        ([*data, "--set", "k"], "name=value"),
        ([*data, "--set", "depth=3"], "depth"),
        ([*data, "--validation", "1.5"], "--validation"),
        (["--outcomes", "nowhere"], "nowhere"),
        (["--preferences", str(folder / "pair.parquet")], "pair.parquet"),
    ):
        code, out, err = headgate(*more, "--json")
        assert code == 2 and not out and says in err.strip().splitlines()[-1], (more, err)
        assert not (tmp_path / "r").exists()
    code, out, err = headgate(*data, "--set", "k=7", "--set", "features={kind: hashed, n_features: 128}", "--json")
    assert code == 0 and json.loads(out)["artifact"] == str(tmp_path / "r"), err
    assert routers.load(tmp_path / "r").hyperparameters()["k"] == 7
    code, out, err = headgate(*data)
    assert code == 0 and "APGR" in out and "held-out rows" in out


def test_tiers_and_settings_are_parsed():
    assert parse_tiers("0,1:2") == ((0, 1), (2,))
    for bad in ("", "0", "a:b", "0:1:2"):
        with pytest.raises(SpecError, match="--tiers"):
            parse_tiers(bad)
    assert train_candidate("auto", ["encoder=null"]).hyperparameters == {"encoder": None}
    chosen = train_candidate("knn:k=3", ["k=5", "features={kind: encoder, source: minilm}"])
    assert chosen.hyperparameters == {"k": 5, "features": {"kind": "encoder", "source": "minilm"}}


@pytest.mark.slow
def test_sets_and_artifacts_on_s3(folder, s3_moto):
    from jobs.storage.store import Store

    uri = s3_moto.uri("training")
    Store(uri).write("pair.parquet", (folder / "pair.parquet").read_bytes())
    out = f"{uri}/router"
    summary = run_train(TrainOptions(TrainingOptions((f"{uri}/pair.parquet",)), "knn", out, SMALL)).to_json()
    assert summary["artifact"] == out and set(Store(out).list()) == {"router.json", "weights.safetensors"}
    found = run_evaluate(EvaluateOptions((f"{uri}/pair.parquet",), (out,), "weak", "strong", n_boot=20)).to_json()
    assert found["routers"][out]["apgr"] and found["routers"][out]["seen"]
