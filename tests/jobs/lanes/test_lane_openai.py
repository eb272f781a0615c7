"""The API lane against a real replay server over HTTP: every answer and every fault, what stops the lane, the key."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from api_lane_job import KEY, MAX_TOKENS, Job, serving

from jobs.lanes.openai.endpoint import Endpoint
from jobs.lanes.openai.refusals import SAME_REFUSALS


def test_every_row_is_answered_once(ray_local: None, tmp_path: Path) -> None:
    with serving(500) as server:
        job = Job(server, tmp_path / "run")
        blocks = job.ask(list(range(500)))
        stats = server.stats()
        assert job.ask(list(range(500))) == []
        assert server.stats()["requests"] == 500
    assert (stats["answered"], stats["repeated"]) == (500, 0)
    assert stats["peak_in_flight"] <= 32
    rows = job.table()
    assert [row["row_key"] for row in rows] == list(range(500))
    assert {row["kind"] for row in rows} == {"answered"}
    assert all(row["generated_text"] == f"answer {row['row_key']}" for row in rows)
    assert {row["purpose"] for row in rows if row["row_key"] % 10 == 0} == {"shadow"}
    usage = stats["by_model"]["m"]
    paid = (usage["prompt_tokens"] * 1.0 + usage["completion_tokens"] * 4.0) / 1e6
    assert sum(row["cost_usd"] for row in rows) == pytest.approx(paid, abs=1e-12)
    assert sum(block["settled"] for block in blocks) == 500
    assert job.state.dollars.reserved_usd == 0
    assert os.listdir(tmp_path / "local") == []


@pytest.mark.parametrize(
    "fault",
    ["500", "429", "cut"]
    + [pytest.param(name, marks=pytest.mark.slow) for name in ("503", "429_bare", "bad_json", "empty", "408", "529")],
)
def test_faults_are_tried_again(ray_local: None, tmp_path: Path, fault: str) -> None:
    with serving(120, faults={fault: 0.15}, retry_after_s=0.05, latency_s=0.005, seed=3) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(120)))
        stats = server.stats()
    rows = job.table()
    assert [row["kind"] for row in rows] == ["answered"] * 120
    assert stats["faults"][fault] > 5
    assert (stats["answered"], stats["repeated"]) == (120, 0)
    assert sum(row["attempts"] for row in rows) == stats["requests"]
    lost = sum(row["lost_usd"] for row in rows)
    worst = (48 + 4 * MAX_TOKENS) / 1e6
    expected = {"cut": worst * stats["faults"][fault], "empty": 20e-6 * stats["faults"][fault]}
    if fault == "bad_json":
        assert 0 < lost <= worst * stats["faults"][fault]
    else:
        assert lost == pytest.approx(expected.get(fault, 0.0))
    assert job.state.dollars.spent_usd == pytest.approx(sum(row["cost_usd"] for row in rows))
    assert job.state.dollars.lost_usd == pytest.approx(lost)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["hang", "drip"])
def test_a_reply_that_never_ends_times_out_and_counts_as_paid(ray_local: None, tmp_path: Path, fault: str) -> None:
    with serving(60, faults={fault: 0.1}, seed=1) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(60)), retries={"timeout_s": 0.5})
        stats = server.stats()
    rows = job.table()
    assert [row["kind"] for row in rows] == ["answered"] * 60
    assert sum(row["lost_usd"] for row in rows) == pytest.approx(stats["faults"][fault] * (48 + 4 * MAX_TOKENS) / 1e6)


@pytest.mark.slow
def test_attempts_end_and_the_row_stays_open(ray_local: None, tmp_path: Path) -> None:
    """Half of all requests fail; with two attempts about a quarter of the rows do, and the next run asks those only."""
    keys = list(range(40))
    with serving(40, faults={"500": 0.5}, seed=5, latency_s=0.005) as server:
        job = Job(server, tmp_path / "run")
        job.ask(keys, retries={"attempts": 2})
        answered = server.stats()["answered"]
    failed = [row for row in job.table() if row["kind"] == "failed"]
    assert 2 <= len(failed) == 40 - answered <= 20
    assert all("HTTP 500" in row["error"] and row["attempts"] == 2 for row in failed)
    with serving(40) as server:
        job.server = server
        job.ask(keys)
        assert server.stats()["requests"] == len(failed)
    assert {row["kind"] for row in job.table()} == {"answered"}
    assert all(row["attempts"] == 3 for row in job.table() if row["row_key"] in {row["row_key"] for row in failed})


@pytest.mark.slow
def test_limits_by_time_end(ray_local: None, tmp_path: Path) -> None:
    with serving(4, faults={"429": 1.0}, retry_after_s=0.2) as server:
        job = Job(server, tmp_path / "run")
        started = time.monotonic()
        job.ask(list(range(4)), retries={"limited_s": 1.5})
        assert time.monotonic() - started < 30
        requests = server.stats()["requests"]
    assert [row["kind"] for row in job.table()] == ["failed"] * 4
    assert all("429" in row["error"] for row in job.table())
    assert 4 <= requests <= 4 * 9


@pytest.mark.slow
def test_retry_after_pauses_the_whole_model(ray_local: None, tmp_path: Path) -> None:
    """One 429 with a Retry-After of 1 s: nothing more than what was in flight already arrives in that second."""
    with serving(300, faults={"429": 0.02}, retry_after_s=1.0, latency_s=0.05, seed=9) as server:
        job = Job(server, tmp_path / "run")
        seen: list[tuple[float, int, int]] = []
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(0.02):
                stats = server.stats()
                seen.append((time.monotonic(), stats["requests"], stats["faults"]["429"]))

        thread = threading.Thread(target=watch)
        thread.start()
        job.ask(list(range(300)), limits={"in_flight": 8})
        stop.set()
        thread.join()
    first, at_first = next((at, requests) for at, requests, faults in seen if faults)
    during = [requests for at, requests, _ in seen if first <= at < first + 0.9]
    assert len(during) > 3
    assert max(during) <= at_first + 8, "unpaused, 140 requests arrive in that time"
    assert {row["kind"] for row in job.table()} == {"answered"}


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["401", "403", "404", "quota"])
def test_what_is_the_lanes_fault_stops_it(ray_local: None, tmp_path: Path, fault: str) -> None:
    with serving(200, faults={fault: 1.0}) as server:
        job = Job(server, tmp_path / "run")
        blocks = job.ask(list(range(200)), limits={"in_flight": 16})
        requests = server.stats()["requests"]
    assert requests <= 16
    assert job.table() == []
    assert sum(block["open"] for block in blocks) == 200
    state = job.state.models["gpt"]
    assert state.stop_kind == "lane_down"
    assert state.stopped.startswith("models.gpt")
    assert "\n" not in state.stopped
    assert job.state.dollars.reserved_usd == 0


@pytest.mark.slow
def test_the_same_refusal_many_times_stops_the_lane_and_settles_nothing(ray_local: None, tmp_path: Path) -> None:
    with serving(200, faults={"400": 1.0}) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(200)), limits={"in_flight": 4})
        assert server.stats()["requests"] <= SAME_REFUSALS + 4
    assert job.table() == []
    assert "in a row" in job.state.models["gpt"].stopped


@pytest.mark.slow
def test_a_few_rows_that_are_all_refused_stay_open_until_the_model_is_known_to_answer(
    ray_local: None, tmp_path: Path
) -> None:
    with serving(40, faults={"400": 1.0}) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(8)))
        assert job.table() == [] and server.stats()["requests"] == 8
        assert "refused all of its first 8 requests" in job.state.models["gpt"].stopped
        with serving(40) as mended:
            job.server = mended
            job.ask(list(range(4)))
        assert [row["kind"] for row in job.table()] == ["answered"] * 4 and job.state.models["gpt"].stopped == ""
        job.server = server
        job.ask(list(range(8)))
    assert sorted(row["kind"] for row in job.table()) == ["answered"] * 4 + ["rejected"] * 4
    assert job.state.models["gpt"].stopped == ""


@pytest.mark.slow
def test_refusals_of_single_rows_are_final(ray_local: None, tmp_path: Path) -> None:
    with serving(200, faults={"400": 0.1, "422": 0.05}, seed=2) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(200)))
        stats = server.stats()
        job.ask(list(range(200)))
        assert server.stats()["requests"] == 200
    kinds = [row["kind"] for row in job.table()]
    assert kinds.count("rejected") == stats["faults"]["400"] + stats["faults"]["422"] > 10
    assert kinds.count("answered") == 200 - kinds.count("rejected")
    assert job.state.models["gpt"].stopped == ""


@pytest.mark.slow
def test_an_unknown_prompt_is_the_rows_error(ray_local: None, tmp_path: Path) -> None:
    with serving(10) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(40)))
    rows = job.table()
    assert [row["kind"] for row in rows] == ["answered"] * 10 + ["rejected"] * 30
    assert all("prompt_not_found" in row["error"] for row in rows[10:])


@pytest.mark.slow
def test_a_server_that_is_gone_stops_the_lane(ray_local: None, tmp_path: Path) -> None:
    with serving(40) as server:
        job = Job(server, tmp_path / "run")
    job.ask(list(range(40)), retries={"attempts": 2})
    assert "cannot be reached" in job.state.models["gpt"].stopped
    assert job.table() == []


def test_the_key_stays_in_the_process(ray_local: None, tmp_path: Path) -> None:
    for key in (KEY, "sk-another-key"):
        with serving(30, api_key=key) as server:
            job = Job(server, tmp_path / key / "run", cap_usd=1.0)
            blocks = job.ask(list(range(30)), api_key_env="HEADGATE_TEST_KEY")
            answered = server.stats()["answered"]
        assert answered == (30 if key == KEY else 0)
        state = job.state.models["gpt"].stopped
        assert state == "" if key == KEY else "the key in $HEADGATE_TEST_KEY is refused" in state
        for path in tmp_path.rglob("*"):
            assert not path.is_file() or KEY.encode() not in path.read_bytes()
        assert KEY not in repr((job.state, blocks, Endpoint("http://x", KEY)))


@pytest.mark.slow
def test_a_key_that_the_workers_lack_is_named(ray_local: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADGATE_TEST_LATE_KEY", KEY)
    with serving(30) as server:
        job = Job(server, tmp_path / "run")
        job.ask(list(range(30)), api_key_env="HEADGATE_TEST_LATE_KEY")
        assert server.stats()["requests"] == 0
    assert "$HEADGATE_TEST_LATE_KEY is set where the job was started" in job.state.models["gpt"].stopped
