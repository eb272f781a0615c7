"""auto: what it compares, when it changes its mind, and that it stands for what it chose."""

import numpy as np
import pytest

from routing.data.outcomes import Outcomes
from routing.errors import RoutingError
from routing.features.cache import feature_cache
from routing.metrics.pair import apgr
from routing.routers.auto import clearly_best, pair_merit
from routing.routers.registry import create, load

HASHED = {"kind": "hashed", "n_features": 256}
SMALL = {"features": HASHED, "encoder": None, "n_folds": 2}


def make_outcomes(n=120, seed=0, m=2):
    """Prompts with digits are hard for the weak models."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    prompts = [
        f"Compute {i * 37} times {i}" if h else f"Name colour {chr(97 + i % 26)} of the sky" for i, h in enumerate(hard)
    ]
    quality = (rng.random((n, m)) < np.where(hard[:, None], np.linspace(0.1, 0.9, m), 0.9)).astype(np.float32)
    return Outcomes([str(i) for i in range(n)], prompts, ["d"] * n, tuple(f"model-{j}" for j in range(m)), quality)


@pytest.fixture(scope="module")
def fitted():
    return create("auto", **SMALL).fit(make_outcomes())


def test_learns_and_says_what_it_chose(fitted):
    test = make_outcomes(300, seed=1)
    predicted = fitted.predict(test.prompts)
    assert apgr(predicted[:, 1] - predicted[:, 0], test.quality[:, 0], test.quality[:, 1]) > 0.65
    assert fitted.choice_ in fitted.candidates()
    assert set(fitted.scores_) == set(fitted.candidates())
    assert fitted.choice_ in fitted.note()


def test_artifact_is_whole(fitted, tmp_path):
    fitted.save(tmp_path / "a")
    again = load(tmp_path / "a")
    assert (again.choice_, again.scores_) == (fitted.choice_, fitted.scores_)
    create("auto", **SMALL).fit(make_outcomes(seed=5)).chosen_[0].save(tmp_path / "a" / "chosen-0")
    with pytest.raises(RoutingError, match="another router"):
        load(tmp_path / "a")


def test_members_share_features_but_keep_no_prompts(fitted):
    fitted.predict(["Compute 5 times 3"])
    caches = {id(router._space.features._cache) for router in fitted.chosen_ if hasattr(router, "_space")}
    assert caches <= {id(fitted._cache)}
    assert not fitted._cache.form.place
    assert not any(table.place for table in fitted._cache.tables.values())
    with feature_cache():  # an evaluation's cache is used where there is one, and kept
        inside = create("auto", **SMALL).fit(make_outcomes())
        assert inside._cache is None
        np.testing.assert_array_equal(inside.predict(["Compute 5 times 3"]), fitted.predict(["Compute 5 times 3"]))


def test_few_rows_take_the_most_trusted():
    router = create("auto", **SMALL).fit(make_outcomes(20))
    assert router.scores_ == {}
    assert router.choice_ == "gp + forest"
    assert "too few rows" in router.note()


def test_encoder_setting():
    with pytest.raises(RoutingError, match="encoder"):
        create("auto", encoder="minilm")
    spec = {"kind": "encoder", "source": "some/encoder"}
    names = list(create("auto", encoder=spec).candidates())
    assert names[0] == "gp + forest + forest with encoder"
    assert not any("encoder" in name for name in create("auto", encoder=None).candidates())


@pytest.mark.parametrize("seed", range(5))
def test_merit_is_the_area_beyond_random(seed):
    rng = np.random.default_rng(seed)
    quality = rng.random((50, 2))
    quality[:, 1] += 0.5
    predicted = rng.integers(0, 6, (50, 2)).astype(float)  # with ties
    merit = pair_merit(predicted, quality).sum()
    gap = quality[:, 1].mean() - quality[:, 0].mean()
    assert merit == pytest.approx((apgr(predicted[:, 1] - predicted[:, 0], *quality.T) - 0.5) * gap)


def test_merit_leaves_out_what_is_not_known():
    rng = np.random.default_rng(0)
    quality, predicted = rng.random((30, 3)), rng.random((30, 3))
    quality[:10, 2] = np.nan
    pairs = [
        pair_merit(predicted[rows][:, [a, b]], quality[rows][:, [a, b]]).sum()
        for a, b, rows in ((0, 1, slice(None)), (0, 2, slice(10, None)), (1, 2, slice(10, None)))
    ]
    assert pair_merit(predicted, quality).sum() == pytest.approx(np.mean(pairs))


def test_clearly_best():
    rng = np.random.default_rng(0)
    first = rng.normal(0, 1, 400)
    assert clearly_best({"a": first, "b": first + rng.normal(0.01, 1, 400)}) == "a"
    assert clearly_best({"a": first, "b": first + rng.normal(0.3, 1, 400)}) == "b"
    assert clearly_best({"a": first, "b": first}) == "a"
