"""Rank bands: the best rows go first, the cut follows what answers really cost, and the money left is used."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.replay.options import ReplayOptions
from jobs.route.answer.bands import LEAST_ROWS, held_back, next_band
from jobs.route.pipeline import run_job
from jobs.route.plan.plan import Assignments
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from routing.data.outcomes import Outcomes
from tests.replay_server import thread_replay


def plan_of(model, rank, cost=1.0, sample=()) -> Assignments:
    n = len(model)
    keys = np.arange(100, 100 + n)
    blank = np.full(n, "", object)
    fold = np.where(np.isin(np.arange(n), sample), 2, -1).astype(np.int8)
    return Assignments(
        keys, np.zeros(n, np.int32), keys, np.asarray(model, np.int8), fold,
        np.zeros(n, np.float32), np.asarray(rank, float), np.full(n, cost), blank, blank,
    )  # fmt: skip


def test_bands_take_the_best_rows_up_to_the_next_milestone():
    rank = np.random.default_rng(0).permutation(1000)
    plan = plan_of(np.ones(1000), rank)
    todo = {"weak": np.empty(0, np.int64), "strong": plan.row_key}
    band = next_band(plan, todo, ("strong",), 0.0)["strong"]
    assert len(band) == 100 and set(rank[band - 100]) == set(range(900, 1000))
    left = {"strong": np.setdiff1d(plan.row_key, band)}
    assert len(next_band(plan, left, ("strong",), 100.0)["strong"]) == 400
    few = {"strong": plan.row_key[: LEAST_ROWS + 10]}
    assert len(next_band(plan, few, ("strong",), 0.0)["strong"]) == LEAST_ROWS + 10, "no crumbs are left"
    assert not len(next_band(plan, {"strong": plan.row_key[:0]}, ("strong",), 5.0)["strong"])


def test_weak_rows_just_below_the_cut_wait_but_never_those_of_the_sample():
    plan = plan_of([1] * 10 + [0] * 90, np.arange(100, 0, -1), sample=[10])
    todo = {"weak": plan.row_key[10:], "strong": plan.row_key[:10]}
    assert held_back(plan, todo, "weak", ("strong",)).tolist() == [111, 112, 113]
    assert not len(held_back(plan, todo, "weak", ()))


PRICE = {"weak": {"input": 0.1, "output": 0.1}, "strong": {"input": 10.0, "output": 30.0}}


def uneven(n: int, strong_tokens: int) -> Outcomes:
    """Prompts of equal length; the strong model says `strong_tokens` tokens, the weak one 20."""
    return Outcomes(
        ids=[str(i) for i in range(n)], prompts=[f"question {i:04d}" for i in range(n)], datasets=["d"] * n,
        models=("org/weak", "strong"), quality=np.ones((n, 2), np.float32),
        responses=np.array([["w", "s"]] * n, object), completion_tokens=np.tile([20.0, strong_tokens], (n, 1)),
        prompt_tokens=np.full((n, 2), 10.0),
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("strong_tokens", "max_tokens"), [(30, 190), (500, 512)])
def test_the_money_goes_by_rank_and_is_used_up_whatever_answers_cost(tmp_path, ray_local, strong_tokens, max_tokens):
    """The plan assumes 256 output tokens (190). Here there are fewer or more, so the cut has to move on the way."""
    n = 600
    usd = 250 * (10 * 10 + strong_tokens * 30) / 1e6  # pays some 250 strong rows
    with thread_replay([uneven(n, strong_tokens)], ReplayOptions(latency_s=0.01)) as server:
        (tmp_path / "in").mkdir()
        rows = {"id": [str(i) for i in range(n)], "q": [f"question {i:04d}" for i in range(n)]}
        pq.write_table(pa.table(rows), tmp_path / "in/rows.parquet")
        models = {
            name: {"engine": "openai", "model": provider, "base_url": server.base_url, "price": {"per_million": PRICE[name]}}
            for name, provider in (("weak", "org/weak"), ("strong", "strong"))
        }  # fmt: skip
        data = {
            "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"),
            "router": "random", "models": models, "weak": "weak", "strong": "strong",
            "sampling": {"temperature": 0, "max_tokens": max_tokens}, "policy": {"budget_usd": usd, "rank_by": "score"},
        }  # fmt: skip
        code, report = run_job(Job(parse_spec(data), live=False))
        out = pd.read_parquet(tmp_path / "out/responses")
        stats = server.stats()
    by_model = stats["by_model"]
    paid = sum(
        by_model[p]["prompt_tokens"] * PRICE[m]["input"] + by_model[p]["completion_tokens"] * PRICE[m]["output"]
        for m, p in (("weak", "org/weak"), ("strong", "strong"))
    ) / 1e6  # fmt: skip
    assert code == 0 and report["open"] == 0 and stats["repeated"] == 0
    assert 0.97 * usd <= paid <= usd
    strong, weak = out[out.model == "strong"].router_score, out[out.model == "weak"].router_score
    # A band sent before the cut moved down may hold rows below it, but never one that a better row was passed over for.
    assert strong.min() >= weak.max()
    assert len(out) == n and len(strong) + len(weak) == n
