"""The job from top to bottom: check, score, plan, answer, account.

Every stage is skipped where its manifest entry stands, so the way to go on after a crash is the same command again.
"""

from __future__ import annotations

import importlib.metadata
import json
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs import answer, lease
from jobs.account import run_account
from jobs.border import Border, Job, check, check_lanes, lane_context
from jobs.cluster import ray_running
from jobs.errors import EXIT_DONE, EXIT_OPEN, LaneDown, RunHeld, SpecError
from jobs.estimate import estimate_all
from jobs.governor import recover_on_all_nodes
from jobs.journal import local_dir
from jobs.manifest import Run, load_run, open_run
from jobs.money import Money
from jobs.plan import Plan, decide, latest_plan, load_plan, plan_fingerprint, read_rows, write_plan
from jobs.progress import Progress
from jobs.report import write_report
from jobs.requests import build_request
from jobs.score import run_score
from jobs.scored import scored_rows
from jobs.spec import JobSpec, parse_spec
from jobs.store import Store
from jobs.summary import summarise

OLD_SESSION_S = 30.0
"""How long the processes of a killed driver may take to end."""
SETTLE_S = 5.0
"""The same for the lanes of a wave that is through."""


@contextmanager
def held(job: Job, border: Border) -> Iterator[Run]:
    """The run, opened and leased. Raises SpecError for another job's output, RunHeld where somebody runs it."""
    run = open_run(job.spec, border.files, border.marks)

    def lost() -> None:
        print("headgate: another run took the lease of this output; stopping", file=sys.stderr)
        job.stopping.set()

    def wait(seconds: float) -> None:
        print(f"headgate: waiting {max(0, seconds):.0f} s for the lease of a run elsewhere to expire", file=sys.stderr)

    held_lease = lease.acquire(run.store, job.session, lost, wait)
    try:
        yield run
    finally:
        held_lease.release()


def score_stage(job: Job, border: Border, run: Run, progress: Progress) -> list[dict[str, Any]]:
    """Stage 1, or its entry. Returns the parts of scored/ in input order."""
    entry = run.entry("score")
    if entry is None:
        progress.update({"job": {"stage": "score"}})
        parts = run_score(
            border.score, run.store.uri, lambda rows: progress.update({"job": {"stage": "score", "done": rows}})
        )
        frame = {"prefix_chars": len(border.score.frame.prefix), "suffix_chars": len(border.score.frame.suffix)}
        entry = run.finish("score", {"parts": parts, "frame": frame, "session": job.session})
    return list(entry["parts"])


def plan_stage(job: Job, border: Border, run: Run, parts: list[dict[str, Any]], progress: Progress) -> Plan:
    """Stage 2, or the newest plan if it is the plan of this very policy."""
    mark = plan_fingerprint(run, job.spec)
    number, bill = latest_plan(run.store)
    if bill is not None and bill["fingerprint"] == mark:
        return load_plan(run.store, number)
    progress.update({"job": {"stage": "plan"}})
    names = [part["name"] for part in parts]
    rows = read_rows(run.store, names)
    order = np.argsort(rows.row_key)

    def measured_bytes(keys: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows.prompt_bytes[order[np.searchsorted(rows.row_key, keys, sorter=order)]]

    def counter(name: str) -> Callable[..., list[int]] | None:
        from jobs.lanes.local import prompt_token_counter  # transformers: a second to import, for those who need it

        model = job.spec.models[name]
        return prompt_token_counter(model) if model.tokenizer or model.source else None

    estimates = estimate_all(
        job.spec, run.store, names, border.router_card, border.router_columns, counter, measured_bytes
    )
    too_long = prompts_too_long(job, run.store, names, rows.row_key, rows.prompt_bytes, counter)
    assignments, bill = decide(job.spec, rows, estimates, too_long)
    bill |= {
        "fingerprint": mark,
        "job": job.spec.model_dump(mode="json", exclude_none=True),
        "checks": job.checks,
        "request": rendered_request(job, run.store, names),
    }
    bill["hours"] = _hours(job.spec, bill, {name: estimates[name].latency_s for name in job.spec.names})
    return write_plan(run.store, number + 1, assignments, bill)


def _hours(spec: JobSpec, bill: dict[str, Any], latency_s: dict[str, float]) -> dict[str, Any]:
    """Rough running time: each lane's calls over what it may have in flight; lanes run side by side."""
    lanes = []
    for name in spec.names:
        model, calls = spec.models[name], bill["by_model"][name].get("requests", 0)
        parallel = model.limits.in_flight if model.engine.startswith("openai") else 64 * model.replicas
        seconds = calls * latency_s[name] / parallel
        if model.limits.requests_per_minute:
            seconds = max(seconds, calls / model.limits.requests_per_minute * 60)
        lanes.append(seconds / 3600)
    return {"total": max(lanes), "assumed": True}


def prompts_too_long(
    job: Job, store: Store, parts: list[str], row_key: NDArray[np.int64], prompt_bytes: NDArray[np.int64],
    counter: Callable[[str], Callable[..., list[int]] | None],
) -> NDArray[np.bool_]:  # fmt: skip
    """(n, m) True where a prompt and its answer do not fit a model's context.

    A token is at least a byte, so only prompts of more bytes than the context are counted: exactly where the tokenizer is at hand,
    else the engine has the last word.
    """
    names = job.spec.names
    out = np.zeros((len(row_key), len(names)), bool)
    limits = {n: c - job.spec.max_tokens_of(n) for n in names if (c := job.contexts.get(n)) is not None}
    suspects = {n: prompt_bytes > max(1, limit) for n, limit in limits.items()}
    if not any(s.any() for s in suspects.values()):
        return out
    keys = np.sort(row_key[np.logical_or.reduce(list(suspects.values()))])
    dataset = scored_rows(store, parts, ["row_key", "messages"], keys)
    position = {int(k): i for i, k in enumerate(row_key)}
    counters = {name: counter(name) for name in limits}
    batches: Iterator[pa.Table] = dataset.iter_batches(batch_size=4096, batch_format="pyarrow")  # type: ignore[assignment]
    for batch in batches:
        messages = [json.loads(text) if text else [] for text in batch["messages"].to_pylist()]
        at = [position[k] for k in batch["row_key"].to_pylist()]
        for j, name in enumerate(names):
            count = counters.get(name)
            if count is not None and at:
                out[at, j] = np.array(count(messages)) > max(1, limits[name])
    return out


def rendered_request(job: Job, store: Store, parts: list[str]) -> dict[str, Any]:
    """The strong model's request for the first row that can be asked: what `plan` shows."""
    name = job.spec.names[-1]
    table = store.read_table(parts[0], columns=["messages", "body", "input_error"])
    good = table.filter(pc.equal(table["input_error"], "")).slice(0, 1).to_pylist()
    if not good:
        return {}
    messages, body = json.loads(good[0]["messages"]), json.loads(good[0]["body"] or "{}")
    model = job.spec.models[name]
    return build_request(model, name, job.spec.sampling_of(name), job.spec.response_format, messages, body)


def plan_job(job: Job) -> dict[str, Any]:
    """`headgate plan`: everything up to the bill; spends nothing."""
    border = check(job, ask_lanes=True)
    with ray_running(), held(job, border) as run, progress_of(job) as progress:
        parts = score_stage(job, border, run, progress)
        return plan_stage(job, border, run, parts, progress).bill


def run_job(job: Job) -> tuple[int, dict[str, Any]]:
    """`headgate run`: the whole job. Returns (exit code, report). Raises HeadgateError before anything is spent."""
    started = time.time()
    border = check(job)
    with ray_running(), stop_on_signals(job), held(job, border) as run:
        old = recover_on_all_nodes(run.store.uri, local_dir(run.store.uri), job.session, OLD_SESSION_S)
        if old.alive:
            raise RunHeld(
                f"output {run.store.uri}: process {old.alive[0]} of an earlier start still answers; end it, then run again"
            )
        with progress_of(job) as progress:
            parts = score_stage(job, border, run, progress)
            plan = plan_stage(job, border, run, parts, progress)
            stopped = answer_stage(job, run, parts, plan, progress)
            if not job.stopping.is_set():
                progress.update({"job": {"stage": "account"}})
                report = account_stage(job, run, parts, plan, started) | {"stopped": stopped}
        if job.stopping.is_set():
            raise LaneDown("stopped; what was answered is kept, run the same command to go on")
    return exit_code(job, report, stopped), report


def answer_stage(job: Job, run: Run, parts: list[dict[str, Any]], plan: Plan, progress: Progress) -> dict[str, str]:
    """Stage 3. Returns why lanes stopped, if any did."""
    spec, store = job.spec, run.store
    settled = answer.settled_keys(store, spec.names)
    todo = limited(answer.rows_to_ask(plan.assignments, settled, spec.names), plan, job.limit)
    if not any(len(keys) for keys in todo.values()):
        return {}
    check_lanes(job, tuple(name for name, keys in todo.items() if len(keys)))
    money = Money(spec, run, job.session, plan.bill, todo)
    try:
        contexts = {name: lane_context(job, name, money.governor) for name in spec.names}
        show = money.shower(progress, plan.bill)

        def stop() -> None:
            money.stop("stopped by a signal")

        answer.ask(spec, store, parts, plan.assignments, todo, contexts, show, job.stopping, stop, money.stop_lane)
        if not job.stopping.is_set():
            recover_on_all_nodes(store.uri, local_dir(store.uri), "", SETTLE_S)
            settled = answer.settled_keys(store, spec.names)
            moved = answer.rows_to_move(plan.assignments, settled, spec, money.exhausted())
            moved = limited(moved, plan, job.limit)
            if any(len(keys) for keys in moved.values()):
                money.more(moved)
                answer.ask(
                    spec, store, parts, plan.assignments, moved, contexts, show, job.stopping, stop, money.stop_lane
                )
        return money.stopped()
    finally:
        recover_on_all_nodes(store.uri, local_dir(store.uri), "", SETTLE_S)
        money.close()


def limited(todo: dict[str, NDArray[np.int64]], plan: Plan, limit: int | None) -> dict[str, NDArray[np.int64]]:
    """`--limit N`: only the N rows with the smallest keys, a random draw of the set."""
    if limit is None:
        return todo
    inside = np.sort(plan.assignments.leader[np.argsort(plan.assignments.row_key)[:limit]])
    return {name: keys[np.isin(keys, inside)] for name, keys in todo.items()}


def account_stage(job: Job, run: Run, parts: list[dict[str, Any]], plan: Plan, started: float) -> dict[str, Any]:
    """Stage 4: responses/, report.json, report.html."""
    sums = run_account(job.spec, run.store, parts, plan.assignments, job.allow_code)
    facts = {
        "started_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "wall_s": time.time() - started,
        "provenance": provenance(job.spec, run, plan),
        "plan": plan.number,
    }
    report = summarise(job.spec, sums, plan.bill, Money.stranded(run.store, job.spec.names), facts)
    write_report(run.store, report)
    return report


def provenance(spec: JobSpec, run: Run, plan: Plan) -> dict[str, Any]:
    """What the run was made of, by hash and version."""
    versions = {
        name: importlib.metadata.version(name) for name in ("headgate", "ray", "torch", "transformers", "pyarrow")
    }
    models = {name: spec.models[name].model or spec.models[name].source or name for name in spec.names}
    first = run.identity["input"][0]["uri"]
    return {
        "input": {"files": str(len(run.identity["input"])), "first": first, "hash": run.identity["fingerprints"]["input"]},
        "router": {"source": spec.router, "hash": run.identity["fingerprints"]["router"]},
        "models": models, "plan": {"number": str(plan.number), "hash": plan.bill["fingerprint"]}, "versions": versions,
    }  # fmt: skip


def exit_code(job: Job, report: dict[str, Any], stopped: dict[str, str]) -> int:
    """0 done, 3 rows open or too many errors."""
    if job.limit is not None and not stopped:
        return EXIT_DONE
    if report["open"]:
        return EXIT_OPEN
    return EXIT_DONE if report["errors"] <= job.spec.max_error_share * report["rows"] else EXIT_OPEN


def report_job(output: str, allow_code: bool = False) -> dict[str, Any]:
    """`headgate report`: responses/ and the report again, from what the run holds. Raises SpecError where there is no plan."""
    run = load_run(output)
    entry, (number, bill) = run.entry("score"), latest_plan(run.store)
    if entry is None or bill is None:
        raise SpecError(f"{run.store.uri}: the run has no plan yet; `headgate run` makes one")
    job = Job(parse_spec(bill["job"] | {"output": output}), allow_code)
    with ray_running():
        return account_stage(job, run, entry["parts"], load_plan(run.store, number), time.time())


@contextmanager
def progress_of(job: Job) -> Iterator[Progress]:
    with Progress(0, list(job.spec.names), live=job.live) as progress:
        yield progress


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
