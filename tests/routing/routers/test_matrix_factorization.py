"""Matrix factorization: what it learns, that the collapsed form is the factored one, and its settings."""

import numpy as np
import pytest
import torch

from routing.data.preferences import Preferences
from routing.errors import RoutingError
from routing.routers.registry import create, load

SMALL = {"features": {"kind": "hashed", "n_features": 256}, "n_components": 16}
FAST = {**SMALL, "epochs": 15, "learning_rate": 3e-3, "dim": 16}


def make_battles(n=600, seed=0, ties=0.2):
    """`maths` wins on sums, `words` on poems, `weak` loses to both everywhere."""
    rng = np.random.default_rng(seed)
    names = ("weak", "maths", "words")
    a, b = rng.integers(3, size=n), rng.integers(2, size=n)
    b += b >= a
    poem = rng.random(n) < 0.5
    skill = np.where(poem[:, None], [0, 1, 3], [0, 3, 1])
    rows = np.arange(n)
    gap = 1.5 * (skill[rows, a] - skill[rows, b])
    winner = np.where(rng.random(n) < ties, 0.5, rng.random(n) < 1 / (1 + np.exp(-gap)))
    prompts = [f"poem about star {i % 40}" if p else f"add {i % 40} and {i % 7}" for i, p in enumerate(poem)]
    return Preferences(prompts, [names[i] for i in a], [names[i] for i in b], winner.astype(float), ["d"] * n)


@pytest.mark.parametrize("form", ["paper", "code"])
@pytest.mark.parametrize("ties", ["half", "drop"])
def test_learns_who_is_good_at_what(form, ties):
    rates = 6e-3 if form == "code" else 3e-3
    settings = {**FAST, "learning_rate": rates, "form": form, "ties": ties}
    router = create("mf", models=("weak", "maths", "words"), **settings).fit(make_battles())
    sums, poems = router.predict(["add 3 and 5", "poem about star 3"])
    assert sums[1] > sums[2] > sums[0]
    assert poems[2] > poems[1] > poems[0]
    np.testing.assert_allclose([sums.mean(), poems.mean()], 0.5, atol=1e-6)


def test_dropping_ties_sharpens():
    table = make_battles(ties=0.6)
    half, drop = (
        create("mf", models=("weak", "maths"), ties=ties, **FAST).fit(table).predict(["add 3 and 5"])[0, 1]
        for ties in ("half", "drop")
    )
    assert drop > half > 0.5


@pytest.mark.parametrize("form", ["paper", "code"])
def test_collapsed_is_the_factored_form(form, monkeypatch):
    """delta = w2 . (v * (W1' q + b)) from the trained factors equals the linear probe that is kept."""
    trained = []
    adam = torch.optim.Adam

    def recording(parameters, **settings):
        trained.extend(parameters)
        return adam(trained, **settings)

    monkeypatch.setattr(torch.optim, "Adam", recording)
    table = make_battles(200)
    router = create("mf", form=form, **FAST)
    router.fit(table)
    vectors, w1, w2, *rest = (tensor.detach().double().numpy() for tensor in trained)
    assert len(rest) == (form == "paper")
    bias = rest[0] if rest else 0.0
    if form == "code":
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    prompts = table.prompts[:5]
    q = router._space.transform(prompts).astype(np.float64)
    delta = np.einsum("nk,mk,k->nm", q @ w1 + bias, vectors, w2)[:, [table.models.index(m) for m in router.models_]]
    kept = router._space.linear(prompts, router.weights_.astype(np.float64)) + router.intercept_
    np.testing.assert_allclose(kept, delta, atol=2e-3)
    assert w1.shape == (q.shape[1], 16) and vectors.shape == (3, 16)


def test_seed_decides_and_artifact_is_small(tmp_path):
    table = make_battles(200)
    first, second, other = (create("mf", seed=seed, **FAST).fit(table) for seed in (1, 1, 2))
    prompts = [*table.prompts[:40], "", "x" * 3000]
    np.testing.assert_array_equal(first.predict(prompts), second.predict(prompts))
    assert not np.array_equal(first.predict(prompts), other.predict(prompts))
    first.save(tmp_path)
    again = load(tmp_path)
    np.testing.assert_array_equal(again.predict(prompts), first.predict(prompts))
    np.testing.assert_array_equal(again.predict(prompts), np.vstack([first.predict([p]) for p in prompts]))
    assert (tmp_path / "weights.safetensors").stat().st_size < 30_000
    assert again.pairwise


def test_training_leaves_torch_s_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    create("mf", **{**FAST, "epochs": 1}).fit(make_battles(50))
    assert torch.equal(torch.rand(1), expected)


def test_tiers_take_the_place_of_models():
    router = create("mf", models=("tier-1", "tier-0"), n_tiers=2, **FAST).fit(make_battles())
    assert router.models_ == ("tier-1", "tier-0")
    assert (router.predict(["add 3 and 5", "poem about star 3"])[:, 1] > 0.6).all()


def test_settings_and_data_that_cannot_work():
    for wrong in ({"form": "x"}, {"ties": "x"}, {"dim": 0}, {"epochs": 0}, {"noise": -1}, {"learning_rate": 0}):
        with pytest.raises(RoutingError, match="router 'mf'"):
            create("mf", **wrong)
    only_ties = Preferences(["p"], ["x"], ["y"], np.array([0.5]), ["d"])
    with pytest.raises(RoutingError, match="all battles are ties"):
        create("mf", ties="drop", **FAST).fit(only_ties)
    np.testing.assert_allclose(create("mf", **FAST).fit(only_ties).predict(["p"]), 0.5, atol=0.2)
    with pytest.raises(RoutingError, match="no model 'z'"):
        create("mf", models=("x", "z"), **FAST).fit(only_ties)
