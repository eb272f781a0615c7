"""Heads of a calibrated router: the blend leans on whichever side knows something, and keeps the scale of quality."""

import numpy as np
import pytest

from routing.data.outcomes import Outcomes
from routing.routers.calibrated.calibrated import CalibratedRouter, _encoder_of
from routing.routers.calibrated.heads import Blend, clear_winner, held_out
from routing.routers.registry import create

WORDS = {"kind": "hashed", "n_features": 256}


def drawn(n=400, m=2, seed=0):
    """(n, m) chances, quality drawn from them, a fold per row."""
    rng = np.random.default_rng(seed)
    chance = rng.random((n, m))
    return chance, (rng.random((n, m)) < chance).astype(np.float32), rng.permutation(n) % 5


@pytest.mark.parametrize("m", [2, 4])
def test_the_blend_leans_on_the_side_that_knows(m):
    chance, quality, fold = drawn(m=m)
    noise = np.random.default_rng(1).random(chance.shape)
    from_base = Blend.fit(chance, noise, quality, fold).weights
    from_pilot = Blend.fit(noise, chance, quality, fold).weights
    assert from_base[0] > 1.2 * from_base[1] and from_pilot[1] > 5 * from_pilot[0]
    assert (from_base >= 0).all() and (from_pilot >= 0).all()


def test_what_it_says_is_on_the_scale_of_quality():
    chance, quality, fold = drawn(2000)
    narrow = 0.4 + chance / 10
    blend = Blend.fit(np.zeros_like(narrow), narrow, quality, fold)
    said = blend.apply(np.zeros_like(narrow), narrow)
    np.testing.assert_allclose(said.mean(axis=0), quality.mean(axis=0), atol=0.01)
    assert np.abs(said - chance).mean() < 0.05, "ten times steeper than what it was given"


def test_folds_that_differ_do_not_turn_signs_round():
    """Out of fold a constant prediction is highest where quality is lowest: without the folds' means it would count against it."""
    _, quality, fold = drawn(60, seed=3)
    unseen = np.stack([quality[fold != f].mean(axis=0) for f in fold])
    np.testing.assert_allclose(Blend.fit(np.zeros_like(unseen), unseen, quality, fold).weights, 0, atol=1e-6)
    signal = unseen + 0.02 * (quality - 0.5)
    assert Blend.fit(np.zeros_like(unseen), signal, quality, fold).weights[1] > 1


def test_a_base_router_that_says_nothing_and_rows_that_know_nothing():
    chance, quality, fold = drawn()
    assert Blend.fit(np.full_like(chance, 0.5), chance, quality, fold).weights[0] == 0
    quality[:, 1] = np.where(np.arange(len(quality)) % 2, np.nan, quality[:, 1])
    assert np.isfinite(Blend.fit(chance, chance, quality, fold).apply(chance, chance)).all()


def test_the_most_trusted_stays_unless_another_leads_clearly():
    chance, quality, fold = drawn(300)
    noise = np.random.default_rng(2).random(chance.shape)
    for own, unseen, taken in ((noise, chance, "blend"), (chance, chance[::-1], "none")):
        compared = {head: held_out(head, own, own, unseen, quality, fold) for head in ("blend", "none")}
        assert clear_winner(compared, quality) == taken


def test_the_pilots_routers_see_the_base_routers_encoder():
    spec = {"kind": "encoder", "source": "minilm"}
    plain = create("linear", features=WORDS)
    assert _encoder_of(plain) is None
    assert _encoder_of(create("knn", features=spec)) == spec
    assert _encoder_of(create("forest", encoder=spec)) == spec
    around = CalibratedRouter()
    around.base_ = create("knn", features=spec)
    assert _encoder_of(around) == spec


def test_auto_without_folds_takes_what_it_trusts_most():
    n = 60
    quality = np.random.default_rng(0).integers(0, 2, (n, 2)).astype(np.float32)
    rows = Outcomes([str(i) for i in range(n)], [f"say {i}" for i in range(n)], ["d"] * n, ("weak", "strong"), quality)
    router = create("auto", encoder=None, features=WORDS, n_folds=0).fit(rows)
    assert router.choice_ == "gp + forest" and router.scores_ == {} and len(router.chosen_) == 2
