"""The demo as a newcomer runs it: real engines, every row answered, and a router that beats random routing."""

import json
import subprocess
import sys

import pandas as pd
import pytest

from jobs.demo.run import PROMPTS


@pytest.mark.slow
@pytest.mark.vllm
@pytest.mark.timeout(1500)
def test_the_demo_runs_and_its_router_beats_random(tmp_path):
    command = [sys.executable, "-m", "jobs.cli", "demo", str(tmp_path / "demo"), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    rows = pd.read_parquet(tmp_path / "demo/run/responses")
    assert len(rows) == PROMPTS == report["rows"] and (rows.error == "").all() and report["complete"]
    assert report["strong_share"] == pytest.approx(0.3, abs=0.001)
    assert report["pgr_over_random"]["low"] > 0, "better than random routing at the same share, with 95 % confidence"
    assert report["quality_by_model"]["strong"]["low"] > report["quality_by_model"]["weak"]["high"]
    assert report["quality"]["mean"] == pytest.approx(rows.quality.mean(), abs=0.2)
    assert (tmp_path / "demo/run/report.html").exists()
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0 and json.loads(again.stdout)["spent_usd"] == report["spent_usd"]
    assert "nothing is asked" in again.stderr
