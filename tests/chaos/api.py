"""An API that fails: every fault of the replay server at 1, 10 and 50 %, and a lane that is down for long."""

from __future__ import annotations

import os
import signal
from dataclasses import replace

from jobs.replay.options import NAMED_FAULTS, STATUS_FAULTS
from tests.chaos.bench import SHARE, Bench, Scenario
from tests.chaos.proxy import Faults, fault_proxy
from tests.chaos.setting import BUDGET_USD, IN_FLIGHT, PROVIDER, Outcome, Setting
from tests.replay_server import process_replay

FAMILY = "API"
SHARES = (0.01, 0.1, 0.5)
IN_PART = {("429", 0.1), ("cut", 0.1), ("hang", 0.1)}


def fault_at(fault: str, share: float) -> Scenario:
    """One fault at one share. Rows that ran out of attempts, or of dollars, are left to the next start, as for a user."""
    name = f"{fault}, {share:.0%}"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local("--fault", f"{fault}={share}", "--retry-after-s", "0.5") as job:
            job.finish(max_starts=3)
            if job.problems:  # what was lost to the fault is gone: pay for the rest, as the message says
                job.problems.clear()
                job.check_cap()
                job.job["policy"] = {"budget_usd": 4 * BUDGET_USD}
                job.finish()
            return job.outcome(FAMILY, name, base_s)

    return Scenario(FAMILY, name, run, part=(fault, share) in IN_PART)


def quota_gone() -> Scenario:
    """`insufficient_quota` (a 429 that no waiting helps): the lane stops, exit 3; with credit again the rest is asked."""

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s("share")
        with bench.local("--fault", "quota=0.05", policy=SHARE) as job:
            code = job.end(job.start())
            if code != 3 or "quota" not in job.log.read_text():
                job.problems.append(f"exit code {code}, and it says: {job.last_words()}")
            with process_replay(job.folder / "outcomes.parquet") as credited:
                job.replays.append(credited)
                move_to(job, credited.base_url)
                job.finish()
                return job.outcome(FAMILY, "insufficient_quota, then credit", base_s)

    return Scenario(FAMILY, "insufficient_quota, then credit", run)


def move_to(job: Setting, base_url: str) -> None:
    """Send both models to another address."""
    for alias in PROVIDER:
        job.job["models"][alias]["base_url"] = base_url


def refused_for_long() -> Scenario:
    """The endpoint goes away in the middle: exit 3 and what to do; when it is back, the same command goes on."""
    fault = "down for long (no connection)"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job, fault_proxy(job.replays[0].url) as proxy:
            move_to(job, f"{proxy.url}/v1")
            for alias in PROVIDER:
                job.job["models"][alias]["retries"] |= {"attempts": 4}
            driver = job.start()
            job.wait_for_share(0.3, driver)
            proxy.faults = replace(Faults(), down=True)
            ends_with_3(job, job.end(driver))
            proxy.faults = Faults()
            job.job["policy"] = {"budget_usd": 2 * BUDGET_USD}  # connections cut in the middle count as charged
            job.finish()
            return job.outcome(FAMILY, fault, base_s)

    return Scenario(FAMILY, fault, run)


def silent_for_long() -> Scenario:
    """The endpoint takes connections and says nothing (its process is stopped): time-outs, exit 3, and on afterwards."""
    fault = "down for long (no reply)"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job:
            server = job.replays[0].process
            assert server is not None
            for alias in PROVIDER:
                job.job["models"][alias]["retries"] |= {"attempts": 3}
            driver = job.start()
            job.wait_for_share(0.3, driver)
            os.kill(server.pid, signal.SIGSTOP)
            job.spare += 2 * IN_FLIGHT  # it answers what it had, once it goes on, to whoever has long hung up
            code = job.end(driver)
            os.kill(server.pid, signal.SIGCONT)
            ends_with_3(job, code)
            job.check_cap()
            job.job["policy"] = {"budget_usd": 4 * BUDGET_USD}  # each time-out counts as charged
            job.finish()
            return job.outcome(FAMILY, fault, base_s)

    return Scenario(FAMILY, fault, run)


def ends_with_3(job: Setting, code: int) -> None:
    """A lane that is down is no crash: exit 3, and the last line says how to go on."""
    if code != 3:
        job.problems.append(f"exit code {code} with the lane down: {job.last_words()}")


SCENARIOS = [
    # quota is the lane's end, not a fault to try again; 429_bare is a 429 without Retry-After.
    *(fault_at(f, s) for f in (*STATUS_FAULTS, *NAMED_FAULTS) if f != "quota" for s in SHARES),
    quota_gone(),
    refused_for_long(),
    silent_for_long(),
]
