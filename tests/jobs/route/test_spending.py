"""Rows that one model refuses: with `on_refused: strong` they go to the next one up, in this start or in a later one, and are open
until all have refused; else they are errors, and nothing is paid for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import EXIT_DONE, EXIT_OPEN, LaneDown
from jobs.replay.options import ReplayOptions
from jobs.route.answer.session import Session
from jobs.route.pipeline import report_job, run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from routing.data.outcomes import Outcomes
from tests.replay_server import Replay, small_outcomes, thread_replay

N, REFUSED = 40, 8
MODELS = ("a", "b", "c")


def refusing(*models: str) -> Outcomes:
    """The first REFUSED prompts are unknown to these models: 404, the row's fault."""
    table = small_outcomes(N, MODELS)
    quality, responses = table.quality.copy(), table.responses.copy()
    for model in models:
        quality[:REFUSED, MODELS.index(model)] = np.nan
        responses[:REFUSED, MODELS.index(model)] = None
    return replace(table, quality=quality, responses=responses)


def job(
    server: Replay, tmp_path: Path, ladder: list[str], on_refused: str = "strong", max_error_share: float = 0.01
) -> dict[str, Any]:
    (tmp_path / "in").mkdir(exist_ok=True)
    prompts = [f"question {i}" for i in range(N)]
    pq.write_table(pa.table({"id": [f"r{i}" for i in range(N)], "q": prompts}), tmp_path / "in/rows.parquet")
    price = {"per_million": {"input": 1.0, "output": 1.0}}
    return {
        "input": {"path": str(tmp_path / "in"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"), "router": "random",
        "models": {name: {"engine": "openai", "base_url": server.base_url, "price": price} for name in ladder},
        "ladder": ladder, "sampling": {"temperature": 0, "max_tokens": 64}, "policy": {"strong_share": 0.2},
        "on_refused": on_refused, "max_error_share": max_error_share,
    }  # fmt: skip


def run(data: dict[str, Any]) -> tuple[int, dict[str, Any], pd.DataFrame]:
    code, report = run_job(Job(parse_spec(data), live=False))
    return code, report, pd.read_parquet(Path(data["output"]) / "responses").set_index("id", drop=False)


@pytest.mark.slow
def test_rows_that_should_have_moved_up_when_the_run_died_move_in_the_next_one(
    tmp_path: Path, ray_local: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: Any) -> Any:
        raise LaneDown("killed before the last wave")

    with thread_replay([refusing("a")], ReplayOptions(latency_s=0.005)) as server:
        data = job(server, tmp_path, ["a", "c"])
        with monkeypatch.context() as patched:
            patched.setattr(Session, "_last_rows", dies)
            with pytest.raises(LaneDown, match="killed"):
                run(data)
        between = report_job(data["output"])
        assert between["open"] > 0 == between["errors"] and not between["complete"]
        before = server.stats()["requests"]
        code, report, rows = run(data)
        assert (code, report["open"], report["errors"]) == (EXIT_DONE, 0, 0)
        assert (rows.model[:REFUSED] == "c").all() and (rows.error == "").all()
        assert server.stats()["requests"] - before == between["open"], "nobody else was asked anything"
        assert run(data)[0] == EXIT_DONE and server.stats()["requests"] - before == between["open"]


@pytest.mark.slow
def test_a_row_climbs_the_whole_ladder_in_one_start(tmp_path: Path, ray_local: None) -> None:
    with thread_replay([refusing("a", "b")], ReplayOptions(latency_s=0.005)) as server:
        code, report, rows = run(job(server, tmp_path, ["a", "b", "c"]))
    assert (code, report["open"], report["errors"]) == (EXIT_DONE, 0, 0)
    assert (rows.model[:REFUSED] == "c").all()


@pytest.mark.slow
def test_a_refusal_is_final_when_every_model_above_has_refused(tmp_path: Path, ray_local: None) -> None:
    with thread_replay([refusing("a", "b", "c")], ReplayOptions(latency_s=0.005)) as server:
        data = job(server, tmp_path, ["a", "b", "c"])
        code, report, rows = run(data)
        assert (report["open"], report["errors"]) == (0, REFUSED) and code == EXIT_OPEN, "too many errors"
        assert rows.error[:REFUSED].str.contains("prompt_not_found").all()
        before = server.stats()["requests"]
        assert run(data)[1]["errors"] == REFUSED and server.stats()["requests"] == before


@pytest.mark.slow
def test_a_refused_row_is_an_error_and_costs_nothing_more(tmp_path: Path, ray_local: None) -> None:
    with thread_replay([refusing("a")], ReplayOptions(latency_s=0.005)) as server:
        data = job(server, tmp_path, ["a", "c"], on_refused="error", max_error_share=0.5)
        code, report, rows = run(data)
        asked = server.stats()["by_model"]["c"]["answered"]
        refused = rows[:REFUSED][rows.route[:REFUSED] == "a"]
        assert (code, report["open"], report["errors"]) == (EXIT_DONE, 0, len(refused)) and len(refused) > 0
        assert refused.error.str.contains("prompt_not_found").all() and (refused.model == "").all()
        assert asked == (rows.route == "c").sum(), "what was planned, and no row more"
        requests = server.stats()["requests"]
        assert run(data)[0] == EXIT_DONE and server.stats()["requests"] == requests


@pytest.mark.slow
def test_a_run_that_had_moved_rows_goes_on_without_moving_more(tmp_path: Path, ray_local: None) -> None:
    """What the strong model has answered stays; what it was still to be asked is an error now."""
    with thread_replay([refusing("a")], ReplayOptions(latency_s=0.005)) as server:
        data = job(server, tmp_path, ["a", "c"])
        moved = run(data)[2]
        requests = server.stats()["requests"]
        code, report, rows = run(data | {"on_refused": "error", "max_error_share": 0.5})
        assert (code, report["open"], report["errors"]) == (EXIT_DONE, 0, 0) and server.stats()["requests"] == requests
        assert rows.model.tolist() == moved.model.tolist() and (rows.model[:REFUSED] == "c").all()
