"""The plan: exact shares, one request per group of equal prompts, errors apart, and a bill that adds up."""

import dataclasses

import numpy as np
import pytest

from jobs.errors import SpecError
from jobs.route.plan.cut import decide
from jobs.route.plan.estimate import Estimate
from jobs.route.plan.groups import first_of_equal
from jobs.route.plan.plan import Paid, Sample, load_plan, write_plan
from jobs.route.plan.rows import Rows
from jobs.route.plan.situation import Situation
from jobs.spec.loader import parse_spec
from jobs.storage.keys import row_keys
from jobs.storage.store import Store
from routing.pricing import Price

N = 1000


def job(**more):
    models = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}
    data = {
        "input": {"path": "x", "prompt": "q"},
        "output": "o",
        "router": "random",
        "models": models,
        "weak": "a",
        "strong": "b",
    }
    return parse_spec({**data, "sampling": {"temperature": 0}, "policy": {"strong_share": 0.3}, **more})


def rows(n=N, content=None, ids=None, error=None, m=2) -> Rows:
    rng = np.random.default_rng(0)
    content = np.arange(n) if content is None else content
    ids = np.arange(n) if ids is None else ids
    pair = lambda values: np.stack([values, values * 7], axis=1).astype(np.int64)  # noqa: E731
    weak = rng.uniform(0, 0.8, n)
    predicted = np.stack([weak + rng.uniform(0, 0.2, n) * j for j in range(m)], axis=1).astype(np.float32)
    error = np.zeros(n, bool) if error is None else error
    return Rows(
        row_keys(np.arange(n)), np.zeros(n, np.int32), pair(content), pair(ids), np.full(n, 400), error, predicted
    )


def estimate(usd: float) -> Estimate:
    return Estimate(Price(usd, usd), "job file", 0.25, 100.0, 0.1, 500, sources=("x",))


def cut(spec, rows, estimates, too_long, **more):
    return decide(Situation(spec, rows, estimates, too_long, **more))


ESTIMATES = {"a": estimate(1.0), "b": estimate(20.0)}
FITS = np.zeros((N, 2), bool)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.777, 1.0])
def test_the_share_is_exact_to_the_row(share):
    plan, bill = cut(job(policy={"strong_share": share}), rows(), ESTIMATES, FITS)
    assert (plan.model == 1).sum() == int(share * N + 1e-9) == round(bill.strong_share * N)
    assert bill.by_model["a"].rows + bill.by_model["b"].rows == N


def test_the_rows_above_the_cut_are_the_best_scores():
    plan, bill = cut(job(), rows(), ESTIMATES, FITS)
    strong = plan.model == 1
    assert plan.router_score[strong].min() >= plan.router_score[~strong].max()
    assert bill.cut_score == pytest.approx(plan.router_score[strong].min())


def test_equal_prompts_are_one_request_and_follow_their_leader():
    content = np.arange(N) // 4
    plan, bill = cut(job(), rows(content=content), ESTIMATES, FITS)
    leaders = row_keys(np.arange(0, N, 4))
    assert (plan.leader == np.repeat(leaders, 4)).all() and bill.duplicates == 750
    assert (plan.model.reshape(-1, 4) == plan.model[::4, None]).all()
    assert (plan.model == 1).sum() <= 300 and (plan.cost_usd > 0).sum() == 250
    assert sum(len(plan.leaders_of(j)) for j in (0, 1)) == 250
    apart, _ = cut(job(dedup=False), rows(content=content), ESTIMATES, FITS)
    assert (apart.leader == apart.row_key).all()


def test_errors_and_second_ids_are_not_asked():
    error = np.zeros(N, bool)
    error[3] = True
    ids = np.arange(N)
    ids[[10, 20]] = 5
    plan, bill = cut(job(), rows(ids=ids, error=error), ESTIMATES, FITS)
    assert set(np.flatnonzero(plan.model < 0)) == {3, 10, 20} and bill.input_errors == 3
    assert "duplicate id" in plan.error[10] and plan.error[5] == "" and plan.error[3] == ""
    assert (plan.model == 1).sum() == int(0.3 * (N - 3))


def test_a_prompt_too_long_for_the_weak_model_goes_to_the_strong_one():
    long = FITS.copy()
    long[7, 0] = long[8] = True
    plan, _ = cut(job(policy={"strong_share": 0.0}), rows(), ESTIMATES, long)
    assert plan.model[7] == 1 and plan.reason[7] == "too long for a"
    assert plan.model[8] == -1 and "fits no model" in plan.error[8]


def test_dollars_are_planned_under_the_budget_and_below_it_is_refused():
    cost_weak, cost_strong = (100 + 100) / 1e6, 20 * (100 + 100) / 1e6
    budget = N * cost_weak + 100.5 * (cost_strong - cost_weak)
    plan, bill = cut(job(policy={"budget_usd": budget}), rows(), ESTIMATES, FITS)
    assert (plan.model == 1).sum() == 100 and bill.planned_usd <= budget
    with pytest.raises(SpecError, match=r"policy\.budget_usd"):
        cut(job(policy={"budget_usd": N * cost_weak * 0.9}), rows(), ESTIMATES, FITS)
    capped, bill = cut(job(policy={"strong_share": 0.9}, max_usd=budget), rows(), ESTIMATES, FITS)
    assert (capped.model == 1).sum() == 100 and bill.cap_usd == budget


def test_the_bill_is_the_sum_of_the_rows():
    plan, bill = cut(job(sample={"rows": 50}), rows(), ESTIMATES, FITS)
    both = plan.sample.sum() * (
        ESTIMATES["a"].cost_usd(np.array([400]))[0] + ESTIMATES["b"].cost_usd(np.array([400]))[0]
    )
    assert plan.sample.sum() == 50
    assert bill.planned_usd == pytest.approx(plan.cost_usd.sum() + both - plan.cost_usd[plan.sample].sum())
    assert bill.range_usd[0] <= bill.planned_usd <= bill.range_usd[1] and bill.bound_usd > bill.range_usd[1] / 2


def test_the_sample_is_the_same_at_every_start_and_asked_of_every_model():
    first, _ = cut(job(sample={"rows": 50}), rows(), ESTIMATES, FITS)
    again, _ = cut(job(sample={"rows": 50}, policy={"strong_share": 0.9}), rows(), ESTIMATES, FITS)
    assert (first.sample == again.sample).all()
    for j in (0, 1):
        assert np.isin(first.leader[first.sample], first.leaders_of(j)).all()
    other, _ = cut(job(sample={"rows": 50, "seed": 1}), rows(), ESTIMATES, FITS)
    assert (first.sample != other.sample).any()


def test_three_models_are_one_ladder():
    models = {n: {"engine": "vllm", "source": "s"} for n in "abc"}
    spec = job(models=models, weak=None, strong=None, ladder=["a", "b", "c"], policy={"strong_share": 0.2})
    estimates = {"a": estimate(1.0), "b": estimate(5.0), "c": estimate(20.0)}
    plan, bill = cut(spec, rows(m=3), estimates, np.zeros((N, 3), bool))
    assert (plan.model == 2).sum() <= 200 and set(bill.by_model) == {"a", "b", "c"}


def test_first_of_equal_names_the_first_in_input_order():
    keys = np.array([[1, 1], [2, 2], [1, 1], [2, 3], [1, 1]])
    use = np.array([False, True, True, True, True])
    assert first_of_equal(keys, use).tolist() == [0, 1, 2, 3, 2]


def test_nothing_to_ask_is_refused():
    with pytest.raises(SpecError, match="not one row"):
        cut(job(), rows(error=np.ones(N, bool)), ESTIMATES, FITS)


def promising(**more):
    gold = {"gold": {"column": "answer"}}
    return job(policy={"min_quality": 0.9}, quality=gold, sample={"rows": 200}, **more)


def measured(weak: float) -> Sample:
    """200 rows of the select fold: the strong model right on all, the weak one on a share of them."""
    quality = np.stack([(np.arange(200) < 200 * weak).astype(float), np.ones(200)], axis=1)
    return Sample(row_keys(np.arange(200)), np.ones(200, np.int8), quality)


def test_a_promise_costs_no_more_than_what_the_sample_leaves_of_the_cap():
    free, bill = cut(promising(), rows(), ESTIMATES, FITS, sample=measured(0.3))
    wanted_usd = free.cost_usd.sum()
    assert bill.promise.kept and bill.planned_usd > wanted_usd > 0.5 * N * 0.004
    _, bill = cut(promising(max_usd=wanted_usd + 0.01), rows(), ESTIMATES, FITS, sample=measured(0.3))
    assert not bill.promise.kept and bill.planned_usd <= wanted_usd + 0.01


def test_rows_of_the_sample_that_no_model_takes_any_more_promise_nothing():
    gone = FITS.copy()
    gone[:100] = True
    sample = measured(0.5)
    _, bill = cut(promising(), rows(), ESTIMATES, gone, sample=sample)
    assert bill.promise.rows == 100


def test_settled_rows_keep_score_and_rank_of_their_own():
    whole, _ = cut(job(policy={"budget_usd": 2.0}), rows(), ESTIMATES, FITS)
    answered = np.zeros((N, 2), bool)
    answered[:600, 1] = True
    paid = Paid(answered, np.zeros((N, 2), bool), np.where(answered, 0.001, 0.0), np.zeros(2), 0.0)
    again, _ = cut(job(policy={"budget_usd": 2.0}), rows(), ESTIMATES, FITS, paid=paid)
    np.testing.assert_array_equal(again.router_score, whole.router_score)
    np.testing.assert_array_equal(again.rank, whole.rank)
    assert (again.model[:600] == 1).all()


def test_a_plan_is_read_back_as_it_was_written(tmp_path):
    error = np.arange(N) % 97 == 0
    plan, bill = cut(job(sample={"rows": 50}), rows(error=error, content=np.arange(N) // 3), ESTIMATES, FITS)
    store = Store(str(tmp_path))
    write_plan(store, 3, plan, bill)
    found = load_plan(store, 3)
    assert found.number == 3 and found.bill.planned_usd == bill.planned_usd
    for name in plan.__slots__:
        np.testing.assert_array_equal(getattr(found.assignments, name), getattr(plan, name))
        assert getattr(found.assignments, name).dtype == getattr(plan, name).dtype


def test_the_order_is_the_pilots_where_the_job_file_leaves_it_open():
    sample = dataclasses.replace(measured(0.5), rank_by="gain_per_dollar")
    orders = {}
    for rank_by in (None, "score"):
        policy = {"strong_share": 0.3} | ({"rank_by": rank_by} if rank_by else {})
        _, bill = cut(job(policy=policy, sample={"rows": 200}), rows(), ESTIMATES, FITS, sample=sample)
        orders[rank_by] = bill.policy.rank_by
    assert orders == {None: "gain_per_dollar", "score": "score"}
