"""Pilot calibration: the right head wins, any base router may be under it, and its artifact is whole or refused."""

import json
import shutil

import numpy as np
import pytest

from routing.data.outcomes import Outcomes
from routing.data.training_data import as_preferences
from routing.errors import RoutingError
from routing.metrics.pair import apgr
from routing.routers.base import Router
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.routers.registry import ROUTERS, create, load

TEXT = {"features": {"kind": "hashed", "n_features": 256}, "n_components": 8}


class Hinted(Router):
    """A base router with a known error: quality as the prompts say (`q=0.42`), bent by `bend`."""

    name = "hinted"

    def __init__(self, models=("weak", "strong"), bend="none"):
        self.models, self.bend = list(models), bend
        self.models_ = tuple(models)

    def fit(self, data):
        return self

    def predict(self, prompts):
        hints = np.array([float(text.split("q=")[1].split()[0]) for text in prompts], np.float32)
        bent = {"none": hints, "reversed": 1 - hints, "narrow": 0.45 + hints / 10, "lost": hints * 0}[self.bend]
        return np.stack([np.full_like(bent, 0.5)] * (len(self.models_) - 1) + [bent], 1)

    def hyperparameters(self):
        return {"models": self.models, "bend": self.bend}


@pytest.fixture
def registered(monkeypatch):
    monkeypatch.setitem(ROUTERS, "hinted", Hinted)


def pilot(n=300, seed=0, models=("weak", "strong"), topic=0.0):
    """The strong (last) model is right with the hinted chance; `topic`: the share of it that the words decide instead."""
    rng = np.random.default_rng(seed)
    hint, proof = rng.random(n), rng.random(n) < 0.5
    chance = (1 - topic) * hint + topic * proof
    prompts = [f"{'prove' if p else 'add'} {i} q={h:.4f} end" for i, (h, p) in enumerate(zip(hint, proof, strict=True))]
    weak = np.full((n, len(models) - 1), 0.3)
    quality = np.hstack([weak, (rng.random(n) < chance)[:, None]]).astype(np.float32)
    return Outcomes([str(i) for i in range(n)], prompts, ["d"] * n, tuple(models), quality)


def value(router, outcomes):
    quality = router.predict(outcomes.prompts)
    return float(apgr(quality[:, -1] - quality[:, 0], outcomes.quality[:, 0], outcomes.quality[:, -1]))


def test_a_good_router_is_left_alone_and_a_misled_one_is_mended():
    test = pilot(2000, seed=1)
    for bend, floor in (("none", 0.75), ("reversed", 0.75), ("lost", 0.49)):
        base = Hinted(bend=bend)
        router = CalibratedRouter(**TEXT).fit_pilot(base, pilot())
        assert value(router, test) >= max(floor, value(base, test) - 0.02), bend
        assert router.pilot_scores_[router.head_] >= max(router.pilot_scores_.values()) - 0.02
    assert value(Hinted(bend="reversed"), test) < 0.3


def test_the_head_learns_what_the_base_router_does_not_see():
    test = pilot(2000, seed=1, topic=0.5)
    base = Hinted()
    router = CalibratedRouter(**TEXT).fit_pilot(base, pilot(topic=0.5))
    assert router.head_ == "blend"
    assert value(router, test) > value(base, test) + 0.05
    table = pilot(topic=0.5)
    held_out, seen = router.held_out_, router.predict(table.prompts)
    assert held_out.shape == seen.shape
    assert np.square(held_out - table.quality).mean() > np.square(seen - table.quality).mean(), "it has not seen them"


def test_maps_bring_scores_to_the_scale_of_quality():
    models, test = ("a", "b", "c"), pilot(4000, seed=1, models=("a", "b", "c"))
    base = Hinted(models=models, bend="narrow")
    chance = np.array([float(text.split("q=")[1].split()[0]) for text in test.prompts])
    for head in ("isotonic", "platt", "auto"):
        router = CalibratedRouter(head=head, **TEXT).fit_pilot(
            base, pilot(300 if head == "auto" else 600, models=models)
        )
        quality = router.predict(test.prompts)
        assert np.abs(quality[:, 2] - chance).mean() < 0.06, head
        np.testing.assert_allclose(quality[:, :2], 0.3, atol=0.02)
    assert set(router.pilot_scores_) == {"none", "isotonic", "platt", "ridge", "blend"}
    assert router.pilot_scores_["none"] == min(router.pilot_scores_.values())


@pytest.mark.parametrize("head", ["none", "isotonic", "platt", "ridge", "blend"])
def test_every_head_comes_back_from_its_artifact(head, tmp_path, registered):
    router = CalibratedRouter(head=head, **TEXT).fit_pilot(Hinted(bend="narrow"), pilot(80))
    router.save(tmp_path / "art")
    again = load(tmp_path / "art")
    prompts = pilot(40, seed=3).prompts
    np.testing.assert_array_equal(again.predict(prompts), router.predict(prompts))
    single = np.vstack([again.predict([prompt]) for prompt in prompts])
    np.testing.assert_array_equal(single, router.predict(prompts))
    card = json.loads((tmp_path / "art" / "router.json").read_text())
    assert card["metrics"]["head"] == head
    assert isinstance(again.base_, Hinted) and again.base_.bend == "narrow"


def test_models_are_matched_by_name_or_a_pair_by_order():
    base = Hinted(models=("strong", "other", "weak"))
    router = CalibratedRouter(head="none", **TEXT).fit_pilot(base, pilot(40))
    prompts = ["q=0.9 x"]
    np.testing.assert_allclose(router.predict(prompts), [[0.9, 0.5]])
    transferred = CalibratedRouter(head="none", **TEXT).fit_pilot(Hinted(models=("small", "large")), pilot(40))
    assert transferred.models_ == ("weak", "strong")
    np.testing.assert_allclose(transferred.predict(prompts), [[0.5, 0.9]])
    shared = CalibratedRouter(head="none", **TEXT).fit_pilot(Hinted(models=("strong", "huge")), pilot(40))
    np.testing.assert_allclose(shared.predict(prompts), [[0.9, 0.5]])  # "strong" is the first of that router
    stranger = Hinted(models=("small", "middle", "large"))
    with pytest.raises(RoutingError, match="knows small, middle, large"):
        CalibratedRouter(head="isotonic", **TEXT).fit_pilot(stranger, pilot(40))
    assert CalibratedRouter(**TEXT).fit_pilot(stranger, pilot(200)).head_ == "ridge"


def test_a_pilot_too_small_to_choose_leaves_the_router_as_it_is():
    for rows in (pilot(5), pilot(60).select(np.zeros(60, np.intp))):  # five rows; sixty times one prompt
        router = CalibratedRouter(**TEXT).fit_pilot(Hinted(), rows)
        assert router.head_ == "none"
        assert router.pilot_scores_ == {}
    with pytest.raises(RoutingError, match="nothing to fit"):
        CalibratedRouter(**TEXT).fit_pilot(Hinted(), pilot().select(np.zeros(0, np.intp)))


def test_win_rates_become_qualities():
    outcomes = pilot(300, topic=1.0)
    base = create("similarity", **TEXT).fit(as_preferences(outcomes))
    assert base.pairwise
    assert CalibratedRouter(head="none", **TEXT).fit_pilot(base, outcomes).pairwise
    router = CalibratedRouter(head="isotonic", **TEXT).fit_pilot(base, outcomes)
    assert not router.pairwise
    np.testing.assert_allclose(router.predict(outcomes.prompts).mean(0), outcomes.quality.mean(0), atol=0.02)


def test_known_tokens_of_the_base_router_are_kept():
    base = Hinted()
    base.completion_tokens_ = {"weak": 10.0, "strong": 20.0}
    assert CalibratedRouter(**TEXT).fit_pilot(base, pilot(40)).completion_tokens_ == {"weak": 10.0, "strong": 20.0}


@pytest.mark.parametrize("how", ["no base", "another base", "cut base"])
def test_damaged(how, tmp_path, registered):
    CalibratedRouter(**TEXT).fit_pilot(Hinted(), pilot(40)).save(tmp_path / "art")
    if how == "no base":
        shutil.rmtree(tmp_path / "art" / "base")
    elif how == "another base":
        Hinted(bend="reversed").save(tmp_path / "art" / "base")
    else:
        (tmp_path / "art" / "base" / "weights.safetensors").write_bytes(b"")
    with pytest.raises(RoutingError, match="base"):
        load(tmp_path / "art")
