"""Processes that die: the driver at random points, a sending actor, the governor; SIGTERM; a second start beside the first."""

from __future__ import annotations

import os
import signal
import time

import psutil

from tests.chaos.bench import Bench, Scenario
from tests.chaos.processes import senders
from tests.chaos.setting import IN_FLIGHT, ROWS, Outcome, Setting

FAMILY = "process"
KILLS_PER_JOB, JOBS = 2, 10
SIGTERM_LIMIT_S = 10.0


def driver_kills(number: int) -> Scenario:
    """One job, killed KILLS_PER_JOB times: at a share of the answers, or at a time (loading, scoring, planning, merging)."""

    def run(bench: Bench) -> Outcome:
        base_s, draw = bench.base_s(), bench.random("driver", number)
        with bench.local() as job:
            for kill in range(KILLS_PER_JOB):
                driver = job.start()
                if (number + kill) % 3 == 0:
                    alive = job.wait_seconds(draw.uniform(0.2, 1.0) * base_s, driver)
                else:
                    alive = job.wait_for_share(draw.uniform(job.answered() / ROWS, 1.0), driver)
                if alive and driver.poll() is None:
                    job.kill(driver)
                else:
                    job.end(driver)
            job.finish()
            return job.outcome(FAMILY, "driver, kill -9 at random points", base_s)

    return Scenario(FAMILY, "driver, kill -9 at random points", run, part=number == 1, name=f"job {number + 1}")


def process_kill(what: str, share: float, allowed: int) -> Scenario:
    """kill -9 of one of the driver's workers; the run goes on by itself, or the same command does."""
    fault = f"{what}, kill -9"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job:
            driver = job.start()
            if job.wait_for_share(share, driver) and (found := victims(driver.pid, what)):
                os.kill(found[0].pid, signal.SIGKILL)
                job.kills += 1
                job.spare += allowed
            else:
                job.problems.append(f"no {what} was there to be killed")
            job.go_on(job.end(driver))
            return job.outcome(FAMILY, fault, base_s)

    return Scenario(FAMILY, fault, run, name=f"at {share:.0%}")


def victims(driver_pid: int, what: str) -> list[psutil.Process]:
    """Living processes of one kind below a driver."""
    if what == "actor":
        return senders(driver_pid)
    below = psutil.Process(driver_pid).children(recursive=True)
    return [process for process in below if "GovernorService" in " ".join(process.cmdline())]


def sigterm(share: float) -> Scenario:
    """SIGTERM: the journal is flushed, exit 3 within 10 s, nothing repeated."""
    fault = "driver, SIGTERM"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job:
            driver = job.start()
            if job.wait_for_share(share, driver):
                started = time.monotonic()
                driver.terminate()
                code = job.end(driver, 60)
                took = time.monotonic() - started
                job.kills += 1
                if code != 3:
                    job.problems.append(f"exit code {code} after SIGTERM")
                if took > SIGTERM_LIMIT_S:
                    job.problems.append(f"took {took:.1f} s to end after SIGTERM")
            job.finish()
            return job.outcome(FAMILY, fault, base_s)

    return Scenario(FAMILY, fault, run, name=f"at {share:.0%}")


def second_start() -> Scenario:
    """The same command beside a running one: exit 4, and the first is not disturbed."""
    fault = "a second start beside the first"

    def run(bench: Bench) -> Outcome:
        base_s = bench.base_s()
        with bench.local() as job:
            first = job.start()
            job.wait_for_share(0.1, first)
            second = beside(job)
            if second != 4:
                job.problems.append(f"the second start ended with {second}, not 4")
            job.go_on(job.end(first))
            return job.outcome(FAMILY, fault, base_s)

    return Scenario(FAMILY, fault, run)


def beside(job: Setting) -> int:
    """Exit code of a start while another runs; the clock stays the first one's."""
    started_at, starts = job._started_at, job.starts
    code = job.start().wait(300)
    job._started_at, job.starts = started_at, starts
    return code


SCENARIOS = [
    *(driver_kills(number) for number in range(JOBS)),
    *(process_kill("actor", share, IN_FLIGHT) for share in (0.1, 0.3, 0.7)),
    # Without a governor the actors stop: what they have in flight is not read by anybody any more.
    process_kill("governor", 0.5, 2 * IN_FLIGHT),
    *(sigterm(share) for share in (0.3, 0.7)),
    second_start(),
]
