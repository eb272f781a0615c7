"""The BERT classifier: learns a rule, scores alike alone and in a batch, takes RouteLLM's checkpoints."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer

from routing.data.outcomes import Outcomes
from routing.data.preferences import Preferences
from routing.data.training_data import as_preferences
from routing.errors import RoutingError
from routing.routers.neural.bert import BertRouter, _battle_targets
from routing.routers.registry import create, load
from tests.tiny_neural import CONTEXT, encoder_folder, ruled_outcomes

ODD = ["", " ", "?", "ÄÖÜ 漢字 😀", "\ud83d", "add 1 " * 3000, "one\ntwo"]
FAST = {"steps": 40, "learning_rate": 3e-3}


def fresh(kind="bert", **more):
    return BertRouter(encoder_folder(kind), **{**FAST, **more})


@pytest.fixture(scope="module")
def fitted():
    return fresh().fit(ruled_outcomes())


@pytest.fixture(scope="module")
def of_battles():
    return fresh().fit(as_preferences(ruled_outcomes(seed=2)))


@pytest.fixture(scope="module")
def test_set():
    outcomes = ruled_outcomes(250, seed=1)
    return outcomes.select(outcomes.known())


def test_learns_quality_from_outcomes(fitted, test_set):
    quality = fitted.predict(test_set.prompts)
    assert quality.shape == (len(test_set), 2) and quality.dtype == np.float32
    assert ((quality >= 0) & (quality <= 1)).all()
    assert roc_auc_score(test_set.quality[:, 0], quality[:, 0]) > 0.8
    np.testing.assert_allclose(quality.mean(0), test_set.quality.mean(0), atol=0.1)
    assert not fitted.pairwise


def test_learns_the_win_rate_from_battles(of_battles, test_set):
    assert of_battles.pairwise and of_battles.n_outputs_ == 3
    assert of_battles.models_ == ("model-0", "model-1")
    quality = of_battles.predict(test_set.prompts)
    np.testing.assert_allclose(quality.sum(1), 1, atol=1e-6)
    wins = test_set.quality[:, 1] > test_set.quality[:, 0]
    assert roc_auc_score(wins, quality[:, 1]) > 0.8
    np.testing.assert_allclose(quality[:, 1].mean(), wins.mean(), atol=0.12)  # ties are not wins


def test_battles_listed_either_way_round_are_the_same():
    there = Preferences(["x", "y", "z"], ["s"] * 3, ["w"] * 3, np.array([1, 0.5, 0.25]), ["d"] * 3)
    back = Preferences(["x", "y", "z"], ["w"] * 3, ["s"] * 3, np.array([0, 0.5, 0.75]), ["d"] * 3)
    for battles in (there, back):
        np.testing.assert_allclose(_battle_targets(battles, ("w", "s")), [[1, 0, 0], [0, 1, 0], [0, 0.5, 0.5]])


def test_three_models_and_unknown_qualities(test_set):
    three = ruled_outcomes(m=3, unknown=0.4)
    router = fresh(pooling="cls").fit(three)
    quality = router.predict(test_set.prompts)
    assert quality.shape == (len(test_set), 3)
    hard = np.array(["prove" in prompt for prompt in test_set.prompts])
    assert quality[hard, 0].mean() < quality[hard, 1].mean() < quality[hard, 2].mean()
    # A row that knows nothing changes nothing.
    blank = Outcomes([*three.ids, "more"], [*three.prompts, "add 1"], [*three.datasets, "d"], three.models,
                     np.vstack([three.quality, np.full((1, 3), np.nan, np.float32)]))  # fmt: skip
    with_blank, without = (fresh(steps=3).fit(table).predict(["add 1"]) for table in (blank, three))
    np.testing.assert_array_equal(with_blank, without)
    battles = fresh(steps=5).fit(as_preferences(three))
    assert not battles.pairwise and battles.predict(["add 1"]).shape == (1, 3)


def test_batched_is_single(fitted, of_battles, test_set):
    prompts = [*test_set.prompts[:40], *ODD]
    for router in (fitted, of_battles):
        together = router.predict(prompts)
        np.testing.assert_allclose(together, np.vstack([router.predict([p]) for p in prompts]), atol=1e-5)
        order = np.random.default_rng(0).permutation(len(prompts))
        np.testing.assert_allclose(together[order], router.predict([prompts[i] for i in order]), atol=1e-5)
        assert router.predict([]).shape == (0, 2)


def test_deterministic_by_seed():
    outcomes = ruled_outcomes(60)
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    first, again, other = (fresh(steps=5, seed=seed).fit(outcomes).predict(["add 1 2"]) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)  # the caller's random numbers are left alone


@pytest.mark.parametrize("pooling", ["mean", "classifier"])
def test_save_and_load(fitted, pooling, tmp_path, test_set):
    router = fitted if pooling == "mean" else fresh("xlm-r", pooling="classifier", steps=3).fit(ruled_outcomes(60))
    router.save(tmp_path, metrics={"apgr": 0.6})
    router.save(tmp_path, metrics={"apgr": 0.6})  # over an earlier one
    again = load(tmp_path)
    assert type(again) is BertRouter and again.models_ == router.models_
    assert again.hyperparameters() == router.hyperparameters()
    prompts = [*test_set.prompts[:30], *ODD]
    np.testing.assert_array_equal(again.predict(prompts), router.predict(prompts))
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert {"router.json", "weights.safetensors", "model/model.safetensors", "model/config.json"} <= files
    assert {Path(file).suffix for file in files} <= {".json", ".safetensors", ".jinja", ".txt"}  # no pickle
    card = json.loads((tmp_path / "router.json").read_text())
    assert {f"model/{name}" for name in card["model_files"]} | {"router.json", "weights.safetensors"} == files


def test_a_changed_model_folder_is_refused(fitted, tmp_path):
    fitted.save(tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(RoutingError, match="not the file router"):
        load(tmp_path)
    weights.unlink()
    with pytest.raises(RoutingError, match="missing; copy the whole folder"):
        load(tmp_path)
    card = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**card, "model_files": {}}))
    with pytest.raises(RoutingError, match="no model_files"):
        load(tmp_path)
    (tmp_path / "router.json").write_text(json.dumps({**card, "models": ["a", "b", "c"]}))
    with pytest.raises(RoutingError, match="do not fit"):
        load(tmp_path)


def classifier(folder, labels, seed=0):
    """A sequence classifier of XLM-R's architecture, as RouteLLM's hub checkpoints are."""
    config = AutoConfig.from_pretrained(encoder_folder("xlm-r"))
    config.num_labels = labels
    config.initializer_range = 0.5  # decided opinions
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(encoder_folder("xlm-r")).save_pretrained(folder)
    return str(folder)


def test_a_checkpoint_of_routellm(tmp_path, test_set):
    source = classifier(tmp_path / "hub", 3)
    router = BertRouter.from_classifier(source, ("mixtral", "gpt-4"))
    assert router.models_ == ("mixtral", "gpt-4") and router.pairwise
    prompts = [*test_set.prompts[:20], "add 3 " * 500]
    win_rate = router.predict(prompts)[:, 1]
    model = AutoModelForSequenceClassification.from_pretrained(source).eval()
    tokenizer = AutoTokenizer.from_pretrained(source)
    for prompt, rate in zip(prompts, win_rate, strict=True):
        inputs = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=CONTEXT)
        with torch.no_grad():
            scores = model(**inputs).logits[0].softmax(0)
        assert rate == pytest.approx(1 - scores[-2:].sum().item(), abs=1e-5)  # RouteLLM's formula
    assert np.ptp(win_rate) > 0.05
    router.save(tmp_path / "art")
    np.testing.assert_array_equal(load(tmp_path / "art").predict(prompts)[:, 1], win_rate)


def test_checkpoints_that_are_none(tmp_path):
    with pytest.raises(RoutingError, match="2 labels, not 3"):
        BertRouter.from_classifier(classifier(tmp_path / "two", 2), ("w", "s"))
    with pytest.raises(RoutingError, match=r"knows \(weak, strong\)"):
        BertRouter.from_classifier("x", ("a", "b", "c"))
    with pytest.raises(RoutingError, match="lacks 4 weights"):  # an encoder: its head would be made up
        BertRouter.from_classifier(encoder_folder("xlm-r"), ("w", "s"))
    source = Path(classifier(tmp_path / "cut", 3))
    tensors = load_file(source / "model.safetensors")
    tensors.pop("roberta.encoder.layer.0.attention.self.query.weight")
    save_file(tensors, source / "model.safetensors", {"format": "pt"})
    with pytest.raises(RoutingError, match=r"lacks 1 weights .*query\.weight"):
        BertRouter(str(source)).fit(ruled_outcomes(30))


def test_progress(test_set):
    heard = []
    router = fresh(steps=20)
    router.on_progress = heard.append
    router.fit(ruled_outcomes(100))
    assert [report.step for report in heard] == list(range(2, 21, 2))
    assert heard[0].steps == 20 and heard[0].loss > 0 and heard[0].learning_rate > 0
    assert heard[-1].validation_loss < heard[0].validation_loss
    silent = fresh(steps=20).fit(ruled_outcomes(100))
    np.testing.assert_array_equal(silent.predict(test_set.prompts[:9]), router.predict(test_set.prompts[:9]))
    small = fresh(steps=2)
    small.on_progress = heard.append
    small.fit(ruled_outcomes(10))
    assert heard[-1].validation_loss is None


def test_memory_is_bounded_by_the_token_budget():
    router = fresh(steps=2, tokens_per_batch=64)
    sizes = []
    logits = router._logits
    router._logits = lambda ids: sizes.append(len(ids) * max(map(len, ids))) or logits(ids)
    router.fit(ruled_outcomes(60)).predict(["add 1 2 3"] * 50)
    assert max(sizes) <= 64


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        (Outcomes([], [], [], ("a", "b"), np.zeros((0, 2), np.float32)), "nothing to fit on"),
        (Outcomes(["1"], ["x"], ["d"], ("a", "b"), np.array([[1, np.nan]], np.float32)), "'b' has no known quality"),
        (Outcomes(["1", "2"], ["x", "y"], ["d"] * 2, ("a", "b"), np.array([[0.2, 1]] * 2, np.float32)), "same label"),
        (Outcomes(["1", "2"], ["x", "x"], ["d"] * 2, ("a", "b"), np.eye(2, dtype=np.float32)), "prompts are equal"),
        (Preferences(["x", "y"], ["a"] * 2, ["b"] * 2, np.ones(2), ["d"] * 2), "same label"),
    ],
)
def test_nothing_to_learn_from(outcomes, message):
    with pytest.raises(RoutingError, match=message) as caught:
        fresh().fit(outcomes)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_loaded_or_set(tmp_path):
    with pytest.raises(RoutingError, match="knows no models yet"):
        fresh().predict(["x"])
    with pytest.raises(RoutingError, match="no usable model at source") as caught:
        create("bert", source=str(tmp_path / "nowhere")).fit(ruled_outcomes(30))
    assert "\n" not in str(caught.value)
    for wrong in ({"pooling": "max"}, {"steps": 0}, {"learning_rate": 0}, {"max_length": 1}, {"validation_share": 1}):
        with pytest.raises(RoutingError, match=next(iter(wrong))):
            create("bert", **wrong)
    diverging = fresh(learning_rate=1e30, steps=20)
    with pytest.raises(RoutingError, match=r"the loss is (nan|inf)"):
        diverging.fit(ruled_outcomes(60))
    with pytest.raises(RoutingError, match="did not finish"):
        diverging.predict(["x"])
