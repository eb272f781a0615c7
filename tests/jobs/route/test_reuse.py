"""`reuse:` an earlier run's answers are not paid for again, and only those of the very same request count."""

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import SpecError
from jobs.replay.options import ReplayOptions
from jobs.route.answer.reuse import check_reuse
from jobs.route.pipeline import run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec
from tests.replay_server import small_outcomes, thread_replay


def job(server, tmp_path: Path, day: str, rows: range, **more) -> dict:
    folder = tmp_path / f"in-{day}"
    folder.mkdir()
    table = {"id": [f"r{i}" for i in rows], "q": [f"question {i}" for i in rows]}
    pq.write_table(pa.table(table), folder / "rows.parquet")
    price = {"per_million": {"input": 1, "output": 1}}
    models = {
        name: {"engine": "openai", "model": provider, "base_url": server.base_url, "price": price}
        for name, provider in (("weak", "org/weak"), ("strong", "strong"))
    }  # fmt: skip
    return {
        "input": {"path": str(folder), "prompt": "q", "id": "id"}, "output": str(tmp_path / day), "router": "length",
        "models": models, "weak": "weak", "strong": "strong", "sampling": {"temperature": 0, "max_tokens": 512},
        "policy": {"strong_share": 0.3},
    } | more  # fmt: skip


@pytest.mark.slow
def test_the_next_night_pays_only_for_what_is_new(tmp_path, ray_local):
    with thread_replay([small_outcomes(300)], ReplayOptions(latency_s=0.01)) as server:
        first = job(server, tmp_path, "monday", range(100))
        code, monday = run_job(Job(parse_spec(first), live=False))
        assert code == 0 and monday["reused_answers"] == 0
        before = server.stats()["answered"]
        # 80 of the rows are yesterday's, in another order and place; two runs hold them.
        second = job(server, tmp_path, "tuesday", range(119, 19, -1), reuse=[first["output"], str(tmp_path / "none")])
        code, tuesday = run_job(Job(parse_spec(second), live=False))
        rows = pd.read_parquet(tmp_path / "tuesday/responses").set_index("id")
        stats = server.stats()
        # Everything of yesterday's that the plan still wants is free: at least the rows whose model stayed the same.
        yesterday = pd.read_parquet(tmp_path / "monday/responses").set_index("id")
        old = rows.index.intersection(yesterday.index)
        assert code == 0 and len(rows) == 100 and len(old) == 80 and stats["repeated"] == 0
        assert stats["answered"] - before == tuesday["requests"] < 50
        free = rows[rows.route_reason.str.contains("earlier run")]
        assert len(free) >= 60 and (free.cost_usd == 0).all() and (free.attempts == 0).all()
        for row in free.itertuples():
            assert row.generated_text == yesterday.loc[row.Index].generated_text
        assert tuesday["spent_usd"] == pytest.approx(rows.cost_usd.sum())
        # The report prices all-strong as if nothing were free.
        assert tuesday["all_strong_usd"] > 0.9 * monday["all_strong_usd"]
        # Once more costs nothing and copies nothing.
        again = run_job(Job(parse_spec(second), live=False))[1]
        assert again["reused_answers"] == tuesday["reused_answers"] and server.stats()["answered"] == stats["answered"]
        # Other sampling is another request.
        third = job(server, tmp_path, "wednesday", range(20), reuse=[first["output"]])
        third["sampling"] = {"temperature": 0, "max_tokens": 400}
        assert run_job(Job(parse_spec(third), live=False))[1]["reused_answers"] == 0


def test_what_is_no_run_is_refused_and_what_is_not_there_is_noted(tmp_path):
    def spec(*reuse):
        return parse_spec(
            {
                "input": {"path": str(tmp_path), "prompt": "q"}, "output": str(tmp_path / "out"), "router": "length",
                "models": {n: {"engine": "openai", "price": {"per_million": {"input": 1, "output": 1}}} for n in ("a", "b")},
                "weak": "a", "strong": "b", "policy": {"strong_share": 0.3}, "reuse": list(reuse),
            }
        )  # fmt: skip

    notes: list[str] = []
    assert check_reuse(spec(str(tmp_path / "nothing")), notes.append) == [] and "nothing at" in notes[0]
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    with pytest.raises(SpecError, match="holds no headgate run"):
        check_reuse(spec(str(tmp_path / "other")), notes.append)
    with pytest.raises(SpecError, match="this job's own output"):
        check_reuse(spec(str(tmp_path / "out")), notes.append)
    assert "{" not in spec("s3://bucket/{yesterday}").reuse[0]
