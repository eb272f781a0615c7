"""Whole jobs whose models think aloud, or think and never answer: what is paid, what is asked again, what is reported."""

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import EXIT_DONE
from jobs.report.page import render_html, render_markdown
from jobs.route.pipeline import run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from tests.thinking_server import completion, thinking_server


def job(server, tmp_path, **more) -> dict:
    def model(name):
        price = {"per_million": {"input": 1.0, "output": 4.0}}
        return {"engine": "openai", "model": name, "base_url": server.url, "price": price}

    return {
        "input": {"path": str(tmp_path / "in.parquet"), "prompt": "q", "id": "id"}, "output": str(tmp_path / "out"),
        "router": "random", "models": {"weak": model("weak"), "strong": model("strong")}, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 50}, "policy": {"strong_share": 0.2},
    } | more  # fmt: skip


def write_input(tmp_path, n, **columns) -> None:
    table = {"id": [f"r{i}" for i in range(n)], "q": [f"question {i}" for i in range(n)], **columns}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")


def run(data):
    code, report = run_job(Job(parse_spec(data), live=False))
    return code, report, pd.read_parquet(f"{data['output']}/responses").set_index("id", drop=False)


def test_empty_answers_are_final_errors_that_are_paid_and_not_moved_up(tmp_path, ray_local):
    write_input(tmp_path, 40)

    def say(model, text):
        if model == "weak" and int(text.split()[-1]) % 2:
            return completion(None, "length", 50, reasoning_content="Let me think …")
        return completion("<think>hm</think>yes")

    with thinking_server(say) as server:
        code, report, rows = run(job(server, tmp_path))
        assert code != EXIT_DONE and report["open"] == 0
        lost = rows[rows.error != ""]
        assert len(lost) == report["errors"] > 5 and (lost.route == "weak").all() and set(lost.model) == {""}
        assert lost.error.str.startswith("empty answer, 50 reasoning tokens: max_tokens went on reasoning").all()
        assert set(lost.finish_reason) == {"length"} and (lost.completion_tokens == 50).all()
        assert lost.cost_usd.tolist() == pytest.approx([220e-6] * len(lost)) and (rows.lost_usd == 0).all()
        assert set(rows[rows.error == ""].generated_text) == {"<think>hm</think>yes"}
        assert server.by_model == {"weak": 32, "strong": 8}, "no row was moved to the strong model"
        assert report["spent_usd"] == pytest.approx(rows.cost_usd.sum()) and report["lost_usd"] == 0
        (warning,) = report["warnings"]
        assert f"weak: {len(lost)} of 32 answers were empty" in warning
        assert f"<strong>{warning}</strong>" in render_html(report).replace("&#39;", "'")
        assert f"**weak: {len(lost)} of 32 answers" in render_markdown(report)
        again = run(job(server, tmp_path))
        assert sum(server.by_model.values()) == 40, "and none is asked again"
        assert again[1]["errors"] == len(lost) and again[1]["spent_usd"] == pytest.approx(report["spent_usd"])


def test_gold_and_the_schema_look_behind_the_thoughts(tmp_path, ray_local):
    write_input(tmp_path, 20, gold=["B"] * 20)

    def say(model, text):
        return completion('<think>{"a": "C"}, or the answer is (C)?</think>\n{"a": "B"}')

    more = {
        "quality": {"gold": {"column": "gold", "match": "json:a"}}, "sample": {"rows": 8},
        "response_format": {"json_schema": {"type": "object", "properties": {"a": {"type": "string"}}}},
    }  # fmt: skip
    with thinking_server(say) as server:
        code, report, rows = run(job(server, tmp_path, **more))
    assert code == EXIT_DONE and set(rows.parsed) == {'{"a":"B"}'} and set(rows.quality) == {1.0}
    assert report["quality"]["mean"] == 1 and rows.generated_text.str.startswith("<think>").all()
    (warning,) = report["warnings"]
    assert "quality 1 on every row of every model" in warning and "'gold'" in warning
