"""The judge: what it is asked, what of it counts, and that nothing is judged twice."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest

from jobs.errors import SpecError
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import ASK_COLUMNS
from jobs.route.answer.lane_contexts import judge_sampling, lane_context
from jobs.route.pilot.judge import REPEATS, Case, make_docket, question_of, read_verdicts, rows_to_judge
from jobs.route.plan.estimate import JUDGE_PROMPT_TOKENS, judge_usd
from jobs.route.start import Job
from jobs.spec.job import JobSpec
from jobs.spec.loader import parse_spec
from jobs.spec.sections import JUDGE
from jobs.storage.store import Store

PRICE = {"per_million": {"input": 1.0, "output": 2.0}}


def job_spec(tmp_path, judge: dict | None = None, **more) -> JobSpec:
    models = {
        name: {"engine": "openai", "model": f"org/{name}", "price": PRICE} for name in ("weak", "strong", "critic")
    }
    return parse_spec(
        {
            "input": {"path": str(tmp_path / "in"), "prompt": "q"}, "output": str(tmp_path / "out"), "router": "random",
            "models": models, "weak": "weak", "strong": "strong", "sampling": {"temperature": 0.7, "max_tokens": 20},
            "policy": {"strong_share": 0.5}, "sample": {"rows": 100},
            "quality": {"judge": {"model": "critic"} | (judge or {})},
        } | more
    )  # fmt: skip


def docket_of(tmp_path, cases, **judge):
    spec = job_spec(tmp_path, judge)
    assert spec.quality.judge is not None
    return spec.quality.judge, make_docket(lane_context(Job(spec), JUDGE), spec.quality.judge, cases)


def case(question: str, *answers: str | None, reference: str | None = None) -> Case:
    return Case(7, json.dumps([{"role": "user", "content": question}]), answers, reference)


def settle(tmp_path, docket, verdict) -> None:
    """Journal `verdict(user text, number of the request)` for every request; None leaves it rejected."""
    with JournalWriter(str(tmp_path / "out"), JUDGE, str(tmp_path / "log"), "s1") as journal:
        for number, row in enumerate(docket.requests.to_pylist()):
            text = verdict(json.loads(row["messages"])[-1]["content"], number)
            kind = "rejected" if text is None else "answered"
            journal.append(Answer(row["row_key"], row["bucket"], kind, bytes(16), generated_text=text))


def test_the_judges_lane_is_its_models_own_under_another_name(tmp_path):
    context = lane_context(Job(job_spec(tmp_path)), JUDGE)
    assert context.alias == "judge" and context.model.model == "org/critic"
    assert context.sampling == {"temperature": 0, "max_tokens": 512}, "not the job's"
    assert context.response_format["json_schema"]["required"] == ["reason", "rating"]
    pairs = lane_context(Job(job_spec(tmp_path, {"mode": "pairwise"})), JUDGE)
    assert pairs.response_format["json_schema"]["required"] == ["reason", "winner"]


def test_sampling_is_the_owners_where_given_and_names_the_limit_as_the_model_does(tmp_path):
    assert judge_sampling(job_spec(tmp_path, {"sampling": {"max_completion_tokens": 4000}})) == {
        "max_completion_tokens": 4000
    }
    assert judge_sampling(job_spec(tmp_path, {"sampling": {"temperature": 1}})) == {"temperature": 1, "max_tokens": 512}
    spec = job_spec(tmp_path)
    models = {name: model.model_dump(exclude_none=True) for name, model in spec.models.items()}
    models["critic"]["sampling"] = {"max_completion_tokens": 900}
    assert judge_sampling(job_spec(tmp_path, models=models)) == {"temperature": 0, "max_completion_tokens": 512}


def test_ratings_become_quality_and_what_is_no_verdict_is_counted(tmp_path):
    cases = [case("a?", "one", "two"), case("b?", "three", None), case("c?", "four", "five")]
    judge, docket = docket_of(tmp_path, cases)
    assert docket.requests.column_names == list(ASK_COLUMNS)
    assert set(docket.requests["bucket"].to_pylist()) == {7}
    assert len(docket.requests) == 5 + 5, "every answer once, and again as so few are repeated whole"
    says = {
        "one": '{"reason": "…", "rating": 1}',
        "two": "Rating: 10",
        "three": "[[4]]",
        "four": "no idea",
        "five": None,
    }

    def verdict(text, number):
        return next(said for word, said in says.items() if f"\n{word}\n" in text)

    settle(tmp_path, docket, verdict)
    found = read_verdicts(Store(str(tmp_path / "out")), judge, docket)
    np.testing.assert_allclose(found.quality, [[0, 1], [1 / 3, math.nan], [math.nan, math.nan]])
    assert (found.asked, found.failed) == (10, 4)
    assert found.agreement["raw"] == 1.0 and found.agreement["n"] == 3 and found.agreement["failed"] == 2
    assert found.agreement["first_share"] is None


def test_a_judge_that_likes_the_first_place_says_nothing_about_the_models(tmp_path):
    cases = [case(f"{i}?", "w", "s") for i in range(40)] + [case("same?", "x", "x"), case("none?", "x", None)]
    judge, docket = docket_of(tmp_path, cases, mode="pairwise")
    assert len(docket.requests) == 80, "both orders; equal answers are a tie unasked, and one answer is no pair"
    settle(tmp_path, docket, lambda text, number: '{"winner": "A"}')
    found = read_verdicts(Store(str(tmp_path / "out")), judge, docket)
    np.testing.assert_allclose(found.quality[:41], 0.5)
    assert np.isnan(found.quality[41]).all()
    assert found.agreement["raw"] == 0.0 and found.agreement["first_share"] == 1.0


def test_an_honest_judge_of_pairs_is_read_in_both_orders(tmp_path):
    cases = [case("a?", "bad", "mid", "good"), case("b?", "good", "bad", "mid")]
    spec = job_spec(tmp_path, {"mode": "pairwise"}, weak=None, strong=None, ladder=["weak", "critic", "strong"])
    judge = spec.quality.judge
    docket = make_docket(lane_context(Job(spec), JUDGE), judge, cases)
    assert len(docket.requests) == 8

    def verdict(text, number):
        a, b = (part.split("]\n")[1].split("\n[")[0] for part in text.split("[ANSWER ")[1:])
        order = ("bad", "mid", "good")
        return json.dumps({"winner": "A" if order.index(a) > order.index(b) else "B"})

    settle(tmp_path, docket, verdict)
    found = read_verdicts(Store(str(tmp_path / "out")), judge, docket)
    assert found.quality.tolist() == [[0, 0, 0.5], [1, 0, 0.5]]
    assert found.agreement["raw"] == 1.0 and found.agreement["first_share"] == 0.5 and found.failed == 0


def test_one_verdict_of_a_pair_alone_brings_the_bias_back_and_is_not_used(tmp_path):
    judge, docket = docket_of(tmp_path, [case("a?", "w", "s")], mode="pairwise")
    settle(tmp_path, docket, lambda text, number: None if number else "[[A]]")
    found = read_verdicts(Store(str(tmp_path / "out")), judge, docket)
    assert np.isnan(found.quality).all() and (found.asked, found.failed) == (2, 1)


def test_keys_follow_from_what_is_sent(tmp_path):
    cases = [case("a?", "one", "one"), case("a?", "one", "two"), case("b?", "one", "two")]
    _, docket = docket_of(tmp_path, cases)
    first = docket.first
    assert first[0][0] == first[0][1] == first[1][0] != first[2][0], (
        "the same answer to the same question is judged once"
    )
    keys = docket.requests["row_key"].to_pylist()
    assert len(set(keys)) == len(keys) == 8
    assert docket_of(tmp_path, cases)[1].requests.equals(docket.requests), "the same after a crash"
    other = job_spec(tmp_path, {"model": "strong"})
    again = make_docket(lane_context(Job(other), JUDGE), other.quality.judge, cases)
    assert not set(again.requests["row_key"].to_pylist()) & set(keys), "another judge is asked anew"


def test_only_so_many_ratings_are_repeated(tmp_path):
    _, docket = docket_of(tmp_path, [case(f"{i}?", "x", "y") for i in range(100)])
    assert len(docket.requests) == 200 + REPEATS
    texts = docket.requests["messages"].to_pylist()
    assert len(set(texts)) == 200 and set(texts[200:]) <= set(texts[:200])


def test_the_reference_is_shown_unless_it_is_not_wanted(tmp_path):
    cases = [case("a?", "one", "two", reference="GOLDEN"), case("b?", "one", "two")]
    shown = [("GOLDEN" in text) for text in docket_of(tmp_path, cases)[1].requests["messages"].to_pylist()]
    assert sum(shown) == 4 and len(shown) == 8
    hidden = docket_of(tmp_path, cases, reference="none")[1].requests["messages"].to_pylist()
    assert not any("GOLDEN" in text for text in hidden)


def test_rows_with_gold_on_every_answer_are_spared(tmp_path):
    keys = np.arange(6, dtype=np.int64) * 1_000_003
    said = np.full((6, 2), "x", object)
    said[5] = None
    said[4, 1] = None
    gold = np.full((6, 2), np.nan)
    gold[0] = 1.0
    gold[1, 0] = 1.0
    gold[4, 0] = 0.0
    spec = job_spec(tmp_path)
    assert sorted(rows_to_judge(spec, keys, said, gold)) == [1, 2, 3]
    few = rows_to_judge(job_spec(tmp_path, {"rows": 2}), keys, said, gold)
    assert len(few) == 2 and set(few) == set(rows_to_judge(spec, keys, said, gold)[:2])


def test_a_conversation_keeps_its_roles():
    assert question_of([{"role": "user", "content": "why?"}]) == "why?"
    talk = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "why?"}]}]
    assert question_of(talk) == "[system]\nbe brief\n\n[user]\nwhy?"


def test_an_empty_docket_is_asked_nothing(tmp_path):
    judge, docket = docket_of(tmp_path, [])
    assert isinstance(docket.requests, pa.Table) and not len(docket.requests)
    found = read_verdicts(Store(str(tmp_path / "out")), judge, docket)
    assert len(found.quality) == 0 and found.asked == 0


def test_the_bill_counts_every_verdict(tmp_path):
    class Said:
        completion_tokens = 100.0

    said = {"weak": Said, "strong": Said}
    n_bytes = np.array([400.0])
    rated = judge_usd(job_spec(tmp_path), said, n_bytes)
    paired = judge_usd(job_spec(tmp_path, {"mode": "pairwise"}), said, n_bytes)
    assert rated == pytest.approx(2 * ((100 + JUDGE_PROMPT_TOKENS + 100) * 1 + 60 * 2) / 1e6)
    assert paired == pytest.approx(2 * ((100 + JUDGE_PROMPT_TOKENS + 200) * 1 + 60 * 2) / 1e6)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"quality": {"judge": {"model": "nobody"}}}, "quality.judge.model: 'nobody' is not under models"),
        ({"sample": None}, "quality.judge: it rates the sample's answers; give the job sample"),
        ({"quality": {"gold": {"column": "a", "match": "judge"}}}, "quality.gold.match: judge leaves the comparing to"),
        ({"policy": {"guarantee": {"agreement": 0.9, "confidence": 0.95}}}, "quality.judge: policy.guarantee compares"),
    ],
)
def test_what_cannot_be_judged_is_refused(tmp_path, more, message):
    with pytest.raises(SpecError, match="quality") as refused:
        job_spec(tmp_path, **more)
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("mode", ["rating", "pairwise"])
def test_the_judge_sees_the_answers_and_not_the_thoughts(tmp_path, mode):
    _, thoughtful = docket_of(tmp_path, [case("Q", "<think>Lyon?</think>\n\nParis", "Nice")], mode=mode)
    _, plain = docket_of(tmp_path, [case("Q", "Paris", "<think>hm</think>Nice")], mode=mode)
    assert thoughtful.first == plain.first and len(plain.requests) >= 2
    _, equal = docket_of(
        tmp_path, [case("Q", "<think>one way</think>Paris", "<think>another</think>Paris")], mode="pairwise"
    )
    assert equal.ties.all()
