"""Runs and routers of the last commit before the folders: read, gone on with, and reported as that commit would have.

Files, keys and columns of a run are used from outside. Today's code must find in an old run what the old code wrote.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from routing import routers
from routing.data.outcomes import write_outcomes
from tests.replay_server import ROOT, process_replay
from tests.system import made_before
from tests.system.made_before import ASKED, COMMIT, KILLED_IN_FLIGHT, ROWS, Before

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not made_before.in_history(), reason=f"no git, or no commit {COMMIT} in this clone's history"),
]
TIMES = {"started_at", "finished_at", "wall_s"}
"""Of a report: what two accountings of one run cannot have in common."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Before]:
    folder = tmp_path_factory.mktemp("before")
    tree = made_before.old_tree(folder / "tree")
    write_outcomes(made_before.outcomes(), folder / "outcomes.parquet")
    made_before.make_artifacts(tree, folder / "routers")
    with process_replay(folder / "outcomes.parquet", "--latency-s", "0.05") as replay:
        yield Before(folder, replay, made_before.make_runs(tree, folder, replay))


def headgate(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def responses(folder: Path) -> pd.DataFrame:
    return pd.read_parquet(folder / "out/responses")


def differences(old: Any, new: Any, place: str = "") -> list[str]:
    """Where two JSON values differ; fields that an earlier version did not have may stand beside the others."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = {key for key in old if place or key not in TIMES}
        missing = object()
        return [
            d
            for key in sorted(keys)
            for d in differences(old.get(key, missing), new.get(key, missing), f"{place}.{key}")
        ]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for i, (a, b) in enumerate(zip(old, new, strict=True)) for d in differences(a, b, f"{place}[{i}]")]
    return [] if old == new else [f"{place}: {old!r} → {new!r}"]


def test_every_router_predicts_what_it_did(before: Before) -> None:
    found = sorted(path.name for path in before.routers.iterdir() if path.is_dir())
    assert set(found) <= set(routers.names()) and len(found) >= 16
    for name in found:
        predicted = routers.load(before.routers / name).predict(ASKED)
        np.testing.assert_allclose(predicted, np.load(before.routers / f"{name}.npy"), atol=1e-6, err_msg=name)


def test_a_finished_run_is_reported_field_by_field_as_it_was(before: Before) -> None:
    folder = before.folder / "finished"
    old = json.loads((folder / "out/report.json").read_text())
    rows = responses(folder)
    headgate("report", str(folder / "out"))
    new = json.loads((folder / "out/report.json").read_text())
    assert differences(old, new) == []
    assert old["pilot"] and old["cascade"] and old["quality"], "there is something to compare"
    pd.testing.assert_frame_equal(responses(folder), rows)


def test_a_finished_run_asks_nothing_more(before: Before) -> None:
    asked = before.replay.stats()["requests"]
    plans = sorted((before.folder / "finished/out/plan").iterdir())
    assert made_before.start(ROOT, before.job("finished")).wait(300) == 0
    assert before.replay.stats()["requests"] == asked
    assert sorted((before.folder / "finished/out/plan").iterdir()) == plans, "the same job is not planned anew"


def test_a_killed_run_goes_on_and_nothing_is_asked_twice(before: Before) -> None:
    stats = before.replay.stats()
    assert made_before.start(ROOT, before.job("killed")).wait(300) == 0
    after = before.replay.stats()
    assert after["answered"] - stats["answered"] >= ROWS / 10, "it was killed early enough for something to go on with"
    # Two models had requests in flight when the process was killed.
    assert after["repeated"] - stats["repeated"] <= 2 * KILLED_IN_FLIGHT
    rows = responses(before.folder / "killed")
    assert len(rows) == ROWS == rows.id.nunique() and (rows.error == "").all()
    report = json.loads((before.folder / "killed/out/report.json").read_text())
    assert report["complete"] and report["pilot"]["rows"] == made_before.SAMPLE
