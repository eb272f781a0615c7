"""Cascades, their judges, and overgenerate-and-rerank: by hand, invariants, and judges that learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_files import SHARED

from routing.answers.agreement import agreement_with, agreement_with_earlier
from routing.answers.features import RESPONSE, extracted_answers, response_features
from routing.answers.response_judge import ResponseJudge
from routing.data.outcome_readers import read_outcomes
from routing.data.outcomes import Outcomes, concat
from routing.errors import RoutingError
from routing.metrics.cascades import (
    ERROR_RATES,
    cascade,
    cascade_orders,
    default_order,
    rerank,
    simulated_judge,
    sweep,
)
from routing.metrics.plane import aiq, aiq_published, by_cost, ndch, single_models, zero_router
from routing.metrics.sweep import oracle, oracle_points

ROUTERBENCH = SHARED / "routerbench"


def binary(n=200, m=4, seed=0):
    rng = np.random.default_rng(seed)
    quality = (rng.random((n, m)) < np.linspace(0.4, 0.9, m)).astype(float)
    return quality, rng.uniform(0.5, 1.5, (n, m)) * np.geomspace(1, 40, m)


def test_cascade_by_hand():
    judge = np.array([[0.9, 0.1, 0.1], [0.2, 0.8, 0.1], [0.3, 0.2, 0.1]])
    quality = np.array([[1, 1, 1], [0, 0.5, 1], [0.25, 0, 1]])
    cost = np.array([[1, 2, 4]] * 3)
    run = cascade(judge, quality, cost)
    assert run.model.tolist() == [0, 1, 2]
    assert run.n_calls.tolist() == [1, 2, 3]
    assert run.cost_usd.tolist() == [1, 3, 7]
    assert run.quality.tolist() == [1, 0.5, 1]
    best = cascade(judge, quality, cost, keep="best")
    assert best.model.tolist() == [0, 1, 0]  # the last row's first answer was judged the least bad
    assert best.cost_usd.tolist() == [1, 3, 7]
    poor = cascade(judge, quality, cost, budget=3)
    assert poor.n_calls.tolist() == [1, 2, 2]
    assert poor.model.tolist() == [0, 1, 1]
    assert cascade(judge, quality, cost, budget=0).n_calls.tolist() == [1, 1, 1]  # the first is always asked
    assert cascade(judge, quality, cost, order=[2, 0]).model.tolist() == [0, 0, 0]
    assert cascade(judge, quality, cost, threshold=[0.95, 0.1, 0]).model.tolist() == [1, 1, 1]
    assert cascade(judge, quality, cost, threshold=-np.inf).model.tolist() == [0, 0, 0]
    assert cascade(judge, quality, cost, budget=3, expected_cost=[1, 2.5, 4]).n_calls.tolist() == [1, 1, 1]
    assert default_order(cost[:, ::-1]) == [2, 1, 0]


def test_perfect_judge_is_the_oracle_that_pays_for_its_search():
    quality, cost = binary()
    run = cascade(simulated_judge(quality, 0), quality, cost)
    best = oracle(quality, cost)
    np.testing.assert_array_equal(run.quality, best.quality)
    assert (run.cost_usd >= best.cost_usd - 1e-12).all()
    low, high = single_models(quality, cost).cost_usd[[0, -1]]
    points = sweep(simulated_judge(quality, 0), quality, cost, orders=cascade_orders(quality, cost)).points()
    zero, ceiling = aiq(zero_router(quality, cost), low, high), aiq(oracle_points(quality, cost), low, high)
    assert zero < aiq(points, low, high) <= ceiling
    assert aiq_published(points, high) < aiq(points, low, high)


def test_worse_judges_make_worse_cascades():
    quality, cost = binary(n=4000)
    low, high = single_models(quality, cost).cost_usd[[0, -1]]
    figures = [
        aiq(sweep(simulated_judge(quality, rate), quality, cost, thresholds=[0.5]).points(), low, high)
        for rate in ERROR_RATES
    ]
    assert figures == sorted(figures, reverse=True)
    judges = [simulated_judge(quality, rate, seed=3) for rate in (0.1, 0.4)]
    wrong = [judge != quality for judge in judges]
    assert wrong[0].mean() == pytest.approx(0.1, abs=0.01)
    assert (wrong[1] | ~wrong[0]).all()  # who errs at .1 errs at .4
    np.testing.assert_array_equal(judges[0], simulated_judge(quality, 0.1, seed=3))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 999), st.integers(1, 5), st.floats(0, 1), st.floats(0.5, 200), st.sampled_from(["last", "best"]))
def test_cascade_invariants(seed, m, threshold, budget, keep):
    quality, cost = binary(30, m, seed)
    judge = np.random.default_rng(seed).random(quality.shape)
    run = cascade(judge, quality, cost, threshold=threshold, budget=budget, keep=keep)
    order = np.array(default_order(cost))
    rows = np.arange(30)
    assert (run.quality == quality[rows, run.model]).all()
    for row in rows:
        asked = order[: run.n_calls[row]]
        assert run.cost_usd[row] == pytest.approx(cost[row, asked].sum())
        assert run.n_calls[row] == 1 or run.cost_usd[row] <= budget + 1e-9
        assert (judge[row, asked[:-1]] < threshold).all()
        kept = asked[-1] if keep == "last" else asked[judge[row, asked].argmax()]
        assert run.model[row] == kept


def test_sweep_chooses_settings_on_its_hull():
    quality, cost = binary()
    judge = simulated_judge(quality, 0.1)
    swept = sweep(judge, quality, cost, orders=[[0, 3], [0, 1, 2, 3]])
    points = swept.points()
    assert points.cost_usd.shape == (len(swept.settings),) == (swept.quality.shape[1],)
    runs = [cascade(judge, quality, cost, *swept.settings[i]) for i in swept.best()]
    again = by_cost([run.cost_usd.mean() for run in runs], [run.quality.mean() for run in runs])
    np.testing.assert_allclose(again, ndch(*points))
    weights = np.eye(len(quality))[:2] * 5
    assert swept.points(weights).cost_usd.shape == (2, len(swept.settings))
    orders = cascade_orders(quality, cost)
    assert orders[0] == [0, 1, 2, 3] and [0] in orders and [3] in orders
    assert all(order == sorted(order) for order in orders)


def test_rerank():
    quality, cost = binary()
    best = rerank(quality, quality, cost)
    np.testing.assert_array_equal(best.quality, oracle(quality, cost).quality)
    np.testing.assert_allclose(best.cost_usd, cost.sum(axis=1))
    assert rerank(np.zeros_like(quality), quality, cost).model.tolist() == [0] * len(quality)  # ties: the cheapest
    assert set(rerank(quality, quality, cost, models=[3, 1]).model) <= {1, 3}
    more = [rerank(quality, quality, cost, models=range(size)).quality.mean() for size in (1, 2, 3, 4)]
    assert more == sorted(more)
    with pytest.raises(RoutingError, match="no models"):
        rerank(quality, quality, cost, models=[])


def test_agreement_by_hand():
    answers = np.array([["A", "B", "A", None], ["x", None, None, "x"]], object)
    np.testing.assert_allclose(agreement_with_earlier(answers), [[0, 0, 0.5, 0], [0, 0, 0, 1 / 3]])


def test_agreement_counts_the_answers_that_are_there():
    own = np.array(["A", "B", None, "C"], object)
    further = np.array([["A", "A", "B"], ["A", None, "B"], ["A", "A", "A"], [None, None, None]], object)
    assert np.allclose(agreement_with(own, further), [2 / 3, 0.5, np.nan, np.nan], equal_nan=True)


@pytest.mark.parametrize(
    "call",
    [
        lambda q, c: cascade(q, q, c, order=[0, 0]),
        lambda q, c: cascade(q, q, c, order=[9]),
        lambda q, c: cascade(q, q, c, order=[]),
        lambda q, c: cascade(q, q, c, keep="first"),
        lambda q, c: cascade(q[:1], q, c),
        lambda q, c: cascade(np.full_like(q, np.nan), q, c),
        lambda q, c: simulated_judge(q, 1.5),
        lambda q, c: response_features(["a"], []),
        lambda q, c: ResponseJudge(n_folds=1),
    ],
)
def test_refusals(call):
    with pytest.raises(RoutingError):
        call(*binary(3, 2))


def test_response_features_by_hand():
    texts = [
        "The answer is (B).",
        None,
        "I'm sorry, but I cannot determine this; perhaps it might be 3.",
        "1. We add 2 + 2 = 4.\n2. So x = 4.\nThe answer is 4",
        "again\n" * 40,
    ]
    rows = response_features(["Which one?"] * 5, texts, ["stop", None, None, "length", None], np.full((5, 2), -0.5))
    column = {name: rows[:, j] for j, name in enumerate(RESPONSE)}
    assert column["empty"].tolist() == [0, 1, 0, 0, 0]
    assert column["refusal"].tolist() == [0, 0, 1, 0, 0]
    assert column["log hedges"][2] == pytest.approx(np.log(3))
    assert column["commits to a letter"].tolist() == [1, 0, 0, 0, 0]
    assert column["commits to a number"].tolist() == [0, 0, 1, 1, 0]
    assert column["log equations"][3] == pytest.approx(np.log(3))
    assert column["cut at the token limit"].tolist() == [0, 0, 0, 1, 0]
    assert column["share of repeated lines"][4] == pytest.approx(39 / 40)
    assert column["compressed size / size"][4] < 0.2
    assert column["mean log-probability"].tolist() == [-0.5] * 5
    assert response_features(["p"], ["x"])[0, -3:].tolist() == [0, 0, 0]
    np.testing.assert_array_equal(rows[3:4], response_features(["Which one?"], texts[3:4], ["length"], [[-0.5, -0.5]]))
    found = extracted_answers(np.array([texts], object))
    assert found[0, :4].tolist() == ["B", None, "3", "4"]


def judged(n, seed):
    """Two models whose wrong answers hedge, or differ from each other."""
    rng = np.random.default_rng(seed)
    quality = (rng.random((n, 2)) < (0.6, 0.8)).astype(np.float32)
    words = np.where(quality > 0, "The answer is 4.", "Perhaps it might be 7, but I am not sure.")
    words[:, 1] = np.where(quality[:, 1] > 0, "4", "9")
    prompts = [f"question {seed} {i}" for i in range(n)]
    return Outcomes(prompts, prompts, ["d"] * n, ("weak", "strong"), quality, responses=words.astype(object))


def test_response_judge_learns_and_survives_its_artifact(tmp_path):
    train, test = judged(300, 0), judged(200, 1)
    judge = ResponseJudge().fit(train)
    scores = judge.judge(test.prompts, test.responses)
    assert scores.shape == (200, 2)
    assert ((scores[:, 0] > 0.5) == (test.quality[:, 0] > 0.5)).all()
    # The strong model's bare "9" shows nothing by itself but that it agrees with no right answer.
    both = test.quality[:, 0] > 0
    assert scores[both & (test.quality[:, 1] > 0), 1].mean() > scores[both & (test.quality[:, 1] == 0), 1].mean() + 0.2
    judge.save(tmp_path)
    again = ResponseJudge.load(tmp_path)
    np.testing.assert_array_equal(again.judge(test.prompts, test.responses), scores)
    np.testing.assert_allclose(again.predict(["any"]), [train.quality.mean(axis=0)])
    one = judge.judge(test.prompts[5:6], test.responses[5:6])
    np.testing.assert_allclose(one, scores[5:6], atol=1e-6)
    # The weak model's score does not know what the strong one answered later.
    hidden = test.responses.copy()
    hidden[:, 1] = None
    np.testing.assert_array_equal(judge.judge(test.prompts, hidden)[:, 0], scores[:, 0])
    with pytest.raises(RoutingError, match="prompt_scores"):
        judge.judge(test.prompts, test.responses, prompt_scores=scores)
    with pytest.raises(RoutingError, match="shape"):
        judge.judge(test.prompts, test.responses[:, :1])


def test_response_judge_takes_scores_order_and_odd_data():
    train = judged(60, 0)
    fitted = ResponseJudge(order=["strong", "weak"]).fit(train, prompt_scores=train.quality)
    assert fitted.judge(train.prompts, train.responses, train.quality).shape == (60, 2)
    constant = train.select(train.quality.min(axis=1) == 1)
    assert (ResponseJudge().fit(constant).judge(constant.prompts, constant.responses) > 0.9).all()
    half = Outcomes(
        **{
            **{f: getattr(train, f) for f in ("ids", "prompts", "datasets", "models", "responses")},
            "quality": np.where(train.quality > 0, 0.9, 0.3).astype(np.float32),
        }
    )
    scores = ResponseJudge().fit(half).judge(half.prompts, half.responses)
    assert scores[train.quality[:, 0] > 0, 0].mean() > scores[train.quality[:, 0] == 0, 0].mean() + 0.3
    with pytest.raises(RoutingError, match="no responses"):
        ResponseJudge().fit(Outcomes(["1"], ["p"], ["d"], ("m",), np.ones((1, 1), np.float32)))
    with pytest.raises(RoutingError, match="order must name"):
        ResponseJudge(order=["weak"]).fit(train)


def test_recorded_rows_show_what_the_paper_found():
    if not ROUTERBENCH.is_dir():
        pytest.skip("shared data routerbench not present")
    names = [f"{name}_test.csv" for name in ("arc_challenge", "mbpp", "winograde")]
    outcomes = concat([read_outcomes(ROUTERBENCH / name) for name in names])
    outcomes = outcomes.select(outcomes.known())
    quality, cost = outcomes.quality.astype(float), outcomes.cost_usd
    low, high = single_models(quality, cost).cost_usd[[0, -1]]
    zero = aiq(zero_router(quality, cost), low, high)
    figures = {
        rate: aiq(sweep(simulated_judge(quality, rate), quality, cost, thresholds=[0.5]).points(), low, high)
        for rate in ERROR_RATES
    }
    # Cascades with an error of up to .1 beat everything; past .2 they fall below the Zero router.
    assert figures[0.1] > zero + 0.03
    assert figures[0.4] < zero
    assert figures[0.0] < aiq(oracle_points(quality, cost), low, high)
