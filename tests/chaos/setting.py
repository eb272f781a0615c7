"""One job under fire, and what became of it: a real driver process, a real API server, a real store.

A `Setting` is a folder with a job of ROWS rows, the replay server that answers it and the store it writes to. `start` runs
`python -m jobs.route` as a process; `finish` gives the same command again until it ends well, as a scheduler would.
`outcome` then compares what came out with what went in, and with what the *server* counted: answers, repeats, tokens.
Every process inherits MARK, so that whatever a killed driver leaves behind is found by it and ended by its pid.
"""

from __future__ import annotations

import io
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from routing.data.outcomes import Outcomes, write_outcomes
from tests.chaos.buckets import Bucket
from tests.chaos.processes import MARK, end_marked
from tests.replay_server import ROOT, Replay, process_replay

ROWS, IN_FLIGHT, LATENCY_S = 200, 8, 0.2
MAX_TOKENS = 64
BUDGET_USD = 0.12
"""Buys the strong model for about half of the rows, so that rank bands and re-cuts are part of every run."""
PRICE = {"weak": {"input": 0.5, "output": 1.0}, "strong": {"input": 10.0, "output": 30.0}}
PROVIDER = {"weak": "org/weak", "strong": "strong"}
MAX_STARTS = 8
START_LIMIT_S = 900.0
"""One start of a job that takes 15 s alone; what has not ended by then hangs."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one job. `ok`: nothing lost, doubled, wrong, overspent, and no more repeated than could be."""

    family: str
    fault: str
    rows_in: int
    rows_out: int
    lost: int
    """Input rows without exactly one right answer in responses/."""
    duplicates: int
    repeated: int
    """Answers the server gave a second time."""
    spare: int
    """Requests that may be asked again: in flight in a process when it was killed, or in an open segment of a lost node."""
    over_usd: float
    """Dollars by the server's tokens above the cap; 0 where below."""
    under_booked_usd: float
    """Dollars by the server's tokens that the report does not own up to; 0 where it owns up to all."""
    starts: int
    kills: int
    wall_s: float
    lost_s: float
    """Wall time beyond that of the undisturbed run."""
    problems: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        sound = not (self.lost or self.duplicates or self.over_usd or self.under_booked_usd or self.problems)
        return sound and self.rows_in == self.rows_out and self.repeated <= self.spare


@dataclass
class Setting:
    """One job in one folder."""

    folder: Path
    replays: list[Replay]
    job: dict[str, Any]
    bucket: Bucket | None = None
    """Where the output is; None: `folder`/out."""
    env: dict[str, str] = field(default_factory=dict)
    starts: int = 0
    kills: int = 0
    spare: int = 0
    wall_s: float = 0.0
    over_usd: float = 0.0
    problems: list[str] = field(default_factory=list)
    _started_at: float = 0.0

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def log(self) -> Path:
        return self.folder / "stderr.txt"

    @property
    def cap_usd(self) -> float:
        return float(self.job["policy"].get("budget_usd") or self.job["max_usd"])

    def start(self) -> subprocess.Popen[bytes]:
        """The command, once more. Its clock runs until `end`."""
        (self.folder / "job.yaml").write_text(yaml.safe_dump(self.job))
        self.starts += 1
        self._started_at = time.monotonic()
        command = [sys.executable, "-m", "jobs.route", "--config", str(self.folder / "job.yaml")]
        env = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"} | self.env
        with self.log.open("a") as log:
            return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=log, env=env)

    def end(self, driver: subprocess.Popen[bytes], limit_s: float = START_LIMIT_S) -> int:
        """Wait for a start to end; its exit code, or -1 where it hangs."""
        try:
            code = driver.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.problems.append(f"start {self.starts} did not end in {limit_s:g} s")
            driver.kill()
            code = driver.wait() and -1
        self.wall_s += time.monotonic() - self._started_at
        return code

    def kill(self, driver: subprocess.Popen[bytes]) -> None:
        """kill -9 of the driver; what its senders have in flight may be asked again."""
        driver.kill()
        self.end(driver)
        self.kills += 1
        self.spare += 2 * IN_FLIGHT

    def go_on(self, code: int) -> None:
        """After a start that was hurt: nothing where it ended well, else the same command until it does."""
        if code == 3:
            self.finish()
        elif code != 0:
            self.problems.append(f"exit code {code}: {self.last_words()}")

    def finish(self, max_starts: int = MAX_STARTS) -> int:
        """The same command until it ends with 0, or with what is no invitation to run it again."""
        for _ in range(max_starts):
            code = self.end(self.start())
            if code != 3:
                break
        if code != 0:
            self.problems.append(f"exit code {code} after {self.starts} starts: {self.last_words()}")
        return code

    def last_words(self) -> str:
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1][:200] if lines else ""

    def answered(self) -> int:
        """Answers that the servers have given."""
        return sum(int(replay.stats()["answered"]) for replay in self.replays)

    def wait_for_share(self, share: float, driver: subprocess.Popen[bytes], limit_s: float = 300) -> bool:
        """Until `share` of the rows have an answer; False where the driver ends before."""
        return self.wait_until(lambda: self.answered() >= share * ROWS, driver, limit_s)

    def wait_seconds(self, seconds: float, driver: subprocess.Popen[bytes]) -> bool:
        """That long; False where the driver ends before."""
        try:
            driver.wait(seconds)
        except subprocess.TimeoutExpired:
            return True
        return False

    def wait_until(self, reached: Callable[[], bool], driver: subprocess.Popen[bytes], limit_s: float = 300) -> bool:
        deadline = time.monotonic() + limit_s
        while not reached():
            if driver.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def server_usd(self) -> float:
        """What the provider would bill: answers, and those that had nobody left to go to."""
        total = 0.0
        for replay in self.replays:
            stats = replay.stats()
            for alias, provider in PROVIDER.items():
                for usage in (stats["by_model"].get(provider), stats["abandoned"].get(provider)):
                    if usage:
                        tokens = (usage["prompt_tokens"], usage["completion_tokens"])
                        total += (tokens[0] * PRICE[alias]["input"] + tokens[1] * PRICE[alias]["output"]) / 1e6
        return total

    def check_cap(self) -> None:
        """Note by how much the server's bill passes the cap now. Call before raising the cap."""
        over = self.server_usd() - self.cap_usd
        self.over_usd = max(self.over_usd, over if over > 1e-9 else 0.0)

    def read(self, name: str) -> bytes:
        return self.bucket.read(f"out/{name}") if self.bucket else (self.output / name).read_bytes()

    def files(self, prefix: str) -> list[str]:
        """Names below the output, sorted."""
        if self.bucket:
            names = [key.removeprefix("out/") for key in self.bucket.keys()]
        else:
            names = [str(path.relative_to(self.output)) for path in self.output.rglob("*") if path.is_file()]
        return sorted(n for n in names if n.startswith(prefix) and not n.rsplit("/", 1)[-1].startswith(".tmp-"))

    def table(self, prefix: str) -> pd.DataFrame:
        """All Parquet files below a folder of the output."""
        frames = [pd.read_parquet(io.BytesIO(self.read(n))) for n in self.files(prefix) if n.endswith(".parquet")]
        return pd.concat(frames) if frames else pd.DataFrame()

    def outcome(self, family: str, fault: str, base_s: float) -> Outcome:
        """Compare. Nothing that is missing raises: it is what the table is for."""
        self.check_cap()
        rows = self.table("responses/")
        good = rows if rows.empty else rows[(rows.error == "") & rows.generated_text.notna()]
        right = {r.id for r in good.itertuples() if r.generated_text == f"{PROVIDER[r.model]} says {r.id[1:]}"}
        lost = ROWS - len(right)
        doubled = 0 if rows.empty else len(rows) - rows.id.nunique()
        if "Traceback" in self.log.read_text(errors="replace"):
            self.problems.append("a traceback reached the user")
        return Outcome(
            family, fault, ROWS, len(rows), lost, doubled, self._repeated(), self.spare, self.over_usd,
            self._under_booked_usd(), self.starts, self.kills, self.wall_s, self.wall_s - base_s, tuple(self.problems),
        )  # fmt: skip

    def _repeated(self) -> int:
        stats = [replay.stats() for replay in self.replays]
        repeated = sum(int(each["repeated"]) for each in stats)
        if len(stats) > 1:  # what one server answered and another one again: more answers than the journal has
            journal = sum(
                self.table(f"answers/model={alias}/").query("kind == 'answered'").row_key.nunique()
                for alias in PROVIDER
            )
            repeated += max(0, sum(int(each["answered"]) for each in stats) - repeated - journal)
        return repeated

    def _under_booked_usd(self) -> float:
        """Answers must be in the books as spent or lost; abandoned ones are bounded there too."""
        try:
            report = json.loads(self.read("report.json"))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the report is the finding
            self.problems.append(f"no report.json ({type(error).__name__})")
            return 0.0
        rest = report["planned_usd"] - report["spent_usd"] - report["lost_usd"] - report["unspent_usd"]
        if abs(rest) > 1e-6:
            self.problems.append(f"planned - spent - lost is not unspent: {rest:.6f} USD")
        under = self.server_usd() - report["spent_usd"] - report["lost_usd"]
        return under if under > 1e-6 else 0.0


def prompt(i: int) -> str:
    """About 100 bytes, so that the bound on its tokens is a bound."""
    return f"Question {i}: " + "which of the two gates lets more water through when the river is low? " + "x" * (i % 17)


def outcomes(n: int = ROWS) -> Outcomes:
    """n prompts, answers `MODEL says i`, 25-40 prompt and 8-56 completion tokens; the strong model is always right."""
    rng = np.random.default_rng(7)
    models = tuple(PROVIDER.values())
    quality = np.ones((n, 2), np.float32)
    quality[:, 0] = rng.random(n) < 0.6
    return Outcomes(
        ids=[str(i) for i in range(n)],
        prompts=[prompt(i) for i in range(n)],
        datasets=["made"] * n,
        models=models,
        quality=quality,
        responses=np.array([[f"{model} says {i}" for model in models] for i in range(n)], dtype=object),
        prompt_tokens=np.repeat(rng.integers(25, 40, n)[:, None].astype(np.float64), 2, axis=1),
        completion_tokens=rng.integers(8, 56, (n, 2)).astype(np.float64),
    )


@contextmanager
def setting(
    folder: Path, *replay_options: str, bucket: Bucket | None = None, policy: dict[str, Any] | None = None
) -> Iterator[Setting]:
    """A fresh job in `folder`, its API server running. On leaving, whatever the job left running is ended."""
    folder.mkdir(parents=True)
    write_outcomes(outcomes(), folder / "outcomes.parquet")
    (folder / "in").mkdir()
    table = {"id": [f"r{i}" for i in range(ROWS)], "q": [prompt(i) for i in range(ROWS)]}
    pq.write_table(pa.table(table), folder / "in/rows.parquet")
    options = replay_options if "--latency-s" in replay_options else (*replay_options, "--latency-s", str(LATENCY_S))
    token = secrets.token_hex(8)
    with process_replay(folder / "outcomes.parquet", *options) as replay:
        made = Setting(folder, [replay], job_of(folder, replay.base_url, policy), bucket, {MARK: token})
        if bucket is not None:
            made.job["output"] = bucket.uri("out")
            made.env |= bucket.environment
        try:
            yield made
        finally:
            end_marked(token)


def job_of(folder: Path, base_url: str, policy: dict[str, Any] | None = None) -> dict[str, Any]:
    """The job file: two models at one endpoint."""

    def model(alias: str) -> dict[str, Any]:
        return {
            "engine": "openai", "model": PROVIDER[alias], "base_url": base_url, "price": {"per_million": PRICE[alias]},
            "limits": {"in_flight": IN_FLIGHT}, "retries": {"timeout_s": 3, "limited_s": 120},
        }  # fmt: skip

    policy = policy or {"budget_usd": BUDGET_USD}
    job: dict[str, Any] = {
        "input": {"path": str(folder / "in"), "prompt": "q", "id": "id"}, "output": str(folder / "out"), "router": "random",
        "models": {alias: model(alias) for alias in PROVIDER}, "weak": "weak", "strong": "strong", "policy": policy,
        "sampling": {"temperature": 0, "max_tokens": MAX_TOKENS},
    }  # fmt: skip
    return job if "budget_usd" in policy else job | {"max_usd": 1.0}
