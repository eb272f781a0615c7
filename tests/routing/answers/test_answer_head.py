"""What an answer shows of itself, and what a cascade makes of it."""

import numpy as np
import pytest

from routing.answers.checks import CHECKS, answer_checks
from routing.answers.head import AnswerHead, Evidence
from routing.errors import RoutingError
from routing.metrics.pair import apgr

PROMPT = "What is 12 apples at 3 dollars each?\nA. 15\nB. 36 dollars\nC. 30\nD. 4"


def checks(answer, prompt=PROMPT):
    return dict(zip(CHECKS, answer_checks([prompt], [answer])[0].tolist(), strict=True))


def test_a_choice_that_fits_its_argument():
    good = checks("We take 12 * 3 = 36 dollars. The answer is (B).")
    bad = checks("We take 12 * 3 = 36 dollars. The answer is (C).")
    assert good["chosen is an option"] == bad["chosen is an option"] == 1
    assert good["its number is reached at the end"] == 1 and bad["its number is reached at the end"] == 0
    assert bad["another's number is reached instead"] == 1 and good["another's number is reached instead"] == 0
    assert good["chosen option stands in the text"] == 1 and good["and beyond the best other"] > 0
    assert checks("I do not know.")["chosen is an option"] == 0


@pytest.mark.parametrize(
    ("text", "known", "holds"),
    [
        ("12 * (3 + 4) = 84", 1, 1), ("2 x 30 = 60 and then 60 / 7 = 9", 2, 0.5), ("$1,200 + $300 = $1,500", 1, 1),
        ("x = 5", 0, 0), ("5/0 = 3", 0, 0), ("10% * 5 = 0.5", 0, 0), ("((((((2+2 = 4", 0, 0), ("9**9**9 = 1", 0, 0),
    ],
)  # fmt: skip
def test_equations_are_recalculated(text, known, holds):
    found = checks(text, "How much?")
    assert found["log equations recalculated"] == pytest.approx(np.log1p(known))
    assert found["share that hold"] == pytest.approx(holds)


def test_checks_of_one_row_do_not_depend_on_the_others():
    prompts, answers = [PROMPT, "How?", PROMPT], ["The answer is (B).", None, "1 + 1 = 3" * 200]
    together = answer_checks(prompts, answers)
    alone = np.concatenate([answer_checks([p], [a]) for p, a in zip(prompts, answers, strict=True)])
    assert (together == alone).all() and not together[1].any() and np.isfinite(together).all()


def evidence(n=200, seed=0):
    """Right answers are sure, wrong ones hedge; which prompts are hard is in the prompt; a hard one is hard for both."""
    rng = np.random.default_rng(seed)
    hard, right = rng.random(n) < 0.5, rng.random(n) < 0.5
    strong = np.where(hard, rng.random(n) < 0.3, True)
    prompts = [f"{'prove the theorem' if h else 'name the colour'} of case {i}" for i, h in enumerate(hard)]
    answers = ["It is blue." if r else "Perhaps it might be red, I think, or maybe green." for r in right]
    quality = np.stack([right, right | strong], axis=1).astype(float)
    return Evidence(prompts, answers, np.zeros((n, 2))), quality


def test_gain_is_where_the_weak_answer_is_wrong_and_the_prompt_is_within_reach():
    told, quality = evidence(300)
    train, test = np.arange(200), np.arange(200, 300)
    head = AnswerHead().fit(told.select(train), quality[train])
    found = head.predict(told.select(test))
    assert found.shape == (100, 2) and found.dtype == np.float32 and (found >= 0).all() and (found <= 1).all()
    best = apgr(quality[test, 1] - quality[test, 0], *quality[test].T)
    assert apgr(found[:, 1] - found[:, 0], *quality[test].T) > 0.95 * best > 0.75
    assert np.mean((found[:, 0] - quality[test, 0]) ** 2) < 0.02
    assert np.mean((head.loo_[:, 0] - quality[train, 0]) ** 2) < 0.02
    alone = np.concatenate([head.predict(told.select(np.array([i]))) for i in test[:10]])
    assert np.allclose(alone, found[:10], atol=1e-5)


def test_signals_are_used_and_may_be_missing():
    told, quality = evidence(200, seed=1)
    silent = Evidence(told.prompts, ["It is blue."] * 200, told.scores)
    sure = np.where(quality[:, 0] == 1, -0.1, -2.0)
    for signal in (
        {"log_probabilities": np.stack([sure, 3 * sure], axis=1)},
        {"agreement": np.where(np.arange(200) % 10 == 0, np.nan, quality[:, 0])},
    ):
        heard = Evidence(silent.prompts, silent.responses, silent.scores, **signal)
        head = AnswerHead().fit(heard, quality)
        assert np.corrcoef(head.predict(heard)[:, 0], quality[:, 0])[0, 1] > 0.9
    assert np.isfinite(AnswerHead().fit(silent, quality).predict(silent)).all()


def test_a_pilot_that_teaches_nothing_is_refused():
    told, quality = evidence(80)
    with pytest.raises(RoutingError, match="teach nothing"):
        AnswerHead().fit(told.select(np.arange(30)), quality[:30])
    with pytest.raises(RoutingError, match="all alike"):
        AnswerHead().fit(told, np.ones((80, 2)))
    with pytest.raises(RoutingError, match="without NaN"):
        AnswerHead().fit(told, np.full((80, 2), np.nan))
