"""What the last commit before the folders left behind: a finished run, a run that was killed, and an artifact of each router.

`python -m tests.system.made_before FOLDER` makes them with that commit's own code, from this repository's history. Nothing of it is
kept in the repository: test_runs_from_before.py makes it anew, and goes on with today's code.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from routing.data.outcomes import Outcomes, write_outcomes
from tests.replay_server import ROOT, Replay, process_replay

COMMIT = "58b3c36"
ROWS, SAMPLE, IN_FLIGHT = 300, 120, 8
KILLED_IN_FLIGHT = 1
"""For each model of the run that is killed: slow enough that a busy machine, too, kills it long before its end."""
ASKED = [f"Add {i} + {i % 5}" if i % 2 else f"Prove carefully that theorem {i} holds" for i in range(50)]
"""Prompts that the routers are asked about."""
ARTIFACTS = """
import json, sys
from pathlib import Path
import numpy as np
import jobs
assert Path(jobs.__file__).is_relative_to(sys.argv[1]), jobs.__file__
from router_rows import ROWS, make_outcomes
from routing.routers import create, names
assert set(ROWS) == set(names()), "each router of the registry"
prompts = json.loads(sys.stdin.read())
for name, row in ROWS.items():
    router = create(name, **row.settings()).fit(make_outcomes())
    router.save(Path(sys.argv[2]) / name)
    np.save(Path(sys.argv[2]) / f"{name}.npy", router.predict(prompts))
"""


@dataclass(frozen=True)
class Before:
    """What was made, and the server that the runs asked."""

    folder: Path
    replay: Replay
    stats: dict[str, dict[str, Any]]
    """Name of a run → the server's counts when it had ended."""

    def job(self, name: str) -> Path:
        return self.folder / name / "job.yaml"

    @property
    def routers(self) -> Path:
        return self.folder / "routers"


def in_history() -> bool:
    """Whether this is a clone that has the commit; a shallow one has not, and files without a history have no git."""
    if shutil.which("git") is None:
        return False
    found = subprocess.run(
        ["git", "cat-file", "-e", f"{COMMIT}^{{commit}}"], cwd=ROOT, capture_output=True, check=False
    )
    return found.returncode == 0


def old_tree(folder: Path) -> Path:
    """The commit's files."""
    packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(folder, filter="data")
    return folder


def outcomes() -> Outcomes:
    """The weak model is right half of the time, which its prompts do not tell, and its answers do."""
    right = np.random.default_rng(0).permutation(ROWS) < ROWS / 2
    says = [["yes" if r else "perhaps no, I think", "yes"] for r in right]
    return Outcomes(
        ids=[str(i) for i in range(ROWS)], prompts=[f"name the colour of case {i:04d}" for i in range(ROWS)],
        datasets=["d"] * ROWS, models=("org/weak", "strong"), responses=np.array(says, object),
        quality=np.stack([right, np.ones(ROWS, bool)], axis=1).astype(np.float32),
    )  # fmt: skip


def write_job(folder: Path, base_url: str, in_flight: int, **more: Any) -> Path:
    """A run's folder with its prompts and its job file."""
    table = outcomes()
    (folder / "in").mkdir(parents=True)
    kinds = ["odd" if i % 2 else "even" for i in range(ROWS)]
    rows = {"id": table.ids, "q": table.prompts, "answer": ["yes"] * ROWS, "category": kinds}
    pq.write_table(pa.table(rows), folder / "in/rows.parquet")
    models = {
        name: {
            "engine": "openai", "model": provider, "base_url": base_url, "limits": {"in_flight": in_flight},
            "price": {"per_million": {"input": usd, "output": usd}},
        } for name, provider, usd in (("weak", "org/weak", 0.1), ("strong", "strong", 10.0))
    }  # fmt: skip
    job = {
        "input": {"path": str(folder / "in"), "prompt": "q", "id": "id", "keep": ["category"]},
        "output": str(folder / "out"), "router": "length", "models": models, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 20}, "policy": {"strong_share": 0.4}, "max_usd": 5.0,
        "sample": {"rows": SAMPLE, "seed": 3}, "quality": {"gold": {"column": "answer", "match": "exact"}},
    }  # fmt: skip
    (folder / "job.yaml").write_text(yaml.safe_dump(job | more))
    return folder / "job.yaml"


def environment(tree: Path) -> dict[str, str]:
    """What a process of a tree is started in: neither today's files nor what is installed come before the tree's."""
    return {**os.environ, "PYTHONPATH": str(tree)}


def imported(tree: Path) -> list[Path]:
    """Where a process started as `start` does finds the two packages."""
    code = "import jobs, routing; print(jobs.__file__, routing.__file__, sep='\\n')"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tree, env=environment(tree), capture_output=True, text=True, check=True)
    return [Path(line) for line in done.stdout.splitlines()]


def start(tree: Path, job: Path) -> subprocess.Popen[bytes]:
    """`python -m jobs.route` of the tree given."""
    command = [sys.executable, "-m", "jobs.route", "--config", str(job)]
    errors = (job.parent / "stderr.txt").open("ab")
    return subprocess.Popen(command, cwd=tree, env=environment(tree), stdout=subprocess.DEVNULL, stderr=errors)


def make_runs(tree: Path, folder: Path, replay: Replay) -> dict[str, dict[str, Any]]:
    """`finished` with a pilot and a cascade, `killed` in the middle of its answers."""
    assert all(file.is_relative_to(tree) for file in imported(tree)), imported(tree)
    job = write_job(folder / "finished", replay.base_url, IN_FLIGHT, cascade={"signals": ["response"], "band": 0.2})
    assert start(tree, job).wait(300) == 0, (job.parent / "stderr.txt").read_text()[-2000:]
    stats = {"finished": replay.stats()}
    another = "Another job: nothing of the first is asked again."
    job = write_job(folder / "killed", replay.base_url, KILLED_IN_FLIGHT, system=another)
    driver, before = start(tree, job), stats["finished"]["answered"]
    replay.wait_for(lambda now: now["answered"] >= before + SAMPLE * 2 + 40, timeout_s=240)
    driver.kill()
    driver.wait()
    return stats | {"killed": replay.stats()}


def make_artifacts(tree: Path, folder: Path) -> None:
    """An artifact of each router of the old registry, and what it predicts for ASKED."""
    folder.mkdir()
    paths = os.pathsep.join(str(tree / part) for part in ("", "tests", "tests/routing"))
    command = [sys.executable, "-c", ARTIFACTS, str(tree), str(folder)]
    with_tests = environment(tree) | {"PYTHONPATH": paths}
    subprocess.run(command, cwd=tree, env=with_tests, input=json.dumps(ASKED).encode(), check=True, timeout=300)


def main() -> None:
    # It starts Ray and fills a folder: not one that is called --help.
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: python -m tests.system.made_before FOLDER")
    folder = Path(sys.argv[1]).resolve()
    tree = old_tree(folder / "tree")
    write_outcomes(outcomes(), folder / "outcomes.parquet")
    make_artifacts(tree, folder / "routers")
    with process_replay(folder / "outcomes.parquet", "--latency-s", "0.05") as replay:
        print(make_runs(tree, folder, replay))


if __name__ == "__main__":
    main()
