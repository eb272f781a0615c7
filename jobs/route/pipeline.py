"""The job from top to bottom: check, score, plan, answer, account.

Every stage is skipped where its manifest entry stands, so the way to go on after a crash is the same command again.
"""

from __future__ import annotations

import importlib.metadata
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from jobs.errors import (
    EXIT_BAD_INPUT,
    EXIT_DONE,
    EXIT_OPEN,
    LaneDown,
    RunHeld,
    SpecError,
    StorageDown,
    StoreError,
    find_known,
)
from jobs.journal.compaction import compact_journal
from jobs.journal.local_log import local_dir
from jobs.journal.recovery import recover_on_all_nodes
from jobs.lanes.openai_batch.manifest import stopped_line
from jobs.money.spent import beside_gpu_usd, judge_spent, samples_spent, stranded
from jobs.placement.cluster import look
from jobs.placement.turns import Stopping
from jobs.report.page import write_report
from jobs.report.progress import Progress
from jobs.report.streams import say
from jobs.route.account.run_measures import interval_json
from jobs.route.account.run_summary import Beside, summarise
from jobs.route.account.stage import run_account
from jobs.route.answer.reuse import reuse_answers
from jobs.route.answer.session import spending
from jobs.route.cluster import ray_running
from jobs.route.identity import clear, has_asked, open_run
from jobs.route.pilot.cascade import cascade_stage
from jobs.route.pilot.judged import judged_quality
from jobs.route.pilot.stage import measured_agreement, pilot_stage
from jobs.route.plan.plan import Plan, latest_plan, load_plan
from jobs.route.plan.planner import Planner
from jobs.route.preflight import check, check_places
from jobs.route.score.entries import Part, ScoreEntry
from jobs.route.score.scorers import scorer_need
from jobs.route.score.stage import run_score
from jobs.route.start import Border, Job
from jobs.spec.job import JobSpec, has_pilot
from jobs.spec.loader import parse_spec
from jobs.storage import lease
from jobs.storage.manifest import RUN, Run, load_run
from jobs.storage.store import Store

OLD_SESSION_S = 30.0
"""How long the processes of a killed driver may take to end."""


@contextmanager
def held(job: Job, store: Store) -> Iterator[None]:
    """Hold the lease of the run in `store`. Raises RunHeld where somebody runs it. A run that came to nothing leaves nothing."""

    def lost() -> None:
        job.stopping.set()
        say(f"the lease of this output was not renewed for {lease.LOST_S:.0f} s, or another run took it; stopping")

    def wait(seconds: float) -> None:
        say(f"waiting {max(0, seconds):.0f} s for the lease of a run elsewhere to expire")

    was_there = store.exists("")
    held_lease = lease.acquire(store, job.session, lost, wait)
    try:
        yield
    finally:
        held_lease.release()
        with suppress(StoreError):
            if not store.exists(RUN):
                held_lease.remove()
                store.remove_empty_folders(itself=not was_there)


def recover(job: Job, run: Run) -> None:
    """Bring to the store what earlier starts answered and left in local logs: what is not there would be paid again.

    To be called before anything is spent. Raises RunHeld where a process of theirs still answers.
    """
    old = recover_on_all_nodes(run.store.uri, local_dir(run.store.uri), job.session, OLD_SESSION_S)
    if old.alive:
        raise RunHeld(
            f"output {run.store.uri}: process {old.alive[0]} of an earlier start still answers; end it, then run again"
        )


def score_stage(job: Job, border: Border, run: Run, progress: Progress) -> Sequence[Part]:
    """Stage 1, or its entry. Returns the parts of scored/ in input order."""
    entry = run.entry("score", ScoreEntry)
    if entry is None:
        progress.enter("score")
        with undone_where_refused(job, run.store), room_to_score(job, run, progress):
            parts = run_score(border.score, run.store.uri, lambda rows: progress.enter("score", rows))
        notes = sorted({part.note for part in parts if part.note})
        job.notes += notes
        job.places += notes
        frame = border.score.frame
        entry = run.finish("score", ScoreEntry(tuple(parts), len(frame.prefix), len(frame.suffix), job.session))
    if border.earlier:
        progress.enter("reuse")
        reuse_answers(job.spec, run, [part.name for part in entry.parts], border.earlier, job.session)
    return entry.parts


@contextmanager
def room_to_score(job: Job, run: Run, progress: Progress) -> Iterator[None]:
    """Once the cluster has it; scorers hold GPUs before any model does. Raises LaneDown where it does not come."""

    def show() -> None:
        progress.enter("score", waiting=job.placement.waiting().get("router", ""))

    try:
        with job.placement.held("router", scorer_need(job.spec, look()), show):
            yield
    except Stopping:
        raise LaneDown(stopped_line(run.store)) from None


@contextmanager
def cluster_of(job: Job, spends: bool) -> Iterator[None]:
    """Ray to run on. Raises SpecError, with nothing written, where it could never place what a run needs that has asked nothing
    yet; one that goes on may have nothing left for that model, and hears of it when there is."""
    with ray_running():
        check_places(job, must_fit=spends and not has_asked(Store(job.spec.output)))
        if spends:
            for line in job.places:
                say(line)
        yield


def plan_job(job: Job, ask_sample: bool = False) -> dict[str, Any]:
    """`headgate plan`: everything up to the bill. Spends nothing, or with `ask_sample` at most sample.max_usd."""
    if ask_sample and not has_pilot(job.spec):
        raise SpecError(
            "sample: --sample needs sample: {rows: …, max_usd: …} and quality.gold or quality.judge in the job file"
        )
    border = check(job, ask_lanes=True)
    with cluster_of(job, ask_sample), held(job, Store(job.spec.output)), progress_of(job) as progress:
        run = open_run(job.spec, border.files, border.marks)
        if ask_sample:
            recover(job, run)
        parts = score_stage(job, border, run, progress)
        planner = Planner(job, border, run, parts)
        if ask_sample:
            with rows_stay_open(), stop_on_signals(job), spending(job, run, planner, progress) as session:
                pilot_stage(job, run, planner, session)
        if job.stopping.is_set():
            raise LaneDown(stopped_line(run.store))
        progress.enter("plan")
        return replace(planner.plan().bill, places=tuple(job.places)).to_json()


def run_job(job: Job) -> tuple[int, dict[str, Any]]:
    """`headgate run`: the whole job. Returns (exit code, report). Raises HeadgateError before anything is spent."""
    started = time.time()
    border = check(job)
    with cluster_of(job, spends=True), stop_on_signals(job), held(job, Store(job.spec.output)):
        run = open_run(job.spec, border.files, border.marks)
        recover(job, run)
        compact_journal(run.store, job.spec.payees)
        with progress_of(job) as progress:
            parts = score_stage(job, border, run, progress)
            with rows_stay_open():
                planner = Planner(job, border, run, parts)
                plan, stopped = answer_stage(job, run, planner, progress)
                if not job.stopping.is_set():
                    progress.enter("account")
                    report = account_stage(job, run, parts, plan, started) | {"stopped": stopped}
        if job.stopping.is_set():
            raise LaneDown(stopped_line(run.store))
    return exit_code(job, report, stopped), report


def answer_stage(job: Job, run: Run, planner: Planner, progress: Progress) -> tuple[Plan, dict[str, str]]:
    """Stages 2 and 3: the pilot where the job has one, the plan, and the answers. Returns the plan that stands at the end, and
    why lanes stopped, if any did."""
    with spending(job, run, planner, progress) as session:
        pilot_stage(job, run, planner, session)
        cascade_stage(job, run, planner, session)
        if job.stopping.is_set():
            return planner.draft(), session.stopped()
        progress.enter("plan")
        plan = session.spend(planner.plan())
        job.notes += session.notes()
        return plan, session.stopped()


def account_stage(job: Job, run: Run, parts: Sequence[Part], plan: Plan, started: float) -> dict[str, Any]:
    """Stage 4: responses/, report.json, report.html."""
    pilot = plan.bill.pilot
    buckets = run_account(
        job.spec,
        run.store,
        parts,
        plan.assignments,
        allow_code=job.allow_code,
        predictions=pilot.predictions if pilot else "",
        judged=judged_quality(run.store, pilot),
    )
    facts = {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "wall_s": time.time() - started,
        "provenance": provenance(job.spec, run, plan),
        "plan": plan.number,
        "notes": list(dict.fromkeys([*plan.bill.notes, *job.notes])),
        "agreement": interval_json(measured_agreement(job.spec, run.store, plan)),
    }
    beside = Beside(
        stranded_usd=sum(stranded(run.store, job.spec.payees).values()),
        judge=judge_spent(run.store, job.spec),
        further=samples_spent(run.store, job.spec),
        gpu_usd=beside_gpu_usd(run.store, job.spec),
    )
    report = summarise(job.spec, buckets, plan.bill, beside, facts)
    write_report(run.store, report)
    return report


def provenance(spec: JobSpec, run: Run, plan: Plan) -> dict[str, Any]:
    """What the run was made of, by hash and version."""
    versions = {
        name: importlib.metadata.version(name) for name in ("headgate", "ray", "torch", "transformers", "pyarrow")
    }
    models = {name: spec.models[name].model or spec.models[name].source or name for name in spec.names}
    files, marks = run.identity.files, run.identity.fingerprints
    return {
        "input": {"files": str(len(files)), "first": files[0].uri, "hash": marks["input"]},
        "router": {"source": spec.router, "hash": marks["router"]},
        "models": models, "plan": {"number": str(plan.number), "hash": plan.bill.fingerprint}, "versions": versions,
    }  # fmt: skip


def exit_code(job: Job, report: dict[str, Any], stopped: dict[str, str]) -> int:
    """0 done, 3 rows open or too many errors."""
    if job.limit is not None and not stopped:
        return EXIT_DONE
    if report["open"]:
        return EXIT_OPEN
    return EXIT_DONE if report["errors"] <= job.spec.max_error_share * report["rows"] else EXIT_OPEN


def report_job(output: str, allow_code: bool = False) -> dict[str, Any]:
    """`headgate report`: responses/ and the report again, from what the run holds. Raises SpecError where there is no plan,
    RunHeld where somebody runs it: of two accountings at once neither may be whole."""
    run = load_run(output)
    entry, (number, bill) = run.entry("score", ScoreEntry), latest_plan(run.store)
    if entry is None or bill is None:
        raise SpecError(f"{run.store.uri}: the run has no plan yet; `headgate run` makes one")
    job = Job(parse_spec({**bill.job, "output": output}), allow_code)
    with ray_running(), held(job, run.store):
        return account_stage(job, run, entry.parts, load_plan(run.store, number), time.time())


@contextmanager
def undone_where_refused(job: Job, store: Store) -> Iterator[None]:
    """What only reading the whole input shows to be wrong is like what the border finds: mended, the same output serves."""
    try:
        yield
    except Exception as error:
        known = find_known(error)
        if known is not None and known.exit_code == EXIT_BAD_INPUT and not job.stopping.is_set():
            with suppress(StoreError):
                if not has_asked(store):
                    clear(store)
        raise


@contextmanager
def progress_of(job: Job) -> Iterator[Progress]:
    with Progress(0, list(job.spec.names), live=job.live) as progress:
        yield progress


@contextmanager
def rows_stay_open() -> Iterator[None]:
    """Storage that fails from here on is no mistake of the job file. Raises StorageDown for a StoreError."""
    try:
        yield
    except Exception as error:
        known = find_known(error)
        if not isinstance(known, StoreError):
            raise
        raise StorageDown(f"{known}; what is answered is kept: once that is mended, the same command goes on") from None


@contextmanager
def stop_on_signals(job: Job) -> Iterator[None]:
    """The first SIGINT or SIGTERM ends the run in order; the second at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        if job.stopping.is_set():
            raise KeyboardInterrupt
        job.stopping.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
