"""The whole job on object storage over real HTTP: moto always, Ceph's gateway where Debian's packages are installed."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.replay.options import ReplayOptions
from tests.replay_server import small_outcomes, thread_replay

ROWS = 60
pytestmark = pytest.mark.timeout(600)


def job(replay, prefix: str) -> dict:
    def model(name):
        price = {"per_million": {"input": 1.0, "output": 2.0}}
        return {"engine": "openai", "model": name, "base_url": replay.base_url, "price": price}

    return {
        "input": {"path": f"{prefix}/in/", "prompt": "q", "id": "id", "keep": ["n"]}, "output": f"{prefix}/out", "router": "length",
        "models": {"weak": model("org/weak"), "strong": model("strong")}, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 512}, "policy": {"strong_share": 0.25},
    }  # fmt: skip


def headgate(bucket, *arguments: str, **env: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    return subprocess.run(
        command, env=os.environ | bucket.environment | env, capture_output=True, text=True, timeout=500
    )


def put_input(bucket) -> None:
    for part in range(2):
        rows = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        table = pa.table({"id": [f"r{i}" for i in rows], "q": [f"question {i}" for i in rows], "n": list(rows)})
        data = io.BytesIO()
        pq.write_table(table, data)
        bucket.client().put_object(Bucket=bucket.name, Key=f"in/{part}.parquet", Body=data.getvalue())


def run_and_check(bucket, folder: Path) -> None:
    put_input(bucket)
    with thread_replay([small_outcomes(ROWS)], ReplayOptions(latency_s=0.01)) as replay:
        (folder / "job.yaml").write_text(yaml.safe_dump(job(replay, f"s3://{bucket.name}")))
        done = headgate(bucket, "run", str(folder / "job.yaml"), "--json")
        assert done.returncode == 0, done.stderr[-2000:]
        report = json.loads(done.stdout)
        assert (report["rows"], report["errors"], report["open"]) == (ROWS, 0, 0)
        again = headgate(bucket, "run", str(folder / "job.yaml"), "--json")
        assert again.returncode == 0 and json.loads(again.stdout)["spent_usd"] == report["spent_usd"]
        assert replay.stats()["answered"] == ROWS and replay.stats()["repeated"] == 0
    keys = [key for key in bucket.keys() if key.startswith("out/responses/")]
    parts = [bucket.client().get_object(Bucket=bucket.name, Key=key)["Body"].read() for key in keys]
    rows = pd.concat([pd.read_parquet(io.BytesIO(part)) for part in parts])
    assert rows.id.tolist() == [f"r{i}" for i in range(ROWS)] and rows.n.tolist() == list(range(ROWS))
    assert {"out/report.json", "out/report.html"} <= set(bucket.keys())
    secret = bucket.secret_key.encode()
    for key in bucket.keys():
        assert secret not in bucket.client().get_object(Bucket=bucket.name, Key=key)["Body"].read(), key
    status = headgate(bucket, "status", f"s3://{bucket.name}/out", "--json")
    assert json.loads(status.stdout)["stage"] == "done"


def test_the_job_runs_on_s3(s3_moto, tmp_path):
    run_and_check(s3_moto, tmp_path)


@pytest.mark.slow
def test_the_job_runs_on_ceph(s3_ceph, tmp_path):
    run_and_check(s3_ceph, tmp_path)


@pytest.mark.slow
def test_a_wrong_secret_and_a_missing_bucket_are_one_line(s3_ceph, tmp_path):
    put_input(s3_ceph)
    with thread_replay([small_outcomes(2)]) as replay:
        (tmp_path / "job.yaml").write_text(yaml.safe_dump(job(replay, f"s3://{s3_ceph.name}")))
        wrong = headgate(s3_ceph, "run", str(tmp_path / "job.yaml"), AWS_SECRET_ACCESS_KEY="wrong")
        missing = headgate(s3_ceph, "run", str(tmp_path / "job.yaml"), "--set", "input.path=s3://no-such-bucket/in")
        nowhere = headgate(s3_ceph, "run", str(tmp_path / "job.yaml"), "--set", "output=s3://no-such-bucket/out")
        assert replay.stats()["requests"] == 0
    for result, says in ((wrong, "AWS_SECRET_ACCESS_KEY"), (missing, "no such bucket"), (nowhere, "no such bucket")):
        assert result.returncode == 2 and says in result.stderr, result.stderr
        assert len(result.stderr.strip().splitlines()) == 1 and "Traceback" not in result.stderr
    assert not [key for key in s3_ceph.keys() if key.startswith("out/")]
