"""Whole jobs whose models refuse rows: what is asked of whom, what it costs, and how the job ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from jobs.errors import EXIT_DONE, EXIT_OPEN
from jobs.route.pipeline import run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from tests.odd_server import OddServer, completion, error, odd_server

N = 40
TOO_LONG = "This model's maximum context length is 8 tokens. However, you requested 9 tokens."


def job(folder: Path, server: OddServer, **more: Any) -> dict[str, Any]:
    """40 rows, a quarter of them for a strong model at ten times the price."""
    (folder / "in").mkdir(exist_ok=True)
    texts = [f"question {i}" for i in range(N)]
    pq.write_table(pa.table({"id": [str(i) for i in range(N)], "q": texts}), folder / "in/rows.parquet")
    models = {
        name: {"engine": "openai", "base_url": server.base_url, "price": {"per_million": {"input": usd, "output": usd}},
               "retries": {"attempts": 2}}
        for name, usd in (("weak", 1.0), ("strong", 10.0))
    }  # fmt: skip
    return {
        "input": {"path": str(folder / "in"), "prompt": "q", "id": "id"}, "output": str(folder / "out"), "router": "random",
        "models": models, "weak": "weak", "strong": "strong", "sampling": {"temperature": 0, "max_tokens": 8},
        "policy": {"strong_share": 0.25}, "max_error_share": 0.5, **more,
    }  # fmt: skip


def run(data: dict[str, Any]) -> tuple[int, dict[str, Any], pd.DataFrame]:
    code, report = run_job(Job(parse_spec(data), live=False))
    return code, report, pd.read_parquet(Path(data["output"]) / "responses")


def at_most_usd(data: dict[str, Any]) -> float:
    bill = json.loads((Path(data["output"]) / "plan/0001/bill.json").read_text())
    return float(bill["bound_usd"])


def number(prompt: str) -> int:
    return int(prompt.split()[-1])


def test_a_weak_model_that_refuses_all_raises_no_bill(tmp_path: Path, ray_local: None) -> None:
    def handle(model: str, prompt: str) -> web.Response:
        return (
            completion() if model == "strong" else error(400, "Conversation roles must alternate user/assistant/user")
        )

    with odd_server(handle) as server:
        data = job(tmp_path, server, on_refused="strong")
        code, report, _ = run(data)
    assert code == EXIT_OPEN and len(server.of("strong")) == N // 4
    assert "Conversation roles must alternate" in report["stopped"]["weak"] and "\n" not in report["stopped"]["weak"]
    assert report["open"] == N - N // 4 and report["errors"] == 0
    assert report["spent_usd"] <= at_most_usd(data)


@pytest.mark.slow
@pytest.mark.parametrize("on_refused", ["error", "strong"])
def test_a_row_that_both_refuse_is_final(on_refused: str, tmp_path: Path, ray_local: None) -> None:
    """No other row goes to the strong model: it is the row's fault all the same, at this start and at every other."""

    def handle(model: str, prompt: str) -> web.Response:
        return error(400, "bad picture") if number(prompt) == 7 else completion()

    with odd_server(handle) as server:
        data = job(tmp_path, server, on_refused=on_refused, policy={"strong_share": 0.0})
        for _ in range(2):
            code, report, rows = run(data)
            assert (code, report["open"], report["errors"], report["stopped"]) == (EXIT_DONE, 0, 1, {})
        assert len(server.asked) == N + (on_refused == "strong"), "nobody is asked a second time"
    assert "bad picture" in rows.error[7] and (rows.error.drop(7) == "").all()


@pytest.mark.slow
def test_single_refusals_are_errors_and_filters_stop_nobody(tmp_path: Path, ray_local: None) -> None:
    def handle(model: str, prompt: str) -> web.Response:
        if number(prompt) % 2:
            return error(403, "Content violates usage guidelines. Failed check: SAFETY_CHECK_TYPE_BIO")
        return completion()

    with odd_server(handle) as server:
        code, report, rows = run(job(tmp_path, server))
    assert (code, report["open"], report["errors"], report["stopped"]) == (EXIT_DONE, 0, N // 2, {})
    assert len(server.asked) == N and rows.error[1::2].str.contains("SAFETY_CHECK_TYPE_BIO").all()


@pytest.mark.slow
@pytest.mark.parametrize("n_fit", [5, 38])
def test_prompts_that_turn_out_too_long_go_up_and_never_beyond_at_most(
    n_fit: int, tmp_path: Path, ray_local: None
) -> None:
    """Nobody knew the weak model's context. What goes up is paid from what the plan said it costs at most; the rest waits."""

    def handle(model: str, prompt: str) -> web.Response:
        return error(400, TOO_LONG) if model == "weak" and number(prompt) >= n_fit else completion()

    with odd_server(handle) as server:
        data = job(tmp_path, server)
        for _ in range(2):
            code, report, rows = run(data)
            assert report["spent_usd"] + report["lost_usd"] <= at_most_usd(data) * (1 + 1e-9)
    up, waiting = rows[(rows.route == "weak") & (rows.model == "strong")], rows[rows.error != ""]
    assert len(up) > 0 and (up.id.astype(int) >= n_fit).all()
    assert (len(waiting) > 0) == (n_fit == 5) and waiting.error.str.contains("open: context_length_exceeded").all()
    assert code == (EXIT_OPEN if len(waiting) else EXIT_DONE)
