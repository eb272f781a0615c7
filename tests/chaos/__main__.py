"""`python -m tests.chaos --minutes 60 --out docs/reliability.md`: every fault once, and the table of what became of it.

Each scenario has a job of its own; when the minutes are up the rest is named in the table. `--workers N` runs N at a time, in
as many processes: half of what a job does is waiting. With `--results FILE` outcomes are kept as JSON lines, and those that
stand there are not run again: a long table can be made in pieces. Ends with 1 where a goal was missed.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.chaos import api, kills, nodes, storage
from tests.chaos.bench import Bench, Scenario, Skipped
from tests.chaos.setting import Outcome
from tests.chaos.table import render

BROKEN = 3
"""Exit code of a worker that could not set up a scenario."""
SCENARIOS: list[Scenario] = [*kills.SCENARIOS, *nodes.SCENARIOS, *storage.SCENARIOS, *api.SCENARIOS]


class Results:
    """Outcomes by scenario, the undisturbed times, and what was skipped; in a file where one is given."""

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.outcomes: dict[str, Outcome] = {}
        self.bases: dict[str, float] = {}
        self.skipped: dict[str, str] = {}
        for line in path.read_text().splitlines() if path and path.exists() else ():
            self._take(json.loads(line))

    def add(self, record: dict[str, Any]) -> None:
        self._take(record)
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as out:
                out.write(json.dumps(record) + "\n")

    def _take(self, record: dict[str, Any]) -> None:
        if "skipped" in record:
            self.skipped[record["label"]] = record["skipped"]
        else:
            fields = record["outcome"] | {"problems": tuple(record["outcome"]["problems"])}
            self.outcomes[record["label"]] = Outcome(**fields)
            self.bases |= record["bases"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the chosen scenarios; 0 where every goal was met."""
    args = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="headgate-chaos-") as folder:
        args.results = args.results or f"{folder}/results.jsonl"
        chosen = [s for s in SCENARIOS if (s.part or not args.part) and args.only in s.label]
        mine = chosen[args.first :: args.step]
        broken = _share_out(args) if args.workers > 1 else _run(args, mine, Path(folder))
        return _conclude(args, chosen, broken)


def _share_out(args: argparse.Namespace) -> bool:
    """The same command in `args.workers` processes, which deal the scenarios. Whether one could not be set up."""
    command = [
        sys.executable, "-m", "tests.chaos", "--minutes", str(args.minutes), "--only", args.only, "--results", args.results,
        "--seed", str(args.seed), "--step", str(args.workers), *(["--part"] if args.part else []),
    ]  # fmt: skip
    workers = [subprocess.Popen([*command, "--first", str(i)]) for i in range(args.workers)]
    try:
        return BROKEN in [worker.wait() for worker in workers]
    finally:
        for worker in workers:
            worker.terminate()  # each unwinds what it has started
            worker.wait()


def _run(args: argparse.Namespace, scenarios: Sequence[Scenario], folder: Path) -> bool:
    """One after the other, into the results. Whether one could not be set up."""
    results = Results(Path(args.results))
    end = time.monotonic() + 60 * args.minutes
    broken = False
    with Bench(folder / "jobs", args.seed) as bench:
        bench.bases |= results.bases
        for number, scenario in enumerate(scenarios):
            if scenario.label in results.outcomes or time.monotonic() > end:
                continue
            started = time.monotonic()
            try:
                outcome = scenario.run(bench)
            except Skipped as why:
                results.add({"label": scenario.label, "skipped": str(why)})
                print(f"{number + 1}/{len(scenarios)} {scenario.label}: skipped: {why}", flush=True)
                continue
            except Exception:  # noqa: BLE001 - one scenario that cannot be set up must not cost the other 50
                broken = True
                print(f"could not be set up: {scenario.label}", flush=True)
                traceback.print_exc()
                continue
            results.add({"label": scenario.label, "outcome": asdict(outcome), "bases": bench.bases})
            print(f"{number + 1}/{len(scenarios)} {line(scenario, outcome, time.monotonic() - started)}", flush=True)
    return broken


def _conclude(args: argparse.Namespace, chosen: Sequence[Scenario], broken: bool) -> int:
    """The page and the exit code, from all results there are."""
    results = Results(Path(args.results))
    run = {s.label: results.outcomes[s.label] for s in chosen if s.label in results.outcomes}
    if args.out:
        missing = [s.label for s in chosen if s.label not in run and s.label not in results.skipped]
        page = render([*run.values()], results.bases, results.skipped, missing)
        Path(args.out).write_text(page, encoding="utf-8")
    bad = [label for label, outcome in run.items() if not outcome.ok]
    if args.step == 1:
        print(f"{len(run)} scenarios, {len(bad)} missed a goal" + (f": {'; '.join(bad)}" if bad else ""))
    return BROKEN if broken else 1 if bad else 0


def _interrupt(number: int, frame: object) -> None:
    """SIGTERM unwinds the contexts, which end every process and take the tmpfs off."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would interrupt the clearing up
    raise KeyboardInterrupt


def line(scenario: Scenario, outcome: Outcome, took_s: float) -> str:
    """One scenario on one line of the terminal."""
    return (
        f"{'ok  ' if outcome.ok else 'BAD '} {scenario.label}: {outcome.rows_out}/{outcome.rows_in} rows, lost {outcome.lost}, "
        f"dup {outcome.duplicates}, repeated {outcome.repeated} of {outcome.spare}, over {outcome.over_usd:.4g}, "
        f"unbooked {outcome.under_booked_usd:.4g}, {outcome.starts} starts, {took_s:.0f} s {'; '.join(outcome.problems)}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="Faults done to real jobs.")
    parser.add_argument("--minutes", type=float, default=55, help="no scenario starts after this (default %(default)s)")
    parser.add_argument("--part", action="store_true", help="the few that `make test-all` runs")
    parser.add_argument("--only", default="", metavar="TEXT", help="scenarios whose label holds this")
    parser.add_argument("--out", metavar="FILE", help="write the table here")
    parser.add_argument("--results", metavar="FILE", help="keep outcomes here; those that stand are not run again")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="scenarios at a time (default %(default)s)")
    for name, default in (("--first", 0), ("--step", 1)):  # a worker's share
        parser.add_argument(name, type=int, default=default, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help="of the random points")
    return parser


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _interrupt)
    sys.exit(main())
