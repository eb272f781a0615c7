"""The checks every router of the registry passes, one parametrised file.

A router without a row in `ROWS` (`router_rows.py`) fails here.
"""

import hashlib
import json
import pickle
import shutil
from functools import cache

import numpy as np
import pytest
from router_rows import ODD, ROWS, fresh, make_outcomes
from safetensors import safe_open

from routing.data.outcomes import Outcomes
from routing.data.training_data import as_outcomes, as_preferences
from routing.errors import RoutingError
from routing.features.structure import STRUCTURE
from routing.metrics.pair import apgr
from routing.routers.registry import ROUTERS, create, load, names

TEXT_SUFFIXES = {".json", ".txt", ".jinja"}


def test_every_router_has_a_row():
    assert set(ROWS) == set(ROUTERS) == set(names()), "a new router needs a row in ROWS"
    assert set(names(needs_training=False)) == {"random", "always", "length"}


@pytest.fixture(
    params=[pytest.param(name, marks=[pytest.mark.slow] if ROWS[name].slow else []) for name in ROWS if name in ROUTERS]
)
def name(request):
    return request.param


@cache
def fitted(name, m=2):
    """A router fitted on the same 100 rows (odd prompts among them) for all checks that only read it."""
    return fresh(name).fit(make_outcomes(100, m=m, odd=True))


def same(name, first, second):
    np.testing.assert_allclose(first, second, rtol=0, atol=ROWS[name].tolerance)


def constant_outcomes(prompts):
    quality = np.tile(np.array([0.25, 1], np.float32), (len(prompts), 1))
    return Outcomes([str(i) for i in range(len(prompts))], prompts, ["d"] * len(prompts), ("a", "b"), quality)


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
    elif how == "deep card":
        card.write_text("[" * 200_000)
    elif how == "card is a folder":
        card.unlink()
        card.mkdir()
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
    for how in (
        *DAMAGES,
        "missing card",
        "card is a folder",
        "no JSON",
        "deep card",
        "missing weights",
        "cut weights",
        "changed weights",
    ):
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


def test_weights_of_a_type_that_numpy_lacks(tmp_path):
    fitted("linear").save(tmp_path)
    header = json.dumps({"a": {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}}).encode()
    data = len(header).to_bytes(8, "little") + header + b"\0\0"
    (tmp_path / "weights.safetensors").write_bytes(data)
    card = json.loads((tmp_path / "router.json").read_text())
    (tmp_path / "router.json").write_text(json.dumps({**card, "weights_sha256": hashlib.sha256(data).hexdigest()}))
    with pytest.raises(RoutingError, match=r"numbers of type .*BF16.*, which NumPy lacks"):
        load(tmp_path)


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
