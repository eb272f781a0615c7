"""The whole job against a real HTTP server: what was asked is what the plan says, once, and every row comes out once."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import EXIT_DONE, EXIT_OPEN, RunHeld, SpecError
from jobs.replay.options import ReplayOptions
from jobs.route.pipeline import plan_job, report_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from routing.data.outcome_readers import read_outcomes
from tests.replay_server import small_outcomes, thread_replay

PRICE = {"weak": {"input": 0.6, "output": 0.6}, "strong": {"input": 10.0, "output": 30.0}}


def job(replay, tmp_path: Path, **more) -> dict:
    """A job of two replayed models over tmp_path/in."""

    def model(name, provider):
        return {
            "engine": "openai",
            "model": provider,
            "base_url": replay.base_url,
            "price": {"per_million": PRICE[name]},
        }

    data = {
        "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"), "router": "random",
        "models": {"weak": model("weak", "org/weak"), "strong": model("strong", "strong")}, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 512}, "policy": {"strong_share": 0.3},
    }  # fmt: skip
    return data | more


def write_input(tmp_path: Path, prompts: list, **columns) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    table = {"id": [f"r{i}" for i in range(len(prompts))], "q": prompts, **columns}
    pq.write_table(pa.table(table), tmp_path / "in/rows.parquet")


def run(data: dict, **more) -> tuple[int, dict, pd.DataFrame]:
    code, report = run_job(Job(parse_spec(data), live=False, **more))
    return code, report, pd.read_parquet(Path(data["output"]) / "responses").set_index("id", drop=False)


@pytest.fixture(scope="module")
def replay():
    with thread_replay([small_outcomes(300)], ReplayOptions(latency_s=0.01)) as server:
        yield server


def asked(replay) -> dict:
    return {name: entry["answered"] for name, entry in replay.stats()["by_model"].items()}


def test_a_run_answers_every_row_once_and_again_costs_nothing(tmp_path, ray_local, replay):
    write_input(tmp_path, [f"question {i}" for i in range(100)])
    before = asked(replay)
    bill = plan_job(Job(parse_spec(job(replay, tmp_path)), live=False))
    assert asked(replay) == before, "a plan asks nothing"
    assert bill["request"]["messages"] == [{"role": "user", "content": "question 0"}]
    code, report, rows = run(job(replay, tmp_path))
    assert code == EXIT_DONE and len(rows) == 100 and (rows.error == "").all()
    assert (rows.route == "strong").sum() == 30 == bill["by_model"]["strong"]["rows"]
    for row in rows.itertuples():
        provider = "org/weak" if row.model == "weak" else "strong"
        assert row.generated_text == f"{provider} says {row.id[1:]}"
    spent = {m: after - before[m] for m, after in asked(replay).items()}
    assert spent == {"org/weak": 70, "strong": 30}
    tokens = rows.groupby("model")[["prompt_tokens", "completion_tokens"]].sum()
    want = sum(tokens.loc[m] @ [PRICE[m]["input"], PRICE[m]["output"]] for m in PRICE) / 1e6
    assert report["spent_usd"] == pytest.approx(want) == pytest.approx(rows.cost_usd.sum())
    assert report["planned_usd"] - report["spent_usd"] - report["lost_usd"] == pytest.approx(
        report["unspent_usd"], abs=1e-9
    )
    # Again, and a report alone: nothing is asked, and the same comes out.
    again = run(job(replay, tmp_path))[1]
    assert again["spent_usd"] == pytest.approx(report["spent_usd"]) and replay.stats()["repeated"] == 0
    assert report_job(str(tmp_path / "out"))["by_model"] == report["by_model"]
    # Another policy is the same job planned again: only the newly chosen rows are paid.
    code, more, _ = run(job(replay, tmp_path, policy={"strong_share": 0.5}))
    assert {m: after - before[m] for m, after in asked(replay).items()} == {"org/weak": 70, "strong": 50}
    code, less, rows = run(job(replay, tmp_path, policy={"strong_share": 0.1}))
    assert less["spent_usd"] == more["spent_usd"] and (rows.route == "strong").sum() == 10
    assert replay.stats()["repeated"] == 0


def test_duplicates_are_asked_once_and_copied(tmp_path, ray_local, replay):
    write_input(tmp_path, [f"question {200 + i // 5}" for i in range(50)])
    before = sum(asked(replay).values())
    code, report, rows = run(job(replay, tmp_path))
    assert code == 0 and sum(asked(replay).values()) - before == 10 == report["requests"]
    assert rows.copied_from.notna().sum() == 40 == report["copied_rows"]
    assert (rows[rows.copied_from.notna()].cost_usd == 0).all()
    for row in rows[rows.copied_from.notna()].itertuples():
        assert row.generated_text == rows.loc[row.copied_from].generated_text


def test_bad_rows_cost_only_themselves(tmp_path, ray_local, replay):
    prompts = [f"question {100 + i}" for i in range(60)]
    prompts[3], prompts[4], prompts[5], prompts[6] = None, "", "never recorded", "x" * 2**20
    ids = [f"r{i}" for i in range(60)]
    ids[9] = "r8"
    write_input(tmp_path, prompts)
    pq.write_table(pa.table({"id": ids, "q": prompts}), tmp_path / "in/rows.parquet")
    code, report, _ = run(job(replay, tmp_path, max_error_share=0.1))
    rows = pd.read_parquet(tmp_path / "out/responses")
    assert code == EXIT_DONE and len(rows) == 60 and report["errors"] == 5 and report["open"] == 0
    assert set(np.flatnonzero(rows.error != "")) == {3, 4, 5, 6, 9}
    assert rows.error[3] == "q is null" and rows.error[4] == "q is empty" and "duplicate id" in rows.error[9]
    assert "404" in rows.error[5] or "not" in rows.error[5]
    code, _, _ = run(job(replay, tmp_path, max_error_share=0.01))
    assert code == EXIT_OPEN


@pytest.mark.slow
def test_gold_sample_and_pgr(tmp_path, ray_local, replay):
    # Small outcomes: the weak model is right on even rows; gold here says what the strong one says.
    write_input(tmp_path, [f"question {i}" for i in range(200)], answer=[f"strong says {i}" for i in range(200)])
    data = job(
        replay, tmp_path, sample={"rows": 80, "seed": 1}, quality={"gold": {"column": "answer", "match": "exact"}}
    )
    code, report, rows = run(data)
    assert code == 0 and report["quality"]["mean"] == pytest.approx(0.3)
    assert report["quality_by_model"]["strong"]["mean"] == 1.0 and report["quality_by_model"]["weak"]["mean"] == 0.0
    assert report["pgr"]["low"] <= 0.3 <= report["pgr"]["high"]
    assert (rows.quality == (rows.model == "strong")).all()
    assert report["spent_by_purpose"]["shadow"] > 0


def test_the_cap_holds_by_the_servers_own_count(tmp_path, ray_local):
    with thread_replay(
        [small_outcomes(300)], ReplayOptions(latency_s=0.01, faults={"500": 0.1, "429": 0.1}, retry_after_s=0.05)
    ) as server:
        write_input(tmp_path, [f"question {i}" for i in range(300)])
        cap = 0.35
        _, report, _ = run(job(server, tmp_path, policy={"strong_share": 1.0}, max_usd=cap))
        by_model = server.stats()["by_model"]
        paid = sum(
            entry["prompt_tokens"] * PRICE[n]["input"] + entry["completion_tokens"] * PRICE[n]["output"]
            for n, entry in (("weak", by_model["org/weak"]), ("strong", by_model["strong"]))
        ) / 1e6  # fmt: skip
        assert paid <= cap and report["spent_usd"] == pytest.approx(paid)
        assert server.stats()["repeated"] == 0


@pytest.mark.slow
@pytest.mark.parametrize(("on_budget", "code", "open_rows"), [("weak", EXIT_DONE, False), ("stop", EXIT_OPEN, True)])
def test_when_the_dollars_are_gone_rows_go_to_the_weak_model_or_stay_open(
    tmp_path, ray_local, replay, on_budget, code, open_rows
):
    write_input(tmp_path, [f"question {i}" for i in range(250, 300)])
    # The plan assumes fewer output tokens than the recorded ones: the cap is met during the run, not in the plan.
    models = job(replay, tmp_path)["models"]
    models["strong"]["price"] = {"per_million": {"input": 0.0, "output": 100.0}}
    models["strong"]["sampling"] = {"max_tokens": 4096}
    data = job(replay, tmp_path, models=models, policy={"budget_usd": 0.9}, on_budget=on_budget)
    found, report, rows = run(data)
    assert found == code and (report["open"] > 0) == open_rows and len(rows) == 50
    assert report["spent_usd"] <= 0.9
    if on_budget == "weak" and (rows.route != rows.model).any():
        assert rows.route_reason[rows.route != rows.model].str.contains("not paid for").all()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"input": {"path": "IN", "prompt": "nope"}}, "input.prompt"),
        ({"policy": {"budget_usd": 1e-7}}, "policy.budget_usd"),
        ({"router": "/nowhere/router"}, "router"),
        ({"quality": {"gold": {"column": "id", "match": "nope"}}}, "nope"),
    ],
)
def test_a_job_that_cannot_run_is_refused_before_anything_is_spent(tmp_path, ray_local, replay, change, says):
    write_input(tmp_path, ["question 0"])
    data = json.loads(json.dumps(job(replay, tmp_path, **change)).replace('"IN"', json.dumps(str(tmp_path / "in"))))
    before = replay.stats()["requests"]
    with pytest.raises(Exception) as caught:  # noqa: PT011 - the class is checked below
        run(data)
    assert getattr(caught.value, "exit_code", 2) == 2 and says in str(caught.value) and "\n" not in str(caught.value)
    assert replay.stats()["requests"] == before


def test_another_job_in_the_output_is_refused(tmp_path, ray_local, replay):
    write_input(tmp_path, ["question 0", "question 1"])
    run(job(replay, tmp_path))
    with pytest.raises(SpecError, match="sampling"):
        run(job(replay, tmp_path, sampling={"temperature": 0, "max_tokens": 513}))
    write_input(tmp_path, ["question 0", "question 1", "question 2"])
    with pytest.raises(SpecError, match="the input changed"):
        run(job(replay, tmp_path))
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file.txt").write_text("somebody's")
    with pytest.raises(SpecError, match="not empty"):
        run(job(replay, tmp_path, output=str(tmp_path / "other")))
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["file.txt"], "nothing is written"


def test_a_wrong_key_is_refused_and_a_second_run_is_too(tmp_path, ray_local, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "wrong")
    with thread_replay([small_outcomes(4)], ReplayOptions(api_key="right")) as server:
        write_input(tmp_path, ["question 0"])
        with pytest.raises(SpecError, match="OPENAI_API_KEY"):
            run(job(server, tmp_path))
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_held_output_is_refused(tmp_path, ray_local, replay):
    from jobs.storage import lease
    from jobs.storage.store import Store

    write_input(tmp_path, ["question 0"])
    run(job(replay, tmp_path))
    held = lease.acquire(Store(str(tmp_path / "out")), "other", lambda: None)
    with pytest.raises(RunHeld, match="held by process"):
        run(job(replay, tmp_path))
    with pytest.raises(RunHeld, match="held by process"):
        report_job(str(tmp_path / "out"))  # two that account at once
    held.release()
    assert run(job(replay, tmp_path))[0] == EXIT_DONE


@pytest.mark.slow
def test_a_lane_that_goes_down_leaves_its_rows_open_and_the_same_command_goes_on(tmp_path, ray_local, replay):
    write_input(tmp_path, [f"question {i}" for i in range(100)])
    with thread_replay([small_outcomes(300)], ReplayOptions(latency_s=0.01, faults={"quota": 0.2})) as broke:
        code, report, rows = run(job(broke, tmp_path))
        assert (
            code == EXIT_OPEN
            and report["open"] > 0
            and len(rows) == 100
            and "quota" in " ".join(report["stopped"].values())
        )
        done = report["requests"]
    code, report, rows = run(job(replay, tmp_path))
    assert code == EXIT_DONE and report["open"] == 0 and report["requests"] >= done and (rows.error == "").all()


@pytest.mark.slow
def test_a_rehearsal_asks_n_rows_and_the_run_goes_on_from_there(tmp_path, ray_local, replay):
    write_input(tmp_path, [f"question {i}" for i in range(150, 200)])
    before = sum(asked(replay).values())
    code, report, rows = run(job(replay, tmp_path), limit=10)
    assert code == EXIT_DONE and (rows.error == "").sum() == 10 and report["open"] == 40
    assert sum(asked(replay).values()) - before == 10
    code, report, rows = run(job(replay, tmp_path))
    assert code == EXIT_DONE and sum(asked(replay).values()) - before == 50 and (rows.error == "").all()


def test_gsm8k_replayed_to_the_row(tmp_path, ray_local, shared_data):
    """Both models' recorded answers over real HTTP: rows, share and accuracy are those of the outcomes."""
    source = shared_data / "routellm/gsm8k/gsm8k_responses.csv"
    outcomes = read_outcomes(source)
    weak, strong = "mistralai/Mixtral-8x7B-Instruct-v0.1", "gpt-4-1106-preview"
    with thread_replay([outcomes], ReplayOptions(latency_s=0.0)) as server:
        data = job(server, tmp_path, input={"path": str(source), "prompt": "prompt"}, policy={"strong_share": 0.4})
        for alias, provider in (("weak", weak), ("strong", strong)):
            data["models"][alias] |= {"model": provider}
        data["sampling"]["max_tokens"] = 4096
        code, _, _ = run(data)
        stats = server.stats()
    rows = pd.read_parquet(tmp_path / "out/responses")
    place = {name: i for i, name in enumerate(outcomes.models)}
    picked = np.array([place[{"weak": weak, "strong": strong}[m]] for m in rows.model])
    at = np.arange(len(rows))
    assert code == EXIT_DONE and len(rows) == 1319 and (rows.error == "").all()
    assert (rows.model == "strong").sum() == int(0.4 * 1319) == stats["by_model"][strong]["answered"]
    assert (rows.generated_text.to_numpy() == outcomes.responses[at, picked]).all()
    # Every answer is the recorded one of the model that the plan chose, so the accuracy is the outcomes' to the row.
    accuracy = float(outcomes.quality[at, picked].mean())
    expected = 0.4 * outcomes.quality[:, place[strong]].mean() + 0.6 * outcomes.quality[:, place[weak]].mean()
    assert accuracy == pytest.approx(expected, abs=0.03), "random routing lies on the segment between the two models"
    assert stats["repeated"] == 0 and stats["answered"] == 1319
