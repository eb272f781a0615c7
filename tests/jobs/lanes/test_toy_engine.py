"""An engine out of a package of its own (tests/toy_engine), installed into a folder: a whole job with it, as processes.

Nothing in jobs/ knows its name. It is found through its entry point by the driver and by Ray's workers.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from jobs.journal.reader import Journal
from jobs.replay.options import ReplayOptions
from jobs.storage.store import Store
from tests.replay_server import small_outcomes, thread_replay

ROWS = 40
PRICE = {"input": 1.0, "output": 2.0}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, checkout: Path) -> Path:
    """A folder that holds the installed package. Built from a copy: setuptools leaves its own files beside the source."""
    folder = tmp_path_factory.mktemp("toy")
    shutil.copytree(checkout / "tests/toy_engine", folder / "source")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "site"), str(folder / "source")]
    subprocess.run(pip, check=True, timeout=120)
    return folder / "site"


def python(site: Path, checkout: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{checkout}"}
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=250)


def write_job(folder: Path, base_url: str) -> dict[str, Any]:
    """A toy model below a replayed one, over ROWS prompts."""
    table = {"id": [f"r{i}" for i in range(ROWS)], "q": [f"question {i}" for i in range(ROWS)]}
    pq.write_table(pa.table(table), folder / "rows.parquet")
    price = {"per_million": PRICE}
    job = {
        "input": {"path": str(folder / "rows.parquet"), "prompt": "q", "id": "id"},
        "output": str(folder / "out"), "router": "random", "weak": "small", "strong": "large",
        "models": {
            "small": {"engine": "toy", "price": price, "engine_kwargs": {"shout": 2}},
            "large": {"engine": "openai", "model": "strong", "base_url": base_url, "price": price},
        },
        "sampling": {"temperature": 0, "max_tokens": 64}, "policy": {"strong_share": 0.25},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return job


def test_a_whole_job_with_an_engine_out_of_another_package(site: Path, checkout: Path, tmp_path: Path) -> None:
    with thread_replay([small_outcomes(ROWS)], ReplayOptions(latency_s=0)) as replay:
        write_job(tmp_path, replay.base_url)
        ran = python(site, checkout, "jobs.route", "--config", "job.yaml", cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr[-3000:]
        assert replay.stats()["answered"] == ROWS // 4
    rows = pd.read_parquet(tmp_path / "out/responses").set_index("id", drop=False)
    assert len(rows) == ROWS == rows.id.nunique() and (rows.error == "").all()
    for row in rows.itertuples():
        n = row.id[1:]
        assert row.generated_text == (f"QUESTION {n}!!" if row.model == "small" else f"strong says {n}")
    small = rows[rows.model == "small"]
    assert (
        len(small) == ROWS - ROWS // 4 and (small.prompt_tokens == 2).all() and (small.token_source == "provider").all()
    )

    journal = Journal(Store(str(tmp_path / "out"))).read("small").to_pylist()
    assert len(journal) == len(small) and {row["kind"] for row in journal} == {"answered"}
    usd = sum(row["cost_usd"] for row in journal)
    assert (
        usd
        == pytest.approx(len(small) * (2 * PRICE["input"] + 2 * PRICE["output"]) / 1e6)
        == pytest.approx(small.cost_usd.sum())
    )
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["spent_usd"] == pytest.approx(rows.cost_usd.sum())
    assert {name: model["rows"] for name, model in report["by_model"].items()} == {
        "small": len(small),
        "large": ROWS // 4,
    }


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            "models.small.engine=toi",
            "models.small.engine: must be one of vllm, openai, openai_batch, transformers or toy (found 'toi'); "
            "did you mean 'toy'?",
        ),
        ("models.small.price={gpu_hour_usd: 1}", "models.small.engine_kwargs.loud: may load code; "),
        (
            "models.small.service_tier=flex",
            "models.small: service_tier is for engine openai; nothing there has tiers: remove it",
        ),
    ],
)
def test_its_mistakes_are_told_like_those_of_the_others(
    site: Path, checkout: Path, tmp_path: Path, change: str, says: str
) -> None:
    write_job(tmp_path, "http://127.0.0.1:1/v1")
    changes = ["--set", change, "--set", "models.small.engine_kwargs={loud: 1}"]
    ran = python(site, checkout, "jobs.route", "--config", "job.yaml", *changes, cwd=tmp_path)
    assert ran.returncode == 2 and ran.stderr.startswith(f"headgate: {says}"), ran.stderr[-3000:]
    assert len(ran.stderr.strip().splitlines()) == 1 and not (tmp_path / "out").exists()


def test_where_it_is_installed_the_schema_lists_it(site: Path, checkout: Path, tmp_path: Path) -> None:
    written = python(site, checkout, "jobs.spec.json_schema", cwd=tmp_path)
    assert written.returncode == 0, written.stderr[-3000:]
    engine = json.loads(written.stdout)["$defs"]["ModelSpec"]["properties"]["engine"]
    published = json.loads((checkout / "docs/job-schema.json").read_text())["$defs"]["ModelSpec"]["properties"][
        "engine"
    ]
    assert engine["anyOf"][0]["enum"] == [*published["anyOf"][0]["enum"], "toy"]
