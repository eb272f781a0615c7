"""Similarity-weighted ranking against RouteLLM's way: a logistic regression over all battles, refitted per query."""

import numpy as np
import pytest
from shared_files import SHARED
from sklearn.linear_model import LogisticRegression

from routing.data.outcomes import Outcomes
from routing.data.preference_readers import read_preferences
from routing.data.preferences import Preferences, concat, relabelled
from routing.data.tiers import make_tiers, ratings
from routing.errors import RoutingError
from routing.metrics.pair import apgr
from routing.routers.registry import create, load

DATA = SHARED
SMALL = {"features": {"kind": "hashed", "n_features": 256}, "n_components": 16}
KINDS = ("sum", "proof", "poem")


def make_battles(n=400, m=6, seed=0):
    """m models, better ones later, that all do sums alike and differ in proofs; a tenth of the battles are ties."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(3, size=n)
    a, b = rng.integers(m, size=n), rng.integers(m - 1, size=n)
    b += b >= a
    gap = (a - b) * np.array([0.1, 1.0, 0.4])[kind]
    winner = np.where(rng.random(n) < 0.1, 0.5, rng.random(n) < 1 / (1 + np.exp(-gap)))
    words = {0: "add up the numbers", 1: "prove the theorem on page", 2: "write a poem about star"}
    prompts = [f"{words[k]} {rng.integers(50)}" for k in kind]
    return Preferences(prompts, [f"m{i}" for i in a], [f"m{i}" for i in b], winner.astype(float), ["d"] * n)


def refitted(router, battles, query, tiers):
    """Tier strengths as RouteLLM's code gets them: every battle a row (twice, for ties), weighted, no penalty."""
    prompts = list(dict.fromkeys(battles.prompts))
    vectors = router.vectors_.astype(np.float64)
    q = router._space.transform([query])[0].astype(np.float64)
    cosine = (vectors @ q) / np.linalg.norm(q)
    similarity = cosine / cosine.max() if router.normalise == "code" else cosine
    rows = [prompts.index(prompt) for prompt in battles.prompts]
    weights = 10.0 ** (1 + similarity[rows])
    k = len(tiers.groups)
    design = np.zeros((len(battles), k))
    design[np.arange(len(battles)), [tiers.tier_of(name) for name in battles.model_a]] += np.log(10)
    design[np.arange(len(battles)), [tiers.tier_of(name) for name in battles.model_b]] -= np.log(10)
    won = np.concatenate([battles.winner > 0, battles.winner == 1])
    fit = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-9, max_iter=2000)
    fit.fit(np.vstack([design, design]), won, np.tile(weights, 2))
    return 400 * fit.coef_[0]  # Elo


@pytest.mark.parametrize("normalise", ["code", "paper"])
@pytest.mark.parametrize("n_tiers", [3, 10])
def test_same_win_rate_as_refitting_over_all_battles(normalise, n_tiers):
    battles = make_battles()
    router = create("similarity", models=("m1", "m4"), normalise=normalise, n_tiers=n_tiers, **SMALL).fit(battles)
    tiers = make_tiers(ratings(battles), n_tiers)
    queries = ["prove the theorem on page 7", "add up the numbers 3", "a poem", "something else altogether"]
    predicted = router.predict(queries)
    for query, (lose, win) in zip(queries, predicted, strict=True):
        elo = refitted(router, battles, query, tiers)
        expected = 1 / (1 + 10 ** ((elo[tiers.tier_of("m1")] - elo[tiers.tier_of("m4")]) / 400))
        assert win == pytest.approx(expected, abs=1e-3)
        assert lose == pytest.approx(1 - win, abs=1e-6)


def test_hand_computed_weights():
    # One battle each way, on two prompts with nothing in common: the query equals the first, so S = 1 there, 0 on the
    # other; weights 100 and 10, and the odds of "strong" are 10.
    table = Preferences(["alpha", "omega"], ["s", "w"], ["w", "s"], np.ones(2), ["d"] * 2)
    vectors = {"kind": "hashed", "n_features": 2**12, "characters": False}
    router = create("similarity", models=("w", "s"), features=vectors).fit(table)
    router.vectors_ = np.eye(2, router.vectors_.shape[1], dtype=np.float16)
    router._prepare()
    wins = router._weighted(np.eye(1, router.vectors_.shape[1], dtype=np.float32)).reshape(2, 2)
    strong = router.tier_of_[1]
    assert wins[strong, 1 - strong] / wins[1 - strong, strong] == pytest.approx(10, rel=1e-5)
    assert wins.sum() == pytest.approx(2)


def test_gamma_1_is_the_same_for_every_prompt_and_more_is_sharper():
    battles = make_battles(800)
    queries = ["prove the theorem on page 3", "add up the numbers 4"]
    rates = {
        gamma: create("similarity", models=("m0", "m5"), gamma=gamma, **SMALL).fit(battles).predict(queries)[:, 1]
        for gamma in (1.0, 10.0, 1e4)
    }
    strength = ratings(battles)
    alike = 1 / (1 + np.exp(strength["m0"] - strength["m5"]))
    np.testing.assert_allclose(rates[1.0], alike, atol=1e-3)
    spread = [rates[gamma][0] - rates[gamma][1] for gamma in (1.0, 10.0, 1e4)]
    assert 0 <= spread[0] + 1e-9 < spread[1] < spread[2]


def test_order_of_sides_and_copies_of_all_battles_do_not_matter():
    battles = make_battles(200)
    turned = Preferences(battles.prompts, battles.model_b, battles.model_a, 1 - battles.winner, battles.datasets)
    first, second, third = (
        create("similarity", **SMALL).fit(table).predict(battles.prompts[:20])
        for table in (battles, turned, concat([battles, battles]))
    )
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(first, third, atol=1e-3)


def test_models_and_tiers_to_choose(tmp_path):
    battles = make_battles()
    everyone = create("similarity", **SMALL).fit(battles)
    assert everyone.models_[0] == "m0" and everyone.models_[-1] == "m5"
    rates = everyone.predict(["prove the theorem on page 9"])[0]
    assert rates[-1] > 0.5 > rates[0]
    assert rates.mean() == pytest.approx(0.5, abs=1e-6)
    pair = create("similarity", models=("tier-2", "tier-0"), n_tiers=3, **SMALL).fit(battles)
    by_hand = relabelled(battles, make_tiers(ratings(battles), 3).names())
    expected = create("similarity", models=("tier-2", "tier-0"), **SMALL).fit(by_hand).predict(battles.prompts[:9])
    np.testing.assert_array_equal(pair.predict(battles.prompts[:9]), expected)
    pair.save(tmp_path)
    np.testing.assert_array_equal(load(tmp_path).predict(battles.prompts[:9]), expected)
    with pytest.raises(RoutingError, match="no model 'gpt' in the data, which has m0, m1"):
        create("similarity", models=("m1", "gpt"), **SMALL).fit(battles)


def test_artifact_keeps_batches_and_aliases(tmp_path):
    router = create("sw", models=("m0", "m5"), **SMALL).fit(make_battles())
    router.save(tmp_path)
    again = load(tmp_path)
    prompts = make_battles(70, seed=2).prompts
    np.testing.assert_array_equal(again.predict(prompts), np.vstack([router.predict([prompt]) for prompt in prompts]))
    assert again.pairwise and again.name == "similarity"


def test_settings_and_data_that_cannot_work():
    for wrong in ({"normalise": "max"}, {"gamma": 0.5}, {"gamma": 1e13}, {"n_tiers": 1}):
        with pytest.raises(RoutingError, match="must be"):
            create("similarity", **wrong)
    empty = make_battles().select(np.zeros(400, bool))
    with pytest.raises(RoutingError, match="no battles"):
        create("similarity", **SMALL).fit(empty)
    apart = Outcomes(["1", "2"], ["a", "b"], ["", ""], ("x", "y"), np.array([[1, np.nan], [np.nan, 1]], np.float32))
    with pytest.raises(RoutingError, match="no row knows two models"):
        create("similarity", **SMALL).fit(apart)


def test_only_ties_and_only_wins():
    battles = make_battles()
    for value, low, high in ((0.5, 0.5, 0.5), (1.0, 0.9, 1.0)):
        rows = Preferences(["p", "q"], ["s", "s"], ["w", "w"], np.full(2, value), ["d"] * 2)
        rate = create("similarity", models=("w", "s"), **SMALL).fit(rows).predict([*battles.prompts[:3], ""])[:, 1]
        assert ((rate >= low - 1e-6) & (rate <= high)).all()


def test_arena_votes_rank_the_models():
    path = DATA / "arena" / "human_votes.jsonl"
    if not path.exists():
        pytest.skip("shared/data/arena not present")
    votes = read_preferences(path).select(np.arange(300))
    router = create("similarity", models=("dolly-v2-12b", "gpt-4"), **SMALL).fit(votes)
    assert router.k_ == 10
    rate = router.predict(votes.prompts[:40])[:, 1]
    assert ((rate > 0.7) & (rate < 1)).all()
    assert rate.std() > 1e-4


@pytest.mark.slow
def test_learns_on_mmlu():
    path = DATA / "routellm" / "mmlu" / "mmlu_professional_psychology.csv"
    if not path.exists():
        pytest.skip("shared/data/routellm not present")
    from routing.data.outcome_readers import read_outcomes
    from routing.data.outcomes import concat as joined
    from routing.data.outcomes import split_by_prompt

    parts = ("professional_psychology", "high_school_mathematics", "elementary_mathematics", "college_biology")
    table = joined([read_outcomes(path.with_name(f"mmlu_{part}.csv")) for part in parts])
    table = table.with_models(["mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"])
    train, test = (table.select(rows) for rows in split_by_prompt(table, fraction=0.5))
    rate = create("similarity").fit(train).predict(test.prompts)[:, 1]
    assert apgr(rate, test.quality[:, 0], test.quality[:, 1]) > 0.7
