"""The cascade: the weak model first, what its answers show in the cut, and nothing asked or counted twice."""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SpecError
from jobs.journal.reader import Journal
from jobs.journal.rows import ANSWER_SCHEMA, Answer, answers_table
from jobs.lanes.chat import answer_key
from jobs.lanes.replies import mean_and_least, parse_completion
from jobs.replay.options import ReplayOptions
from jobs.route.pilot.further_answers import sample_keys
from jobs.route.pipeline import run_job
from jobs.route.plan.cut import decide
from jobs.route.plan.estimate import Estimate
from jobs.route.plan.plan import WeakFirst
from jobs.route.plan.rows import Rows
from jobs.route.plan.situation import Situation
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store
from routing.data.outcomes import Outcomes
from routing.pricing import Price
from tests.replay_server import thread_replay

N = 600


def outcomes() -> Outcomes:
    """The weak model is right half of the time, which its prompts do not tell, and its answers do."""
    right = np.random.default_rng(0).permutation(N) < N / 2
    prompts = [f"name the colour of case {i:04d}" for i in range(N)]
    says = [["yes" if r else "perhaps no, I think", "yes"] for r in right]
    return Outcomes(
        ids=[str(i) for i in range(N)], prompts=prompts, datasets=["d"] * N, models=("org/weak", "strong"),
        quality=np.stack([right, np.ones(N, bool)], axis=1).astype(np.float32), responses=np.array(says, object),
    )  # fmt: skip


def job(base_url: str, tmp_path: Path, **more) -> dict:
    (tmp_path / "in").mkdir(exist_ok=True)
    table = outcomes()
    rows = {"id": table.ids, "q": table.prompts, "answer": ["yes"] * N}
    pq.write_table(pa.table(rows), tmp_path / "in/rows.parquet")
    prices = {"weak": 0.1, "strong": 10.0}
    models = {
        name: {
            "engine": "openai", "model": provider, "base_url": base_url,
            "price": {"per_million": {"input": prices[name], "output": prices[name]}},
        } for name, provider in (("weak", "org/weak"), ("strong", "strong"))
    }  # fmt: skip
    return {
        "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"),
        "router": "random", "models": models, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 20}, "policy": {"strong_share": 0.5},
        "sample": {"rows": 200, "seed": 3}, "quality": {"gold": {"column": "answer", "match": "exact"}},
        "cascade": {"signals": ["response", "agreement"], "band": 0.2, "samples": 2},
    } | more  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_weak_answers_show_which_rows_need_the_strong_model(tmp_path, ray_local):
    with thread_replay([outcomes()], ReplayOptions(latency_s=0.01)) as server:
        data = job(server.base_url, tmp_path)
        code, report = run_job(Job(parse_spec(data), live=False))
        asked = {name: entry["answered"] for name, entry in server.stats()["by_model"].items()}
        again, _ = run_job(Job(parse_spec(data), live=False))
        assert {name: entry["answered"] for name, entry in server.stats()["by_model"].items()} == asked
    assert code == again == 0
    rows = pd.read_parquet(tmp_path / "out/responses")
    assert len(rows) == N and (rows["error"] == "").all()
    # No prompt tells anything: without the weak answers half of the strong calls would be for nothing.
    assert report["quality"]["mean"] > 0.97 and report["pgr"]["low"] > 0.85
    assert report["strong_share"] == pytest.approx(0.5, abs=0.01)
    cascade = report["cascade"]
    assert cascade["used"] and cascade["error"]["after"] < 0.2 * cascade["error"]["mean"]
    # Every row once, and two further answers for the pilot's fit fold and the band; the strong model: its half and the pilot.
    further = Journal(Store(str(tmp_path / "out"))).settlements("samples")
    assert asked["org/weak"] == N - cascade["straight_rows"] + len(further.row_key)
    assert 0 < cascade["band_rows"] <= 0.2 * N + 1 and len(further.row_key) <= 2 * (cascade["band_rows"] + 120)
    assert asked["strong"] < 0.5 * N + 200
    # Dollars: the weak answers of upgraded rows and the further answers are the cascade's.
    by_purpose = report["spent_by_purpose"]
    upgraded = (rows["route"] == "strong").sum()
    assert by_purpose["cascade"] > further.cost_usd.sum() > 0 and upgraded == pytest.approx(N / 2, abs=8)
    assert sum(by_purpose.values()) == pytest.approx(report["spent_usd"])
    assert report["unspent_usd"] == pytest.approx(report["planned_usd"] - report["spent_usd"] - report["lost_usd"])
    assert report["spent_usd"] == pytest.approx(report["planned_usd"], rel=0.1)


def test_weak_answers_are_paid_before_the_cut_and_upgrades_cost_the_whole_dear_call():
    rng = np.random.default_rng(0)
    n, keys = 1000, np.arange(1000)
    weak = rng.uniform(0, 0.8, n)
    predicted = np.stack([weak, weak + rng.uniform(0.01, 0.2, n)], axis=1).astype(np.float32)
    pairs = np.stack([keys, keys], axis=1)
    rows = Rows(keys, np.zeros(n, np.int32), pairs, pairs, np.full(n, 400), np.zeros(n, bool), predicted)
    usd = {
        name: Estimate(Price(rate, rate), "x", 0.25, 100.0, 0.1, 500, sources=())
        for name, rate in (("a", 1.0), ("b", 20.0))
    }
    models = {"a": {"engine": "openai"}, "b": {"engine": "openai"}}
    spec = parse_spec({
        "input": {"path": "x", "prompt": "q"}, "output": "o", "router": "random", "models": models, "weak": "a", "strong": "b",
        "policy": {"budget_usd": 1.2},
    })  # fmt: skip
    fits, everybody = np.zeros((n, 2), bool), np.ones(n, bool)
    # A weak call is $0.0002, a strong one $0.0040: all weak first is $0.20, and the rest pays for 250 upgrades.
    plan, bill = decide(Situation(spec, rows, usd, fits, weak_first=WeakFirst(everybody, 0.0)))
    assert (plan.model == 1).sum() == 250
    assert bill.planned_usd == pytest.approx(1.2) and bill.cascade_usd == pytest.approx(250 * 0.0002)
    plan, bill = decide(Situation(spec, rows, usd, fits))
    assert (plan.model == 1).sum() == 263 and bill.cascade_usd == 0
    plan, bill = decide(Situation(spec, rows, usd, fits, weak_first=WeakFirst(everybody, 0.4)))
    assert (plan.model == 1).sum() == 150 and bill.planned_usd == pytest.approx(1.2)
    straight = keys >= 900  # unasked, they cost no weak call where they go up
    plan, bill = decide(Situation(spec, rows, usd, fits, weak_first=WeakFirst(~straight, 0.0)))
    assert bill.cascade_usd == pytest.approx(((plan.model == 1) & ~straight).sum() * 0.0002)
    assert bill.planned_usd <= 1.2 + 1e-9


def test_a_cascade_needs_a_sample_with_quality():
    models = {"a": {"engine": "openai"}, "b": {"engine": "openai"}}
    base = {"input": {"path": "x", "prompt": "q"}, "output": "o", "router": "length", "models": models, "weak": "a"}
    base |= {"strong": "b", "policy": {"strong_share": 0.5}, "cascade": {}}
    with pytest.raises(SpecError, match="cascade: what the weak answers tell is learnt from a sample with quality"):
        parse_spec(base | {"sample": {"rows": 100}})
    good = base | {"sample": {"rows": 100}, "quality": {"gold": {"column": "answer"}}}
    assert parse_spec(good).cascade.signals == ["response"]
    with pytest.raises(SpecError, match=r"cascade\.signals"):
        parse_spec(good | {"cascade": {"signals": ["entropy"]}})
    batch = {"a": {"engine": "openai_batch"}, "b": {"engine": "openai"}}
    with pytest.raises(SpecError, match="logprob is not read from batches"):
        parse_spec(good | {"models": batch, "cascade": {"signals": ["logprob"]}})
    named = models | {"samples": {"engine": "openai"}}
    with pytest.raises(SpecError, match="keeps its further answers under this name"):
        parse_spec(good | {"models": named})


def test_sample_keys_are_stable_and_their_own():
    keys = sample_keys(np.array([1, 2], np.int64), 4)
    assert keys.shape == (2, 4) and len(np.unique(keys)) == 8
    assert (sample_keys(np.array([2], np.int64), 2)[0] == keys[1, :2]).all(), "more samples keep those that are there"


def test_log_probabilities_of_a_reply():
    choice = {"message": {"content": "yes"}, "finish_reason": "stop"}
    told = [{"token": "y", "logprob": -0.5}, {"token": "es", "logprob": -1.5}]
    raw = _reply(choice | {"logprobs": {"content": told}})
    assert parse_completion(raw, {"messages": []}).logprobs == (-1.0, -1.5)
    for content in (None, [], [{"token": "y"}], [{"logprob": None}], "x"):
        assert parse_completion(_reply(choice | {"logprobs": {"content": content}}), {"messages": []}).logprobs is None
    assert mean_and_least([]) is None and mean_and_least([-np.inf, 0.0]) == (-5000.0, -10000.0)


def test_asking_for_log_probabilities_is_the_same_question():
    request = {"model": "m", "messages": [{"role": "user", "content": "q"}], "max_tokens": 5}
    assert answer_key(request) == answer_key(request | {"logprobs": True})


def test_segments_of_a_version_without_log_probabilities_are_read(tmp_path):
    old = answers_table([Answer(7, 0, "answered", bytes(16), "yes", settled_at=1.0)])
    old = old.drop_columns(["mean_logprob", "min_logprob"])
    store = Store(str(tmp_path))
    store.write_table("answers/model=weak/seg-s--0123456789ab--000001.b0..0.parquet", old)
    new = answers_table(
        [Answer(8, 0, "answered", bytes(16), "no", settled_at=1.0, mean_logprob=-1.0, min_logprob=-2.0)]
    )
    store.write_table("answers/model=weak/seg-s--0123456789ab--000002.b0..0.parquet", new)
    table = Journal(store).read("weak", 0)
    assert table.schema.names == ANSWER_SCHEMA.names
    assert table["mean_logprob"].to_pylist() == [None, -1.0] and table["generated_text"].to_pylist() == ["yes", "no"]


def _reply(choice: dict) -> bytes:
    import json

    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1, "completion_tokens": 2}}).encode()
